"""Measuring a step: it is a whole one, its figures agree with each other, failures are results."""

import copy
import dataclasses
import itertools
import math
import os
import signal
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.autograd import DeviceType
from torch.autograd.profiler_util import EventList, FunctionEventAvg
from transformers import AutoModelForCausalLM

from common.config import validate
from common.errors import ConfigError, StageError
from model.data.dataset import IGNORED
from model.entry.throughput import _outcome, measure_in_subprocess
from model.kernels import IMPLEMENTATIONS
from model.train.build_model import parallelize
from model.train.config import PretrainSettings
from model.train.distributed.context import distributed_context
from model.train.distributed.initialise import RandomWeights
from model.train.loss import ModelWithLoss
from model.train.model_settings import model_config
from model.train.optim.optimizer import build_optimizer
from model.train.throughput.measure import (
    PROFILE_FILE,
    ThroughputJob,
    _Loop,
    attention_backends,
    longest,
    measure,
    random_batch,
)
from model.train.train_step import TrainStep
from tests.processes import alive, processes_of

MODEL: dict[str, Any] = {
    "vocab_size": 128,
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_experts": 2,
    "expert_intermediate_size": 16,
}


def settings(**changes: Any) -> PretrainSettings:
    values = {"model": MODEL, "sequence_length": 16, "global_batch_size": 4, "micro_batch_size": 2}
    return PretrainSettings(**{**values, **changes})


def test_the_timed_step_is_forward_backward_clip_and_adamw() -> None:
    """Against torch's own loop over the same tokens: its own clip, a mean over all targets."""
    chosen = settings(max_grad_norm=0.05, weight_decay=0.0)
    with torch.device("meta"):
        measured = AutoModelForCausalLM.from_config(model_config(chosen, {}))
    with distributed_context() as ranks:
        model_with_loss = ModelWithLoss(measured)
        parallelize(model_with_loss, measured, RandomWeights(measured, 0), chosen, ranks)
        reference = copy.deepcopy(measured)
        batch = random_batch(chosen, ranks, 128, document_tokens=5)
        num_ignored = [int((part["labels"] == IGNORED).sum()) for part in batch]
        assert len(set(num_ignored)) > 1 and min(num_ignored) > 0
        train_step = TrainStep(
            model_with_loss=model_with_loss,
            optimizer=build_optimizer(model_with_loss, chosen),
            settings=chosen,
            ranks=ranks,
        )
        loop = _Loop(train_step, batch)
        for _ in range(3):
            loop.step()
    inputs = torch.cat([part["input_ids"] for part in batch]).long()
    labels = torch.cat([part["labels"] for part in batch]).long()
    positions = torch.cat([part["position_ids"] for part in batch]).long()
    optimizer = torch.optim.AdamW(
        reference.parameters(), lr=3e-6, betas=(0.9, 0.95), eps=1e-8, weight_decay=0.0
    )
    losses = []
    for _ in range(3):
        logits = reference(input_ids=inputs, position_ids=positions, use_cache=False).logits
        loss = torch.nn.functional.cross_entropy(logits.flatten(0, 1), labels.flatten())
        loss.backward()
        torch.nn.utils.clip_grad_norm_(reference.parameters(), 0.05)
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.item())
    assert loop.losses == pytest.approx(losses, rel=1e-5)
    for ours, theirs in zip(measured.parameters(), reference.parameters(), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-6)


def test_a_result_agrees_with_itself(tmp_path: Path) -> None:
    job = ThroughputJob(
        settings=settings(micro_batch_size=1),
        warmup_steps=2,
        timed_steps=3,
        profile=True,  # a step of all ranks, whose profile one writes
        output=str(tmp_path),
    )
    result = measure_in_subprocess(job, num_processes := 2)
    assert (result.status, result.num_devices) == ("done", num_processes)
    assert result.tokens_per_step == 4 * 16
    assert len(result.steps_seconds) == 3 and len(result.losses) == 5 + 1
    assert "aten::mm" in (tmp_path / PROFILE_FILE).read_text()
    assert result.step_seconds == sorted(result.steps_seconds)[1]
    speed = result.tokens_per_step / result.step_seconds / num_processes
    assert result.tokens_per_second_per_device == pytest.approx(speed)
    assert result.mfu_measured == pytest.approx(
        speed * result.flops_per_token / result.measured_peak
    )
    assert result.mfu_datasheet is None, "no datasheet knows this processor"
    assert result.losses[0] == pytest.approx(math.log(128), abs=0.3)
    assert all(math.isfinite(loss) for loss in result.losses)
    assert 0.01 < result.memory_gb < 100
    assert result.kernels.keys() == IMPLEMENTATIONS.keys()


def test_weights_are_drawn_where_they_are_used(monkeypatch: pytest.MonkeyPatch) -> None:
    """A billion of them on one thread of the processor cost more than what is measured."""
    drawn: list[torch.device] = []

    class Weights(RandomWeights):
        def __init__(self, *_: Any, draw_on: torch.device = torch.device("cpu"), **__: Any) -> None:
            drawn.append(draw_on)
            raise ConfigError("enough is known")

    monkeypatch.setattr("model.train.throughput.measure.RandomWeights", Weights)
    job = ThroughputJob(settings=settings(), output="unused")
    with distributed_context() as alone, pytest.raises(ConfigError, match="enough is known"):
        measure(job, dataclasses.replace(alone, device=torch.device("cpu", 0)))
    assert drawn == [torch.device("cpu", 0)], "and not the default, which is `cpu`"


@pytest.mark.slow
def test_ranks_of_a_measurement_whose_time_is_over_do_not_stay(tmp_path: Path) -> None:
    """They are in sessions of their own, and would keep their GPUs from what is measured next."""
    job = ThroughputJob(
        settings=settings(micro_batch_size=1), timed_steps=10**6, output=str(tmp_path)
    )
    with pytest.raises(StageError, match="not measured within 45 s"):
        measure_in_subprocess(job, 2, limit=45)
    deadline = time.monotonic() + 60
    try:
        while left := [pid for pid in processes_of(tmp_path / "throughput.json") if alive(pid)]:
            assert time.monotonic() < deadline, left
            time.sleep(0.2)
    finally:
        for pid in left:
            os.kill(pid, signal.SIGKILL)


def test_of_a_gpus_profile_its_kernels_are_listed() -> None:
    """An operator has its kernels' time once more."""

    def average(name: str, kind: DeviceType) -> FunctionEventAvg:
        one = FunctionEventAvg()
        one.key, one.device_type, one.use_device = name, kind, "cuda"
        return one

    whole = [average("aten::mm", DeviceType.CPU), average("gemm", DeviceType.CUDA)]
    device = torch.device("cuda")
    assert [one.key for one in longest(EventList(whole, use_device="cuda"), device)] == ["gemm"]
    alone = EventList(whole[:1], use_device="cuda")
    assert [one.key for one in longest(alone, device)] == ["aten::mm"], "rather than nothing"


def test_what_does_not_fit_is_a_result_and_ends_all_ranks(tmp_path: Path) -> None:
    sizes = {"vocab_size": 10**8, "hidden_size": 2048, "num_attention_heads": 16}  # 0.8 TB a matrix
    huge = settings(model={**MODEL, **sizes}, micro_batch_size=1)
    result = measure_in_subprocess(ThroughputJob(settings=huge, output=str(tmp_path)), 2)
    assert result.status == "out of memory"
    assert "memory" in result.reason
    assert result.tokens_per_second_per_device == 0


@pytest.mark.parametrize(
    ("error", "status"),
    [
        (torch.OutOfMemoryError("CUDA out of memory"), "out of memory"),
        (RuntimeError("Triton Error [CUDA]: out of memory"), "out of memory"),
        (RuntimeError("NCCL error …\nCuda failure 2 'out of memory'"), "out of memory"),
        (RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED"), "out of memory"),
        (ConfigError("kernels asks for 'abacus'"), "not possible here"),
        (RuntimeError("No available kernel. Aborting execution."), "not possible here"),
        (RuntimeError("shape mismatch"), None),
    ],
)
def test_what_an_error_says_about_a_configuration(error: Exception, status: str | None) -> None:
    assert _outcome(error) == status


def test_random_documents_are_of_the_asked_length_and_part_rows() -> None:
    chosen = settings(sequence_length=256, global_batch_size=8)
    with distributed_context() as ranks:
        batch = random_batch(chosen, ranks, 128, document_tokens=32)
    assert [part["input_ids"].shape for part in batch] == [(2, 256)] * 4
    for part in batch:
        begins = part["position_ids"][:, 1:] == 0
        assert torch.equal(
            part["labels"][:, :-1], part["input_ids"][:, 1:].masked_fill(begins, IGNORED)
        )
        bounds = part["cu_seqlens"].tolist()
        assert {0, 256, 512} <= set(bounds)
        lengths = [b - a for a, b in itertools.pairwise(bounds)]
        assert part["max_seqlen"] == max(lengths)
        assert part["position_ids"].flatten().tolist() == [i for n in lengths for i in range(n)]
    assert 16 < 8 * 256 / sum(len(part["cu_seqlens"]) - 1 for part in batch) < 64


def test_a_job_without_vocabulary_or_steps_is_refused() -> None:
    with pytest.raises(ConfigError, match="vocab_size"):
        validate(ThroughputJob(settings=PretrainSettings(model={}), output="x"))
    with pytest.raises(ConfigError, match="timed_steps = 0"):
        validate(ThroughputJob(settings=settings(), timed_steps=0, output="x"))


def test_attention_is_restricted_to_what_was_asked_for() -> None:
    """Flash attention takes no dense mask; the others do."""
    query = torch.randn(1, 1, 4, 8)
    mask = torch.zeros(1, 1, 4, 4)
    attend = torch.nn.functional.scaled_dot_product_attention
    with attention_backends("other"):
        plain = attend(query, query, query, attn_mask=mask)
    with attention_backends("auto"):
        torch.testing.assert_close(attend(query, query, query, attn_mask=mask), plain)
