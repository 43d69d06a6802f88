"""A fine-tuning that is killed anywhere ends as an uninterrupted one: samples, losses, weights.

The options that are tried are those that shipped deployments set: who adds one there, adds a case.
"""

import itertools
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from transformers import Qwen2Config, Qwen2ForCausalLM

from common.paths import ROOT
from model.train.finetune.config import DpoSettings, SftSettings
from tests.model.train import ranks
from tests.model.train.finetune import recording
from tests.model.train.finetune.recording import (
    Killed,
    curve,
    log_of,
    make_job,
    seen,
    train,
    weights,
)
from tests.tiny_chat import byte_tokenizer

pytestmark = pytest.mark.usefixtures("in_this_process")

SIZES = {
    *("epochs", "max_steps", "global_batch_size", "micro_batch_size", "max_length"),
    *("checkpoint_interval", "log_interval", "num_processes", "learning_rate"),
}
"""Settings that a tiny run has values of its own for."""
FIELDS = {"sft": SftSettings, "dpo": DpoSettings}


def shipped_options(method: str) -> list[dict[str, Any]]:
    """The settings of a method, sizes aside, of each file in deployments/."""
    known = FIELDS[method].__dataclass_fields__.keys() - SIZES
    found: list[dict[str, Any]] = []
    for path in sorted((ROOT / "deployments").glob("*.yaml")):
        section = yaml.safe_load(path.read_text()).get(method) or {}
        options = {name: value for name, value in section.items() if name in known}
        if options not in found:
            found.append(options)
    return found


def variants() -> Iterator[Any]:
    """Each shipped combination, with batches grouped by length or not, and packed or not."""
    for method in ("sft", "dpo"):
        packings = (False, True) if method == "sft" else (False,)
        for options, grouped, packing in itertools.product(
            shipped_options(method), (False, True), packings
        ):
            case = {**options, "group_by_length": grouped}
            case |= {"packing": packing, "max_length": 160} if packing else {}
            name = ",".join(f"{k}={v}" for k, v in case.items() if k != "max_length")
            yield pytest.param(method, case, id=f"{method}: {name}")


CASES = list({str(case.values): case for case in variants()}.values())
WIDEST = {
    (method, case["group_by_length"], case.get("packing", False)): parameter
    for parameter in sorted(CASES, key=lambda parameter: len(parameter.values[1]))
    for method, case in [parameter.values]
}
"""Those of most options: several ranks differ by what groups and packs, and start slowly."""
ON_TWO_RANKS = [
    WIDEST[case]
    for case in (
        ("sft", True, False),
        ("sft", False, True),
        ("sft", True, True),
        ("dpo", True, False),
    )
]


def prepared_samples(method: str, model: Path, output: Path, case: dict[str, Any]) -> Counter[int]:
    """Each sample of a job once, from a run without grouping, packing and resuming."""
    plain = {"group_by_length": False, "max_length": case.get("max_length", 256), "epochs": 1}
    make_job(method, model, output, **plain)
    assert train(method, output) == 0
    return sum(seen(output).values(), Counter())


def test_every_option_that_a_deployment_sets_is_tried() -> None:
    tried = {key for case in CASES for key in case.values[1]}
    for path in (ROOT / "deployments").glob("*.yaml"):
        for method, settings in FIELDS.items():
            section = yaml.safe_load(path.read_text()).get(method) or {}
            options = section.keys() & (settings.__dataclass_fields__.keys() - SIZES)
            assert options <= tried, f"{path.name}: {method}"
    assert {"group_by_length", "packing"} <= tried


@pytest.mark.parametrize(("method", "case"), CASES)
def test_a_killed_run_ends_as_an_uninterrupted_one(
    base: Path, tmp_path: Path, method: str, case: dict[str, Any]
) -> None:
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    for output in (whole, killed):
        make_job(method, base, output, **case)
    assert train(method, whole) == 0
    # Eleven samples in steps of four: the kills are in the first epoch and in the second.
    in_epoch = len(curve(whole)) // 2
    for step in (1, in_epoch + 1):
        with pytest.raises(Killed):
            train(method, killed, kill_after=step)
    assert train(method, killed) == 0
    assert seen(killed) == seen(whole)
    assert curve(killed) == curve(whole)
    assert weights(killed) == weights(whole)
    once = prepared_samples(method, base, tmp_path / "plain", case)
    assert len(once) == 11
    assert set(once.values()) == {1}
    for epoch in range(2):
        steps = range(epoch * in_epoch + 1, (epoch + 1) * in_epoch + 1)
        assert sum((seen(killed)[step] for step in steps), Counter()) == once


def test_dropout_goes_on_with_the_same_numbers(tmp_path: Path) -> None:
    model = tmp_path / "model"
    torch.manual_seed(0)
    config = Qwen2Config(
        vocab_size=264,
        hidden_size=16,
        intermediate_size=16,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=2,
        attention_dropout=0.5,
    )
    Qwen2ForCausalLM(config).save_pretrained(model)
    byte_tokenizer().save_pretrained(model)
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    for output in (whole, killed):
        make_job("sft", model, output, group_by_length=True)
    assert train("sft", whole) == 0
    for step in (2, 3, 5):  # within an epoch, and at the end of one
        with pytest.raises(Killed):
            train("sft", killed, kill_after=step)
    assert train("sft", killed) == 0
    assert curve(killed) == curve(whole)
    assert weights(killed) == weights(whole)


@pytest.mark.slow
@pytest.mark.usefixtures("fork_server")
@pytest.mark.parametrize(("method", "case"), ON_TWO_RANKS)
def test_two_ranks_that_are_killed_end_as_uninterrupted_ones(
    base: Path, tmp_path: Path, method: str, case: dict[str, Any]
) -> None:
    whole, killed, alone = (tmp_path / name for name in ("whole", "killed", "alone"))
    for output in (whole, killed, alone):
        make_job(method, base, output, **case, micro_batch_size=2 - case["group_by_length"])
    run = ranks.run_function
    assert run(recording.train_in_rank, 2, method, whole) == [0, 0], log_of(whole)
    in_epoch = len(curve(whole)) // 2
    for step in (1, in_epoch + 1):
        assert run(recording.train_in_rank, 2, method, killed, step) == [-9, -9], log_of(killed)
    assert run(recording.train_in_rank, 2, method, killed) == [0, 0], log_of(killed)
    assert seen(killed) == seen(whole)
    assert curve(killed) == curve(whole)
    assert weights(killed) == weights(whole)
    # The ranks share the samples of each step, and its means are those of one rank.
    assert train(method, alone) == 0
    assert seen(alone) == seen(whole)
    for (step, one), (_, two) in zip(curve(alone), curve(whole), strict=True):
        for name in one.keys() - {"train/entropy", "train/token_accuracy"}:
            assert two[name] == pytest.approx(one[name], rel=2e-3, abs=2e-4), (step, name)
