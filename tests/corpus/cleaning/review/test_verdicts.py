"""Verdicts: nothing is lost to an interruption, and shares are those of the corpus."""

import json
import subprocess
import sys
from pathlib import Path
from random import Random
from typing import Any

import pytest

from common.errors import DataError
from corpus.benchmarks.scoring import wilson_interval
from corpus.cleaning.review.sample import KEPT
from corpus.cleaning.review.verdicts import (
    append_verdict,
    read_verdicts,
    shares,
    stratum_sizes,
    verdict_row,
)
from tests.corpus.cleaning.review.test_markup import example


def verdict(number: int, name: str, *, kind: str = "changed", **more: Any) -> dict[str, Any]:
    about = example(kind, id=f"s/a#{number}", after="新", **more)
    return verdict_row(about, name, "", "key", with_texts=False)


def test_the_last_verdict_counts(tmp_path: Path) -> None:
    path = tmp_path / "new" / "verdicts.jsonl"
    for name in ("fine", "damaged"):
        append_verdict(path, verdict(1, name))
    append_verdict(path, verdict(2, "unsure"))
    assert [row["verdict"] for row in read_verdicts(path).values()] == ["damaged", "unsure"]


def test_texts_are_in_the_file_only_if_asked(tmp_path: Path) -> None:
    about = example("changed", before="原文在此", after="新文", meta={"path": "a.py"})
    assert "原文在此" not in json.dumps(
        verdict_row(about, "fine", "", "k", with_texts=False), ensure_ascii=False
    )
    row = verdict_row(about, "fine", "", "k", with_texts=True)
    assert (row["text"], row["text_after"], row["meta"]) == ("原文在此", "新文", {"path": "a.py"})


def test_a_line_that_was_cut_short_costs_no_other_one(tmp_path: Path) -> None:
    path = tmp_path / "verdicts.jsonl"
    append_verdict(path, verdict(1, "fine"))
    with path.open("ab") as file:
        file.write(json.dumps(verdict(2, "fine")).encode()[:70])
    assert len(read_verdicts(path)) == 1
    append_verdict(path, verdict(3, "damaged"))
    assert [row["id"] for row in read_verdicts(path).values()] == ["s/a#1", "s/a#3"]


@pytest.mark.parametrize(
    "line", ["nonsense", "[]", "[" * 100_000, '{"id": "a"}', '{"sha256": "0", "verdict": "keep"}']
)
def test_a_line_that_is_no_verdict_is_named(tmp_path: Path, line: str) -> None:
    path = tmp_path / "verdicts.jsonl"
    append_verdict(path, verdict(1, "fine"))
    with path.open("a") as file:
        file.write(line + "\n")
    with pytest.raises(DataError, match=r"line 2.*--verdicts"):
        read_verdicts(path)


def test_a_device_is_no_file_of_verdicts() -> None:
    with pytest.raises(DataError, match="/dev/zero is no file"):
        read_verdicts(Path("/dev/zero"))


def test_processes_may_write_one_file_at_the_same_time(tmp_path: Path) -> None:
    path = tmp_path / "verdicts.jsonl"
    program = """
import sys
from pathlib import Path
from corpus.cleaning.review.verdicts import append_verdict
for n in range(30):
    append_verdict(Path(sys.argv[1]), {"id": f"{sys.argv[2]}/{n}", "kind": "changed", "source": "s",
        "family": "web", "operator": "o", "sha256": "x" * 3000, "verdict": "fine"})
"""
    started = [
        subprocess.Popen([sys.executable, "-c", program, str(path), name]) for name in ("a", "b")
    ]
    assert [process.wait() for process in started] == [0, 0]
    assert len(read_verdicts(path)) == 60


@pytest.mark.parametrize(
    ("kind", "name"), [("changed", "bad_kept"), ("kept", "fine"), ("dropped", "nonsense")]
)
def test_verdicts_fit_the_kind(kind: str, name: str) -> None:
    with pytest.raises(ValueError, match=name):
        verdict(1, name, kind=kind)


def test_shares_of_equal_strata_have_wilsons_interval() -> None:
    rows = [verdict(n, "damaged" if n < 3 else "fine") for n in range(40)]
    rows += [verdict(n, "unsure") for n in range(40, 50)]
    everything, operator = shares(rows, "operator", {})
    assert (everything.name, operator.name) == ("all", "a_mapper")
    assert (everything.bad, everything.judged) == (3, 40)
    assert everything.share == pytest.approx(3 / 40)
    assert everything.interval == pytest.approx(wilson_interval(3, 40))


def test_documents_count_for_as_many_as_their_stratum_has() -> None:
    """Ten of 90,000 good ones, ten of 10,000 bad ones: a tenth is bad, and half of the sample."""
    ledger = {
        "rows": [
            {
                "operator": "a_mapper",
                "source": source,
                "documents_changed": changed,
                "documents_dropped": 0,
                "documents_kept": 10**6,
            }
            for source, changed in (("large", 90_000), ("small", 10_000))
        ]
    }
    sizes = stratum_sizes(ledger)
    assert sizes["kept", KEPT, "large"] == 10**6
    rows = [verdict(n, "fine", source="large") for n in range(10)]
    rows += [verdict(n, "damaged", source="small") for n in range(10)]
    share = shares(rows, "family", sizes)[0]
    assert share.share == pytest.approx(0.1)
    low, high = share.interval
    assert low < 0.1 < high
    assert high - low > wilson_interval(2, 20)[1] - wilson_interval(2, 20)[0]


def test_estimates_are_those_of_the_corpus_on_average() -> None:
    """Strata of other sizes and shares: drawn a thousand times, the mean is the corpus's share."""
    rng = Random(1)
    strata = {"a": (5_000, 0.3), "b": (500, 0.02), "c": (50, 0.9)}
    sizes = {("changed", "a_mapper", name): size for name, (size, _) in strata.items()}
    truth = sum(n * p for n, p in strata.values()) / sum(n for n, _ in strata.values())
    found, covered = [], 0
    for _ in range(1000):
        rows = [
            verdict(n, "damaged" if rng.random() < p else "fine", source=name)
            for name, (_, p) in strata.items()
            for n in range(20)
        ]
        share = shares(rows, "operator", sizes)[0]
        found.append(share.share)
        covered += share.interval[0] <= truth <= share.interval[1]
    assert sum(found) / 1000 == pytest.approx(truth, abs=0.015)
    assert covered > 900
