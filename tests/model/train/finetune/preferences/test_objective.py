"""Losses, rewards and distances of pairs, against TRL and against exact sums over a vocabulary."""

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from datasets import Dataset
from hypothesis import given
from hypothesis import strategies as st
from torch.nn import functional
from transformers import AutoModelForCausalLM
from trl import DPOConfig, DPOTrainer

from model.train.finetune.preferences.objective import (
    FIGURES,
    AnswerScores,
    PreferenceLoss,
    divergence_terms,
    figures_of,
    first_loss,
    length_accuracy,
    means_of,
    pair_losses,
)
from tests.tiny_chat import byte_tokenizer, write_model

KINDS: tuple[PreferenceLoss, ...] = ("sigmoid", "hinge", "ipo")
IDS = [
    ([5, 6, 7], [8, 9, 10, 11], [12, 13]),
    ([20, 21], [22], [23, 24, 25, 26, 27]),
    ([30, 31, 32, 33], [34, 35, 36], [37, 38, 39]),
]
"""Prompt, chosen and rejected ids of three pairs: longer chosen, longer rejected, equal."""


def summed(network: Any, prompt: list[int], answer: list[int]) -> torch.Tensor:
    """log P(answer | prompt), one sequence at a time."""
    logits = network(torch.tensor([prompt + answer])).logits[0, len(prompt) - 1 : -1]
    return logits.log_softmax(-1).gather(1, torch.tensor(answer)[:, None]).sum()


def scores_of(policy: Any, reference: Any) -> AnswerScores:
    with torch.no_grad():
        of_reference = [[summed(reference, p, a) for a in answers] for p, *answers in IDS]
    of_policy = [[summed(policy, p, a) for a in answers] for p, *answers in IDS]
    columns = [
        torch.stack([row[n] for row in table])
        for table in (of_policy, of_reference)
        for n in (0, 1)
    ]
    lengths = [torch.tensor([len(pair[n]) for pair in IDS]) for n in (1, 2)]
    return AnswerScores(*columns, *lengths)


def measured(
    scores: AnswerScores,
    losses: torch.Tensor,
    divergence: torch.Tensor | None = None,
    beta: float = 1.0,
) -> dict[str, float]:
    sums = figures_of(
        scores, losses, torch.zeros(()) if divergence is None else divergence, beta=beta
    )
    return means_of(dict(zip(FIGURES, sums.tolist(), strict=True)))


@pytest.mark.parametrize("kind", KINDS)
def test_losses_gradients_and_rewards_are_trls(tmp_path: Path, kind: PreferenceLoss) -> None:
    beta = 0.3
    folders = [write_model(tmp_path / str(seed), seed=seed) for seed in (0, 1)]
    policy, reference = (AutoModelForCausalLM.from_pretrained(folder) for folder in folders)
    names = ("prompt_ids", "chosen_ids", "rejected_ids")
    rows = Dataset.from_list([dict(zip(names, pair, strict=True)) for pair in IDS])
    options: dict[str, Any] = {"use_cpu": True, "report_to": "none", "bf16": False}
    trainer = _Prepared(
        model=policy,
        ref_model=reference,
        args=DPOConfig(str(tmp_path), beta=beta, loss_type=[kind], **options),
        train_dataset=rows,
        processing_class=byte_tokenizer(),
    )
    policy.train()
    batch = trainer.data_collator(list(rows))
    expected = trainer.compute_loss(policy, batch)
    expected.backward()
    gradients = {name: p.grad.clone() for name, p in policy.named_parameters()}
    theirs = {name: values[-1] for name, values in trainer._metrics["train"].items()}

    policy.zero_grad()
    scores = scores_of(policy, reference)
    losses = pair_losses(scores, beta=beta, kind=kind)
    losses.mean().backward()
    assert losses.mean().item() == pytest.approx(expected.item(), rel=1e-5)
    norm = torch.stack([g.norm() for g in gradients.values()]).norm()
    for name, parameter in policy.named_parameters():
        assert (parameter.grad - gradients[name]).norm() <= 1e-4 * norm, name
    ours = measured(scores, losses, beta=beta)
    for our_name, their_name in {
        "loss": None,
        "reward_chosen": "rewards/chosen",
        "reward_rejected": "rewards/rejected",
        "reward_margin": "rewards/margins",
        "preference_accuracy": "rewards/accuracies",
        "logp_chosen": "logps/chosen",
        "logp_rejected": "logps/rejected",
    }.items():
        wanted = expected.item() if their_name is None else theirs[their_name]
        assert ours[our_name] == pytest.approx(wanted, rel=1e-4, abs=1e-6), our_name


class _Prepared(DPOTrainer):  # type: ignore[misc]
    """TRL's trainer on ids."""

    def _prepare_dataset(self, dataset: Any, *_: Any, **__: Any) -> Any:
        return dataset


@pytest.mark.parametrize("kind", KINDS)
def test_the_first_loss_is_that_of_no_margin(kind: PreferenceLoss) -> None:
    wanted = {"sigmoid": math.log(2), "hinge": 1.0, "ipo": (1 / 0.4) ** 2}[kind]
    assert first_loss(kind, 0.2) == pytest.approx(wanted)


def test_equal_rewards_are_half_right_and_lengths_are_told_apart() -> None:
    zero = torch.zeros(4)
    chosen = torch.tensor([2.0, 0.0, -1.0, 3.0])
    lengths = torch.tensor([3, 3, 1, 2]), torch.tensor([1, 3, 2, 5])
    scores = AnswerScores(chosen, zero, zero, zero, *lengths)
    losses = pair_losses(scores, beta=1.0, kind="sigmoid")
    found = measured(scores, losses, torch.tensor(13.0))
    assert found["preference_accuracy"] == (1 + 0.5 + 0 + 1) / 4
    assert found["length_accuracy"] == (1 + 0.5 + 0 + 0) / 4
    assert found["accuracy_where_rejected_is_longer"] == 1 / 2
    assert found["kl"] == 13.0 / 20
    assert (found["chosen_tokens"], found["rejected_tokens"]) == (9 / 4, 11 / 4)


def test_nothing_is_measured_on_no_pair() -> None:
    none = torch.zeros(0)
    counts = torch.zeros(0, dtype=torch.int64)
    scores = AnswerScores(none, none, none, none, counts, counts)
    assert measured(scores, none) == {}


@given(
    st.lists(st.tuples(st.integers(1, 9), st.integers(1, 9)), min_size=1, max_size=9).map(np.array)
)
def test_length_accuracy_counts_pairs(lengths: Any) -> None:
    wanted = np.mean([1.0 if c > r else 0.5 if c == r else 0.0 for c, r in lengths])
    assert length_accuracy(lengths[:, 0], lengths[:, 1]) == pytest.approx(wanted)


def test_the_divergence_is_the_exact_one_for_tokens_of_the_reference() -> None:
    generator = torch.Generator().manual_seed(0)
    reference = torch.randn(20, generator=generator).log_softmax(0)
    policy = (reference + 0.4 * torch.randn(20, generator=generator)).log_softmax(0)
    exact = functional.kl_div(policy, reference, reduction="sum", log_target=True).item()
    terms = divergence_terms(policy, reference)
    # The expected term under the reference, summed over the vocabulary, not sampled.
    assert (reference.exp() * terms).sum().item() == pytest.approx(exact, rel=1e-5)
    assert terms.min() >= 0
    assert divergence_terms(reference, reference).abs().max() == 0
