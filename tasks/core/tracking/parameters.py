"""Parameters, inputs and names of runs: what tells one from another."""

import json
import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from mlflow.entities import Dataset, DatasetInput, InputTag, Param, RunTag

from common.redaction import redacted
from tasks.core.tracking.models.colours import every_run

NOT_IN_NAMES = re.compile(r"[^\w\-. :/]")
"""Characters that MLflow takes in no parameter's name (`max_drop.*`)."""
MAX_PARAM = 500
"""Characters of a parameter's value; longer ones are cut (the config artifact has them whole)."""
MAX_TAG = 5000
"""Characters of a tag's value; MLflow refuses longer ones."""
MAX_BATCH = 100
"""Parameters a request; MLflow's own limit."""
LATER = {"steps": 0, "max_steps": 0, "eval_interval": 0, "warmup_steps": 0}
"""Numbers that stand for what a training settles on, as `auto` does; a parameter of MLflow cannot
be changed."""
NOT_IN_NAME = ("num_processes", "device", "tokens", "num_parameters", "warmup_steps")
"""Parameters that follow from others, or from the machine: no run is named after them."""
MAX_IN_NAME = 3


def flat(value: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """The leaves of a mapping by their dotted names."""
    for key, item in value.items():
        if isinstance(item, Mapping):
            yield from flat(item, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", item


def log_parameters(client: Any, run_id: str, values: Mapping[str, Any]) -> None:
    """Log values that a run did not have; one that is `auto` is left for what it stands for."""
    there: Mapping[str, str] = client.get_run(run_id).data.params
    params = []
    for name, value in flat(redacted(dict(values))):
        name, text = NOT_IN_NAMES.sub("_", name), str(value)[:MAX_PARAM]
        waits = text in ("auto", "") or (name in LATER and value == LATER[name])
        if not waits and name not in there:
            params.append(Param(name, text))
    for start in range(0, len(params), MAX_BATCH):
        client.log_batch(run_id, params=params[start : start + MAX_BATCH])


def log_config(client: Any, run_id: str, config: Mapping[str, Any]) -> None:
    """Log a configuration: its values as parameters, and the whole of it as a tag."""
    log_parameters(client, run_id, config)
    text = json.dumps(redacted(dict(config)), ensure_ascii=False)
    client.log_batch(run_id, tags=[RunTag("steel.config", text[:MAX_TAG])])


def log_inputs(client: Any, run_id: str, inputs: Mapping[str, Any], context: str = "input") -> None:
    """Log keys of stages as MLflow data sets: name of the input, digest = its stage's key."""
    datasets = [
        DatasetInput(
            Dataset(name=name, digest=key, source_type="local", source=json.dumps({"key": key})),
            [InputTag("mlflow.data.context", context)],
        )
        for name, key in flat(inputs)
        if isinstance(key, str)
    ]
    if datasets:
        client.log_inputs(run_id, datasets=datasets)


def telling_name(
    client: Any, experiment: str, title: str, key: str, config: Mapping[str, Any]
) -> str:
    """A name that no other run of an experiment has: the title, and what differs.

    pretrain smoke · pretrain smoke, steps 60, learning_rate 0.001 · sft zh, other data 3c0e
    """
    quoted = title.replace("'", "")
    same = [
        run
        for run in every_run(client, experiment, f"attributes.run_name LIKE '{quoted}%'")
        if run.info.run_name == title or run.info.run_name.startswith(f"{title}, ")
    ]
    if not same:
        return title
    taken = {run.info.run_name for run in same}
    own = {NOT_IN_NAMES.sub("_", name): str(value)[:MAX_PARAM] for name, value in flat(config)}
    for name in _candidates(title, key, own, same):
        if name not in taken:
            return name
    return next(
        name
        for number in range(2, len(taken) + 3)
        if (name := f"{title}, {key[:4]} again {number}") not in taken
    )


def _candidates(title: str, key: str, own: Mapping[str, str], same: Iterable[Any]) -> Iterator[str]:
    first = min(same, key=lambda run: run.info.start_time)
    differs = [
        f"{name} {value}"
        for name, value in own.items()
        if name not in NOT_IN_NAME
        and value not in ("auto", "", "0")
        and first.data.params.get(name, value) != value
    ]
    if differs:
        yield f"{title}, {', '.join(differs[:MAX_IN_NAME])}"
        yield f"{title}, {', '.join(differs[:MAX_IN_NAME])}, {key[:4]}"
    if first.data.tags.get("steel.key") != key:
        yield f"{title}, other data {key[:4]}"
    else:
        yield f"{title}, again"
