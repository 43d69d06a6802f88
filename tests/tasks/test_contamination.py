"""The stage `contamination`: questions of evaluated benchmarks in the cleaned corpora."""

import json
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from common.errors import DataError
from common.files import json_line, md5_of_file, read_json_lines
from corpus.decontaminate import BenchmarkQuestion, cached_index
from corpus.decontaminate.questions import read_questions
from corpus.decontaminate.search import QUESTIONS_FILE, SearchJob, findings, places_of, search
from tasks.contamination import MATCHES_FILE, ContaminationCheckConfig, contamination
from tasks.core.manifest import StageResult
from tasks.core.stage import StageRun
from tests.corpus.decontaminate.planted import (
    CONFIG,
    ENGLISH,
    POEM,
    SHORT,
    TINY,
    asked,
    write_benchmarks,
)
from tests.tasks.running import data_sets, result_of, run_stage, stage_run

CLEAN = replace(ENGLISH, id="virology/test/0", stem="Which virus is spread by the deer tick alone?")
TEXTS = {
    "skypile": [f"前言。\n{asked(POEM)}", "春眠不觉晓，处处闻啼鸟。", f"又见：{asked(POEM)}"],
    "wanjuan": [asked(SHORT), f"{asked(POEM)}\n{asked(SHORT)}", "没有题目的一段话。" * 40],
}


def cleaned(folder: Path, texts: dict[str, list[str]] = TEXTS) -> StageResult:
    """Cleaned corpora, a file for each source, as their stage leaves them."""
    files = []
    for source, documents in texts.items():
        path = folder / source / "00000.jsonl"
        path.parent.mkdir(parents=True)
        lines = [{"id": f"{source}/a#{n}", "text": t} for n, t in enumerate(documents)]
        path.write_bytes(b"".join(map(json_line, lines)))
        files.append({"path": f"{source}/00000.jsonl", "md5": md5_of_file(path)})
    manifest: dict[str, Any] = {"counts": {}, "notes": {}, "files": files}
    return StageResult(stage="clean", key="c", folder=folder, manifest=manifest)


@pytest.fixture
def benchmarks(tmp_path: Path) -> dict[str, StageResult]:
    questions: tuple[BenchmarkQuestion, ...] = (POEM, SHORT, CLEAN)
    write_benchmarks(tmp_path / "evals", questions)
    return data_sets(result_of(stage_run(tmp_path / "evals")))


def run(folder: Path, config: ContaminationCheckConfig, **inputs: Any) -> StageRun:
    return run_stage(contamination, folder, config, **inputs)


def written(done: StageRun) -> list[bytes]:
    return [(done.folder / name).read_bytes() for name in (QUESTIONS_FILE, MATCHES_FILE)]


def test_questions_are_found_and_counted_by_corpus(
    tmp_path: Path, benchmarks: dict[str, StageResult]
) -> None:
    done = run(
        tmp_path / "run",
        ContaminationCheckConfig(workers=2),
        cleaned=cleaned(tmp_path / "cleaned"),
        benchmarks=benchmarks,
    )
    questions = {row["benchmark"]: row for row in read_json_lines(done.folder / QUESTIONS_FILE)}
    assert questions["cmmlu"] | {"overlap": 0} == {
        "benchmark": "cmmlu",
        "subject": "poetry",
        "split": "test",
        "index": 0,
        "question_id": "poetry/test/0",
        "status": "found",
        "documents": {"skypile": 2, "wanjuan": 1},
        "overlap": 0,
    }
    assert questions["ceval"]["documents"] == {"wanjuan": 2}
    assert (questions["mmlu"]["status"], questions["mmlu"]["documents"]) == ("clean", {})
    matches = list(read_json_lines(done.folder / MATCHES_FILE))
    assert Counter(m["source"] for m in matches) == {"skypile": 2, "wanjuan": 3}
    assert all(m["overlap"] >= 0.8 and m["excerpt"] for m in matches)
    assert done.counts["found"] == 2
    assert done.counts["found.mmlu"] == 0
    assert done.notes["benchmarks"]["cmmlu"]["questions by source"] == "skypile: 1, wanjuan: 1"


def test_workers_partitions_and_other_benchmarks_change_nothing(
    tmp_path: Path, benchmarks: dict[str, StageResult]
) -> None:
    texts = {source: documents * 7 for source, documents in TEXTS.items()}
    corpora = cleaned(tmp_path / "cleaned", texts)
    folder = stage_run(tmp_path / "run").linked("benchmarks", benchmarks)
    found = []
    for number, (workers, size) in enumerate([(1, 1 << 20), (2, 900), (1, 5000)]):
        cache = tmp_path / f"cache-{number}"
        names = [*benchmarks] if number else ["cmmlu"]
        paths = {n: str(cached_index(folder, (n,), CONFIG, cache)[1]) for n in names}
        job = SearchJob(
            files=[
                [e["path"].split("/")[0], str(corpora.folder / e["path"]), e["md5"]]
                for e in corpora.manifest["files"]
            ],
            indexes=paths,
            cache=str(cache),
            workers=workers,
            partition_bytes=size,
        )
        search(job, lambda *_: None)
        merged = findings(job)
        found.append(
            {n: {k: (f.documents, f.overlap) for k, f in merged[n].items()} for n in names}
        )
    assert found[1] == found[2]
    assert found[0] == {"cmmlu": found[1]["cmmlu"]}
    assert found[1]["cmmlu"][0][0] == {"skypile": 14, "wanjuan": 7}


def test_one_more_benchmark_is_searched_for_alone(
    tmp_path: Path, benchmarks: dict[str, StageResult], monkeypatch: pytest.MonkeyPatch
) -> None:
    # Both runs keep what they find in one place, as those of a store do.
    monkeypatch.setattr(StageRun, "cache", property(lambda _: tmp_path / "cache"))
    corpora = cleaned(tmp_path / "cleaned")
    few = {name: result for name, result in benchmarks.items() if name != "mmlu"}
    config = ContaminationCheckConfig(workers=1)
    first = run(tmp_path / "first", config, cleaned=corpora, benchmarks=few)
    kept = {p: p.stat().st_mtime_ns for p in (tmp_path / "cache" / "contamination").iterdir()}
    assert len(kept) == 4, "two files by two benchmarks"
    second = run(tmp_path / "second", config, cleaned=corpora, benchmarks=benchmarks)
    after = {p: p.stat().st_mtime_ns for p in (tmp_path / "cache" / "contamination").iterdir()}
    assert len(after) == 6
    assert kept.items() <= after.items()
    others = [
        r for r in read_json_lines(second.folder / QUESTIONS_FILE) if r["benchmark"] != "mmlu"
    ]
    assert others == list(read_json_lines(first.folder / QUESTIONS_FILE))
    # A result that was cut off is made again.
    path = next(iter(kept))
    path.write_bytes(path.read_bytes()[:-3])
    assert written(run(tmp_path / "third", config, cleaned=corpora, benchmarks=benchmarks)) == (
        written(second)
    )


def test_a_corpus_that_is_not_there_is_refused(
    tmp_path: Path, benchmarks: dict[str, StageResult]
) -> None:
    corpora = cleaned(tmp_path / "cleaned")
    config = ContaminationCheckConfig(corpora=("zhihu",))
    with pytest.raises(DataError, match=r"zhihu; there are: skypile, wanjuan"):
        run(tmp_path / "run", config, cleaned=corpora, benchmarks=benchmarks)
    only = ContaminationCheckConfig(corpora=("skypile",), workers=1)
    done = run(tmp_path / "only", only, cleaned=corpora, benchmarks=benchmarks)
    assert done.counts["found"] == 1


def test_places_are_those_of_an_evaluations_samples(tmp_path: Path) -> None:
    """A bad row keeps its number in the file, and has no place among the questions."""
    write_benchmarks(tmp_path, (POEM,))
    path = tmp_path / "cmmlu" / "test" / "poetry.csv"
    head, row = path.read_text().splitlines()
    second = row.replace("哪一篇文章", "哪一部作品").replace("0,", "2,", 1)
    path.write_text("\n".join([head, row, "1,no question,,,,", second]) + "\n")
    bad: list[str] = []
    ids = [q.id for q in read_questions(tmp_path / "cmmlu", "cmmlu", bad)]
    assert ids == ["poetry/test/0", "poetry/test/2"]
    assert len(bad) == 1
    index, _ = cached_index(tmp_path, ("cmmlu",), CONFIG, tmp_path / "cache")
    assert places_of(index) == [("poetry", "test", 0), ("poetry", "test", 1)]


def test_what_cannot_be_checked_is_not_called_clean(tmp_path: Path) -> None:
    write_benchmarks(tmp_path / "evals", (replace(TINY, id="physics/val/0"),))
    done = run(
        tmp_path / "run",
        ContaminationCheckConfig(workers=1),
        cleaned=cleaned(tmp_path / "cleaned"),
        benchmarks=data_sets(result_of(stage_run(tmp_path / "evals"))),
    )
    (row,) = read_json_lines(done.folder / QUESTIONS_FILE)
    assert row["status"] == "not checkable"
    assert (done.counts["checkable"], done.counts["found"]) == (0, 0)


KILLED = """
import json, sys
from pathlib import Path
from corpus.decontaminate.search import SearchJob, search
search(SearchJob(**json.loads(Path(sys.argv[1]).read_text())), lambda *_: None)
"""


def test_a_killed_search_goes_on(
    tmp_path: Path, benchmarks: dict[str, StageResult], root: Path
) -> None:
    texts = {source: documents * 40 for source, documents in TEXTS.items()}
    corpora = cleaned(tmp_path / "cleaned", texts)
    folder = stage_run(tmp_path / "run").linked("benchmarks", benchmarks)
    cache = tmp_path / "cache"
    job = SearchJob(
        files=[
            [e["path"].split("/")[0], str(corpora.folder / e["path"]), e["md5"]]
            for e in corpora.manifest["files"]
        ],
        indexes={n: str(cached_index(folder, (n,), CONFIG, cache)[1]) for n in benchmarks},
        cache=str(cache / "results"),
        workers=1,
        partition_bytes=2000,
    )
    path = tmp_path / "job.json"
    path.write_text(json.dumps(vars(job)))
    child = subprocess.Popen([sys.executable, "-c", KILLED, str(path)], cwd=root)
    try:
        while not [*(cache / "results").glob("search-*.json")] and child.poll() is None:
            time.sleep(0.001)
    finally:
        os.kill(child.pid, signal.SIGKILL)
        child.wait()
    left = {p: p.read_bytes() for p in (cache / "results").glob("search-*.json")}
    search(job, lambda *_: None)
    whole = replace(job, cache=str(tmp_path / "other"))
    search(whole, lambda *_: None)
    assert findings(job) == findings(whole)
    assert left == {p: p.read_bytes() for p in left}
