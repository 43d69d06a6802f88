"""Every architecture of the list trains, and every other is refused with one sentence."""

import math
import re
from collections.abc import Callable
from pathlib import Path

import pytest
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

from common.errors import ConfigError, SteelError
from model.train.architectures.tested import DENSE, JOINED_ONLY, OTHER_EXPERTS, ROUTER_LOSS, TESTED
from model.train.config import PretrainSettings
from model.train.model_settings import check_model
from model.train.trainer import Trainer
from tests.model.train import ranks
from tests.model.train.architectures.shapes import SMALL, smallest

MakeRun = Callable[..., Trainer]


def losses(run: Trainer) -> list[float]:
    """Train to the end; the loss of each step."""
    run.fit()
    steps = ranks.read_run(run.checkpoints.folder.parent)
    return [steps[n]["train/loss"] for n in sorted(steps) if "train/loss" in steps[n]]


@pytest.mark.parametrize("kind", SMALL)
def test_a_small_model_learns(make_run: MakeRun, kind: str) -> None:
    run = make_run(model={"model_type": kind, **SMALL[kind]}, steps=4, eval_interval=0)
    found = losses(run)
    assert found[0] == pytest.approx(math.log(64), abs=0.6)
    assert found[-1] < found[0]
    assert kind in TESTED


def test_the_docs_show_the_list() -> None:
    text = (Path(__file__).parents[4] / "docs" / "pretraining.md").read_text(encoding="utf-8")
    lines = {line.split("|")[1].strip(): line for line in text.splitlines() if "| `" in line}
    shown = {
        "documents kept apart": DENSE | {"steel"},
        "the same, mixtures of experts with their router's loss": ROUTER_LOSS,
        "the same, mixtures of experts that have no such loss": OTHER_EXPERTS,
        "`separate_documents: false` only": JOINED_ONLY,
    }
    for row, names in shown.items():
        assert set(re.findall(r"`([^`]+)`", lines[row].split("|")[2])) == names, row


@pytest.mark.slow
@pytest.mark.parametrize("kind", sorted(MODEL_FOR_CAUSAL_LM_MAPPING_NAMES))
def test_all_architectures_of_transformers(make_run: MakeRun, kind: str) -> None:
    """Two steps, or one error of ours; never another."""
    try:
        model = SMALL.get(kind) or smallest(kind)
    except Exception:  # Transformers' own default values are refused by itself
        model = {}
    model = {**model, "model_type": kind}
    trained = kind in TESTED
    if trained:  # joined is the lesser demand: that it passes all checks is enough
        settings = PretrainSettings(model=model, sequence_length=32, separate_documents=False)
        check_model(settings)
    for separate in (True,) if trained else (True, False):
        wanted = trained if separate else kind in JOINED_ONLY
        try:
            run = make_run(
                f"separate-{separate}",
                model=model,
                steps=2,
                eval_interval=0,
                separate_documents=separate,
            )
            found = losses(run)
        except SteelError as error:
            assert not wanted, error
            assert isinstance(error, ConfigError)
            assert "\n" not in str(error)
            assert "model" in str(error), "it is about the model, not about the test"
            continue
        assert wanted, "trains: enter it in the list"
        assert len(found) == 2 and all(math.isfinite(loss) for loss in found)
