"""Benchmark questions in the texts that one model was trained on, each with its source.

contamination/questions.jsonl         questions in the cleaned corpora ─┐
sft/contamination.jsonl               in conversations of the mixture ──┼─▶ SearchedTexts
dpo/contamination.jsonl, mixture.jsonl      in preference pairs ────────┘
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from common.files import read_json_lines
from corpus.chats import MATCHES_FILE
from corpus.decontaminate.search import QUESTIONS_FILE
from model.train.finetune.preferences.selection import TRAINED
from model.train.run.folder import MIXTURE_FILE
from tasks.core.stage import StageResult


@dataclass(frozen=True, kw_only=True)
class SearchedTexts:
    """Texts of one training, as they were searched."""

    texts: str
    """Name of these texts in tables."""
    benchmarks: frozenset[str]
    """Benchmarks whose questions were looked for."""
    found: Mapping[tuple[str, str], list[str]] = field(default_factory=dict)
    """Benchmark and question_id -> the sources that contain it, such as `corpus zhihu`."""

    def unknown(self, benchmark: str) -> Iterator[str]:
        """Yield the reason why these texts say nothing about a benchmark."""
        if benchmark not in self.benchmarks:
            yield f"{self.texts} were not searched for it"


def corpora_texts(result: StageResult) -> SearchedTexts:
    """The cleaned corpora, from the stage `contamination`."""
    found: dict[tuple[str, str], list[str]] = {}
    for row in read_json_lines(result.folder / QUESTIONS_FILE):
        if row["documents"]:
            sources = [f"corpus {name}" for name in row["documents"]]
            found[row["benchmark"], row["question_id"]] = sources
    names = frozenset(result.manifest["notes"]["benchmarks"])
    return SearchedTexts(texts="the corpora", benchmarks=names, found=found)


def conversations(result: StageResult) -> SearchedTexts:
    """The conversations that an SFT model was trained on, those held out of it included."""
    matches = [m for m in _matches(result) if m["drawn"]]
    return SearchedTexts(
        texts="conversations of SFT",
        benchmarks=_looked_for(result),
        found=_by_question(matches, "SFT set"),
    )


def preference_pairs(result: StageResult) -> SearchedTexts:
    """The pairs that a DPO model was trained on."""
    matches = list(_matches(result))
    trained: set[str] = set()
    if matches:
        rows = read_json_lines(result.folder / MIXTURE_FILE)
        trained = {row["place"] for row in rows if row["split"] == TRAINED}
    return SearchedTexts(
        texts="preference pairs",
        benchmarks=_looked_for(result),
        found=_by_question([m for m in matches if m["id"] in trained], "preference set"),
    )


def _matches(result: StageResult) -> Iterator[dict[str, Any]]:
    path = result.folder / MATCHES_FILE
    return read_json_lines(path) if path.is_file() else iter(())


def _looked_for(result: StageResult) -> frozenset[str]:
    """Benchmarks whose questions the screening of a fine-tuning knew."""
    index = result.manifest["notes"].get("contamination", {}).get("index", {})
    return frozenset(name.rpartition("/")[0] for name in index.get("splits", {}))


def _by_question(matches: list[dict[str, Any]], kind: str) -> dict[tuple[str, str], list[str]]:
    found: dict[tuple[str, str], list[str]] = {}
    for match in matches:
        source = f"{kind} {match['id'].partition('/')[0]}"
        sources = found.setdefault((match["benchmark"], match["question_id"]), [])
        if source not in sources:
            sources.append(source)
    return found
