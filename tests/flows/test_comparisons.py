"""Parts that all comparisons of trainings have in common."""

from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from typing import Any, NoReturn

import pytest
import yaml

from common.errors import ConfigError
from flows.ablations import comparison, corpora, mixtures, pretrainings
from flows.ablations.comparison import each_once
from tasks.core.plan import no_tracker
from tasks.core.stage import Context
from tests.flows.test_data_ablation import SMOKE
from tests.flows.test_ffn_ablation import TINY as ROUTINGS
from tests.flows.test_mixture_ablation import TINY as MIXTURES

COMPARISONS: dict[str, tuple[dict[str, Any], Any, Callable[..., Any], tuple[Any, ...]]] = {
    "corpora": (SMOKE, corpora, corpora.compare_corpora, (["paper"], [1], 9)),
    "routings": (ROUTINGS, pretrainings, pretrainings.compare_routings, (["token"], [1])),
    "mixtures": (MIXTURES, mixtures, mixtures.compare_mixtures, (None, [1], 1)),
}


class Begun(Exception):
    """The first stage of a comparison was reached."""


@pytest.mark.parametrize("name", COMPARISONS)
def test_a_comparison_waits_for_others_as_its_configuration_says(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings, module, compare, asked = COMPARISONS[name]
    store = tmp_path / "store"
    untracked = nullcontext(Context(store=store, tracker=no_tracker()))
    monkeypatch.setattr(comparison, "tracked", lambda *_: untracked)
    config = tmp_path / "tiny.yaml"
    config.write_text(yaml.safe_dump(settings))
    seen: list[str] = []

    def pipeline(config: Any, context: Any, **_: Any) -> NoReturn:
        seen.append(context.when_busy)
        raise Begun

    monkeypatch.setattr(module, "Pipeline", pipeline)
    with pytest.raises(Begun):
        compare(*asked, str(config), str(store), ["devices.when_busy=refuse"])
    assert seen == ["refuse"]


def test_values_are_named_each_once() -> None:
    each_once("x", "seeds", [1, 2])
    each_once("x", "seeds", [], least=0)
    with pytest.raises(ConfigError, match=r"x: name one or more seeds, each once: \[\]"):
        each_once("x", "seeds", [])
    with pytest.raises(ConfigError, match=r"x: name seeds, each once: \[1, 1\]"):
        each_once("x", "seeds", [1, 1], least=0)
