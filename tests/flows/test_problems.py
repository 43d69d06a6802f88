"""Everything that is wrong with a pipeline's configuration, in one message."""

import dataclasses
import inspect
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from common.config import Config, dataclass_in, field_types, renamed_keys
from common.errors import ConfigError
from flows.cli import main
from flows.commands import BAD_INPUT
from flows.config import PipelineConfig
from flows.preflight import preflight, preflight_ahead, preflight_once

SMOKE = "deployments/smoke.yaml"


def refused(store: Path, *overrides: str) -> list[str]:
    """Messages of a configuration that is refused, without their numbers."""
    with pytest.raises(ConfigError) as error:
        preflight(SMOKE, overrides, store)
    first, *lines = str(error.value).splitlines()
    if not lines:
        return [first.removeprefix(f"{SMOKE}: ")]
    assert first == f"{SMOKE}: {len(lines)} problems"
    return [re.sub(r"^  \d+\. ", "", line) for line in lines]


def groups(cls: type[Any], place: str = "") -> Iterator[tuple[str, type[Any]]]:
    """Every group of settings with its dotted place."""
    yield place, cls
    for name, hint in field_types(cls).items():
        group = dataclass_in(hint)
        if group is not None:
            yield from groups(group, f"{place}{name}.")


def test_check_prints_all_problems_at_once(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    wrong = [
        "pretrain.leraning_rate=1e-3",
        "sft.warmup_fraction=1.5",
        "evaluate.chat=maybe",
        "clean.max_drop={'*': {total: 1.5}}",
        "dpo.limit=2",
        "corpora.skypile=no/such/folder",
        "benchmarks.agieval=hub",
        "pack.tokenizer=no/such/tokenizer",
        "mixtures=[smoke-chinese, smoke-engish]",
        "clean.recipes=curatde",
    ]
    command = ["check", SMOKE, "--store", str(tmp_path / "store")]
    command += [word for override in wrong for word in ("--set", override)]
    assert main(command) == BAD_INPUT
    message = capsys.readouterr().err
    assert message.startswith(f"error: {SMOKE}: {len(wrong)} problems\n")
    for part in (
        "unknown key 'pretrain.leraning_rate' (did you mean 'learning_rate'?)",
        "sft.warmup_fraction = 1.5; it must be a number in [0, 1)",
        "evaluate.chat = 'maybe'; it must be auto, true or false",
        "clean.max_drop.*.total = 1.5; it must be a number in [0, 1]",
        "dpo.limit = 2 leaves no English pair",
        "no/such/folder",
        "agieval",
        "no/such/tokenizer",
        "smoke-engish",
    ):
        assert part in message
    assert not (tmp_path / "store").exists()


def test_appended_data_and_disk_are_among_the_problems(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("common.disk.RESERVE", 1 << 60)
    found = refused(tmp_path, "dpo.limit=2", "pretrain.append=[{packed: absent}]")
    for part, message in zip(("dpo.limit", "'absent'", "--store"), found, strict=True):
        assert part in message


def test_validations_without_held_out_documents_are_refused(tmp_path: Path) -> None:
    nothing = "pack.validation_fraction=0"
    [message] = refused(tmp_path, nothing)
    assert message == (
        "pretrain.eval_interval = 100, but pack.validation_fraction = 0 holds nothing out; set "
        "pack.validation_fraction (for example 0.01)"
    )
    leaking = ["pretrain.eval_interval=0", "pretrain.model.routing=sequence"]
    [message] = refused(tmp_path, nothing, *leaking)
    assert message.startswith("pretrain.model.routing = 'sequence' leaks, ")
    assert refused(tmp_path, "pretrain.validation_fraction=0.05") == [
        "'pretrain.validation_fraction' is now 'pack.validation_fraction': write "
        "`validation_fraction: 0.05` under `pack`, or --set pack.validation_fraction=0.05"
    ]
    assert refused(tmp_path, "pack.validation_fraction=0.6", "pretrain.eval_interval=0") == [
        "pack.validation_fraction = 0.6; it must be a number in [0, 0.5]"
    ]


def test_the_old_shape_of_pretrain_is_refused_with_the_lines_to_write(tmp_path: Path) -> None:
    found = refused(
        tmp_path,
        "pretrain.settings.steps=300",
        "pretrain.settings.model.routing=dense",
        "pretrain.settings.checkpoints.every=50",
        "pretrain.settings.clip=2",
    )
    assert found == [
        "'pretrain.settings.steps' is now 'pretrain.steps': write `steps: 300` under `pretrain`, "
        "or --set pretrain.steps=300",
        "'pretrain.settings.model.routing' is now 'pretrain.model.routing': write `routing: "
        '"dense"` under `pretrain.model`, or --set pretrain.model.routing="dense"',
        "'pretrain.settings.checkpoints.every' is now 'pretrain.checkpoints.interval': write "
        "`interval: 50` under `pretrain.checkpoints`, or --set pretrain.checkpoints.interval=50",
        "'pretrain.settings.clip' is now 'pretrain.max_grad_norm': write `max_grad_norm: 2` under "
        "`pretrain`, or --set pretrain.max_grad_norm=2",
    ]


RENAMED = [
    (f"{place}{old}", f"{place}{new}")
    for place, cls in groups(PipelineConfig)
    for old, new in renamed_keys(cls).items()
    if new
]


@pytest.mark.parametrize(("old", "new"), RENAMED)
def test_each_former_key_is_refused_with_todays(old: str, new: str, tmp_path: Path) -> None:
    if ".append." in old:
        name = old.rpartition(".")[2]
        override = f"pretrain.append=[{{packed: x, {name}: keep}}]"
        old, new = (key.replace(".append.", ".append.0.") for key in (old, new))
    else:
        override = f"{old}=1"
    assert any(line.startswith(f"{old!r} is now {new!r}: ") for line in refused(tmp_path, override))


def test_former_recipes_of_cleaning_are_refused_with_the_line_to_write(tmp_path: Path) -> None:
    lines = refused(tmp_path, "clean.text=text-repaired", "clean.code=code")
    assert lines == [
        "'clean.text' is now 'clean.recipes': write `recipes: \"repaired\"` under `clean`, or "
        '--set clean.recipes="repaired"',
        "'clean.code' is now 'clean.family_recipes.code': write `code: \"paper/code\"` under "
        '`clean.family_recipes`, or --set clean.family_recipes.code="paper/code"',
    ]


def test_every_group_is_frozen_and_documented() -> None:
    for _, cls in groups(PipelineConfig):
        assert issubclass(cls, Config), cls
        assert cls.__dataclass_params__.frozen, cls
        source = inspect.getsource(cls)
        for field in dataclasses.fields(cls):
            assert field.kw_only, f"{cls.__name__}.{field.name}"
            declared = re.search(
                rf"^    {field.name}: .*?\n    (r?\"\"\"|[a-z#@])", source, re.M | re.S
            )
            if declared:  # else it is a base's
                assert declared[1].endswith('"""'), f"{cls.__name__}.{field.name} has no docstring"


def test_what_was_checked_ahead_counts_for_one_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    preflight_ahead(SMOKE, ["pack.shard_tokens=5000"], tmp_path)
    with monkeypatch.context() as patched:
        patched.setattr("flows.preflight.parse_pipeline", None)  # nothing is read again
        found = preflight_once(SMOKE, ["pack.shard_tokens=5000"], tmp_path)
    assert found.pack.shard_tokens == 5000
    with pytest.raises(ConfigError, match="shard_tokens"):
        preflight_once(SMOKE, ["pack.shard_tokens=0"], tmp_path)
    assert preflight_once(SMOKE, ["pack.shard_tokens=5000"], tmp_path) is not found
