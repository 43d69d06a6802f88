"""Parts that all comparisons of trainings have in common."""

from collections.abc import Callable, Mapping
from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NoReturn

import pytest
import yaml

from common.errors import ConfigError
from common.recipes import load_config
from flows.ablations import comparison, corpora, mixtures, pretrainings
from flows.ablations.comparison import each_once
from flows.ablations.mixtures import job_file, models_of
from flows.ablations.one_mixture import Upstream
from flows.config import PipelineConfig
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


@pytest.fixture
def mixture_config(tmp_path: Path) -> Path:
    path = tmp_path / "tiny.yaml"
    path.write_text(yaml.safe_dump(MIXTURES))
    return path


def test_comparisons_that_differ_do_not_write_each_others_jobs(
    mixture_config: Path, tmp_path: Path
) -> None:
    """A job waits until a slot is free; another comparison of the store may begin meanwhile."""
    one, same, other = (
        models_of(load_config(mixture_config, PipelineConfig, changes), [3])[1]
        for changes in ([], [], ["sft.learning_rate=1e-6"])
    )
    assert one.label == other.label
    assert job_file(one, tmp_path) == job_file(same, tmp_path) != job_file(other, tmp_path)


def test_a_model_whose_results_are_not_found_counts_as_failed(
    mixture_config: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its recipe may have been changed while it was trained."""
    models = models_of(load_config(mixture_config, PipelineConfig, []), [3])
    started: list[str] = []

    class Prepared:
        start = SimpleNamespace(model_folder=tmp_path)

        def __init__(self, *_: object) -> None:
            self._made: dict[Any, Any] = {}

        def prepare(self, target: str) -> None:
            pass

    def run(module: str, jobs: Mapping[str, Path], *_: object) -> dict[str, Any]:
        started.extend(jobs)
        return {}

    monkeypatch.setattr(mixtures, "Pipeline", Prepared)
    monkeypatch.setattr(mixtures, "look_up", lambda *_: mixtures.State(upstream=Upstream()))
    monkeypatch.setattr(mixtures, "run_all", run)
    tracker: Any = SimpleNamespace(opened=lambda: None, pipeline_id="p", run_id="r")
    _, failed = mixtures._make(models, 1, Context(store=tmp_path, tracker=tracker))
    assert started == [model.label for model in models]
    assert set(failed) == {model.key for model in models}
    assert "results are not in the store" in str(failed["base"])
