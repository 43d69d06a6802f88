"""`steel review`: from a cleaned corpus over verdicts to a check that mended operators pass."""

import json
import re
import signal
import subprocess
import sys
import urllib.request
from pathlib import Path
from typing import Any

import pytest

from common.errors import DataError
from common.files import json_line, write_json
from corpus.cleaning.review.sample import KEPT, write_sample
from corpus.cleaning.review.verdicts import append_verdict
from flows import cli
from tasks import review
from tests.processes import default_sigint

COMPARISON = "设 x<a 且 b>c，则 if x<a and b>c: 成立。" + "这句话只是为了把文章写长一些。" * 3
PAGE = "<div><p>院子里的花都开了。</p><br/><p>邻居们都说好看。</p></div>"
SPACED = "第一行 \u3000\n\n\n\n\n第二行。" + "后面还有一句话。" * 5
SHORT = "太短"
MENU = "首页\n新闻\n体育\n财经\n"


def changed(number: int, operator: str, before: str, after: str) -> dict[str, Any]:
    return row("changed", number, operator, before) | {"after": after}


def row(kind: str, number: int, operator: str, before: str) -> dict[str, Any]:
    return {
        "kind": kind,
        "family": "web",
        "position": 1,
        "operator": operator,
        "source": "skypile",
        "id": f"skypile/a.jsonl#{number}",
        "before": before,
    }


SAMPLE = [
    # A comparison that was taken for a tag; today's operator leaves it alone.
    changed(1, "html_to_text_mapper", COMPARISON, COMPARISON.replace("<a 且 b>", "")),
    # A page whose tags go today as they went then.
    changed(2, "html_to_text_mapper", PAGE, "院子里的花都开了。\n\n邻居们都说好看。"),
    changed(3, "tidy_whitespace_mapper", SPACED, "第一行第二行。"),
    changed(4, "an_operator_that_is_gone_mapper", "甲", "乙"),
    row("dropped", 5, "text_length_filter", SHORT),
    row("dropped", 6, "text_length_filter", COMPARISON),
    row("dropped", 7, "document_minhash_deduplicator", COMPARISON),
    row("kept", 8, KEPT, COMPARISON),
    row("kept", 9, KEPT, MENU),
    row("kept", 10, KEPT, SPACED),
]
VERDICTS = {
    1: ("damaged", "mended"),
    3: ("damaged", "different"),
    4: ("fine", "worse"),
    5: ("rightly_dropped", "as judged"),
    6: ("wrongly_dropped", "mended"),
    7: ("wrongly_dropped", "not replayed"),
    8: ("worth_keeping", "as judged"),
    9: ("bad_kept", "mended"),
    10: ("unsure", None),
}
"""Number -> verdict, and the outcome of today's operators."""


@pytest.fixture
def store(tmp_path: Path) -> Path:
    """A store with a cleaning whose operators damaged texts."""
    folder = tmp_path / "clean" / "0123456789abcdef"
    write_sample(folder, SAMPLE)
    ledger = {
        "rows": [
            {
                "operator": "html_to_text_mapper",
                "source": "skypile",
                "documents_changed": 40,
                "documents_dropped": 0,
                "documents_kept": 90,
            }
        ]
    }
    write_json(folder / "ledger.json", ledger)
    manifest = {
        "schema": 1,
        "stage": "clean",
        "key": folder.name,
        "inputs": {},
        "notes": {"recipes": {"web": "curated/web"}},
    }
    write_json(folder / "manifest.json", manifest)
    return tmp_path


def judge(store: Path, verdicts: dict[int, str], *, with_texts: bool = False) -> Path:
    """Judge documents as the page does."""
    path = review.verdicts_file(store, None)
    stage = review.cleaned_stage(store)
    opened = review.open_review(store, stage, path, with_texts=with_texts)
    numbers = {document["id"]: n for n, document in enumerate(opened.documents)}
    for number, verdict in verdicts.items():
        opened.judge(numbers[f"skypile/a.jsonl#{number}"], verdict, "")
    return path


def test_verdicts_become_a_test_of_todays_operators(
    store: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    judge(store, {number: verdict for number, (verdict, _) in VERDICTS.items()})
    assert cli.main(["review", str(store), "--check", "--json"]) == 1  # one is worse
    found = json.loads(capsys.readouterr().out)["verdicts"]
    outcomes = {int(r["id"].partition("#")[2]): r["outcome"] for r in found}
    assert outcomes == {n: outcome for n, (_, outcome) in VERDICTS.items() if outcome}

    # As long as the operator that is judged damages texts, the check fails.
    judge(store, {2: "damaged", 4: "unsure"})
    assert cli.main(["review", str(store), "--check"]) == 1
    out = capsys.readouterr().out
    assert "still bad    html_to_text_mapper skypile/a.jsonl#2: judged damaged" in out
    assert "not replayed: 1, it depends on other documents" in out
    judge(store, {2: "fine"})
    assert cli.main(["review", str(store), "--check"]) == 0
    assert capsys.readouterr().out.splitlines()[-1] == (
        "3 as judged, 3 mended, 1 different, 1 not replayed"
    )


def test_verdicts_with_texts_need_no_store(
    store: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    verdicts = {1: "damaged", 2: "fine", 5: "rightly_dropped"}
    path = judge(store, verdicts, with_texts=True)
    elsewhere = ["review", str(tmp_path / "none"), "--verdicts", str(path), "--check"]
    assert cli.main(elsewhere) == 0
    assert capsys.readouterr().out.strip().endswith("2 as judged, 1 mended")
    # Without texts there is nothing to run the operators over.
    path.unlink()
    judge(store, verdicts)
    assert cli.main(elsewhere) == 0
    assert "not replayed: 3, its text is in no sample" in capsys.readouterr().out


def test_a_text_that_is_another_one_is_not_replayed(store: Path, tmp_path: Path) -> None:
    path = judge(store, {2: "fine"}, with_texts=True)
    line = json.loads(path.read_text())
    path.write_bytes(json_line(line | {"text": "别的文章"}))
    (found,) = review.check_verdicts(store, path, None)
    assert found.outcome == "not replayed"


def test_the_command_serves_and_sums_up(store: Path, root: Path) -> None:
    command = [sys.executable, "-m", "flows.cli", "review", str(store), "--no-browser"]
    with subprocess.Popen(
        command, cwd=root, stdout=subprocess.PIPE, text=True, preexec_fn=default_sigint
    ) as process:
        assert process.stdout is not None
        url = process.stdout.readline().strip()
        assert re.fullmatch(r"http://127\.0\.0\.1:\d+/[\w-]{32}/", url)
        with urllib.request.urlopen(url) as answer:
            assert b"review.js" in answer.read()
        body = json.dumps({"number": 0, "verdict": "unsure", "note": ""}).encode()
        origin = url[: url.index("/", 8)]
        request = urllib.request.Request(f"{url}verdict", body, {"Origin": origin})
        with urllib.request.urlopen(request) as answer:
            assert json.load(answer)["judged"] == 1
        process.send_signal(signal.SIGINT)
        rest = process.stdout.read()
    assert process.returncode == 0
    assert f"1 of {len(SAMPLE)} documents judged" in rest


def test_progress_and_shares_without_a_browser(
    store: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    judge(store, {1: "damaged", 2: "fine"})
    assert cli.main(["review", str(store), "--shares"]) == 0
    out = capsys.readouterr().out
    assert f"2 of {len(SAMPLE)} documents judged" in out
    assert re.search(r"html_to_text_mapper +damaged +1 of +2 +50\.0 % \(9\.5 to 90\.5\)", out)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--stage", "77"], "no finished cleaning '77'"),
        (["--check"], "holds no verdicts"),
        (["--recipes", "paper"], "--check"),
        (["--port", "70000"], "--port"),
    ],
)
def test_what_cannot_be_done_is_said(
    store: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], words: str
) -> None:
    try:
        code = cli.main(["review", str(store), *arguments])
    except SystemExit as end:  # argparse
        code = int(end.code or 0)
    assert code == 2
    assert words in capsys.readouterr().err


def test_a_cleaning_without_a_sample_says_why(store: Path) -> None:
    stage = review.cleaned_stage(store)
    write_sample(stage.folder, [])
    with pytest.raises(DataError, match=r"clean\.examples"):
        review.open_review(store, stage, store / "v", with_texts=False)
    (stage.folder / "review-sample.jsonl").unlink()
    with pytest.raises(DataError, match="older version"):
        review.open_review(store, stage, store / "v", with_texts=False)


def test_unknown_set_of_recipes_is_refused(store: Path, capsys: pytest.CaptureFixture[str]) -> None:
    append_verdict(store / "review-verdicts.jsonl", {
        "id": "a", "kind": "kept", "source": "s", "family": "web", "operator": KEPT,
        "sha256": "0", "verdict": "bad_kept",
    })  # fmt: skip
    assert cli.main(["review", str(store), "--check", "--recipes", "nonsense"]) == 2
    assert "curated" in capsys.readouterr().err
