"""Each number of the report and of the cards that a reader could quote has an id."""

import json
import re
from pathlib import Path
from typing import Any

import pytest

from tasks.core.paper.tables import load_paper
from tasks.core.stage import StageResult
from tasks.report.cards.data_card import data_card
from tasks.report.cards.facts import gather_facts
from tasks.report.cards.model_card import Loading, model_card
from tasks.report.cards.writers import DataCardWriter, ModelCardWriter
from tasks.report.data import ReportData, gather
from tasks.report.format import format_report
from tasks.report.language import LANGUAGES, Language, Writer
from tasks.report.trace.lineage import trace
from tasks.report.trace.now import SOUND
from tasks.report.trace.numbers import NUMBERS_FILE, Known, Numbers
from tests.tasks.pipeline_folders import SOURCES
from tests.tasks.report.every_number import (
    DigitFree,
    data_card_without_id,
    names_of_the_paper,
    without_id,
)
from tests.tasks.report.test_trace import Store


@pytest.fixture
def store(tmp_path: Path) -> Store:
    """A store in which every part of the report has numbers."""
    made = Store(tmp_path)
    pipeline = made.pipeline
    pipeline.packed.manifest["notes"] = {
        "sources": {name: {"documents": d, "tokens": t} for name, (t, d) in SOURCES.items()}
    }
    pipeline.cleaned.manifest["counts"] |= {"documents_kept": 2000, "bytes_kept": 9}
    made.raw.manifest["config"] = {"kind": "corpora"}
    made.raw.manifest["notes"]["origins"] = dict.fromkeys(SOURCES, "/data")
    for name, result in {"base": pipeline.pretrain, "dpo": pipeline.dpo}.items():
        result.manifest["counts"] |= {"seconds": 99.5, "tokens": 5120.0, "steps": 300.0}
        result.manifest["notes"]["num_processes"] = 2
        result.manifest["config"] = {"learning_rate": 0.0003, "of": name}
    for result in pipeline.sft.values():
        result.manifest["notes"]["mixture"][0] |= {"reasons": "empty 3, too long 12"}
    for result in pipeline.evaluations.values():
        path = result.folder / "results.json"
        scores = json.loads(path.read_text())
        for score in scores.values():
            score["subjects"] = {
                "law": {"accuracy": 0.52, "num_questions": 25},
                "logic": {"accuracy": 0.36, "num_questions": 25},
            }
            score["num_bad_rows"], score["num_fewshot"] = 7, 5
        path.write_text(json.dumps(scores))
        samples = result.folder / "samples"
        samples.mkdir()
        for name, score in scores.items():
            right = round(200 * score["accuracy_micro"])
            scores[name]["num_right"] = right
            rows = [{"subject": "law", "index": i, "right": i < right} for i in range(200)]
            (samples / f"{name}.jsonl").write_text("\n".join(map(json.dumps, rows)))
        path.write_text(json.dumps(scores))
    for result in [*made._results(), made.raw]:
        made.write(result)
    return made


def everything(store: Store) -> dict[str, Any]:
    """Inputs of the report, with those that not every run has."""
    contamination = store.stage("contamination", "c")
    contamination.manifest["notes"]["benchmarks"] = {
        "ceval": {
            "questions": 216,
            "checkable": 210,
            "found": 12,
            "documents": 15,
            "questions by source": "skypile 8, zhihu 1,234",
        }
    }
    adjusted = store.stage("adjusted_scores", "dpo")
    part = {"accuracy": 0.5, "interval_95": [0.4, 0.6], "num_questions": 150}
    row = {
        "benchmark": "ceval",
        "title": "C-Eval",
        "form": "likelihood",
        "num_fewshot": 5,
        "full": part,
        "clean": part,
        "contaminated": {"accuracy": None, "num_questions": 9},
        "not_checkable": {"num_questions": 11},
        "difference": [0.12, -0.03, 0.27],
        "sources": {"corpora": 17},
        "unknown": ["3 sets of a base model"],
    }
    (adjusted.folder / "adjusted.json").write_text(json.dumps({"rows": [row]}))
    run = store.pipeline.pretrain.key
    curves = store.folder / "checkpoint_scores" / run / "questions"
    curves.mkdir(parents=True)
    metrics = {
        "bits_per_byte/all": [2.345, 2.123],
        "bits_per_byte/zhihu": [2.5, None],
        "ceval/letters/accuracy": [0.25, 0.275],
    }
    points = {"steps": [100, 200], "tokens": [1000, 2000], "metrics": metrics}
    (curves / "curves.json").write_text(json.dumps(points))
    checkpoints = StageResult(stage="checkpoint_scores", key="d", folder=curves, manifest={})
    for result in (contamination, adjusted):
        store.write(result)
    return {
        **store.pipeline.inputs(),
        "contamination": contamination,
        "adjusted": {"dpo": adjusted},
        "checkpoints": checkpoints,
    }


def names_of(data: ReportData) -> list[str]:
    names = [*data.trainings, *data.results, *names_of_the_paper()]
    names += [n.removeprefix("sft ") for n in data.trainings]
    names += [s.title for s in data.sources] + [s.name for s in data.sources]
    return [*names, *(r["set"] for t in data.trainings.values() for r in t.mixture)]


@pytest.mark.parametrize("language", LANGUAGES)
def test_every_number_has_an_id_and_every_id_is_sound(store: Store, language: Language) -> None:
    data = gather(**everything(store))
    numbers = Numbers()
    say = DigitFree().of(language, numbers)
    text = format_report(data, load_paper(), [], say)
    assert without_id(text, names_of(data)) == []
    for model in ("base", "dpo"):
        facts = gather_facts(store.folder, data.stages[model], None)
        card = DigitFree().of(language, numbers, ModelCardWriter)
        assert isinstance(card, ModelCardWriter)
        body = model_card(facts, card, Loading()).partition("\n---\n")[2]
        body = body.partition(f"\n[{next(iter(card._ids))}]: ")[0]
        names = [*names_of(data), facts.title, *(d.licence for d in facts.data)]
        assert without_id(body, names) == []
        corpus = data_card(facts, DigitFree().of(language, numbers, DataCardWriter))
        assert data_card_without_id(corpus, numbers, names) == []
    numbers.write(store.report.folder / NUMBERS_FILE)
    assert len(numbers.by_id) > 200
    for number in numbers.by_id.values():
        found = trace(store.folder, number.id)
        assert found.state in SOUND, (number.about, found.state)
        assert found.links, number.about
        assert bool(found.points) == (number.value is None), number.about


def test_a_number_without_an_id_is_noticed() -> None:
    """The test above can fail."""
    marked = '[25.0 (19.7 to 31.2)](#n-00c0ffee "steel trace 00c0ffee")'
    assert without_id(f"| base | {marked} |", []) == []
    assert len(without_id(f"| base | {marked} | 26.5 | 41.90 |", [])) == 1
    assert without_id("Of 12 models `7a` is best on 2026-11-29 10:00:00.", []) == [
        "12 in: Of 12 models `7a` is best on 2026-11-29 10:00:00."
    ]


def test_a_changed_part_is_found_behind_a_computed_number(store: Store) -> None:
    numbers = Numbers()
    data = gather(**everything(store))
    format_report(data, load_paper(), [], DigitFree().of("en", numbers))
    numbers.write(store.report.folder / NUMBERS_FILE)
    about = "SkyPile-150B, share of documents kept"
    (share,) = (n for n in numbers.by_id.values() if n.about == about)
    found = trace(store.folder, share.id)
    assert (found.state, len(found.parts)) == ("computed", 2)
    assert {link.stage for link in found.links if not link.depth} == {"clean", "normalize"}
    path = store.pipeline.cleaned.folder / "ledger.json"
    path.write_text(path.read_text() + " ")
    assert "has changed" in trace(store.folder, share.id).state


class Shown(Numbers):
    """Numbers with every text that each is shown by."""

    def __init__(self) -> None:
        super().__init__()
        self.texts: dict[str, set[str]] = {}

    def note(self, shown: str, known: Known) -> str:
        identity = super().note(shown, known)
        if shown:
            self.texts.setdefault(identity, set()).add(shown)
        return identity


def test_a_number_says_the_same_wherever_it_stands(store: Store) -> None:
    """In tables, sentences and cards, in both languages: but for units of time and decimals."""
    data = gather(**everything(store))
    numbers = Shown()
    for language in LANGUAGES:
        format_report(data, load_paper(), [], Writer(language, numbers))
        for model in ("base", "dpo"):
            facts = gather_facts(store.folder, data.stages[model], None)
            model_card(facts, ModelCardWriter(language, numbers), Loading())
            data_card(facts, DataCardWriter(language, numbers))
    several = {i: found for i, found in numbers.texts.items() if len(found) > 1}
    assert several
    for identity, found in several.items():
        if "seconds" in numbers.by_id[identity].about:
            continue  # minutes in a sentence, hours in a table
        first = [re.findall(r"[-+]?[\d,]+(?:\.\d+)?", text)[0].replace(",", "") for text in found]
        decimals = min(len(text.partition(".")[2]) for text in first)
        assert len({f"{float(text):.{decimals}f}" for text in first}) == 1, found
