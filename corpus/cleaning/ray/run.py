"""Clean on a Ray cluster: the same recipe, by Data-Juicer's own RayExecutor.

    write rows ─▶ RayExecutor: mappers and filters ─▶ RayExecutor: MinHash ─▶ write results
    (Ray tasks)     as the recipe has them, in rounds     over everything        (Ray tasks)

The operators of the recipe run exactly as written and in order, recorded (recorded_operators.py) so
that the document traces are those of the local engine. Only near-duplicates differ:
document_simhash_deduplicator sees the whole data set in one process and the library refuses it on
Ray, so ray_bts_minhash_deduplicator takes its place (plan.py). Of every cluster the first document
stays, in the order of sources, files and lines; the library alone keeps whichever came first to its
counter.

Inputs, models, scratch and output must lie on a file system that every node sees under the same
path, and every node needs the packages of the lock file. (Our own sources travel in scratch.)
Workers are kept off the network and can install nothing. With address "local" Ray runs on this
machine for as long as this takes, and listens on 127.0.0.1 only; a cluster of your own is yours to
secure.

Finished partitions, rounds and groups are not done again when `run` is called again with the same
scratch and output.
"""

import contextlib
import importlib.metadata
import itertools
import logging
import shutil
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from common.config import validate
from common.errors import StageError
from common.files import complete_file
from corpus.cleaning.ray.cluster import check_address, cluster
from corpus.cleaning.ray.plan import (
    OperatorGroup,
    RayConfig,
    operator_groups,
    operators_on_ray,
    replacements,
)
from corpus.cleaning.recipe import Operator, Recipe
from corpus.partitions import Partition, cut

LOOK_SECONDS = 5.0
"""Seconds between two reports of the executor's progress."""

log = logging.getLogger(__name__)

__all__ = ["RayConfig", "RayOutcome", "run"]

Progress = Callable[[int, int, str], None]
"""Called with work done, work in all, and what is being done."""


@dataclass(frozen=True, kw_only=True)
class RayOutcome:
    """Files written by a run."""

    cleaned: tuple[Path, ...]
    """`<source>/<number>.jsonl`, in order."""
    document_traces: tuple[Path, ...]
    """`documents/<source>-<number>.parquet`, in order."""
    recipe: Path
    """The YAML as run, for `dj-process --config`."""
    questions: tuple[Path, ...]
    """Evaluation questions found in each partition's documents: JSON rows, in scratch."""
    notes: dict[str, Any] = field(default_factory=dict)
    """Versions, nodes, and the operators that were replaced."""


def run(
    recipe: Recipe,
    inputs: Mapping[str, Path],
    models: Path,
    output: Path,
    scratch: Path,
    config: RayConfig,
    progress: Progress,
    name: str,
) -> RayOutcome:
    """Clean `inputs` (source -> normalised file) into `output`; see the top of the file.

    The language model and the tokenizer that the recipe needs are in `models` already, under the
    names that Data-Juicer looks for. `progress` is called as work goes on. The recipe as run is
    published as `recipe-<name>-ray.yaml`.

    Raises ConfigError when no cluster answers at the address or the recipe cannot run on Ray.
    """
    validate(config, "clean.ray")
    plan = operator_groups(recipe)
    check_address(config)
    with cluster(config, recipe, models.resolve(), scratch.resolve()) as nodes:
        return Runner(
            recipe, plan, output.resolve(), scratch.resolve(), config, progress, name
        ).run({source: path.resolve() for source, path in inputs.items()}, nodes)


class Runner:
    """One run on a cluster that is connected."""

    def __init__(
        self,
        recipe: Recipe,
        plan: list[OperatorGroup],
        output: Path,
        scratch: Path,
        config: RayConfig,
        progress: Progress,
        name: str,
    ) -> None:
        self.recipe, self.plan, self.output, self.scratch = recipe, plan, output, scratch
        self.config, self.progress, self.name = config, progress, name
        self.done = self.total = 0

    def run(self, inputs: Mapping[str, Path], nodes: list[dict[str, Any]]) -> RayOutcome:
        """Take the inputs through every group of operators, and write the results."""
        from corpus.cleaning.ray.partition_files import (
            PartitionFiles,
            write_operator_rows,
            write_results,
        )

        parts = cut(inputs.items(), self.config.partition_bytes)
        rounds = list(_rounds(parts, self.config.round_bytes))
        files = [
            PartitionFiles(
                index=index,
                partition=part,
                output=self.output,
                rows=self.scratch / "rows" / f"{round_:04d}" / f"{part.name}.parquet",
            )
            for index, (part, round_) in enumerate(zip(parts, rounds, strict=True))
        ]
        self.total = len(files) * (2 + len(self.plan))
        for _ in _on_workers(write_operator_rows, [(one,) for one in files]):
            self._advance(1, "laying out documents")
        outputs = [self._run_group(number, files) for number in range(len(self.plan))]
        missing = [one for one in files if not one.document_trace.exists()]
        self._advance(len(files) - len(missing), "writing")
        for _ in _on_workers(write_results, [(one, outputs, files) for one in missing]):
            self._advance(1, "writing documents and their traces")
        return self._outcome(files, nodes)

    def _run_group(self, number: int, files: Sequence[Any]) -> Any:
        """Run one group of operators over all partitions, round by round."""
        from corpus.cleaning.ray.partition_files import ExecutorOutput

        group = self.plan[number]
        folder = self.scratch / f"group-{number}"
        output = ExecutorOutput(
            positions=group.positions,
            records=None if group.deduplicates else folder / "records",
            survivors=folder / "survivors",
            duplicates=folder / "duplicates" if group.deduplicates else None,
        )
        if number or group.deduplicates:
            before = self.scratch / (f"group-{number - 1}/survivors" if number else "rows")
            rounds = {"all": (before, list(files))}
        else:
            rounds = {}
            for one in files:
                data = one.rows.parent
                rounds.setdefault(data.name, (data, []))[1].append(one)
        for name, (data, members) in rounds.items():
            done = folder / f"{name}.done"
            if not done.exists():
                for one in members:
                    for kind in ("records", "survivors", "duplicates"):
                        shutil.rmtree(folder / kind / one.partition.name, ignore_errors=True)
                self.progress(self.done, self.total, ", ".join(op.name for op in group.operators))
                if any(data.rglob("*.parquet")):
                    self._execute(f"group-{number}-{name}", group, data, output, len(members))
                with complete_file(done):
                    pass
            self._advance(len(members), "cleaning")
        return output

    def _execute(
        self, name: str, group: OperatorGroup, data: Path, output: Any, num_parts: int
    ) -> None:
        """Run the library's executor over the rows in a folder."""
        import ray.data
        from data_juicer.config import init_configs
        from data_juicer.core.executor.ray_executor import RayExecutor

        from corpus.cleaning.ray import recorded_operators

        # A partition is to be a block. Ray's newer reader joins small files, and a block is work
        # for one node.
        ray.data.DataContext.get_current().use_datasource_v2 = False
        yaml_file = self.scratch / f"{name}.yaml"
        work = self.scratch / "work" / name
        self._write_yaml(
            yaml_file,
            group.operators,
            {
                "dataset_path": str(data),
                "export_path": str(work / "unused.jsonl"),
                "work_dir": str(work),
                "override_num_blocks": num_parts,
            },
        )
        settings = init_configs(["--config", str(yaml_file)])
        last = group.positions[-1] == len(operators_on_ray(self.recipe))
        sink = {
            "records": str(output.records),
            "survivors": str(output.survivors),
            "texts": not (group.deduplicates and last),
        }
        process = []
        for position, entry in zip(group.positions, settings.process, strict=True):
            ((operator, arguments),) = entry.items()
            if group.deduplicates:
                operator = recorded_operators.MINHASH
            more: dict[str, Any] = (
                {"duplicates": str(output.duplicates)}
                if group.deduplicates
                else {"position": position}
            )
            process.append({operator: dict(arguments or {}) | more})
        settings.process = [*process, {recorded_operators.SINK: sink}]
        names = [name for entry in process for name in entry]
        try:
            with recorded_operators.registered(names), self._watching(output, group):
                RayExecutor(settings).run(skip_export=True, skip_return=True)
        except ray.exceptions.RayError as error:
            raise StageError(
                f"Ray gave up while cleaning ({name}): {type(error).__name__}: {error}\n"
                "What is finished stays finished; run again to go on"
            ) from error

    @contextlib.contextmanager
    def _watching(self, output: Any, group: OperatorGroup) -> Iterator[None]:
        """Report the number of partitions with results while the executor runs."""
        stop = threading.Event()
        begun = output.survivors if output.records is None else output.records

        def look() -> None:
            while not stop.wait(LOOK_SECONDS):
                seen = sum(1 for _ in begun.glob("*")) if begun.is_dir() else 0
                what = "looking for duplicates" if group.deduplicates else "cleaning"
                self.progress(
                    self.done, self.total, f"{what}: results for {seen} partitions so far"
                )

        thread = threading.Thread(target=look, daemon=True)
        thread.start()
        try:
            yield
        finally:
            stop.set()
            thread.join()

    def _write_yaml(
        self, path: Path, operators: Sequence[Operator], more: Mapping[str, Any]
    ) -> None:
        # Our own operators are registered already; the library would refuse to load them twice.
        base = {k: v for k, v in self.recipe.data.items() if k != "custom_operator_paths"}
        data = {
            **base,
            **more,
            "executor_type": "ray",
            "ray_address": "auto",
            "skip_op_error": False,
            "process": [{op.name: op.arguments or None} for op in operators],
        }
        with complete_file(path) as file:
            file.write(yaml.safe_dump(data, allow_unicode=True, sort_keys=False).encode())

    def _advance(self, steps: int, what: str) -> None:
        self.done += steps
        self.progress(self.done, self.total, what)

    def _outcome(self, files: Sequence[Any], nodes: list[dict[str, Any]]) -> RayOutcome:
        name = self.name
        published = self.output / f"recipe-{name}-ray.yaml"
        custom = [str(path) for path in self.recipe.custom_operator_files]
        self._write_yaml(
            published,
            operators_on_ray(self.recipe),
            {"dataset_path": f"{name}.jsonl", "export_path": f"{name}-cleaned.jsonl"}
            | ({"custom_operator_paths": custom} if custom else {}),
        )
        replaced = replacements(self.recipe)
        for one in replaced:
            if one["replaced_by"]:
                words = "on Ray %(replaced_by)s takes the place of %(operator)s, with %(with)s"
            else:
                words = "on Ray %(operator)s does not run: lines that documents share stay"
            log.info(words, one)
        return RayOutcome(
            cleaned=tuple(one.cleaned for one in files if one.cleaned.exists()),
            questions=tuple(one.questions for one in files),
            document_traces=tuple(one.document_trace for one in files),
            recipe=published,
            notes={
                "ray": importlib.metadata.version("ray"),
                "address": self.config.address,
                "nodes": nodes,
                "replaced": replaced,
            },
        )


def _rounds(parts: Sequence[Partition], size: int) -> Iterator[int]:
    """For every partition, the number of its round."""
    number = held = 0
    for part in parts:
        if held and held + part.size > size:
            number, held = number + 1, 0
        held += part.size
        yield number


def _on_workers(function: Callable[..., Any], calls: Sequence[tuple[Any, ...]]) -> Iterator[None]:
    """Call a function on Ray's workers; yield as calls end, with few more under way than cores."""
    import ray

    remote = ray.remote(num_cpus=1)(function)
    resources: dict[str, float] = ray.cluster_resources()  # type: ignore[no-untyped-call]
    width = 2 * max(1, int(resources.get("CPU", 1)))
    pending: set[Any] = set()
    waiting = iter(calls)
    while True:
        pending |= {
            remote.remote(*call) for call in itertools.islice(waiting, width - len(pending))
        }
        if not pending:
            return
        ready, _ = ray.wait(list(pending))
        for reference in ready:
            pending.remove(reference)
            ray.get(reference)
            yield
