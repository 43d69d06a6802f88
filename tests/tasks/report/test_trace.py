"""Numbers of a report and the way back from each: ids, anchors, chains, what is refused."""

import json
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from common.errors import ConfigError, DataError
from common.files import md5_of_file
from flows.cli import main
from tasks.core.paper.tables import load_paper
from tasks.core.stage import StageResult
from tasks.report.data import gather
from tasks.report.format import format_report
from tasks.report.language import Writer
from tasks.report.page import html_page
from tasks.report.trace.lineage import trace
from tasks.report.trace.numbers import (
    NUMBERS_FILE,
    Numbers,
    Place,
    at_pointer,
    pointer,
    read_numbers,
    unmarked,
)
from tests.tasks.pipeline_folders import Pipeline


class Store:
    """A store of stages without the work, with manifests, inputs and a report."""

    def __init__(self, folder: Path, *, report: str = "r") -> None:
        self.folder = folder
        self.pipeline = Pipeline(folder)
        base, key = self.pipeline.pretrain, {r.stage: r.key for r in self._results()}
        self.raw = self.stage(
            "acquire", "raw", files={"skypile/a.jsonl": "x", "zhihu/b.jsonl": "y"}
        )
        self.raw.manifest["notes"] = {"origins": {"skypile": "hub", "zhihu": "/data/zhihu"}}
        self.pipeline.normalized.manifest["inputs"] = {"raw": self.raw.key}
        self.pipeline.cleaned.manifest["inputs"] = {"normalized": key["normalize"]}
        self.pipeline.packed.manifest["inputs"] = {"cleaned": key["clean"]}
        base.manifest["inputs"] = {"packed": key["pack"]}
        for result in self.pipeline.sft.values():
            result.manifest["inputs"] = {"base": base.key, "data": {"wanjuan_mcq": "f" * 16}}
        models = {"base": base, "dpo": self.pipeline.dpo}
        models |= {f"sft {name}": result for name, result in self.pipeline.sft.items()}
        for name, result in self.pipeline.evaluations.items():
            result.manifest["inputs"] = {"model": models[name].key}
        for result in [*self._results(), self.raw]:
            self.write(result)
        self.numbers = Numbers()
        data = gather(**self.pipeline.inputs())
        self.text = format_report(data, load_paper(), [], Writer("en", self.numbers))
        self.chinese = format_report(data, load_paper(), [], Writer("zh", self.numbers))
        self.report = self.stage("report", report)
        self.numbers.write(self.report.folder / NUMBERS_FILE)
        self.write(self.report)

    def _results(self) -> list[StageResult]:
        p = self.pipeline
        trained = [p.pretrain, *p.sft.values(), p.dpo]
        return [p.normalized, p.cleaned, p.packed, *trained, *p.evaluations.values()]

    def stage(self, stage: str, label: str, files: dict[str, str] | None = None) -> StageResult:
        result = self.pipeline._stage(stage, label)
        for name, text in (files or {}).items():
            path = result.folder / name
            path.parent.mkdir(exist_ok=True)
            path.write_text(text)
        return result

    def write(self, result: StageResult) -> None:
        files = [p for p in sorted(result.folder.rglob("*")) if p.is_file()]
        result.manifest["files"] = [
            {
                "path": str(p.relative_to(result.folder)),
                "bytes": p.stat().st_size,
                "md5": md5_of_file(p),
            }
            for p in files
            if p.name != "manifest.json" or p.parent != result.folder
        ]
        (result.folder / "manifest.json").write_text(json.dumps(result.manifest))

    def id_of(self, about: str) -> str:
        (found,) = (n.id for n in self.numbers.by_id.values() if n.about == about)
        return found


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path)


DPO = "C-Eval, accuracy of dpo in per cent"


def test_a_score_leads_to_raw_files(store: Store) -> None:
    found = trace(store.folder, store.id_of(DPO))
    assert found.number.shown == "60.0 (54.0 to 66.0)"
    assert found.state == "as in the file"
    stages = [link.stage for link in found.links]
    assert stages[:2] == ["evaluate", "dpo"]
    ways = [(link.role, link.stage) for link in found.links if not link.seen]
    for step in (
        ("model", "dpo"),
        ("policy", "sft"),
        ("base", "pretrain"),
        ("packed", "pack"),
        ("cleaned", "clean"),
        ("normalized", "normalize"),
        ("raw", "acquire"),
    ):
        assert step in ways
    raw = next(link for link in found.links if link.stage == "acquire")
    assert [e["path"] for e in raw.files] == ["skypile/a.jsonl", "zhihu/b.jsonl"]
    assert raw.origins == {"skypile": "hub", "zhihu": "/data/zhihu"}
    assert [e["path"] for e in next(k for k in found.links if k.stage == "pretrain").files] == [
        "model/model.safetensors"
    ]
    assert any(
        link.remark == "not in this store" for link in found.links
    )  # SFT data, not made here


def test_data_that_joined_a_training_are_part_of_the_chain(store: Store) -> None:
    later = store.stage("acquire", "later", files={"wiki/new.jsonl": "z"})
    joined = store.stage("pack", "joined", files={"shards/wiki-0.bin": "t"})
    joined.manifest["inputs"] = {"raw": later.key}
    elsewhere = "/elsewhere/packed/shards"
    rows = [{"folder": str(joined.folder / "shards"), "step": 40}, {"kind": "length", "step": 50}]
    base = store.pipeline.pretrain
    base.manifest["notes"] = {"journal": [*rows, {"folder": elsewhere, "step": 60}]}
    for result in (later, joined, base):
        store.write(result)
    links = trace(store.folder, store.id_of(DPO)).links
    steps = [(link.role, link.stage, link.key) for link in links if "joined" in link.role]
    assert steps == [
        ("joined at step 40", "pack", joined.key),
        ("joined at step 60", "", elsewhere),
    ]
    (raw,) = (link for link in links if link.key == later.key)
    assert [e["path"] for e in raw.files] == ["wiki/new.jsonl"]


def test_a_number_of_one_source_leads_to_its_files_alone(store: Store) -> None:
    found = trace(store.folder, store.id_of("SkyPile-150B, documents after cleaning"))
    raw = next(link for link in found.links if link.stage == "acquire")
    assert [e["path"] for e in raw.files] == ["skypile/a.jsonl"]
    assert raw.origins == {"skypile": "hub"}


def test_every_number_that_has_a_pointer_is_as_in_its_file(store: Store) -> None:
    states = {}
    for number in store.numbers.by_id.values():
        states[number.about] = trace(store.folder, number.id).state
    assert len(states) > 60
    assert set(states.values()) == {"as in the file", "computed"}


def test_the_page_has_an_anchor_and_a_title_for_each_number(store: Store) -> None:
    class Anchors(HTMLParser):
        def __init__(self) -> None:
            super().__init__()
            self.found: list[dict[str, Any]] = []

        def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
            given = dict(attrs)
            if tag == "a" and given.get("class") == "number":
                self.found.append(given)

    for text in (store.text, store.chinese):
        parser = Anchors()
        parser.feed(html_page(text, title="t", folder=store.folder))
        ids = [a["id"] for a in parser.found if "id" in a]
        assert len(ids) == len(set(ids))
        in_text = {i for i, number in store.numbers.by_id.items() if number.shown}
        assert set(ids) == {f"n-{i}" for i in in_text}
        assert all(a["title"] == f"steel trace {a['href'][3:]}" for a in parser.found)


def test_equal_results_have_equal_ids_elsewhere(tmp_path: Path) -> None:
    one, other = Store(tmp_path / "one"), Store(tmp_path / "two", report="later")
    assert list(one.numbers.by_id) == list(other.numbers.by_id)


def test_another_key_is_another_id() -> None:
    place = Place(stage="evaluate", key="a" * 16, file="results.json", pointer="/ceval")
    others = [
        Place(stage="evaluate", key="b" * 16, file="results.json", pointer="/ceval"),
        Place(stage="evaluate", key="a" * 16, file="results.json", pointer="/cmmlu"),
        Place(stage="evaluate", key="a" * 16, file="results.json", pointer="/ceval", part="x"),
    ]
    assert len({place.id, *(other.id for other in others)}) == 4


def test_marks_change_no_text(store: Store) -> None:
    plain = format_report(gather(**store.pipeline.inputs()), load_paper(), [])
    lists = Writer()("page.points", names="")[:12]  # names of curves, which have only ids
    paragraphs = unmarked(store.text).split("\n\n")
    hint = Writer()("page.hint")
    kept = [p for p in paragraphs if p != hint and not p.startswith(lists)]
    assert "\n\n".join(kept) == plain


def test_unknown_ids_are_refused_with_near_ones(store: Store) -> None:
    right = store.id_of(DPO)
    wrong = right[:-1] + ("0" if right[-1] != "0" else "1")
    with pytest.raises(ConfigError, match=right):
        trace(store.folder, wrong)
    for name in ("", "zzz", "n-", "--", "x" * 5000, "../../etc/passwd", right[:2]):
        with pytest.raises(ConfigError, match="Near ones"):
            trace(store.folder, name)
    for name in (right.upper(), f"#n-{right}", f" {right} ", right[:6]):
        assert trace(store.folder, name).number.id == right


def test_changed_and_lost_files_are_said(store: Store) -> None:
    number = store.numbers.by_id[store.id_of(DPO)]
    folder = store.folder / number.place.stage / number.place.key
    path = folder / "results.json"
    text = path.read_text()
    path.write_text(text.replace("0.6", "0.9"))
    assert "has changed" in trace(store.folder, number.id).state
    path.unlink()
    assert "is missing" in trace(store.folder, number.id).state
    (folder / "manifest.json").unlink()
    found = trace(store.folder, number.id)
    assert "not in this store any more" in found.state
    assert [link.remark for link in found.links] == ["not in this store"]


def test_a_model_of_a_path_is_named(store: Store) -> None:
    result = store.pipeline.sft["table3-2-chinese"]
    result.manifest["inputs"] = {"base": "e" * 16}
    result.manifest["config"] = {"base_model": "/models/steel"}
    store.write(result)
    found = trace(store.folder, store.id_of("C-Eval, accuracy of sft table3-2-chinese in per cent"))
    (last,) = (link for link in found.links if link.role == "base")
    assert last.remark == "a model given by its path, /models/steel"


def test_a_store_without_numbers_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no report"):
        trace(tmp_path, "abcd1234")


@pytest.mark.parametrize(
    "text",
    [
        "[]",
        '{"numbers": {}}',
        '{"numbers": [1]}',
        '{"numbers": [{"id": "a"}]}',
        '{"numbers": [{"id": "a", "shown": "", "about": "", "value": "x", "place": {}}]}',
        '{"numbers": [{"id": "a", "shown": "", "about": "", "value": 1, "place": '
        '{"stage": "..", "key": "..", "file": "/etc/passwd"}}]}',
    ],
)
def test_a_damaged_list_of_numbers_is_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / NUMBERS_FILE).write_text(text)
    with pytest.raises(DataError, match=re.escape(NUMBERS_FILE)):
        read_numbers(tmp_path)


def test_the_command_prints_the_chain(store: Store, capsys: pytest.CaptureFixture[str]) -> None:
    asked = store.id_of(DPO)
    assert main(["trace", asked, "--store", str(store.folder)]) == 0
    printed = capsys.readouterr().out
    for words in ("60.0 (54.0 to 66.0)", "as in the file", "skypile/a.jsonl", "zhihu from", "0123"):
        assert words in printed
    assert main(["trace", asked, "--store", str(store.folder), "--json"]) == 0
    chain = json.loads(capsys.readouterr().out)
    assert chain["number"]["id"] == asked
    assert {link["stage"] for link in chain["links"]} >= {"evaluate", "dpo", "pack", "acquire"}
    assert main(["trace", "0" * 8, "--store", str(store.folder)]) == 2
    assert "Near ones" in capsys.readouterr().err


@given(
    st.recursive(st.integers(), lambda inner: st.dictionaries(st.text(), inner) | st.lists(inner))
)
def test_a_pointer_leads_to_every_value(value: Any) -> None:
    def leaves(value: Any, *names: str | int) -> None:
        assert at_pointer(whole, pointer(*names)) == value
        if isinstance(value, dict | list):
            for name, inner in value.items() if isinstance(value, dict) else enumerate(value):
                leaves(inner, *names, name)

    whole = value
    leaves(value)
