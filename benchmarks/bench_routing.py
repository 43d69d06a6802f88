"""Soft routing in a small language model: forms of the router against none.

    python -m benchmarks.bench_routing --json out.json [--variants token,uniform] [--seeds 1,2,3]

Chinese rows of ../shared/data, a vocabulary of 1,024 pieces trained on them, packed as `pack` does.
Every variant is the same model of about 1.3 M parameters, trained on the same samples from
the same seeds; what differs stands in `VARIANTS`. Forms of the router that the model does not have
are made here, by other functions in its layers. Measured on held-out documents, in nats a token:

    loss            of the trained model
    mean_routing    of the same weights, each layer's routing weights replaced by their mean over
                    the held-out tokens: equal to `loss` where the router decides nothing
    even_routing    the same with 1/n for each expert

The file is written after each run, and runs that are in it are not made again.
"""

import argparse
import json
import logging
import math
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from torch import Tensor
from torch.nn import functional
from transformers import PreTrainedTokenizerFast

from benchmarks._figures import add_options, publish, save
from benchmarks._sample_texts import SHARED, chinese
from corpus.packing.pack_partition import PackJob, pack_partition
from corpus.partitions import cut
from model.data import PackedManifest
from model.kernels.route import route_eager
from model.soft_moe import SoftMoE
from model.tokenizer.digest import digest_tokenizer
from model.tokenizer.encoder import ReferenceEncoder
from model.tokenizer.identity import END_OF_TEXT
from model.train.build import build
from model.train.config import PretrainJob, PretrainSettings
from model.train.distributed.context import DistributedContext, distributed_context
from model.train.distributed.signals import StopFlag
from model.train.optim.schedule import learning_rate
from model.train.trainer import Trainer
from model.train.training_data import TrainingData

EXPERTS = 6
MODEL = {
    "hidden_size": 128,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "num_experts": EXPERTS,
    "expert_intermediate_size": 64,
    "initializer_range": 0.09,
    "rope_theta": 1000,
}
"""About 1.3 M parameters, 0.26 M of them embedding and output layer."""
VOCABULARY, VALIDATION_FRACTION, VALIDATION_SAMPLES = 1024, 0.05, 96

Route = Callable[[Tensor, Tensor], Tensor]
"""(x [T, d], keys fp32 [S, d]) -> weights of slots, fp32 [T, S]."""


@dataclass(frozen=True)
class Variant:
    """Differences from `routing: token` as the model has it."""

    model: Mapping[str, Any] = field(default_factory=dict)
    """Fields of the model's configuration."""
    start: Callable[[SoftMoE], Any] = lambda moe: None
    """Changes a layer before the first step."""
    route: Route = route_eager
    """Weights by tokens and keys."""
    keys: Callable[[SoftMoE], Tensor] | None = None
    """Keys of a layer, fp32 [S, d]; None: those of the model."""
    rates: Mapping[str, float] = field(default_factory=dict)
    """Factors on the learning rate of `phi` and `scale`."""
    information: float = 0.0
    """Weight of a term that rewards what a token's weights tell about it (`information`)."""


def plain_logits(x: Tensor, keys: Tensor) -> Tensor:
    """Softmax of x . keys, without unit lengths."""
    return (x.float() @ keys.t()).softmax(dim=-1)


def set_scale(value: float) -> Callable[[SoftMoE], Tensor]:
    """The learned scale starts at a value."""
    return lambda moe: moe.scale.data.fill_(value)


VARIANTS: dict[str, Variant] = {
    "token": Variant(),
    "uniform": Variant(route=lambda x, keys: x.new_full((len(x), len(keys)), 1 / len(keys))),
    "dense": Variant(model={"routing": "dense"}),
    "scale 10": Variant(start=set_scale(10.0)),
    "plain logits": Variant(route=plain_logits, keys=lambda moe: moe.phi.float().t()),
    # s = exp(t) from s = 1: steps of a factor, ten times as long, on the temperature alone.
    "temperature": Variant(
        start=set_scale(0.0),
        keys=lambda moe: (
            functional.normalize(moe.phi.float(), dim=0) * moe.scale.clamp(max=math.log(40)).exp()
        ).t(),
        rates={"scale": 10.0},
    ),
    "2 slots": Variant(model={"slots_per_expert": 2}),
    "4 slots": Variant(model={"slots_per_expert": 4}),
    "information term": Variant(information=0.1),
    "router rate x 10": Variant(rates={"phi": 10.0, "scale": 10.0}),
}


def main() -> None:
    """Print the table; with --json, write it after each run."""
    parser = argparse.ArgumentParser(description=__doc__)
    add_options(parser)
    parser.add_argument("--variants", default=",".join(VARIANTS), help="default: all")
    parser.add_argument("--seeds", default="1,2,3")
    parser.add_argument("--steps", type=int, default=300)
    given = parser.parse_args()
    logging.disable(logging.INFO)
    names, seeds = given.variants.split(","), [int(seed) for seed in given.seeds.split(",")]
    runs: dict[str, dict[str, Any]] = {}
    if given.json and given.json.is_file():
        runs = json.loads(given.json.read_text(encoding="utf-8"))["runs"]
    figures: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as scratch, distributed_context() as ranks:
        pack(Path(scratch) / "packed")
        for seed in seeds:
            for name in names:
                key = f"{name}/{seed}"
                if key not in runs:
                    runs[key] = measure(VARIANTS[name], seed, given.steps, Path(scratch), ranks)
                    print(key, runs[key], flush=True)
                figures = {"steps": given.steps, "table": table(runs), "runs": runs}
                save(figures, "bench_routing", None, given.json)
    publish(figures, "bench_routing", None, given.json)


def table(runs: Mapping[str, Mapping[str, float]]) -> list[dict[str, Any]]:
    """A row for each variant: mean and deviation over seeds, difference to `token` by seed."""
    rows = []
    for name in dict.fromkeys(key.rpartition("/")[0] for key in runs):
        own = {k.rpartition("/")[2]: r for k, r in runs.items() if k.rpartition("/")[0] == name}
        losses = [run["loss"] for run in own.values()]
        beside = [
            run["loss"] - runs[f"token/{seed}"]["loss"]
            for seed, run in own.items()
            if f"token/{seed}" in runs
        ]
        means = {
            f"mean {key}": statistics.fmean(run[key] for run in own.values())
            for key in next(iter(own.values()))
            if key != "loss"
        }
        rows.append(
            {
                "variant": name,
                "seeds": len(own),
                "loss": statistics.fmean(losses),
                "loss ±": statistics.stdev(losses) if len(losses) > 1 else None,
                "minus token": statistics.fmean(beside) if beside else None,
                "minus token ±": statistics.stdev(beside) if len(beside) > 1 else None,
                **means,
            }
        )
    return rows


def measure(
    variant: Variant, seed: int, steps: int, scratch: Path, ranks: DistributedContext
) -> dict[str, float]:
    """Train a variant from a seed and measure it."""
    started = time.process_time()
    settings = PretrainSettings(
        model={**MODEL, **variant.model},
        sequence_length=256,
        global_batch_size=8,
        micro_batch_size=8,
        steps=steps,
        epochs=8,
        learning_rate=5e-3,
        warmup_steps=20,
        validation_samples=VALIDATION_SAMPLES,
        seed=seed,
    )
    with tempfile.TemporaryDirectory(dir=scratch) as output:
        job = PretrainJob(settings=settings, packed=str(scratch / "packed"), output=output)
        trainer = build(job, ranks, StopFlag())
        try:
            routers = Routers(trainer.model.modules(), variant)
            train(trainer, routers, variant)
            found = evaluate(trainer, routers)
        finally:
            trainer.close()
    return {
        **found,
        "parameters": trainer.model.num_parameters(),
        "processor_seconds": time.process_time() - started,
    }


class Routers:
    """The routed layers of a model, with a variant's function in place of their own."""

    def __init__(self, modules: Iterator[torch.nn.Module], variant: Variant) -> None:
        self.layers = [module for module in modules if isinstance(module, SoftMoE)]
        self.seen: list[Tensor] = []
        """Weights [T, S] of the last forward pass, layer by layer."""
        self.fixed: list[Tensor] | None = None
        """Weights [S] by layer that replace those of every token; None: none."""
        for number, layer in enumerate(self.layers):
            variant.start(layer)
            if variant.keys is not None:
                layer.keys = partial(variant.keys, layer)  # type: ignore[method-assign]
            route = partial(self._route, variant.route, number)
            layer.kernels = replace(layer.kernels, route=route)

    def _route(self, route: Route, number: int, x: Tensor, keys: Tensor) -> Tensor:
        weights = route(x, keys) if self.fixed is None else self.fixed[number].expand(len(x), -1)
        if number == 0:
            self.seen.clear()
        self.seen.append(weights)
        return weights

    def by_expert(self, weights: Tensor) -> Tensor:
        """[..., S] -> [..., n]"""
        return weights.view(*weights.shape[:-1], EXPERTS, -1).sum(dim=-1)


def information(weights: Tensor) -> Tensor:
    """Mutual information of token and slot, nats: entropy of the mean minus mean entropy."""
    mean = weights.mean(dim=0)
    entropies = torch.special.entr(weights).sum(dim=-1)
    found: Tensor = torch.special.entr(mean).sum() - entropies.mean()
    return found


def train(trainer: Trainer, routers: Routers, variant: Variant) -> None:
    """All steps of the schedule, in the order of the run."""
    assert isinstance(trainer.data, TrainingData)
    settings, dataset = trainer.settings, trainer.data.loader.dataset
    groups: dict[tuple[float, float], list[torch.nn.Parameter]] = {}
    for name, parameter in trainer.model.named_parameters():
        decay = settings.weight_decay if parameter.ndim > 1 else 0.0
        factor = variant.rates.get(name.rpartition(".")[2], 1.0)
        groups.setdefault((decay, factor), []).append(parameter)
    optimizer = torch.optim.AdamW(
        [{"params": own, "weight_decay": key[0], "factor": key[1]} for key, own in groups.items()],
        betas=settings.betas,
        eps=settings.epsilon,
        fused=True,
    )
    size = settings.global_batch_size
    for step in range(settings.steps):
        batch = dataset.batch(range(step * size, (step + 1) * size), separate_documents=True)
        loss = trainer.train_step.forward(batch).mean()
        for weights in routers.seen if variant.information else ():
            loss = loss - variant.information * information(weights)
        loss.backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(trainer.model.parameters(), settings.max_grad_norm)
        rate = learning_rate(settings, step, trainer.request_handler.length)
        for group in optimizer.param_groups:
            group["lr"] = rate * group["factor"]
        optimizer.step()
        optimizer.zero_grad()


@torch.no_grad()
def evaluate(trainer: Trainer, routers: Routers) -> dict[str, float]:
    """Loss as trained, with mean routing and with even routing; what the weights look like."""
    trainer.model.eval()
    sums: list[Tensor] = []
    entropies = 0.0

    def note() -> None:
        nonlocal entropies
        by_expert = [routers.by_expert(weights.double()) for weights in routers.seen]
        parts = [weights.sum(dim=0) for weights in routers.seen]
        sums[:] = [a + b for a, b in zip(sums, parts, strict=True)] if sums else parts
        entropies += sum(float(torch.special.entr(w).sum()) for w in by_expert) / math.log(EXPERTS)

    loss, tokens = held_out(trainer, note)
    found = {"loss": loss}
    if not routers.layers:
        return found
    routers.fixed = [total / total.sum() for total in sums]
    shares = torch.stack([routers.by_expert(weights) for weights in routers.fixed])
    found["mean_routing"] = held_out(trainer)[0] - loss
    routers.fixed = [torch.full_like(mean, 1 / len(mean)) for mean in routers.fixed]
    found["even_routing"] = held_out(trainer)[0] - loss
    found["entropy"] = entropies / tokens / len(routers.layers)
    found["smallest_share"], found["largest_share"] = float(shares.min()), float(shares.max())
    found["scale"] = statistics.fmean(float(layer.scale) for layer in routers.layers)
    return found


def held_out(trainer: Trainer, note: Callable[[], None] = lambda: None) -> tuple[float, int]:
    """Mean loss over the held-out samples' targets, nats, and the number of their tokens."""
    assert isinstance(trainer.data, TrainingData)
    total, targets, tokens = 0.0, 0, 0
    for first in range(0, trainer.data.num_validation, 8):
        rows = range(first, min(first + 8, trainer.data.num_validation))
        losses = trainer.train_step.forward(
            trainer.data.validation.batch(rows, separate_documents=True)
        )
        total += float(losses.total)
        targets += int(losses.num_targets.sum())
        tokens += len(rows) * trainer.settings.sequence_length
        note()
    return total / targets, tokens


def pack(folder: Path) -> None:
    """The real rows as the stage `pack` writes them, in a small vocabulary of their own."""
    texts = list(dict.fromkeys(chinese(SHARED)))
    folder.mkdir()
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.train_from_iterator(
        texts,
        trainers.BpeTrainer(
            vocab_size=VOCABULARY,
            special_tokens=[END_OF_TEXT],
            initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
            show_progress=False,
        ),
    )
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token=END_OF_TEXT)
    fast.save_pretrained(folder / "tokenizer")
    cleaned = folder / "zh" / "00000.jsonl"
    cleaned.parent.mkdir()
    with cleaned.open("w", encoding="utf-8") as file:
        for text in texts:
            file.write(json.dumps({"text": text}, ensure_ascii=False) + "\n")
    backend, end = folder / "backend.json", tokenizer.token_to_id(END_OF_TEXT)
    assert end is not None, "it is a special token"
    tokenizer.save(str(backend))
    (folder / "shards").mkdir()
    job = PackJob(
        tokenizer=str(backend),
        fast=False,
        end_of_text=end,
        dtype="uint16",
        shard_tokens=1 << 24,
        validation_fraction=VALIDATION_FRACTION,
        folder=str(folder / "shards"),
    )
    encoder = ReferenceEncoder(tokenizer)
    shards = [
        shard
        for partition in cut([("zh", cleaned)], 1 << 30)
        for shard in pack_partition(job, encoder, partition, lambda done: None)
    ]
    PackedManifest(
        vocab_size=VOCABULARY,
        end_of_document=end,
        tokenizer_digest=digest_tokenizer(fast).digest,
        validation_fraction=VALIDATION_FRACTION,
        shards=tuple(shards),
    ).write(folder / "shards")


if __name__ == "__main__":
    main()
