"""`steel plan`: figures of every shipped configuration, the paper's model, warnings, edits."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from flows.cli import main
from flows.commands import BAD_INPUT

SHIPPED = ("smoke", "smoke-mixtures", "real-sample", "data-ablation", "steel-1b")
Plan = Callable[..., dict[str, Any]]


@pytest.fixture
def plan(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Plan:
    """Runs `steel plan … --json` with a store that is empty; returns what it printed."""

    def run(name: str, *options: str) -> dict[str, Any]:
        path = name if name.endswith(".yaml") else f"deployments/{name}.yaml"
        assert main(["plan", path, "--store", str(tmp_path / "store"), "--json", *options]) == 0
        found: dict[str, Any] = json.loads(capsys.readouterr().out)
        return found

    return run


@pytest.mark.parametrize("name", SHIPPED)
def test_every_shipped_configuration_has_a_plan(name: str, plan: Plan) -> None:
    found = plan(name)
    assert found["schema"] == 1
    assert found["name"] == name
    assert {source["source"] for source in found["sources"]}
    assert {"pack", "clean"} <= {stage["stage"] for stage in found["stages"]}
    assert found["pretraining"]["parameters"]["total"] > 0
    for tuning in found["finetunings"]:
        stated = tuning["basis"].startswith("estimated") and tuning["samples"] is not None
        assert stated == (name == "steel-1b"), "a sample of a set has not the set's size"
    for source in found["sources"]:
        assert source["basis"].startswith(("estimated", "no figure")), "nothing is measured here"


def test_the_papers_model_on_eight_gpus(plan: Plan) -> None:
    found = plan("steel-1b", "--gpu", "h800", "--count", "8")
    training, (row,) = found["pretraining"], found["gpus"]
    assert round(training["parameters"]["total"] / 1e9, 2) == 1.12
    assert training["tokens"] == 1_070_000 * 1_048_576
    assert (training["ranks"], training["accumulation"]) == (8, 8)
    assert (row["gpu"], row["count"], row["fits"]) == ("H800", 8, True)
    # Section 5: 30 days on eight GPUs.
    least, most = row["hours_range"]
    assert least / 24 < 30 < 1.01 * most / 24
    assert row["energy_kwh"] == pytest.approx(row["hours"] * 8 * 0.7)
    assert sum(training["memory"].values()) == pytest.approx(2 * training["memory"]["total"])


def test_data_that_end_before_the_horizon_are_said_before_they_are_packed(plan: Plan) -> None:
    once = plan("steel-1b", "--set", "pretrain.epochs=1")
    assert any("the data end before the horizon" in text for text in once["cautions"])
    shipped = plan("steel-1b")
    assert not any("before the horizon" in text for text in shipped["cautions"])


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--gpu", "4090", "--set", "pretrain.micro_batch_size=64"], "a GPU needs about"),
        (["--count", "7"], "is no multiple of micro_batch_size x ranks = 8 x 7"),
        (["--set", "pretrain.model.max_position_embeddings=1024"], "1,024 positions"),
        (["--set", "pretrain.warmup_steps=200_000"], "warm-up of 200,000 steps is 19 %"),
        (["--set", "pretrain.schedule=wsd", "--set", "pretrain.decay_fraction=1"], "the decay"),
        (["--set", "pretrain.model.vocab_size=151937"], "no multiple of 64"),
        (["--set", "pretrain.epochs=6", "--set", "pretrain.steps=2_000_000"], "is repeated"),
        (["--set", "pretrain.checkpoints.keep_every=250"], "the disk is too small"),
        (["--set", "pretrain.model.routing=sequence"], "see later tokens"),
        (["--set", "pretrain.steps=3000"], "more than the pretraining's"),
    ],
    ids=lambda value: value if isinstance(value, str) else None,
)
def test_what_will_be_regretted_is_said(options: list[str], words: str, plan: Plan) -> None:
    assert any(words in text for text in plan("steel-1b", *options)["cautions"]), words
    if "disk" not in words:
        calm = plan("steel-1b", "--gpu", "h100", "--set", "pretrain.epochs=3.5")["cautions"]
        assert not any(words in text for text in calm)


def test_a_price_and_a_share_of_the_peak_are_taken_as_given(plan: Plan) -> None:
    options = ["--gpu", "a100", "--count", "16", "--mfu", "0.5", "--price", "2"]
    found = plan("steel-1b", *options)
    (row,) = found["gpus"]
    assert found["mfu_source"] == "given"
    assert row["hours"] == pytest.approx(found["pretraining"]["flops"] / (16 * 156e12) / 3600)
    assert row["cost_usd"] == [pytest.approx(32 * row["hours"])] * 2


def test_an_edit_redoes_what_depends_on_it_and_says_why(plan: Plan) -> None:
    same = plan("steel-1b", "--against", "deployments/steel-1b.yaml")["changes"]
    assert {change["state"] for change in same} == {"same"}

    edited = plan(
        "steel-1b",
        "--gpu",
        "h100",
        "--against",
        "deployments/steel-1b.yaml",
        "--set",
        "pretrain.learning_rate=2e-4",
        "--set",
        "pretrain.micro_batch_size=4",
    )
    by_stage = {change["stage"]: change for change in edited["changes"]}
    assert by_stage["pack"]["state"] == by_stage["clean"]["state"] == "same"
    base = by_stage["pretrain steel-1b"]
    assert base["state"] == "redone"
    assert base["reasons"] == ["pretrain.learning_rate: 0.0003 -> 0.0002"]
    assert base["unkeyed"] == ["pretrain.micro_batch_size: 8 -> 4"]
    assert base["hours"] == edited["gpus"][0]["hours"]
    assert by_stage["dpo"]["reasons"] == ["its input policy is another"]

    unkeyed = plan(
        "steel-1b", "--against", "deployments/steel-1b.yaml", "--set", "pretrain.compile=false"
    )["changes"]
    assert {change["state"] for change in unkeyed} == {"same"}


def test_another_optimizer_is_a_reason_and_has_smaller_checkpoints(plan: Plan) -> None:
    muon = plan(
        "steel-1b",
        "--against",
        "deployments/steel-1b.yaml",
        "--set",
        "pretrain.optimizer=muon",
        "--set",
        "pretrain.muon.momentum=0.9",
    )
    [base] = [change for change in muon["changes"] if change["stage"] == "pretrain steel-1b"]
    assert base["reasons"][0] == "pretrain.optimizer: adamw -> muon"
    assert len(base["reasons"]) == 2 and base["unkeyed"] == []
    saved = [
        {row["what"]: row["bytes"] for row in found["disk"]} for found in (plan("steel-1b"), muon)
    ]
    being_written = "checkpoint that is being written"
    assert saved[1][being_written] < 0.84 * saved[0][being_written]


def test_new_and_dropped_stages_are_named(plan: Plan) -> None:
    found = plan("smoke-mixtures", "--against", "deployments/smoke.yaml")["changes"]
    states = {change["stage"]: change["state"] for change in found}
    assert states["sft smoke-full-infinity"] == "new"
    assert states["sft smoke-chinese"] == states["pack"] == "same"
    back = plan("smoke", "--against", "deployments/smoke-mixtures.yaml")["changes"]
    assert {c["stage"]: c["state"] for c in back}["sft smoke-full-infinity"] == "gone"


def test_the_page_says_the_same_in_words(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["plan", "deployments/steel-1b.yaml", "--store", str(tmp_path), "--gpu", "910b"]
    assert main(arguments) == 0
    printed = capsys.readouterr().out
    for words in ("1.12 B parameters", "1.12 T tokens", "activations", "was never run on one"):
        assert words in printed


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--gpu", "h1000"], "there is no GPU"),
        (["--count", "0"], "--count"),
        (["--mfu", "1.5"], "--mfu"),
        (["--set", "pretrain.hidden=3"], "unknown key"),
        (["--against", "nothing-here.yaml"], "nothing-here.yaml"),
    ],
)
def test_bad_input_is_refused(
    options: list[str], words: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["plan", "deployments/smoke.yaml", "--store", str(tmp_path), *options]
    try:
        code = main(arguments)
    except SystemExit as end:
        code = int(str(end.code))
    assert code == BAD_INPUT
    assert words in capsys.readouterr().err
