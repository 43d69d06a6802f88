"""Clean on a Ray cluster: the same recipe, by Data-Juicer's own RayExecutor.

    lay out ─▶ RayExecutor: mappers and filters ─▶ RayExecutor: MinHash ─▶ assemble
    (tasks)      as the recipe has them, in rounds     over everything       (tasks)

The operators of the recipe run exactly as written and in order, recorded (ray_probe.py) so that the
fates are those of the local engine. Only near-duplicates differ: document_simhash_deduplicator sees
the whole data set in one process and the library refuses it on Ray, so ray_bts_minhash_deduplicator
takes its place (`MINHASH_ARGUMENTS`). Of every cluster the first document stays, in the order of
sources, files and lines; the library alone keeps whichever came first to its counter.

Inputs, models, scratch and output must lie on a file system that every node sees under the same
path, and every node needs the packages of the lock file. (Our own sources travel in scratch.)
Workers are kept off the network and can install nothing. With address "local" Ray runs on this
machine for as long as this takes, and listens on 127.0.0.1 only; a cluster of your own is yours to
secure.

Finished partitions, rounds and steps are not done again when `run` is called again with the same
scratch and output.
"""

import contextlib
import importlib.metadata
import logging
import os
import shutil
import socket
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import yaml

from model.errors import ConfigError
from tasks._files import complete_file
from tasks._juicer import partitions
from tasks._juicer.recipe import Operator, Recipe
from tasks._recipes import ROOT, display

MINHASH_NAME = "ray_bts_minhash_deduplicator"
MINHASH_ARGUMENTS = {
    "tokenization": "character",
    "window_size": 5,
    "num_permutations": 256,
    "jaccard_threshold": 0.7,
}
"""What replaces SimHash; `lowercase` and `ignore_pattern` stay as the recipe has them."""

CONNECT_SECONDS = 5.0

ENVIRONMENT = {
    "HF_HUB_OFFLINE": "1",
    "UV_OFFLINE": "1",
    "UV_NO_INDEX": "1",
    "PIP_NO_INDEX": "1",
    "TOKENIZERS_PARALLELISM": "false",
    "OMP_NUM_THREADS": "1",
    "DATA_JUICER_EXTERNAL_MODELS_HOME": "",
    "DATA_JUICER_CACHE_HOME": "",
    "HF_DATASETS_CACHE": "",
    "RAY_JOB": "1",
}
"""Variables of every worker; the empty ones are folders of the run. RAY_JOB: Data-Juicer's own."""

log = logging.getLogger(__name__)

Say = Callable[[int, int, str], None]


@dataclass(frozen=True, kw_only=True)
class RayConfig:
    """Where Ray is, and how large a piece of work."""

    address: str = "local"
    """"local": on this machine, for this run only. "auto": the cluster that was started here or
    that RAY_ADDRESS names. "<host>:<port>": the head node of a cluster."""
    num_cpus: int = 0
    """Cores that "local" takes; 0: all."""
    partition_bytes: int = 64 << 20
    """Bytes of normalised text per output file, and what one worker holds in memory; from 1."""
    round_bytes: int = 64 << 30
    """Bytes that go through the operators before the next lot: what an interruption can cost."""

    def check(self) -> None:
        """Raise ConfigError for a value that cannot be."""
        for name in ("partition_bytes", "round_bytes"):
            if getattr(self, name) < 1:
                raise ConfigError(f"ray.{name} must be 1 or more (got {getattr(self, name)})")
        if self.num_cpus < 0:
            raise ConfigError(f"ray.num_cpus must be 0 (all) or more (got {self.num_cpus})")
        host, _, port = self.address.rpartition(":")
        if self.address not in ("local", "auto") and not (host and port.isdecimal()):
            raise ConfigError(
                f"ray.address must be local, auto or <host>:<port> (got {self.address!r})"
            )
        if "://" in self.address:
            raise ConfigError(
                f"ray.address {self.address!r}: Data-Juicer's executor is not driven through a Ray "
                "client. Run this on a node of the cluster, with address auto or <host>:<port>"
            )


@dataclass(frozen=True, kw_only=True)
class RayOutcome:
    """What a run made."""

    documents_in: int
    """Documents read."""
    documents_kept: int
    """Documents written."""
    documents_failed: int
    """Documents that an operator raised an error on; dropped."""
    bytes_in: int
    """UTF-8 bytes of the texts read."""
    bytes_kept: int
    """UTF-8 bytes of the texts written."""
    cleaned: tuple[Path, ...]
    """`<source>/<number>.jsonl`, in order."""
    fates: tuple[Path, ...]
    """`documents/<source>-<number>.parquet`, in order."""
    recipe: Path
    """The YAML as run, for `dj-process --config`."""
    notes: dict[str, Any] = field(default_factory=dict)
    """Versions, nodes, and what stood in for what."""


@dataclass(frozen=True, kw_only=True)
class Stretch:
    """Operators that run together: mappers and filters, or one deduplicator."""

    operators: tuple[Operator, ...]
    """What runs."""
    positions: tuple[int, ...]
    """Their places in the recipe, from 1."""

    @property
    def deduplicates(self) -> bool:
        """Whether it must see all documents at once."""
        return self.operators[0].kind == "deduplicator"


def stretches(recipe: Recipe) -> list[Stretch]:
    """Cut a recipe before and after its deduplicators, with those that Ray can run.

    Raises ConfigError for a deduplicator that has no counterpart.
    """
    found: list[Stretch] = []
    pending: list[tuple[int, Operator]] = []
    for position, operator in enumerate([*_replaced(recipe), None], start=1):
        if operator is not None and operator.kind != "deduplicator":
            pending.append((position, operator))
            continue
        if pending:
            found.append(
                Stretch(
                    operators=tuple(op for _, op in pending), positions=tuple(p for p, _ in pending)
                )
            )
            pending = []
        if operator is not None:
            found.append(Stretch(operators=(operator,), positions=(position,)))
    return found


def replacements(recipe: Recipe) -> list[dict[str, Any]]:
    """Which operators another one stands in for on Ray, and with what parameters."""
    return [
        {"position": position, "operator": old.name, "arguments": old.arguments,
         "replaced_by": new.name, "with": new.arguments}
        for position, (old, new) in enumerate(
            zip(recipe.operators, _replaced(recipe), strict=True), start=1
        )
        if new.name != old.name
    ]  # fmt: skip


def _replaced(recipe: Recipe) -> list[Operator]:
    return [
        _counterpart(op, recipe) if op.kind == "deduplicator" else op for op in recipe.operators
    ]


def _counterpart(operator: Operator, recipe: Recipe) -> Operator:
    if operator.name == MINHASH_NAME:
        return operator
    if "simhash" not in operator.name and "minhash" not in operator.name:
        raise ConfigError(
            f"{display(recipe.path)}: {operator.name} runs on one machine only. On Ray use "
            f"{MINHASH_NAME}, or a SimHash or MinHash deduplicator, which is replaced by it"
        )
    kept = {k: v for k, v in operator.arguments.items() if k in ("lowercase", "ignore_pattern")}
    return Operator(name=MINHASH_NAME, arguments=MINHASH_ARGUMENTS | kept)


def run(
    recipe: Recipe,
    inputs: Mapping[str, Path],
    models: Path,
    output: Path,
    scratch: Path,
    config: RayConfig,
    say: Say,
) -> RayOutcome:
    """Clean `inputs` (source -> normalised file) into `output`; see the top of the file.

    The language model and the tokenizer that the recipe needs are in `models` already, under the
    names that Data-Juicer looks for. `say(done, total, what)` is called as work goes on.

    Raises ConfigError when no cluster answers at the address or the recipe cannot run on Ray.
    """
    config.check()
    plan = stretches(recipe)
    _check_address(config)
    with _cluster(config, recipe, models.resolve(), scratch.resolve()) as nodes:
        return Runner(recipe, plan, output.resolve(), scratch.resolve(), config, say).run(
            {source: path.resolve() for source, path in inputs.items()}, nodes
        )


class Runner:
    """One run on a cluster that is connected."""

    def __init__(
        self,
        recipe: Recipe,
        plan: list[Stretch],
        output: Path,
        scratch: Path,
        config: RayConfig,
        say: Say,
    ) -> None:
        self.recipe, self.plan, self.output, self.scratch = recipe, plan, output, scratch
        self.config, self.say = config, say
        self.done = self.total = 0

    def run(self, inputs: Mapping[str, Path], nodes: list[dict[str, Any]]) -> RayOutcome:
        """Do all of it."""
        from tasks._juicer.ray_parts import Piece, assemble, lay_out

        parts = partitions.plan(
            {source: str(path) for source, path in inputs.items()}, self.config.partition_bytes
        )
        rounds = list(_rounds(parts, self.config.round_bytes))
        pieces = [
            Piece(
                index=index, partition=part, output=self.output,
                rows=self.scratch / "rows" / f"{round_:04d}" / f"{part.name}.parquet",
            )
            for index, (part, round_) in enumerate(zip(parts, rounds, strict=True))
        ]  # fmt: skip
        self.total = len(pieces) * (2 + len(self.plan))
        for _ in _on_workers(lay_out, [(piece,) for piece in pieces]):
            self._advance(1, "laying out documents")
        steps = [self._step(number, pieces) for number in range(len(self.plan))]
        counts = [_finished(piece) for piece in pieces]
        open_ = [i for i, count in enumerate(counts) if count is None]
        self._advance(len(pieces) - len(open_), "writing")
        for i, made in _on_workers(assemble, [(pieces[i], steps, pieces) for i in open_]):
            counts[open_[i]] = made
            self._advance(1, "writing documents and their fates")
        return self._outcome(pieces, counts, nodes)

    def _step(self, number: int, pieces: Sequence[Any]) -> Any:
        from tasks._juicer.ray_parts import Step

        stretch = self.plan[number]
        folder = self.scratch / f"step-{number}"
        step = Step(
            positions=stretch.positions,
            records=None if stretch.deduplicates else folder / "records",
            survivors=folder / "survivors",
            duplicates=folder / "duplicates" if stretch.deduplicates else None,
        )
        if number or stretch.deduplicates:
            before = self.scratch / (f"step-{number - 1}/survivors" if number else "rows")
            lots = {"all": (before, list(pieces))}
        else:
            lots = {}
            for piece in pieces:
                data = piece.rows.parent
                lots.setdefault(data.name, (data, []))[1].append(piece)
        for name, (data, lot) in lots.items():
            done = folder / f"{name}.done"
            if not done.exists():
                for part in (f"{kind}/{p.partition.name}" for p in lot
                             for kind in ("records", "survivors", "duplicates")):  # fmt: skip
                    shutil.rmtree(folder / part, ignore_errors=True)
                self.say(self.done, self.total, f"{', '.join(op.name for op in stretch.operators)}")
                if any(data.rglob("*.parquet")):
                    self._execute(f"step-{number}-{name}", stretch, data, step)
                with complete_file(done):
                    pass
            self._advance(len(lot), "cleaning")
        return step

    def _execute(self, name: str, stretch: Stretch, data: Path, step: Any) -> None:
        """One run of the library's executor over the rows in a folder."""
        from data_juicer.config import init_configs
        from data_juicer.core.executor.ray_executor import RayExecutor

        from tasks._juicer import ray_probe

        yaml_file = self.scratch / f"{name}.yaml"
        work = self.scratch / "work" / name
        self._write_yaml(
            yaml_file, stretch.operators,
            {"dataset_path": str(data), "export_path": str(work / "unused.jsonl"),
             "work_dir": str(work)},
        )  # fmt: skip
        settings = init_configs(["--config", str(yaml_file)])
        last = stretch.positions[-1] == len(self.recipe.operators)
        sink = {
            "records": str(step.records), "survivors": str(step.survivors),
            "texts": not (stretch.deduplicates and last),
        }  # fmt: skip
        process = []
        for position, entry in zip(stretch.positions, settings.process, strict=True):
            ((operator, arguments),) = entry.items()
            if stretch.deduplicates:
                operator, more = ray_probe.MINHASH, {"duplicates": str(step.duplicates)}
            else:
                more = {"position": position}
            process.append({operator: (arguments or {}) | more})
        settings.process = [*process, {ray_probe.SINK: sink}]
        before = ray_probe.register([next(iter(entry)) for entry in process])
        try:
            RayExecutor(settings).run(skip_export=True, skip_return=True)
        finally:
            ray_probe.restore(before)

    def _write_yaml(
        self, path: Path, operators: Sequence[Operator], more: Mapping[str, Any]
    ) -> None:
        # Our own operators are registered already; the library would refuse to load them twice.
        base = {k: v for k, v in self.recipe.data.items() if k != "custom_operator_paths"}
        data = {
            **base, **more, "executor_type": "ray", "ray_address": "auto", "skip_op_error": False,
            "process": [{op.name: op.arguments or None} for op in operators],
        }  # fmt: skip
        with complete_file(path) as file:
            file.write(yaml.safe_dump(data, allow_unicode=True, sort_keys=False).encode())

    def _advance(self, steps: int, what: str) -> None:
        self.done += steps
        self.say(self.done, self.total, what)

    def _outcome(
        self, pieces: Sequence[Any], counts: Sequence[Any], nodes: list[dict[str, Any]]
    ) -> RayOutcome:
        name = self.recipe.path.stem
        published = self.output / f"recipe-{name}-ray.yaml"
        custom = [str(path) for path in self.recipe.custom_operator_files]
        self._write_yaml(
            published, _replaced(self.recipe),
            {"dataset_path": f"{name}.jsonl", "export_path": f"{name}-cleaned.jsonl"}
            | ({"custom_operator_paths": custom} if custom else {}),
        )  # fmt: skip
        replaced = replacements(self.recipe)
        for one in replaced:
            log.info("on Ray %(replaced_by)s stands in for %(operator)s, with %(with)s", one)
        sums = {
            field: sum(getattr(count, field) for count in counts)
            for field in (
                "documents_in", "documents_kept", "documents_failed", "bytes_in", "bytes_kept"
            )
        }  # fmt: skip
        return RayOutcome(
            **sums, cleaned=tuple(piece.cleaned for piece in pieces),
            fates=tuple(piece.fates for piece in pieces), recipe=published,
            notes={
                "ray": importlib.metadata.version("ray"), "address": self.config.address,
                "nodes": nodes, "replaced": replaced,
            },
        )  # fmt: skip


def _finished(piece: Any) -> Any:
    """The counts of a partition whose fates, which are written last, are there."""
    from tasks._juicer.ray_parts import count

    return count(pq.read_table(piece.fates)) if piece.fates.exists() else None


def _rounds(parts: Sequence[partitions.Partition], size: int) -> Iterator[int]:
    """For every partition, the number of its round."""
    number = held = 0
    for part in parts:
        if held and held + part.size > size:
            number, held = number + 1, 0
        held += part.size
        yield number


def _on_workers(
    function: Callable[..., Any], calls: Sequence[tuple[Any, ...]]
) -> Iterator[tuple[int, Any]]:
    """(number of the call, its result), as they come; never more under way than keep all busy."""
    import ray

    remote = ray.remote(num_cpus=1)(function)
    width = 2 * max(1, int(ray.cluster_resources().get("CPU", 1)))
    pending: dict[Any, int] = {}
    waiting = iter(enumerate(calls))
    while True:
        while len(pending) < width and (call := next(waiting, None)) is not None:
            pending[remote.remote(*call[1])] = call[0]
        if not pending:
            return
        ready, _ = ray.wait(list(pending))
        for reference in ready:
            yield pending.pop(reference), ray.get(reference)


def _check_address(config: RayConfig) -> None:
    """Raise ConfigError when nobody listens there, before Ray tries for a minute."""
    if config.address in ("local", "auto"):
        return
    host, _, port = config.address.rpartition(":")
    try:
        socket.create_connection((host, int(port)), timeout=CONNECT_SECONDS).close()
    except OSError as error:
        raise _no_cluster(config, error) from error


def _no_cluster(config: RayConfig, error: Exception) -> ConfigError:
    return ConfigError(
        f"No Ray cluster answers at ray.address={config.address!r} "
        f"({type(error).__name__}: {str(error).splitlines()[0] if str(error) else 'no reason'}). "
        "Start one with `ray start --head` (and `ray start --address=<head>:6379` on the other "
        "nodes), or set ray.address to local"
    )


def _sources(recipe: Recipe, scratch: Path) -> Path:
    """A copy of our sources and of the recipe's own operators, which every node can read."""
    folder = scratch / "sources"
    shutil.rmtree(folder, ignore_errors=True)
    for package in ("tasks", "model"):
        shutil.copytree(
            ROOT / package, folder / package, ignore=shutil.ignore_patterns("__pycache__")
        )
    for file in recipe.custom_operator_files:
        shutil.copy(file, folder / file.name)
    return folder


@contextlib.contextmanager
def _cluster(
    config: RayConfig, recipe: Recipe, models: Path, scratch: Path
) -> Iterator[list[dict[str, Any]]]:
    """A connection to the cluster, whose workers can neither download nor install."""
    variables = ENVIRONMENT | {
        "DATA_JUICER_EXTERNAL_MODELS_HOME": str(models),
        "DATA_JUICER_CACHE_HOME": str(scratch / "cache" / "data_juicer"),
        "HF_DATASETS_CACHE": str(scratch / "cache" / "datasets"),
        "PYTHONPATH": os.pathsep.join(
            [str(_sources(recipe, scratch)), *filter(None, [os.environ.get("PYTHONPATH")])]
        ),
    }
    # The driver makes the operators, and Data-Juicer reads its environment while it is imported.
    os.environ.update(variables)
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    import ray

    from tasks._juicer import ray_probe

    arguments: dict[str, Any] = {"address": config.address}
    folder = None
    if config.address == "local":
        # Ray's sockets lie in this folder, and their paths must be short.
        folder = tempfile.mkdtemp(prefix="steel-ray-")
        arguments |= {
            "include_dashboard": False, "num_cpus": config.num_cpus or None,
            "_node_ip_address": "127.0.0.1", "_temp_dir": folder,
        }  # fmt: skip
    recipe.import_custom_operators()
    try:
        try:
            ray.init(
                **arguments, log_to_driver=False, logging_level=logging.WARNING,
                runtime_env={
                    "env_vars": variables, "worker_process_setup_hook": ray_probe.refuse_installs
                },
            )  # fmt: skip
        except (ConnectionError, ValueError) as error:
            raise _no_cluster(config, error) from error
        yield [
            {"address": node["NodeManagerAddress"], "cpus": node["Resources"].get("CPU", 0.0)}
            for node in ray.nodes()
            if node["Alive"]
        ]
    finally:
        ray.shutdown()
        if folder is not None:
            shutil.rmtree(folder, ignore_errors=True)
