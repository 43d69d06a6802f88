"""Cleaning compared with dj-process, with Ray, and on the real rows of every source."""

import dataclasses
import json
import os
import shutil
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from common.recipes import read_yaml
from corpus.cleaning import document_trace, offline
from corpus.cleaning import recipe as recipes
from corpus.cleaning.ray.plan import RayConfig
from corpus.decontaminate import ContaminationConfig
from corpus.recipes import FAMILIES, Family
from tasks.acquire import AcquireConfig, acquire
from tasks.clean import CleanConfig, clean
from tasks.core.manifest import StageResult
from tasks.core.stage import StageRun
from tasks.normalize import NormalizeConfig, normalize
from tests.tasks.clean.planted import (
    ROOT,
    benchmarks,
    documents,
    given,
    ids_of,
    kept,
    normalized,
    planted,
    write_source,
)
from tests.tasks.running import data_sets, result_of, run_stage, stage_run


@pytest.fixture(scope="module")
def curated(world: StageResult, tmp_path_factory: pytest.TempPathFactory) -> StageRun:
    """The default recipes over the sample data."""
    config = CleanConfig(workers=1, partition_bytes=1 << 20)
    return run_stage(clean, tmp_path_factory.mktemp("curated"), config, normalized=world)


@pytest.mark.slow
@pytest.mark.parametrize("family", FAMILIES)
def test_documents_before_copies_are_those_of_dj_process(
    family: Family, world: StageResult, curated: StageRun, tmp_path: Path
) -> None:
    whole = curated
    families = {s: row["family"] for s, row in whole.notes["sources"].items()}
    sources = [s for s in families if families[s] == family]
    if not sources:
        pytest.skip("the sample data have no source of this family")
    ours = {}
    with (tmp_path / "all.jsonl").open("w", encoding="utf-8") as file:
        for source in sources:
            for path in sorted((whole.folder / source).iterdir()):
                ours |= {i: d["text"] for i, d in documents(path).items()}
            for document in documents(world.folder / f"{source}.jsonl").values():
                slim = {"id": document["id"], "text": document["text"]}
                file.write(json.dumps(slim, ensure_ascii=False) + "\n")
    recipe = recipes.load(CleanConfig().recipe_of(family))
    before = dataclasses.replace(
        recipe,
        data=recipe.data
        | {"process": [{op.name: op.arguments or None} for op in recipe.by_document]},
    )
    export = tmp_path / "export" / "out.jsonl"
    before.write_resolved(tmp_path / "dj.yaml", dataset=tmp_path / "all.jsonl", export=export)
    models = tmp_path / "models"
    shutil.copytree(whole.scratch / "models", models)
    cache = tmp_path / "cache"
    subprocess.run(
        [sys.executable, "-m", "tools.process_data", "--config", str(tmp_path / "dj.yaml")],
        check=True,
        cwd=tmp_path,
        capture_output=True,
        env=os.environ
        | offline.VARIABLES
        | {
            "DATA_JUICER_EXTERNAL_MODELS_HOME": str(models),
            "DATA_JUICER_CACHE_HOME": str(cache),
            "HF_DATASETS_CACHE": str(cache),
            "UV_CACHE_DIR": str(cache / "uv"),
        },
    )
    theirs = {i: d["text"] for i, d in documents(export).items()}
    # Copies are verified here, and not there; lines are counted among what is left of them.
    gone, changed = set(), set()
    for source in sources:
        for path in document_trace.files(whole.folder, source):
            for row in pq.read_table(path, columns=["id", "dropped_by", "edits"]).to_pylist():
                edits = [edit["operator"] for edit in row["edits"]]
                gone |= {row["id"]} if row["dropped_by"] > len(recipe.by_document) else set()
                changed |= {row["id"]} if max(edits, default=0) > len(recipe.by_document) else set()
    assert [i for i in theirs if i not in gone] == list(ours)
    assert gone <= theirs.keys()
    assert {i: t for i, t in theirs.items() if i in ours.keys() - changed} == {
        i: t for i, t in ours.items() if i not in changed
    }


@pytest.mark.slow
def test_real_rows_of_every_source(shared: Path, tmp_path: Path) -> None:
    """The ledger adds up for every source, down to the files; the paper's recipe keeps a fifth of
    the real text, the repaired one nearly all."""
    deployment = read_yaml(ROOT / "deployments" / "real-sample.yaml")
    config = AcquireConfig(kind="corpora", datasets=deployment["corpora"], limit=200)
    raw = run_stage(acquire, tmp_path / "raw", config)
    documents_in = run_stage(normalize, tmp_path / "norm", NormalizeConfig(), raw=result_of(raw))
    questions = stage_run(shared / "data" / "eval")
    kept_of: dict[str, Counter[str]] = {}
    for recipe in ("paper", "repaired"):
        run = run_stage(
            clean,
            tmp_path / recipe,
            CleanConfig(recipes=recipe),
            normalized=result_of(documents_in),
            benchmarks=data_sets(result_of(questions)),
        )
        assert run.counts["documents_failed"] == 0
        rows = pq.read_table(run.folder / "ledger.parquet").to_pylist()
        assert {row["source"] for row in rows} == set(deployment["corpora"])
        for source in deployment["corpora"]:
            mine = [row for row in rows if row["source"] == source]
            come = documents(documents_in.folder / f"{source}.jsonl")
            left = kept(run.folder, source).values()
            assert mine[0]["documents_in"] == len(come)
            assert mine[0]["bytes_in"] == sum(len(d["text"].encode()) for d in come.values())
            assert mine[-1]["documents_kept"] == len(left)
            assert mine[-1]["bytes_kept"] == sum(len(d["text"].encode()) for d in left)
            dropped = sum(row["documents_dropped"] for row in mine)
            assert dropped == len(come) - len(left)
            traced = [i for path in document_trace.files(run.folder, source) for i in ids_of(path)]
            assert traced == list(come)
        kept_of[recipe] = Counter({s: r["documents_kept"] for s, r in run.notes["sources"].items()})
    for source, count in kept_of["repaired"].items():
        assert count > 0.85 * len(documents(documents_in.folder / f"{source}.jsonl"))
        if not source.startswith("starcoder"):
            assert kept_of["paper"][source] < 0.75 * count


@pytest.mark.slow
def test_ray_gives_the_same_up_to_near_duplicates(cleaned: StageResult, tmp_path: Path) -> None:
    folder = cleaned.folder
    config = CleanConfig(
        recipes="repaired",
        executor="ray",
        ray=RayConfig(num_cpus=2),
        language_model=given(cleaned),
        contamination=ContaminationConfig(action="flag"),
    )
    write_source(tmp_path / "in", "skypile", planted())
    run = run_stage(
        clean,
        tmp_path / "out",
        config,
        normalized=normalized(tmp_path / "in"),
        benchmarks=benchmarks(tmp_path / "benchmarks"),
    )

    def rows(folder: Path) -> list[dict[str, Any]]:
        ledger = json.loads((folder / "ledger.json").read_text())["rows"]
        return [row for row in ledger if row["source"] == "skypile"]

    # Here the question is flagged, there it is dropped: equal up to the filter that sees it.
    last = [row["operator"] for row in rows(folder)].index("contamination_filter")
    assert rows(run.folder)[:last] == rows(folder)[:last]
    assert rows(run.folder)[-1]["operator"] == "ray_bts_minhash_deduplicator"
    texts = {i: d["text"] for i, d in kept(run.folder, "skypile").items()}
    for name, document in kept(folder, "skypile").items():
        if name == "article":
            assert len(texts[name]) > len(document["text"])
        elif name in texts:
            assert texts[name] == document["text"]
        else:  # MinHash finds more: a sentence with a few words added is a copy to it
            lost = document_trace.find(run.folder, f"skypile/{name}")
            assert lost is not None and lost["dropped_by"] == len(rows(folder))
            assert lost["duplicate_of"] is not None
    meta = kept(run.folder, "skypile")["question"]["meta"]
    assert meta["contamination"] == ["cmmlu/anatomy/test/0"]
    assert run.counts["contaminated_documents"] == 2
    row = document_trace.find(run.folder, "skypile/exact-duplicate")
    assert row is not None and row["duplicate_of"] == "skypile/original"
    assert run.notes["ray"]["replaced"][0]["operator"] == "document_simhash_deduplicator"
