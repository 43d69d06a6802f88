"""Corpora that may be empty: through acquire and normalize, and refused where nothing says so."""

from pathlib import Path

import pytest

from common.config import problems
from common.errors import DataError
from corpus.cleaning.report import CleaningReport
from tasks.acquire import AcquireConfig, acquire
from tasks.normalize import NormalizeConfig, normalize
from tests.tasks.running import result_of, run_stage


def locations(folder: Path) -> dict[str, str]:
    (folder / "texts").mkdir()
    (folder / "texts" / "a.txt").write_text("文本", encoding="utf-8")
    (folder / "empty").mkdir()
    (folder / "pictures").mkdir()
    (folder / "pictures" / "a.png").write_bytes(b"x")
    return {
        "plain_files": str(folder / "texts"),
        "plain_lines": str(folder / "empty"),
        "plain_records": str(folder / "pictures"),
    }


def test_optional_corpora_come_out_empty(tmp_path: Path) -> None:
    optional = ("plain_lines", "plain_records")
    config = AcquireConfig(kind="corpora", datasets=locations(tmp_path), optional=optional)
    assert not problems(config)
    raw = run_stage(acquire, tmp_path / "raw", config)
    run = run_stage(
        normalize, tmp_path / "out", NormalizeConfig(optional=optional), raw=result_of(raw)
    )
    sources = run.notes["sources"]
    assert {name: row["empty"] for name, row in sources.items()} == {
        "plain_files": False,
        "plain_lines": True,
        "plain_records": True,
    }
    assert sources["plain_records"]["passed_over"] == {".png": 1}
    for name in optional:
        assert (tmp_path / "out" / f"{name}.jsonl").read_bytes() == b""


def test_others_are_refused(tmp_path: Path) -> None:
    given = locations(tmp_path)
    config = AcquireConfig(kind="corpora", datasets=given, optional=("plain_records",))
    (wrong,) = problems(config)
    assert "plain_lines" in str(wrong)
    assert "holds no file" in str(wrong)
    del given["plain_lines"]
    raw = run_stage(acquire, tmp_path / "raw", AcquireConfig(kind="corpora", datasets=given))
    with pytest.raises(DataError, match=r"plain_records.*optional: true"):
        run_stage(normalize, tmp_path / "out", NormalizeConfig(), raw=result_of(raw))


def test_cleaning_takes_them(tmp_path: Path) -> None:
    total = {"source": "plain_lines", "family": "book", "documents_kept": 0, "documents_in": 3}
    report = CleaningReport(rows=[], totals=[total], duplicates={}, matches=[])
    report.require_documents({"book": "curated/book"}, {"plain_lines"})
    with pytest.raises(DataError, match="empty after cleaning"):
        report.require_documents({"book": "curated/text"}, ())
