"""Names of flow runs."""

from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from prefect.context import FlowRunContext
from prefect.utilities.names import generate_slug

from flows import steel
from flows.runs.names import LIKELY, MAX_NAME, is_made_up, run_name, telling_name

SMOKE = "deployments/smoke.yaml"


@pytest.mark.parametrize(
    ("function", "parameters", "name"),
    [
        ("pretrain", {"steps": 60}, "pretrain smoke, 60 steps, lr 2e-3"),
        ("pretrain", {"steps": 60, "learning_rate": 3e-4}, "pretrain smoke, 60 steps, lr 3e-4"),
        (
            "pretrain",
            {"overrides": ["pretrain.steps=7", "pack.prune=false"]},
            "pretrain smoke, 7 steps, lr 2e-3, steps=7, prune=false",
        ),
        ("sft", {"mixture": "smoke-chinese"}, "sft smoke, smoke-chinese, 2 epochs, lr 2e-3"),
        ("dpo", {"policy_model": "store/sft/0a1b"}, "dpo smoke, from sft/0a1b, lr 5e-5"),
        ("data", {"fraction": 0.01}, "data smoke, 1 % of each corpus"),
        ("mixture_ablation", {"seeds": [1, 2], "parallel": 1}, "mixture-ablation smoke, seeds 1 2"),
        ("pipeline", {"stages": ["data", "sft"]}, "pipeline smoke, data + sft"),
        ("report", {}, "report smoke"),
        ("evaluate_checkpoints", {"watch": False}, "evaluate-checkpoints smoke"),
        (
            "evaluate_checkpoints",
            {"watch": True},
            "evaluate-checkpoints smoke, as they are written",
        ),
        ("pretrain", {"config": "no/such.yaml"}, "pretrain such"),
    ],
)
def test_a_name_tells_what_was_asked_for(
    function: str, parameters: dict[str, Any], name: str
) -> None:
    assert telling_name(function, {"config": SMOKE, **parameters}) == name


def test_a_name_holds_no_secret() -> None:
    changes = ["c.a=https://me:hunter22@host/x", "a.password=hunter22", "a.hf_token=abcd"]
    name = telling_name("data", {"config": SMOKE, "overrides": changes})
    assert "hunter22" not in name and "abcd" not in name


@given(st.text(max_size=3000), st.lists(st.text(max_size=500), max_size=30))
def test_a_name_is_one_bounded_line(config: str, overrides: list[str]) -> None:
    name = telling_name("pretrain", {"config": config, "overrides": overrides})
    assert 0 < len(name) <= MAX_NAME
    assert name.isprintable()


def test_made_up_names_are_told_from_a_users() -> None:
    assert all(is_made_up(generate_slug(2)) for _ in range(200))
    assert is_made_up("pi6-coronae-borealis") and is_made_up("mu153-mataline")
    for name in ("my-run", "pretrain", "ablation 2", "lr-3e-4", "smoke-test", "中文"):
        assert not is_made_up(name) and not LIKELY.fullmatch(name)
    for name in ("Ergonomic-Saluki", "Big-Run", "alpha-lyrae"):
        assert not is_made_up(name) and LIKELY.fullmatch(name)


@pytest.mark.parametrize(
    ("given_name", "name"),
    [
        ("mine", "mine"),
        ("my-run", "my-run"),
        ("pi6-coronae-borealis", "pretrain smoke, 60 steps, lr 2e-3"),
        ("blue-whale", "pretrain smoke, 60 steps, lr 2e-3"),
        ("Big-Run", "pretrain smoke, 60 steps, lr 2e-3 (Big-Run)"),
        ("pretrain smoke, 60 steps, lr 2e-3", "pretrain smoke, 60 steps, lr 2e-3"),  # a retry
    ],
)
def test_the_users_name_stays(given_name: str, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    context = SimpleNamespace(
        flow=steel.pretrain,
        flow_run=SimpleNamespace(name=given_name),
        parameters={"config": SMOKE, "steps": 60},
    )
    monkeypatch.setattr(FlowRunContext, "get", lambda: context)
    assert run_name() == name
