"""The filter of benchmark questions as Data-Juicer calls it: it cuts while it measures."""

import json
from pathlib import Path
from typing import Any

import pytest
from data_juicer.utils.constant import Fields

from benchmarks.planted_questions import asked
from corpus.cleaning.contamination_matches import MATCHES
from tests.corpus.cleaning.operators.loading import own_operator
from tests.corpus.decontaminate.planted import INDEX, POEM
from tests.corpus.decontaminate.test_cutting import ARTICLE


@pytest.mark.parametrize("action", ["drop", "flag"])
def test_long_documents_lose_a_passage_and_pages_of_questions_go(
    tmp_path: Path, action: str
) -> None:
    path = tmp_path / "index.npz"
    INDEX.save(path)
    operator = own_operator("contamination_filter", index=str(path), action=action)
    texts = [f"{ARTICLE}{asked(POEM)}\n{ARTICLE}", asked(POEM), ARTICLE]
    samples: dict[str, Any] = {"text": list(texts), Fields.stats: [{}, {}, {}]}
    samples = operator.compute_stats_batched(samples)
    again = operator.compute_stats_batched(samples)
    assert again["text"] == samples["text"]
    cut = [[row["cut"] for row in json.loads(stats[MATCHES])] for stats in samples[Fields.stats]]
    verdicts = list(operator.process_batched(samples))
    if action == "drop":
        assert samples["text"] == [ARTICLE * 2, *texts[1:]]
        assert (verdicts, cut) == ([True, False, True], [[True], [False], []])
    else:
        assert samples["text"] == texts
        assert (verdicts, cut) == ([True] * 3, [[False], [False], []])
