"""Stage `normalize`: documents, quarantine, and the same result after an interruption."""

import json
from pathlib import Path
from typing import Any

import pytest

from common.config import validate
from common.errors import ConfigError, DataError
from common.paths import RECIPES
from corpus.formats import record_formats as formats
from corpus.formats.record_formats import RECORD_FORMATS
from corpus.formats.records import read_records
from tasks.core.manifest import StageResult
from tasks.normalize import NormalizeConfig, normalize
from tests.tasks.running import result_of, run_stage, stage_run


def raw_result(folder: Path) -> StageResult:
    return result_of(stage_run(folder))


def lines(path: Path) -> list[Any]:
    return [json.loads(line) for line in path.read_bytes().splitlines()]


PAPER = {
    "skypile",
    "wanjuan",
    "wikipedia_cn",
    "baidu_baike",
    "baidu_qa",
    "zhihu",
    "belle_2m",
    "belle_3_5m",
    "firefly",
    "moss",
    "starcoder_cpp",
    "starcoder_java",
    "starcoder_python",
}


def test_every_corpus_recipe_has_a_format() -> None:
    names = [path.stem for path in (RECIPES / "corpora").glob("*.yaml")]
    assert set(names) == {
        *PAPER,
        "plain_files",
        "plain_lines",
        "plain_records",
        "exam_explanations",
    }
    validate(NormalizeConfig(corpora=tuple(names)), "normalize")


@pytest.fixture
def raw(tmp_path: Path) -> Path:
    folder = tmp_path / "raw"
    (folder / "skypile").mkdir(parents=True)
    (folder / "firefly").mkdir()
    (folder / "skypile" / "a.jsonl").write_bytes(
        '{"text": "甲"}\n{"text": \n{"text": null}\n{"text": "乙"}\n'.encode() + b"\xff\n"
    )
    (folder / "skypile" / "README.md").write_text("# no records")
    (folder / "skypile" / "b.jsonl").write_text('{"text": "丙"}\n')
    (folder / "firefly" / "f.jsonl").write_text('{"kind": "k", "input": "问", "target": "答"}\n')
    return folder


def test_documents_say_where_they_come_from_and_the_rest_is_set_aside(
    raw: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    run = run_stage(normalize, out, NormalizeConfig(), raw=raw_result(raw))
    assert lines(out / "skypile.jsonl") == [
        {"text": text, "source": "skypile", "id": f"skypile/{place}", "meta": {}}
        for text, place in [("甲", "a.jsonl#1"), ("乙", "a.jsonl#4"), ("丙", "b.jsonl#1")]
    ]
    aside = lines(out / "quarantine" / "skypile.jsonl")
    assert [(row["file"], row["line"]) for row in aside] == [
        ("skypile/a.jsonl", line) for line in (2, 3, 5)
    ]
    assert aside[1]["reason"] == "`text` is null"
    assert run.counts == {"documents": 4, "characters": 3 + len("问：问\n答：答"), "quarantined": 3}


def test_every_record_is_a_document_or_in_quarantine(raw: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    run_stage(normalize, out, NormalizeConfig(), raw=raw_result(raw))
    records = sum(1 for f in (raw / "skypile").glob("*.jsonl") for _ in read_records(f))
    kept = lines(out / "skypile.jsonl") + lines(out / "quarantine" / "skypile.jsonl")
    assert len(kept) == records


def test_interrupted_run_gives_the_same_bytes_and_repeats_no_finished_source(
    raw: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    run_stage(normalize, whole, NormalizeConfig(), raw=raw_result(raw))
    original = formats.RECORD_FORMATS["skypile"]

    def fail(record: Any) -> formats.Document:
        if record["text"] == "丙":
            raise KeyboardInterrupt
        return original(record)

    with monkeypatch.context() as patch:
        patch.setitem(RECORD_FORMATS, "skypile", fail)
        with pytest.raises(KeyboardInterrupt):
            run_stage(normalize, broken, NormalizeConfig(), raw=raw_result(raw))
    assert not (broken / "skypile.jsonl").exists(), "nothing half-made under its own name"
    finished = (broken / "firefly.jsonl").stat().st_ino
    again = run_stage(normalize, broken, NormalizeConfig(), raw=raw_result(raw))
    assert (broken / "firefly.jsonl").stat().st_ino == finished
    assert again.counts["documents"] == 4
    for name in ("skypile.jsonl", "firefly.jsonl", "quarantine/skypile.jsonl"):
        assert (broken / name).read_bytes() == (whole / name).read_bytes()


def test_limit(raw: Path, tmp_path: Path) -> None:
    config = NormalizeConfig(corpora=("skypile",), limit=2)
    run_stage(normalize, tmp_path / "out", config, raw=raw_result(raw))
    assert [d["text"] for d in lines(tmp_path / "out" / "skypile.jsonl")] == ["甲", "乙"]
    assert not (tmp_path / "out" / "firefly.jsonl").exists()


def test_long_documents_become_several_with_ids_of_their_own(raw: Path, tmp_path: Path) -> None:
    text = "\n\n".join(f"第 {n} 段。" + "山水云石" * 40 for n in range(60))
    row = json.dumps({"text": text})
    (raw / "skypile" / "b.jsonl").write_text(f"{row}\n{row}\n")
    config = NormalizeConfig(corpora=("skypile",), longest={"*": 3000})
    run = run_stage(normalize, tmp_path / "out", config, raw=raw_result(raw))
    rows = lines(tmp_path / "out" / "skypile.jsonl")[2:]
    count = len(rows) // 2
    assert count > 3
    for line, parts in ((1, rows[:count]), (2, rows[count:])):
        assert "".join(part["text"] for part in parts) == text
        assert max(len(part["text"]) for part in parts) <= 3000
        for number, part in enumerate(parts, 1):
            assert part["id"] == f"skypile/b.jsonl#{line}/{number}"
            assert part["meta"] == {"part": number, "parts": count}
    assert run.counts["characters"] == 2 + 2 * len(text)
    assert run.counts["documents"] == 2 + 2 * count

    limited = NormalizeConfig(corpora=("skypile",), longest={"*": 3000}, limit=4)
    run_stage(normalize, tmp_path / "four", limited, raw=raw_result(raw))
    assert lines(tmp_path / "four" / "skypile.jsonl")[2:] == rows[:2]
    never = NormalizeConfig(corpora=("skypile",), longest={"*": 3000, "web": 0})
    run_stage(normalize, tmp_path / "never", never, raw=raw_result(raw))
    assert [d["text"] for d in lines(tmp_path / "never" / "skypile.jsonl")[2:]] == [text, text]


def test_parts_of_a_source_file_carry_its_opening(tmp_path: Path) -> None:
    folder = tmp_path / "raw" / "starcoder_python"
    folder.mkdir(parents=True)
    text = "# Made by hand.\n\n" + "".join(f"def f{n}():\n    return {n}\n\n" for n in range(400))
    (folder / "a.jsonl").write_text(json.dumps({"content": text}) + "\n")
    config = NormalizeConfig(longest={"code": 4000, "*": 0})
    run_stage(normalize, tmp_path / "out", config, raw=raw_result(folder.parent))
    first, *others = lines(tmp_path / "out" / "starcoder_python.jsonl")
    assert "opening" not in first["meta"]
    assert all(part["text"].startswith("def ") for part in others)
    assert all(part["meta"]["opening"] == text[:2000] for part in others)


@pytest.mark.parametrize(
    ("longest", "words"), [({"novel": 9000}, "no such family. Known"), ({"*": 10}, "at least 1000")]
)
def test_bounds_that_make_no_sense_are_refused(longest: dict[str, int], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        validate(NormalizeConfig(longest=longest), "normalize")


def test_corpus_without_a_document_is_refused_with_the_reasons(tmp_path: Path) -> None:
    folder = tmp_path / "raw" / "firefly"
    folder.mkdir(parents=True)
    (folder / "f.jsonl").write_text('{"text": "another format"}\n')
    with pytest.raises(DataError, match="firefly") as caught:
        run_stage(normalize, tmp_path / "out", NormalizeConfig(), raw=raw_result(folder.parent))
    assert "`input` is missing: 1" in str(caught.value)


def test_empty_and_missing_corpora_are_refused(tmp_path: Path) -> None:
    (tmp_path / "raw" / "firefly").mkdir(parents=True)
    (tmp_path / "raw" / "firefly" / "empty.jsonl").touch()
    with pytest.raises(DataError, match="firefly"):
        run_stage(normalize, tmp_path / "out", NormalizeConfig(), raw=raw_result(tmp_path / "raw"))
    with pytest.raises(ConfigError, match="skypile"):
        validate(NormalizeConfig(corpora=("skypyle",)), "normalize")


def test_the_configuration_may_name_the_field_of_a_text(tmp_path: Path) -> None:
    folder = tmp_path / "raw" / "plain_records"
    folder.mkdir(parents=True)
    row = {"text": "名", "parts": [{"t": "甲"}, {"t": "乙"}]}
    (folder / "x.jsonl").write_text(json.dumps(row), encoding="utf-8")
    config = NormalizeConfig(corpora=("plain_records",), text_keys={"plain_records": "parts.t"})
    run = run_stage(normalize, tmp_path / "out", config, raw=result_of(stage_run(tmp_path / "raw")))
    (line,) = (run.folder / "plain_records.jsonl").read_text("utf-8").splitlines()
    assert json.loads(line)["text"] == "甲\n乙"
