"""The stage `hold_out`: nothing lost, nothing trained on that is scored."""

import json
from pathlib import Path

import pytest

from common.config import problems
from common.errors import DataError
from corpus.held_out_texts import HeldOutSet
from tasks.core.stage import StageResult
from tasks.hold_out import FOLDER, HoldOutConfig, hold_out
from tests.tasks.running import run_stage


def write_corpus(folder: Path, source: str, texts: list[str]) -> None:
    rows = [{"id": f"{source}#{i}", "source": source, "text": text} for i, text in enumerate(texts)]
    folder.mkdir(exist_ok=True)
    (folder / f"{source}.jsonl").write_text("".join(json.dumps(r) + "\n" for r in rows))


def ids(path: Path) -> list[str]:
    return [json.loads(line)["id"] for line in path.read_text().splitlines()]


@pytest.fixture
def normalized(tmp_path: Path) -> StageResult:
    folder = tmp_path / "normalized"
    write_corpus(folder, "wiki", [f"条目{i}讲{i * 31}年的事，{i}。" * 4 for i in range(300)])
    write_corpus(
        folder, "exams", [f"解析{i}：因为{i * 17}，所以选{i % 4}。" * 4 for i in range(10)]
    )
    write_corpus(folder, "web", [f"网页{i}" for i in range(5)])
    return StageResult(stage="normalize", key="n1", folder=folder, manifest={})


def test_a_document_is_trained_on_or_held_out(tmp_path: Path, normalized: StageResult) -> None:
    config = HoldOutConfig(
        sets={
            "encyclopedia": HeldOutSet(corpora=("wiki",), fraction=0.2),
            "exams": HeldOutSet(corpora=("exams",), fraction=1.0),
        }
    )
    result = run_stage(hold_out, tmp_path / "out", config, normalized=normalized)
    kept, held = (
        ids(result.folder / "wiki.jsonl"),
        ids(result.folder / FOLDER / "encyclopedia.jsonl"),
    )
    assert sorted(kept + held) == sorted(ids(normalized.folder / "wiki.jsonl"))
    assert 30 <= len(held) <= 90
    # A corpus that is only there to be scored leaves nothing to clean.
    assert not (result.folder / "exams.jsonl").exists()
    assert len(ids(result.folder / FOLDER / "exams.jsonl")) == 10
    web = "web.jsonl"
    assert ids(result.folder / web) == ids(normalized.folder / web)
    assert result.counts["documents_scored"] == len(held) + 10


def test_copies_among_the_training_texts_are_not_scored(tmp_path: Path) -> None:
    folder = tmp_path / "normalized"
    texts = [f"条目{i}讲{i * 31}年的事，人物{i * 7}，地点{i * 13}。" * 3 for i in range(100)]
    write_corpus(folder, "wiki", texts)
    write_corpus(folder, "web", [f"转载：{text}" for text in texts[:50]])
    normalized = StageResult(stage="normalize", key="n2", folder=folder, manifest={})
    config = HoldOutConfig(sets={"encyclopedia": HeldOutSet(corpora=("wiki",), fraction=0.5)})
    result = run_stage(hold_out, tmp_path / "out", config, normalized=normalized)
    scored = ids(result.folder / FOLDER / "encyclopedia.jsonl")
    assert scored
    assert all(int(name.removeprefix("wiki#")) >= 50 for name in scored)


def test_an_empty_set_is_refused(tmp_path: Path, normalized: StageResult) -> None:
    config = HoldOutConfig(sets={"news": HeldOutSet(corpora=("thucnews",), fraction=0.2)})
    with pytest.raises(DataError, match=r"held_out\.news: no document"):
        run_stage(hold_out, tmp_path / "out", config, normalized=normalized)


def test_a_corpus_in_two_sets_is_refused() -> None:
    sets = {"a": HeldOutSet(corpora=("wiki",)), "b": HeldOutSet(corpora=("web", "wiki"))}
    (problem,) = problems(HoldOutConfig(sets=sets))
    assert "wiki is in a already" in str(problem)
