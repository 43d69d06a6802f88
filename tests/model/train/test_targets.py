"""A step's loss and gradient: the mean over each document's own targets, however they are split."""

import math
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from torch.distributed.tensor import DTensor
from torch.nn import functional
from transformers import PreTrainedModel

from common.config import from_json
from common.errors import DataError
from model.data import PackedManifest, SampleOrder, ShardInfo, ShardWriter
from model.data.shards import open_tokens
from model.train.build import build
from model.train.config import PretrainJob
from model.train.distributed.context import distributed_context
from model.train.distributed.signals import StopFlag
from model.train.distributed.step_outcome import mean_loss
from model.train.run.plan import sample_order
from tests.model.data.blocks import add_document
from tests.model.train import ranks

BATCH, LENGTH = 8, 6


@pytest.fixture(scope="module")
def packed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Documents of one to a dozen tokens: rows hold none to five first tokens, in any place."""
    folder = ranks.write_packed(tmp_path_factory.mktemp("short"), tokens=100)
    random = np.random.default_rng(5)
    shards = []
    for source in ("alpha", "beta"):
        with ShardWriter(
            folder / "shards", source=f"{source}s", dtype="uint16", shard_tokens=120
        ) as writer:
            for length in random.integers(1, 12, 40):
                add_document(writer, [*random.integers(ranks.END, size=length - 1), ranks.END])
        shards += writer.shards
    write_manifest(folder / "shards", shards)
    return folder


def write_manifest(folder: Path, shards: Sequence[ShardInfo]) -> None:
    """Replace the shards of a manifest; the tokenizer stays."""
    old = PackedManifest.read(folder)
    replace(old, shards=tuple(shards), validation_fraction=0.0).write(folder)


def job_of(packed: Path, output: Path, **changes: Any) -> Path:
    values = {
        "sequence_length": LENGTH,
        "global_batch_size": BATCH,
        "micro_batch_size": 2,
        "steps": 2,
        "warmup_steps": 0,
        "eval_interval": 0,
        "max_grad_norm": 1e9,
    }
    return ranks.write_job(packed, output, ranks.settings(**values | changes))


def write_step(job: Path) -> None:
    """Make a step; rank 0 writes the weights before it, and the gradient AdamW was given."""
    with distributed_context() as here:
        loaded = from_json(PretrainJob, job)
        run = build(loaded, here, StopFlag())
        tensors = whole("weight", run.train_step.model_with_loss, gradient=False)

        def keep() -> None:
            tensors.update(whole("gradient", run.train_step.model_with_loss, gradient=True))

        run.train_step.optimizer.step = keep  # type: ignore[method-assign]
        outcome = run._step()
        tensors |= {
            "loss": torch.tensor(outcome.loss, dtype=torch.float64),
            "norm": torch.tensor(outcome.grad_norm, dtype=torch.float64),
            "num_targets": torch.tensor(outcome.num_targets),
            **{
                f"loss_{name}": torch.tensor(value, dtype=torch.float64)
                for name, value in outcome.loss_by_source.items()
            },
        }
        run.close()
        if here.is_main:
            save_file(tensors, Path(loaded.output) / "step.safetensors")


def whole(kind: str, module: torch.nn.Module, *, gradient: bool) -> dict[str, Tensor]:
    found = {}
    for name, parameter in module.named_parameters():
        value = parameter.grad if gradient else parameter.detach()
        assert value is not None
        value = value.full_tensor() if isinstance(value, DTensor) else value
        found[f"{kind}/{name.removeprefix('model.')}"] = value.clone().contiguous()
    return found


def documents_of(order: SampleOrder, sample: int) -> tuple[str, list[list[int]]]:
    """Source of a sample, and its tokens cut behind each end of a document."""
    found = order.locate_many([sample])
    shard, start = int(found.shard[0]), int(found.start[0])
    folder = order.manifest.folder
    assert folder
    tokens = open_tokens(folder, order.shards[shard])[start : start + LENGTH + 1].tolist()
    documents: list[list[int]] = [[]]
    for token in tokens:
        documents[-1].append(token)
        if token == ranks.END:
            documents.append([])
    return order.sources[int(found.source[0])], [document for document in documents if document]


def num_targets_of(order: SampleOrder) -> list[int]:
    """Targets of each sample of the first batch."""
    return [sum(len(d) - 1 for d in documents_of(order, sample)[1]) for sample in range(BATCH)]


def uneven_seed(packed: Path) -> int:
    """A seed with which two ranks have unequal numbers of targets in the first batch."""
    manifest = PackedManifest.read(packed / "shards")
    for seed in range(100):
        counts = num_targets_of(SampleOrder(manifest, sequence_length=LENGTH, seed=seed))
        if sum(counts[:4]) != sum(counts[4:]):
            return seed
    raise AssertionError("no seed shares targets out unevenly")


def by_hand(
    language_model: PreTrainedModel, order: SampleOrder, *, separate: bool
) -> dict[str, tuple[Tensor, int]]:
    """Sum of losses and number of targets of the first batch, by source: one document a pass, or
    one row a pass whose targets are looked up in its documents."""
    found: dict[str, tuple[Tensor, int]] = {}
    for sample in range(BATCH):
        source, documents = documents_of(order, sample)
        total, number = found.get(source, (torch.zeros(()), 0))
        if not separate:
            row = [token for document in documents for token in document]
            (joined,) = language_model(
                input_ids=torch.tensor([row[:-1]]), use_cache=False
            ).logits.split(LENGTH, dim=1)
        place = 0
        for document in documents:
            if len(document) > 1:
                ids = torch.tensor([document[:-1]])
                logits = (
                    language_model(input_ids=ids, use_cache=False).logits[0]
                    if separate
                    else joined[0, place : place + len(document) - 1]
                )
                goal = torch.tensor(document[1:])
                total = total + functional.cross_entropy(logits, goal, reduction="sum")
                number += len(goal)
            place += len(document)
        found[source] = total, number
    return found


@pytest.mark.parametrize("separate", [True, False])
@pytest.mark.parametrize("world_size", [1, 2])
def test_a_step_is_the_mean_over_each_documents_own_targets(
    packed: Path, tmp_path: Path, fork_server: None, separate: bool, world_size: int
) -> None:
    for micro_batch_size in (1, 2, 4):
        output = tmp_path / str(micro_batch_size)
        job = job_of(
            packed,
            output,
            micro_batch_size=micro_batch_size,
            separate_documents=separate,
            seed=uneven_seed(packed),
        )
        assert ranks.run_function(write_step, world_size, job) == [0] * world_size
        found = load_file(output / "step.safetensors")
        if micro_batch_size == 1:
            expected = gradient_by_hand(job, found, separate=separate)
        for name, value in expected.items():
            # Sums in another order differ by some 1e-5 of the largest, more or less by processor; a
            # target too many by 1e-2.
            torch.testing.assert_close(
                found[name],
                value,
                rtol=1e-4,
                atol=1e-4 * value.abs().max().item(),
                msg=lambda m, n=name: f"{n}: {m}",
            )


def gradient_by_hand(job: Path, found: dict[str, Tensor], *, separate: bool) -> dict[str, Tensor]:
    loaded = from_json(PretrainJob, job)
    manifest = PackedManifest.read(Path(loaded.packed) / "shards")
    order = sample_order(loaded.settings, manifest)
    with distributed_context() as here:
        run = build(loaded, here, StopFlag())
        language_model = run.model
        run.close()
    for name, parameter in language_model.named_parameters():
        assert torch.equal(parameter, found[f"weight/{name}"]), "ranks start alike"
    by_source = by_hand(language_model, order, separate=separate)
    num_targets = sum(number for _, number in by_source.values())
    counts = num_targets_of(order)
    assert num_targets == sum(counts) < BATCH * LENGTH
    assert sum(counts[:4]) != sum(counts[4:]), "the mean of two ranks' means is another number"
    total = torch.stack([value for value, _ in by_source.values()]).sum() / num_targets
    language_model.zero_grad()
    total.backward()
    gradients = {
        f"gradient/{name}": parameter.grad
        for name, parameter in language_model.named_parameters()
        if parameter.grad is not None
    }
    norm = math.sqrt(sum(float(value.double().square().sum()) for value in gradients.values()))
    return {
        **gradients,
        "loss": total.detach().double(),
        "norm": torch.tensor(norm, dtype=torch.float64),
        "num_targets": torch.tensor(num_targets),
        **{
            f"loss_{name}": (value.detach() / number).double()
            for name, (value, number) in by_source.items()
        },
    }


def test_a_batch_without_a_target_is_refused_by_name() -> None:
    with pytest.raises(DataError, match="no token of a whole batch is a target"):
        mean_loss([0.0, 0.0, 0.0, 0.0])
    assert mean_loss([6.0, 2.0, 0.0, 0.0]) == (3.0, 2)


def test_documents_of_one_token_give_no_target(tmp_path: Path) -> None:
    """Each token is a document: nothing could be learnt, and nothing becomes NaN."""
    folder = ranks.write_packed(tmp_path / "packed", tokens=100)
    with ShardWriter(
        folder / "shards", source="empty", dtype="uint16", shard_tokens=1000
    ) as writer:
        for _ in range(200):
            add_document(writer, [ranks.END])
    write_manifest(folder / "shards", writer.shards)
    job = job_of(folder, tmp_path / "run")
    with distributed_context() as here:
        run = build(from_json(PretrainJob, job), here, StopFlag())
        with pytest.raises(DataError, match="no token of a whole batch is a target"):
            run.fit()
        run.close()
