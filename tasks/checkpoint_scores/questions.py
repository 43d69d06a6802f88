"""Questions and texts that checkpoints are measured on, read and checked before the first one."""

import json
import logging
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from common.errors import ConfigError, DataError
from common.files import digest_of, json_line, make_folder
from common.paths import resolve
from common.reading.files import read_json_object
from common.recipes import load_recipe
from corpus.bad_rows import OnBadRow
from corpus.benchmarks.cloze import CLOZE_VERSION, cloze_jobs
from corpus.benchmarks.letters import SCORING_VERSION, letter_jobs
from corpus.benchmarks.lm_eval_tasks import about_task
from corpus.benchmarks.open_questions import is_open
from corpus.benchmarks.questions import Benchmark, BenchmarkRecipe, check_examples, read_benchmark
from model.architecture import LEAKING_ROUTINGS
from model.evaluate.job import SubjectJob, resolved_dtype
from tasks.checkpoint_scores.config import CheckpointScoresConfig
from tasks.checkpoint_scores.run import PretrainingRun
from tasks.checkpoint_scores.texts import held_out_texts
from tasks.core.stage import StageResult, plain

log = logging.getLogger("steel.checkpoint_scores")

VERSION = 1
"""Raised when the same checkpoint and settings get other figures than before."""


@dataclass(frozen=True, kw_only=True)
class Questions:
    """All that is measured of each checkpoint of one run."""

    config: CheckpointScoresConfig
    benchmarks: list[Benchmark]
    """Those with four options."""
    texts: Mapping[str, list[str]]
    """Source, or kind of text -> documents that the run is not trained on."""
    window: int
    """Tokens of the run's samples."""
    tokens_per_batch: int
    """Tokens that a global batch predicts."""
    cloze: bool
    """False also where the routing looks ahead: it sees the option that it is to predict."""
    notes: list[str]
    """Measurements that are not made, with the reasons."""

    @property
    def key(self) -> str:
        """Hash of what decides about the figures."""
        return digest_of(
            {
                "version": VERSION,
                "config": plain(self.config, key=True),
                "benchmarks": {b.name: digest_of(list(self._about(b))) for b in self.benchmarks},
                "texts": {source: digest_of(texts) for source, texts in self.texts.items()},
                "window": self.window,
                "cloze": CLOZE_VERSION if self.cloze else None,
                "letters": SCORING_VERSION,
            }
        )[:16]

    def _about(self, benchmark: Benchmark) -> Iterator[dict[str, Any]]:
        shots, limit = self.config.num_fewshot, self.config.limit
        for subject in benchmark.subjects:
            yield about_task(benchmark, subject, num_fewshot=shots, limit=limit)

    def write(self, folder: Path) -> dict[str, str]:
        """Write the texts; source -> file of {"text": …} lines."""
        make_folder(folder)
        files = {}
        for source, texts in self.texts.items():
            path = folder / f"{source}.jsonl"
            path.write_bytes(b"".join(json_line({"text": text}) for text in texts))
            files[source] = str(path.resolve())
        return files

    def jobs(self, model: str, *, folder: Path, cache: Path) -> list[SubjectJob]:
        """Every subject in every form. model: digest of the model; folder: for task files."""
        jobs: list[SubjectJob] = []
        for benchmark in self.benchmarks:
            jobs += letter_jobs(
                benchmark,
                model=model,
                chat=False,
                dtype=self.config.dtype,
                num_fewshot=self.config.num_fewshot,
                limit=self.config.limit,
                folder=folder / "tasks" / benchmark.name,
                cache=cache,
            )
            if self.cloze:
                jobs += cloze_jobs(
                    benchmark,
                    model=model,
                    dtype=resolved_dtype(self.config.dtype),
                    limit=self.config.limit,
                    folder=folder / "cloze",
                    cache=cache,
                )
        return jobs


def read_questions(
    config: CheckpointScoresConfig,
    run: PretrainingRun,
    benchmarks: Mapping[str, StageResult],
    held_out: Mapping[str, Path],
    *,
    on_bad_row: OnBadRow,
) -> Questions:
    """Read what the checkpoints of a run are asked.

    benchmarks: name -> the stage that acquired it; held_out: kind of text -> file of documents
    that were held out before cleaning.

    Raises ConfigError or DataError where nothing is left to ask, or something cannot be asked.
    """
    settings = run.job()["settings"]
    window = settings["sequence_length"]
    routing = _routing(settings.get("model"))
    leaks = routing in LEAKING_ROUTINGS
    notes: list[str] = []
    read = []
    for name, acquired in benchmarks.items():
        if is_open(name):
            notes.append(f"{name} is not asked: its answers are texts, not four options")
            continue
        recipe = load_recipe(BenchmarkRecipe, "evals", name)
        benchmark = read_benchmark(
            name,
            recipe,
            acquired.folder / name,
            on_bad_row=on_bad_row,
            num_fewshot=config.num_fewshot,
        )
        check_examples(benchmark, config.num_fewshot)
        read.append(benchmark)
    texts: dict[str, list[str]] = {}
    if leaks:
        notes.append(
            f"no bits per byte and no cloze: routing {routing} looks ahead, so its "
            "likelihood of a text says nothing"
        )
    elif config.bytes_per_source:
        for source, one in held_out_texts(run.packed(), max_bytes=config.bytes_per_source).items():
            if one.texts:
                texts[source] = one.texts
            if one.num_unrestored:
                notes.append(
                    f"{source}: {one.num_unrestored} held-out documents are left out, since the "
                    "tokenizer does not give back their text"
                )
        for kind, file in held_out.items():
            if found := _first_texts(file, config.bytes_per_source):
                texts[f"held_out.{kind}"] = found
        if not texts:
            notes.append("no bits per byte: the packed data hold no documents out")
    if not read and not texts:
        raise ConfigError(
            "nothing is measured of a checkpoint: there is neither a benchmark with four options "
            f"nor a held-out text ({'; '.join(notes) or 'checkpoint_scores.bytes_per_source is 0'})"
        )
    return Questions(
        config=config,
        benchmarks=read,
        texts=texts,
        window=window,
        tokens_per_batch=window * settings["global_batch_size"],
        cloze=config.cloze and not leaks,
        notes=notes,
    )


def _routing(model: dict[str, Any] | str | None) -> str | None:
    """Routing of the model that a training starts from; None where it has none."""
    if isinstance(model, str):
        model = read_json_object(resolve(model) / "config.json")
    return (model or {}).get("routing")


def _first_texts(file: Path, max_bytes: int) -> list[str]:
    """First documents of a file, of about so many bytes together."""
    texts: list[str] = []
    size = 0
    with file.open("rb") as lines:
        for line in lines:
            if size >= max_bytes:
                break
            text = json.loads(line).get("text")
            if not isinstance(text, str):
                raise DataError(f"{file}: a line has no text")
            texts.append(text)
            size += len(text.encode())
    return texts
