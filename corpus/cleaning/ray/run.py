"""Clean on a Ray cluster: the same recipe, by Data-Juicer's own RayExecutor.

    lay out ─▶ RayExecutor: mappers and filters ─▶ RayExecutor: MinHash ─▶ assemble
    (tasks)      as the recipe has them, in rounds     over everything       (tasks)

The operators of the recipe run exactly as written and in order, recorded (ray_probe.py) so that the
fates are those of the local engine. Only near-duplicates differ: document_simhash_deduplicator sees
the whole data set in one process and the library refuses it on Ray, so ray_bts_minhash_deduplicator
takes its place (ray_plan.py). Of every cluster the first document stays, in the order of
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
import shutil
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import yaml

from common.errors import StageError
from common.files import complete_file
from corpus.cleaning.ray.cluster import check_address, cluster
from corpus.cleaning.ray.plan import RayConfig, Stretch, replaced, replacements, stretches
from corpus.cleaning.recipe import Operator, Recipe
from corpus.partitions import Partition, cut

LOOK_SECONDS = 5.0
"""How often to look how far the executor is."""

log = logging.getLogger(__name__)

__all__ = ["RayConfig", "RayOutcome", "run"]

Say = Callable[[int, int, str], None]


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
    questions: tuple[Path, ...]
    """Evaluation questions found in each partition's documents: JSON rows, in scratch."""
    notes: dict[str, Any] = field(default_factory=dict)
    """Versions, nodes, and what stood in for what."""


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
    check_address(config)
    with cluster(config, recipe, models.resolve(), scratch.resolve()) as nodes:
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
        from corpus.cleaning.ray.partition_files import Piece, assemble, lay_out

        parts = cut(inputs.items(), self.config.partition_bytes)
        rounds = list(_rounds(parts, self.config.round_bytes))
        pieces = [
            Piece(
                index=index,
                partition=part,
                output=self.output,
                rows=self.scratch / "rows" / f"{round_:04d}" / f"{part.name}.parquet",
            )
            for index, (part, round_) in enumerate(zip(parts, rounds, strict=True))
        ]
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
        from corpus.cleaning.ray.partition_files import Step

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
                for part in (
                    f"{kind}/{p.partition.name}"
                    for p in lot
                    for kind in ("records", "survivors", "duplicates")
                ):
                    shutil.rmtree(folder / part, ignore_errors=True)
                self.say(self.done, self.total, f"{', '.join(op.name for op in stretch.operators)}")
                if any(data.rglob("*.parquet")):
                    self._execute(f"step-{number}-{name}", stretch, data, step, len(lot))
                with complete_file(done):
                    pass
            self._advance(len(lot), "cleaning")
        return step

    def _execute(self, name: str, stretch: Stretch, data: Path, step: Any, num_parts: int) -> None:
        """One run of the library's executor over the rows in a folder."""
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
            stretch.operators,
            {
                "dataset_path": str(data),
                "export_path": str(work / "unused.jsonl"),
                "work_dir": str(work),
                "override_num_blocks": num_parts,
            },
        )
        settings = init_configs(["--config", str(yaml_file)])
        last = stretch.positions[-1] == len(self.recipe.operators)
        sink = {
            "records": str(step.records),
            "survivors": str(step.survivors),
            "texts": not (stretch.deduplicates and last),
        }
        process = []
        for position, entry in zip(stretch.positions, settings.process, strict=True):
            ((operator, arguments),) = entry.items()
            if stretch.deduplicates:
                operator = recorded_operators.MINHASH
            more: dict[str, Any] = (
                {"duplicates": str(step.duplicates)}
                if stretch.deduplicates
                else {"position": position}
            )
            process.append({operator: dict(arguments or {}) | more})
        settings.process = [*process, {recorded_operators.SINK: sink}]
        before = recorded_operators.register([next(iter(entry)) for entry in process])
        try:
            with self._watching(step, stretch):
                RayExecutor(settings).run(skip_export=True, skip_return=True)
        except ray.exceptions.RayError as error:
            raise StageError(
                f"Ray gave up while cleaning ({name}): {type(error).__name__}: {error}\n"
                "What is finished stays finished; run again to go on"
            ) from error
        finally:
            recorded_operators.restore(before)

    @contextlib.contextmanager
    def _watching(self, step: Any, stretch: Stretch) -> Iterator[None]:
        """Report how many partitions have come through while the executor runs."""
        stop = threading.Event()
        begun = step.survivors if step.records is None else step.records

        def look() -> None:
            while not stop.wait(LOOK_SECONDS):
                seen = sum(1 for _ in begun.glob("*")) if begun.is_dir() else 0
                what = "looking for duplicates" if stretch.deduplicates else "cleaning"
                self.say(self.done, self.total, f"{what}: results for {seen} partitions so far")

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
        self.say(self.done, self.total, what)

    def _outcome(
        self, pieces: Sequence[Any], counts: Sequence[Any], nodes: list[dict[str, Any]]
    ) -> RayOutcome:
        name = self.recipe.path.stem
        published = self.output / f"recipe-{name}-ray.yaml"
        custom = [str(path) for path in self.recipe.custom_operator_files]
        self._write_yaml(
            published,
            replaced(self.recipe),
            {"dataset_path": f"{name}.jsonl", "export_path": f"{name}-cleaned.jsonl"}
            | ({"custom_operator_paths": custom} if custom else {}),
        )
        stand_ins = replacements(self.recipe)
        for one in stand_ins:
            log.info("on Ray %(replaced_by)s stands in for %(operator)s, with %(with)s", one)
        sums = {
            field: sum(getattr(count, field) for count in counts)
            for field in (
                "documents_in",
                "documents_kept",
                "documents_failed",
                "bytes_in",
                "bytes_kept",
            )
        }
        return RayOutcome(
            **sums,
            cleaned=tuple(p.cleaned for p in pieces if p.cleaned.exists()),
            questions=tuple(piece.questions for piece in pieces),
            fates=tuple(piece.fates for piece in pieces),
            recipe=published,
            notes={
                "ray": importlib.metadata.version("ray"),
                "address": self.config.address,
                "nodes": nodes,
                "replaced": stand_ins,
            },
        )


def _finished(piece: Any) -> Any:
    """The counts of a partition whose fates, which are written last, are there."""
    from corpus.cleaning.ray.partition_files import count

    return count(pq.read_table(piece.fates)) if piece.fates.exists() else None


def _rounds(parts: Sequence[Partition], size: int) -> Iterator[int]:
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
    resources: dict[str, float] = ray.cluster_resources()  # type: ignore[no-untyped-call]
    width = 2 * max(1, int(resources.get("CPU", 1)))
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
