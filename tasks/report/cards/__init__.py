"""Cards of a model and of its data, made from manifests.

facts.py       results behind a model: data, trainings, scores
model_card.py  README.md for a model, with the hub's metadata
data_card.py   Croissant JSON-LD for the corpus
"""

from collections.abc import Sequence
from pathlib import Path

from tasks.core.manifest import StageResult
from tasks.report.cards.data_card import data_card
from tasks.report.cards.facts import Facts, gather_facts
from tasks.report.cards.model_card import Loading, model_card
from tasks.report.cards.writers import DataCardWriter, ModelCardWriter
from tasks.report.language import LANGUAGES
from tasks.report.trace.numbers import NUMBERS_FILE, Numbers

__all__ = ["Facts", "Loading", "card_files", "gather_facts"]


def card_files(
    store: Path,
    model: StageResult,
    *,
    evaluations: Sequence[StageResult] | None = None,
    loading: Loading | None = None,
    numbers: Numbers | None = None,
) -> dict[str, str]:
    """Name -> text of a model's cards: README.md, README.zh.md, croissant.json, croissant.zh.json,
    and numbers.json, which has the ids of their numbers.

    Args:
        store: where the stages behind the model are looked for.
        model: the stage that made it, or a model of a path.
        evaluations: scores of it; None looks for them in the store.
        loading: form of the folder that the card lies in; None: the stage's own folder.
        numbers: where the cards' numbers are collected, too.

    A corpus that is not known has no croissant.json. Raises DataError for damaged manifests.
    """
    facts = gather_facts(store, model, evaluations)
    files, own = {}, Numbers()
    for language in LANGUAGES:
        end = "" if language == "en" else f".{language}"
        say = ModelCardWriter(language, own)
        files[f"README{end}.md"] = model_card(facts, say, loading or Loading())
        if facts.cleaned is not None:
            files[f"croissant{end}.json"] = data_card(facts, DataCardWriter(language, own))
    files[NUMBERS_FILE] = own.text()
    if numbers is not None:
        numbers.add(own)
    return files
