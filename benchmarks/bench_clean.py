"""Cleaning: this engine beside plain `dj-process`, on the same documents, recipe and cores.

    python -m benchmarks.bench_clean NORMALIZED [--recipe curated/web] [--copies 4] [--cores 2]

NORMALIZED is a folder of `<source>.jsonl`, as the stage `normalize` leaves it in
STORE/normalize/KEY. Both programs start cold, are given the same language model, and must keep the
same documents with the same texts, but for copies where the engine verifies them and `dj-process`
does not. Beside the two: what reading, parsing and writing the same lines
costs with nothing done to them (the limit), and what each operator takes in either.

`--copies N` cleans N times the corpus (sentences shuffled, so that copies are new documents) and
`--memory` prints how memory grows from 1 to N of them.
"""

import argparse
import contextlib
import json
import multiprocessing
import os
import random
import re
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict
from pathlib import Path
from typing import Any

import psutil

from benchmarks._figures import add_options, publish
from benchmarks._sample_texts import shuffled
from common.child import ProgressFile
from common.config import from_json
from common.files import json_line, write_json
from common.paths import ROOT
from corpus.cleaning import offline
from corpus.cleaning import recipe as recipes
from corpus.cleaning.job import CleanJob, FamilyJob
from corpus.cleaning.language_model.config import LanguageModelConfig
from corpus.cleaning.prepare import prepare
from corpus.cleaning.ray.plan import RayConfig
from corpus.cleaning.recipe import MINHASH, REPEATED_LINES
from corpus.recipes import corpus

DONE = re.compile(r"OP \[(\w+)\] Done in ([\d.]+)s")


def main(argv: list[str] | None = None) -> None:
    """Run, print, and write JSON where `--json` says."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("normalized", type=Path)
    parser.add_argument("--recipe", default="curated/web")
    parser.add_argument("--copies", type=int, default=1, help="times the corpus")
    parser.add_argument("--cores", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--memory", action="store_true", help="only ours, at 1, 2, … copies")
    add_options(parser)
    parser.set_defaults(num_examples=3)
    arguments = parser.parse_args(argv)
    with tempfile.TemporaryDirectory(prefix="bench-clean-") as scratch:
        measure = memory if arguments.memory else race
        figures = measure(arguments, Path(scratch))
    given = [
        "NORMALIZED" if word == str(arguments.normalized) else word
        for word in (sys.argv[1:] if argv is None else argv)
    ]
    publish(figures, "bench_clean", given, arguments.json)


def race(arguments: argparse.Namespace, scratch: Path) -> dict[str, Any]:
    """Both programs, the limit, and both by operator."""
    inputs = corpora(arguments, scratch / "in", arguments.copies)
    size = sum(path.stat().st_size for path in inputs.values())
    models = language_model(arguments, scratch, inputs)
    limit = read_parse_write(list(inputs.values()), scratch / "limit", arguments.cores)
    ours = run_ours(arguments, scratch / "ours", inputs, models)
    theirs = run_dj_process(arguments, scratch / "dj", inputs, models)
    outputs = (scratch / "ours" / "out").glob("*/*.jsonl"), [scratch / "dj" / "out.jsonl"]
    kept, kept_by_dj = (
        {d["id"]: d["text"] for path in sorted(files) for d in lines(path)} for files in outputs
    )
    verified = {MINHASH, REPEATED_LINES} & {
        op.name for op in recipes.load(arguments.recipe).deduplicators
    }
    if not verified:
        require_same(kept, kept_by_dj)
    return {
        "recipe": arguments.recipe,
        "documents": sum(1 for path in inputs.values() for _ in lines(path)),
        "megabytes": round(size / 1e6, 2),
        "documents_kept": len(kept),
        "same_keep_set": kept.keys() == kept_by_dj.keys(),
        "kept_by_dj_process": len(kept_by_dj),
        "dj_process": theirs,
        "steel": ours,
        "read_parse_write": {"seconds": limit, "megabytes_per_second": rate(size, limit)},
        "times_as_fast": round(theirs["seconds"] / ours["seconds"], 2),
        "operators": by_operator(arguments.recipe, inputs, models),
    }


def require_same(ours: dict[str, str], theirs: dict[str, str]) -> None:
    """Stop where the two programs keep other documents, or other texts."""
    only_ours, only_theirs = ours.keys() - theirs.keys(), theirs.keys() - ours.keys()
    other = [i for i in ours.keys() & theirs.keys() if ours[i] != theirs[i]]
    if only_ours or only_theirs or other:
        raise SystemExit(
            f"{len(only_ours)} documents are kept by us alone, {len(only_theirs)} by dj-process "
            f"alone, {len(other)} with another text: {sorted(only_ours)[:3]} "
            f"{sorted(only_theirs)[:3]} {sorted(other)[:3]}"
        )


def memory(arguments: argparse.Namespace, scratch: Path) -> dict[str, Any]:
    """Peak memory of our processes at 1, 2, … times the corpus."""
    rows = []
    copies = 1
    models: Path | None = None
    while copies <= arguments.copies:
        inputs = corpora(arguments, scratch / f"in-{copies}", copies)
        models = models or language_model(arguments, scratch, inputs)
        figures = run_ours(arguments, scratch / f"ours-{copies}", inputs, models)
        size = sum(path.stat().st_size for path in inputs.values())
        rows.append({"copies": copies, "megabytes": round(size / 1e6, 2)} | figures)
        copies *= 2
    first, last = rows[0], rows[-1]
    grown = last["peak_megabytes"] - first["peak_megabytes"]
    return {
        "recipe": arguments.recipe,
        "runs": rows,
        "megabytes_of_memory_per_megabyte_of_text": round(
            grown / max(1e-9, last["megabytes"] - first["megabytes"]), 3
        ),
    }


def corpora(arguments: argparse.Namespace, folder: Path, copies: int) -> dict[str, Path]:
    """The sources of the recipe's family (`text`: all but code), `copies` times. Source -> file."""
    wanted = family(arguments.recipe)
    folder.mkdir(parents=True)
    inputs: dict[str, Path] = {}
    for path in sorted(arguments.normalized.glob("*.jsonl")):
        found = corpus(path.stem).family
        if found != wanted and (wanted != "text" or found == "code"):
            continue
        inputs[path.stem] = folder / path.name
        with inputs[path.stem].open("wb") as file:
            for copy in range(copies):
                rng = random.Random(copy)
                for document in lines(path):
                    if copy:
                        document["text"] = shuffled(document["text"], rng)
                        document["id"] += f"~{copy}"
                    file.write(json_line(document))
    if not inputs:
        raise SystemExit(f"{arguments.normalized} holds no source for {arguments.recipe}")
    return inputs


def family(recipe: str) -> str:
    """The family that a recipe `<set>/<family>` is for; `text` for all but code."""
    return recipe.rpartition("/")[2]


def language_model(arguments: argparse.Namespace, scratch: Path, inputs: dict[str, Path]) -> Path:
    """A folder with what the recipe's operators load; made by a run that nobody times."""
    models = scratch / "models"
    job = our_job(arguments, scratch / "models-run", inputs, models)
    # A process of its own: Data-Juicer keeps models for the life of a process.
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
        pool.submit(_prepare, job).result()
    return models


def _prepare(job: Path) -> None:
    """Train and place the models of a job, without cleaning."""
    prepare(from_json(CleanJob, job), ProgressFile(job))


def our_job(
    arguments: argparse.Namespace, folder: Path, inputs: dict[str, Path], models: Path
) -> Path:
    """A job file for `python -m corpus.cleaning`."""
    for name in ("out", "work"):
        (folder / name).mkdir(parents=True)
    models.mkdir(exist_ok=True)
    job = CleanJob(
        families={
            "code" if family(arguments.recipe) == "code" else "web": FamilyJob(
                recipe=arguments.recipe, inputs={s: str(p) for s, p in inputs.items()}
            )
        },
        output=str(folder / "out"),
        ledger=str(folder / "ledger.json"),
        scratch=str(folder / "work"),
        models=str(models),
        language_model=asdict(LanguageModelConfig()),
        tokenizer="auto",
        examples=arguments.num_examples,
        partition_bytes=1 << 22,
        workers=arguments.cores,
        contamination="",
        contamination_action="drop",
        executor="local",
        ray=asdict(RayConfig()),
    )
    path = folder / "job.json"
    write_json(path, asdict(job))
    return path


def run_ours(
    arguments: argparse.Namespace, folder: Path, inputs: dict[str, Path], models: Path
) -> dict[str, Any]:
    """Our engine, from a cold start to the last file."""
    job = our_job(arguments, folder, inputs, models)
    size = sum(path.stat().st_size for path in inputs.values())
    with (folder / "log").open("wb") as log:
        return timed([sys.executable, "-m", "corpus.cleaning", str(job)], size, log, folder, models)


def run_dj_process(
    arguments: argparse.Namespace, folder: Path, inputs: dict[str, Path], models: Path
) -> dict[str, Any]:
    """`dj-process --config` on the same documents, with as many processes."""
    folder.mkdir()
    size = sum(path.stat().st_size for path in inputs.values())
    with (folder / "in.jsonl").open("wb") as file:
        for path in inputs.values():
            for document in lines(path):
                file.write(json_line({"id": document["id"], "text": document["text"]}))
    recipe = recipes.load(arguments.recipe)
    recipe.data["np"] = arguments.cores
    recipe.write_resolved(
        folder / "dj.yaml", dataset=folder / "in.jsonl", export=folder / "out.jsonl"
    )
    command = [sys.executable, "-m", "tools.process_data", "--config", str(folder / "dj.yaml")]
    with (folder / "log").open("wb") as log:
        figures = timed(command, size, log, folder, models)
    seconds: dict[str, float] = {}
    for name, taken in DONE.findall((folder / "log").read_text("utf-8", "replace")):
        seconds[name] = seconds.get(name, 0.0) + float(taken)
    return figures | {"operator_seconds": seconds}


def timed(
    command: Sequence[str], size: int, log: Any, folder: Path, models: Path
) -> dict[str, Any]:
    """Run a program; wall-clock seconds, MB/s, and the peak of its processes' memory together."""
    cache = folder / "cache"
    started = time.perf_counter()
    child = psutil.Popen(
        command,
        cwd=ROOT if "corpus.cleaning" in command else folder,
        stdout=log,
        stderr=log,
        env=os.environ
        | offline.VARIABLES
        | {
            "DATA_JUICER_EXTERNAL_MODELS_HOME": str(models),
            "DATA_JUICER_CACHE_HOME": str(cache),
            "HF_DATASETS_CACHE": str(cache),
            "UV_CACHE_DIR": str(cache / "uv"),
            "PYTHONPATH": str(ROOT),
        },
    )
    peak = [0]
    stopped = threading.Event()

    def watch() -> None:
        while not stopped.wait(0.1):
            peak[0] = max(peak[0], resident(child))

    watcher = threading.Thread(target=watch)
    watcher.start()
    status = child.wait()
    seconds = time.perf_counter() - started
    stopped.set()
    watcher.join()
    if status:
        raise SystemExit(f"{' '.join(command)} ended with status {status}: see {folder / 'log'}")
    return {
        "seconds": round(seconds, 2),
        "megabytes_per_second": rate(size, seconds),
        "peak_megabytes": round(peak[0] / 1e6, 1),
    }


def resident(process: psutil.Process) -> int:
    """Bytes of a process and its children; what they share is counted once, in proportion."""
    total = 0
    with contextlib.suppress(psutil.Error):
        for one in (process, *process.children(recursive=True)):
            with contextlib.suppress(psutil.Error):
                total += one.memory_full_info().pss
    return total


def read_parse_write(paths: Sequence[Path], folder: Path, cores: int) -> float:
    """Seconds to read, parse and write all lines, file by file, on as many cores."""
    folder.mkdir()
    started = time.perf_counter()
    with ProcessPoolExecutor(cores) as pool:
        for _ in pool.map(copy_lines, [(str(p), str(folder / p.name)) for p in paths]):
            pass
    return round(time.perf_counter() - started, 3)


def copy_lines(places: tuple[str, str]) -> None:
    """Parse every line of a file and write it again."""
    source, target = places
    with Path(target).open("wb") as file:
        for document in lines(Path(source)):
            file.write(json_line(document))


def by_operator(recipe: str, inputs: dict[str, Path], models: Path) -> list[dict[str, Any]]:
    """Seconds of CPU of each operator, one process: as the library has it, and as we run it."""
    os.environ["DATA_JUICER_EXTERNAL_MODELS_HOME"] = str(models)
    os.environ["HF_HUB_OFFLINE"] = "1"
    from corpus.cleaning.engine import pipeline
    from corpus.cleaning.review.sample import Sample

    loaded = recipes.load(recipe)
    loaded.import_custom_operators()
    built = pipeline.build(loaded.operators)
    documents = [d for path in inputs.values() for d in lines(path)]
    size = sum(len(d["text"].encode()) for d in documents)
    rows = []
    batches = list(pipeline.batches(pipeline.TracedDocument.of(d) for d in documents))
    pipeline.load_models(built[: len(loaded.by_document)])
    for operator, described in zip(built, loaded.operators, strict=True):
        if described.kind == "deduplicator":
            continue
        started = time.process_time()
        for batch in batches:
            run_as_library(operator, [item.text for item in batch])
        plain = time.process_time() - started
        started = time.process_time()
        batches = [pipeline.run_operators([operator], b, Sample(most=0)) for b in batches]
        ours = time.process_time() - started
        rows.append(
            {
                "operator": described.name,
                "library_seconds": round(plain, 3),
                "steel_seconds": round(ours, 3),
                "steel_megabytes_per_second": rate(size, ours),
            }
        )
    return rows


def run_as_library(operator: Any, texts: list[str]) -> None:
    """Call an operator as the library does, and discard the result."""
    from data_juicer.ops.base_op import Mapper
    from data_juicer.utils.constant import Fields

    samples: dict[str, Any] = {operator.text_key: texts}
    if isinstance(operator, Mapper):
        operator.process_batched(samples)
    else:
        samples[Fields.stats] = [{} for _ in texts]
        list(operator.process_batched(operator.compute_stats_batched(samples)))


def lines(path: Path) -> Iterator[dict[str, Any]]:
    """Documents of a JSON-lines file."""
    with path.open("rb") as file:
        for line in file:
            yield json.loads(line)


def rate(size: int, seconds: float) -> float:
    """Megabytes per second."""
    return round(size / 1e6 / max(seconds, 1e-9), 2)


if __name__ == "__main__":
    main()
