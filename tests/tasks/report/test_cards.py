"""Cards of models and data: judged by the hub's and Croissant's own libraries."""

import json
import logging
from pathlib import Path
from typing import Any

import mlcroissant
import pytest
from huggingface_hub import ModelCard

from tasks.report.cards import Loading, card_files
from tasks.report.cards.facts import gather_facts, result_of
from tasks.report.cards.model_card import metadata
from tasks.report.trace.numbers import unmarked
from tests.tasks.pipeline_folders import SOURCES
from tests.tasks.report.test_trace import Store


@pytest.fixture
def store(tmp_path: Path) -> Store:
    """A store whose corpora are known by their recipes, from two places."""
    made = Store(tmp_path)
    for name in SOURCES:
        folder = made.pipeline.cleaned.folder / name
        folder.mkdir()
        row = {"id": f"{name}#1", "source": name, "text": "一"}
        (folder / "00000.jsonl").write_text(json.dumps(row) + "\n")
    made.pipeline.cleaned.manifest["counts"] |= {"documents_kept": 2000, "bytes_kept": 9}
    made.write(made.pipeline.cleaned)
    made.pipeline.packed.manifest["notes"] = {
        "sources": {name: {"documents": d, "tokens": t} for name, (t, d) in SOURCES.items()}
    }
    made.write(made.pipeline.packed)
    made.raw.manifest["config"] = {"kind": "corpora"}
    made.raw.manifest["notes"] = {
        "origins": dict.fromkeys(SOURCES, "/data") | {"skypile": "hub"},
        "revisions": {"skypile": "a" * 40},
    }
    made.write(made.raw)
    return made


def cards(store: Store, loading: Loading | None = None) -> dict[str, str]:
    return card_files(store.folder, store.pipeline.dpo, loading=loading)


def parsed(text: str) -> dict[str, Any]:
    content: dict[str, Any] = ModelCard(text, ignore_metadata_errors=False).data.to_dict()
    return content


def test_the_hubs_own_classes_read_the_metadata(store: Store) -> None:
    for name in ("README.md", "README.zh.md"):
        data = parsed(cards(store)[name])
        assert data["language"] == ["zh", "en"]
        assert data["library_name"] == "transformers"
        assert data["pipeline_tag"] == "text-generation"
        assert data["datasets"] == ["Skywork/SkyPile-150B"]  # the only one from the hub
        assert (data["license"], data["license_name"]) == ("other", "not-chosen")
    chosen = parsed(cards(store, Loading(exported=True, licence="apache-2.0"))["README.md"])
    assert chosen["license"] == "apache-2.0"
    assert "license_name" not in chosen


def test_every_score_is_a_result_of_its_own(store: Store) -> None:
    """The hub takes results with one name for one benchmark."""
    found = ModelCard(cards(store)["README.md"]).data.eval_results
    assert found is not None
    scores = json.loads((store.pipeline.evaluations["dpo"].folder / "results.json").read_text())
    assert {r.dataset_type for r in found} == {f"steel-sample-data-{name}" for name in scores}
    values = {r.dataset_type.rpartition("-")[2]: r.metric_value for r in found}
    assert values == {name: 100 * s["accuracy_micro"] for name, s in scores.items()}


def test_real_benchmarks_have_their_repository(store: Store) -> None:
    path = store.pipeline.evaluations["dpo"].folder / "results.json"
    path.write_text(path.read_text().replace('"sample-data"', '"hub"'))
    facts = gather_facts(store.folder, store.pipeline.dpo)
    data = metadata(facts, facts.scores[-1][1], Loading())
    assert data.eval_results is not None
    assert {r.dataset_name for r in data.eval_results} == {"C-Eval", "CMMLU", "MMLU"}
    assert "ceval/ceval-exam" in {r.dataset_type for r in data.eval_results}


def test_the_card_names_data_with_their_licences(store: Store) -> None:
    text = unmarked(cards(store)["README.md"])
    assert "[SkyPile-150B](https://huggingface.co/datasets/Skywork/SkyPile-150B)" in text
    assert "| BELLE train_2M_CN | pretraining | zh | 260 | 500 | GPL-3.0 |" in text
    assert "60.0 (54.0 to 66.0)" in text
    assert "498 questions of benchmarks were looked for" in text
    assert "3 documents contained one" in text
    for result in (store.pipeline.dpo, store.pipeline.pretrain, store.pipeline.packed):
        assert f"`{result.key}`" in text


def test_a_checkpoint_has_no_scores_of_the_finished_model(store: Store) -> None:
    text = cards(store, Loading(exported=True, checkpoint="step-100"))["README.md"]
    assert "60.0" not in text
    assert "step-100" in text
    assert "model-index" not in text


def test_code_beside_the_weights_is_said(store: Store) -> None:
    for code in (True, False):
        text = cards(store, Loading(exported=True, code=code))["README.md"]
        assert ("trust_remote_code=True" in text) == code


def test_a_model_without_a_stage_says_that_nothing_is_known(store: Store, tmp_path: Path) -> None:
    place = tmp_path / "elsewhere"
    place.mkdir()
    assert result_of(place) == (None, False)
    result = store.pipeline.sft["table3-2-chinese"]
    result.manifest.update(inputs={"base": "e" * 16}, config={"base_model": "/models/x"})
    files = card_files(store.folder, result)
    assert "croissant.json" not in files
    assert "whose own data are not known: `/models/x`" in files["README.md"]


def test_the_folder_of_a_model_is_that_of_its_stage(store: Store) -> None:
    base = store.pipeline.pretrain
    assert result_of(base.model_folder)[1]
    step = base.folder / "checkpoints" / "step-5"
    step.mkdir(parents=True)
    found, final = result_of(step)
    assert found is not None
    assert (found.key, final) == (base.key, False)


@pytest.mark.parametrize("name", ["croissant.json", "croissant.zh.json"])
def test_croissants_own_library_reads_the_data_card(
    store: Store, tmp_path: Path, name: str, caplog: pytest.LogCaptureFixture
) -> None:
    path = store.pipeline.cleaned.folder / name
    path.write_text(cards(store)[name])
    with caplog.at_level(logging.WARNING):
        data = mlcroissant.Dataset(jsonld=path)
    assert not data.metadata.ctx.issues.errors
    assert "not standard" not in caplog.text
    assert {r.id for r in data.metadata.record_sets} == set(SOURCES)
    (row,) = data.records("skypile")
    assert row["skypile/text"].decode() == "一"
    assert row["skypile/id"].decode() == "skypile#1"


def test_the_data_card_lists_files_with_sizes_and_checksums(store: Store) -> None:
    content = json.loads(cards(store)["croissant.json"])
    listed = {f["@id"]: (f["md5"], f["contentSize"]) for f in content["distribution"]}
    manifest = json.loads((store.pipeline.cleaned.folder / "manifest.json").read_text())
    files = {f["path"]: f for f in manifest["files"]}
    assert set(listed) == {f"{name}/00000.jsonl" for name in SOURCES}
    for path, (md5, size) in listed.items():
        assert (md5, size) == (files[path]["md5"], f"{files[path]['bytes']} B")
    steps = " ".join(content["rai:dataPreprocessingProtocol"])
    assert "text_length_filter" in steps
    assert "GPL-3.0" in content["license"]
    assert "Skywork/SkyPile-150B at aaaa" in content["rai:dataCollection"]
