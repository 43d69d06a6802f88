"""Lines of a training about its routers, against the same model computed beside it."""

import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from model.data.dataset import IGNORED
from model.kernels.route import route_eager
from model.train.run.folder import METRICS_FILE
from model.train.run.metrics import read_metrics
from model.train.trainer import Trainer
from tests.model.train import ranks

MakeRun = Callable[..., Trainer]
EXPERTS = ranks.TINY["num_experts"]


class Reference:
    """A copy of a model whose routing weights are recorded, or given."""

    def __init__(self, model: Any) -> None:
        self.model = type(model)(model.config).eval()
        self.model.load_state_dict(model.state_dict())
        self.recorded: list[list[Tensor]] = []
        self.given: list[Tensor] | None = None
        for number, layer in enumerate(self.model.model.layers):
            layer.mlp.kernels = replace(layer.mlp.kernels, route=self.route(number))
            self.recorded.append([])

    def route(self, number: int) -> Callable[[Tensor, Tensor], Tensor]:
        def weights(x: Tensor, keys: Tensor) -> Tensor:
            if self.given is not None:
                return self.given[number].expand(len(x), -1)
            self.recorded[number].append(route_eager(x, keys))
            return self.recorded[number][-1]

        return weights

    @torch.no_grad()
    def loss(self, batch: dict[str, Tensor]) -> float:
        """Mean over the targets of a batch."""
        ids = batch["input_ids"].long()
        logits = self.model(input_ids=ids, position_ids=ranks.positions(ids)).logits
        return float(
            nn.functional.cross_entropy(
                logits.flatten(0, 1), batch["labels"].long().flatten(), ignore_index=IGNORED
            )
        )

    def weights(self) -> list[Tensor]:
        """Recorded ones by layer, float64 [T, n]."""
        return [torch.cat(parts).double() for parts in self.recorded]


def figures(weights: list[Tensor]) -> dict[str, float]:
    """Figures that a line should have."""
    entropies = [-(w * w.log()).sum(dim=1).mean() / math.log(EXPERTS) for w in weights]
    means = torch.stack([w.mean(dim=0) for w in weights])
    return {
        "routing/entropy": float(sum(entropies)) / len(entropies),
        "routing/smallest_weight": float(means.min()),
        "routing/largest_weight": float(means.max()),
    }


def sharpen(run: Trainer) -> None:
    with torch.no_grad():
        for number, layer in enumerate(run.model.model.layers):
            layer.mlp.scale.fill_(4.0 + number)


@pytest.mark.parametrize("recomputed", ["none", "full"])
def test_a_steps_line_is_about_all_its_tokens(make_run: MakeRun, recomputed: str) -> None:
    run = make_run(steps=1, warmup_steps=0, activation_checkpointing=recomputed)
    sharpen(run)
    reference = Reference(run.model)
    for batch in run.data.loader.step(0):  # four micro-batches
        reference.loss(batch)
    expected = figures(reference.weights())
    assert expected["routing/entropy"] < 0.9
    run.fit()
    measured = ranks.read_run(run.checkpoints.folder.parent)[1]
    assert {name: measured[name] for name in expected} == pytest.approx(expected, rel=1e-5)


def test_validation_replaces_weights_by_their_mean(make_run: MakeRun) -> None:
    run = make_run(steps=1, warmup_steps=0, validation_samples=7)  # the last batch is of one row
    sharpen(run)
    run.fit()
    reference = Reference(run.model)
    batch = run.data.validation.batch(range(7), separate_documents=True)
    loss = reference.loss(batch)
    weights = reference.weights()
    reference.given = [w.mean(dim=0).float() for w in weights]
    replaced = reference.loss(batch)
    assert abs(replaced - loss) > 1e-4, "this router decides something"
    measured = validation_line(run.checkpoints.folder.parent)
    assert measured["validation/loss"] == pytest.approx(loss, rel=1e-5)
    assert measured["validation/loss_mean_routing"] == pytest.approx(replaced, rel=1e-5)
    assert measured["routing/effect"] == pytest.approx(replaced - loss, abs=1e-5)
    for number, of_layer in enumerate(weights):
        entropy = figures([of_layer])["routing/entropy"]
        assert measured[f"routing_layers/entropy_{number}"] == pytest.approx(entropy, rel=1e-5)
        for expert, mean in enumerate(of_layer.mean(dim=0).tolist()):
            name = f"routing_layers/weight_{number}_{expert}"
            assert measured[name] == pytest.approx(mean, rel=1e-5)


@pytest.mark.filterwarnings("ignore:routing=:model.soft_moe.LeakWarning")
@pytest.mark.parametrize(("routing", "logged"), [("sequence", True), ("uniform", False)])
def test_where_replacing_says_nothing_it_is_left_out(
    make_run: MakeRun, routing: str, logged: bool
) -> None:
    run = make_run(model={**ranks.TINY, "routing": routing}, steps=1, warmup_steps=0)
    run.fit()
    folder = run.checkpoints.folder.parent
    assert ("routing/entropy" in ranks.read_run(folder)[1]) == logged
    measured = validation_line(folder)
    assert ("routing_layers/entropy_1" in measured) == logged
    assert not {"validation/loss_mean_routing", "routing/effect"} & measured.keys()


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_two_ranks_say_what_one_says(
    packed: Path, fork_server: None, tmp_path: Path, precision: str
) -> None:
    """Of the first step; and of a validation in which one rank has a row less than the other."""
    found = []
    for world_size in (1, 2):
        values: dict[str, Any] = ranks.settings(
            steps=1,
            warmup_steps=0,
            learning_rate=1e-9,  # whatever rounding does to gradients, the weights stay
            min_learning_rate=0.0,
            validation_samples=5,
            precision=precision,
        )
        job = ranks.write_job(packed, tmp_path / str(world_size), values)
        codes = ranks.run_ranks(job, world_size, SMALL_MODEL_PARAMETERS=0)
        assert codes == [0] * world_size, (job.parent / "rank-0.log").read_text()
        lines = ranks.read_run(job.parent)[1] | validation_line(job.parent)
        found.append({name: value for name, value in lines.items() if "routing" in name})
    assert len(found[0]) == 3 + 2 + 2 * (1 + EXPERTS)
    effects = [one.pop("routing/effect") for one in found]
    assert found[1] == pytest.approx(found[0], rel=1e-6 if precision == "fp32" else 1e-4)
    assert effects[1] == pytest.approx(effects[0], abs=1e-5 if precision == "fp32" else 1e-3)


def validation_line(folder: Path) -> dict[str, float]:
    """Measurements of the last validation."""
    lines = [line["metrics"] for line in read_metrics(folder / METRICS_FILE)]
    return next(line for line in reversed(lines) if "validation/loss" in line)
