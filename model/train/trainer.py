"""The training loop.

    resume ─▶ ┌ batch b: samples [b G, (b+1) G) split over ranks ─▶ loss, gradients        ┐ ─▶ end
              │   one all-reduce: grad norm, loss per source, wish to stop                 │
              │   finite? clip, AdamW  not? weights untouched, checkpoint, NonFiniteError  │
              └ every n steps: metrics, validation, checkpoint; when asked to stop, too    ┘

The host waits for the device once a step (to read that all-reduce), never per micro-batch. What a
step does depends on (settings, step, batch, weights, AdamW state) alone, so a run that was killed
and resumed repeats the very same numbers.
"""

import hashlib
import logging
import math
import time
from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from torch import Tensor

from model.data import PackedDataset, StepLoader
from model.errors import ConfigError, StageError
from model.train import progress
from model.train.checkpoint import Checkpoints, restore_steps, training_tensors
from model.train.config import PretrainSettings
from model.train.control import Control
from model.train.horizon import Horizon
from model.train.measure import Speedometer
from model.train.metrics import MetricSink
from model.train.objective import Objective, document_arguments
from model.train.optimizer import (
    clip_gradients,
    local_gradients,
    set_learning_rate,
    sum_of_squares,
)
from model.train.parallel import Parallel, num_copies, synchronise_gradients
from model.train.progress import Progress
from model.train.schedule import check_saved_horizon, learning_rate
from model.train.signals import StopFlag, Stopped

log = logging.getLogger(__name__)


class NonFiniteError(StageError):
    """Loss or gradient became infinite or not a number; the weights are those before that step."""


@dataclass(frozen=True, kw_only=True)
class TrainingData:
    """What is trained on, and the names of its sources."""

    loader: StepLoader
    validation: PackedDataset | None
    num_validation: int
    """Held-out samples used per validation; 0 = none."""
    sources: tuple[str, ...]
    state: Callable[[int], str]
    """The data position's JSON after so many samples."""
    check_state: Callable[[str], int]
    """Samples consumed, from that JSON; raises DataError when it belongs to other data."""


@dataclass(frozen=True, kw_only=True)
class StepOutcome:
    """What all ranks know after a step; equal on each."""

    loss: float
    """Mean over the global batch, nats per token."""
    loss_by_source: dict[str, float]
    grad_norm: float
    """Before clipping."""
    stop: bool
    """Whether any rank was asked to stop."""
    requests: bool
    """Whether a request is to be done before the next step."""

    @property
    def finite(self) -> bool:
        return math.isfinite(self.loss) and math.isfinite(self.grad_norm)


@dataclass(kw_only=True)
class Trainer:
    """Everything a run needs, built by `model.train.build`."""

    objective: Objective
    optimizer: torch.optim.Optimizer
    open_data: Callable[[], TrainingData]
    """This rank's share of the data as `control` knows them now."""
    control: Control
    """Requests: appended data, another horizon."""
    settings: PretrainSettings
    ranks: Parallel
    checkpoints: Checkpoints
    sink: MetricSink | None
    """Rank 0's; None on the others."""
    stop: StopFlag
    speed: Speedometer
    data: TrainingData = field(init=False)
    progress: Progress = field(init=False, default_factory=Progress)

    def __post_init__(self) -> None:
        self.data = self.open_data()

    @property
    def total_steps(self) -> int:
        """Steps of the whole run; changes when its horizon does."""
        return self.control.horizon.total_steps

    def fit(self) -> None:
        """Train to the end from wherever the output folder is.

        Raises:
            Stopped: a rank was asked to stop; a complete checkpoint was written.
            NonFiniteError: see there; a checkpoint of the state before that step was written.
            DataError, ConfigError: the checkpoint there belongs to other data or settings.
        """
        self.resume()
        self._change()
        while self.progress.step < self.total_steps:
            outcome = self._step()
            step = self.progress.step
            if outcome.requests:
                self._change()
            last = step == self.total_steps
            if step % self.settings.log_every == 0 or last:
                self._report(step, outcome)
            if self.data.num_validation and (last or _every(step, self.settings.validate_every)):
                self._validate(step)
            if last or outcome.stop or _every(step, self.settings.checkpoints.every):
                self._save()
            if outcome.stop:
                raise Stopped(step)

    def resume(self) -> None:
        """Continue from the newest intact checkpoint, if there is one."""
        loaded = self.checkpoints.load_newest(training_tensors(self.objective, self.optimizer))
        if loaded is not None:
            restore_steps(self.optimizer)
            self.progress, saved = Progress.from_json(loaded.documents[progress.FILE_NAME])
            saved_horizon = Horizon.from_dict(saved["horizon"])
            check_saved_horizon(
                self.settings, self.control.horizon, saved_horizon, self.progress.step
            )
            consumed = self.data.check_state(loaded.documents["data_state.json"])
            if consumed != self.progress.batch * self.settings.global_batch:
                raise ConfigError(
                    f"pretrain: checkpoint {loaded.step} in {self.checkpoints.folder} consumed "
                    f"{consumed} samples, which global_batch = {self.settings.global_batch} does "
                    "not give; use the global_batch it was trained with"
                )
            if self.ranks.is_main:
                log.info("resumed after step %d (%d samples)", self.progress.step, consumed)
        if self.sink:
            self.sink.resume(self.progress.step)

    def _change(self) -> None:
        """Do what was asked for: from here on other data, or another end (model/train/control)."""
        if self.control.apply(self.progress.step, self._consumed):
            self.data.loader.close()
            self.data = self.open_data()

    def _step(self) -> StepOutcome:
        """Forward, backward and update; the weights stay untouched when anything isn't finite."""
        started = time.perf_counter()
        step, number_of_batch = self.progress.step, self.progress.batch
        micro_batches = self.data.loader.step(number_of_batch)
        totals = torch.zeros(
            len(self.data.sources), 2, dtype=torch.float64, device=self.ranks.device
        )
        losses: list[Tensor] = []
        for number, batch in enumerate(micro_batches):
            synchronise_gradients(
                self.objective,
                last=number == len(micro_batches) - 1,
                free_weights=self.settings.parallel.reshard_after_forward,
            )
            self._seed(number_of_batch, number)
            loss, per_sample = self.objective(
                self._place(batch["input_ids"]),
                self._place(batch["labels"]),
                **document_arguments(batch, self._place),
            )
            (loss / len(micro_batches)).backward()
            _add_by_source(totals, self._place(batch["source"]), per_sample)
            losses.append(per_sample)
        gradients = local_gradients(self.objective.parameters())
        squares = sum_of_squares(gradients) / num_copies(self.objective)
        outcome = self._agree(step, totals, squares)
        if not outcome.finite:
            self.optimizer.zero_grad(set_to_none=True)
            self._fail(losses, [batch["samples"] for batch in micro_batches], outcome)
        set_learning_rate(self.optimizer, learning_rate(self.settings, step, self.control.horizon))
        clip_gradients(gradients, outcome.grad_norm, self.settings.clip)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        self.progress.step += 1
        self.progress.batch += 1
        self.speed.step(time.perf_counter() - started)
        return outcome

    def _agree(self, step: int, totals: Tensor, squares: Tensor) -> StepOutcome:
        """The step's one all-reduce and the one wait for the device."""
        wishes = [float(self.stop.requested), float(self.control.due(step + 1))]
        wish = torch.tensor(wishes, dtype=torch.float64)
        # One rank's gradients are its share of the sum where weights are sharded, and all of it
        # where there is one process: in both cases the squares add up to the global norm. Where
        # several copies are held, each adds its part of it.
        vector = torch.cat([squares.view(1), self._place(wish), totals.flatten()])
        values = self.ranks.sum_(vector).tolist()
        sums = values[3:]
        by_source = {
            name: sums[2 * i] / sums[2 * i + 1]
            for i, name in enumerate(self.data.sources)
            if sums[2 * i + 1]
        }
        return StepOutcome(
            loss=sum(sums[0::2]) / sum(sums[1::2]),
            loss_by_source=by_source,
            grad_norm=math.sqrt(values[0]) if values[0] >= 0 else math.nan,
            stop=values[1] > 0,
            requests=values[2] > 0,
        )

    def _fail(self, losses: list[Tensor], samples: list[Tensor], outcome: StepOutcome) -> None:
        bad = [
            int(sample)
            for loss, ids in zip(losses, samples, strict=True)
            for sample in ids[~torch.isfinite(loss.cpu())].tolist()
        ]
        culprits = sorted(sample for part in self.ranks.gather(bad) for sample in part)
        step, first = self.progress.step, self._consumed
        last = first + self.settings.global_batch - 1
        where = f"samples {culprits}" if culprits else f"any of its samples {first} to {last} (their losses are finite, a gradient is not)"  # fmt: skip  # noqa: E501
        self._save()
        raise NonFiniteError(
            f"step {step + 1} is not finite (loss {outcome.loss}, gradient norm "
            f"{outcome.grad_norm}), from {where}. The weights are those after step {step}, saved "
            f"in {self.checkpoints.folder}. Look at these samples, or lower learning_rate."
        )

    def _report(self, step: int, outcome: StepOutcome) -> None:
        rate = learning_rate(self.settings, step - 1, self.control.horizon)
        samples = self._consumed
        metrics = {
            "train/loss": outcome.loss,
            "train/grad_norm": outcome.grad_norm,
            "train/learning_rate": rate,
            "train/samples": float(samples),
            "train/tokens": float(samples * self.settings.sequence_length),
            **{f"train/loss_{name}": loss for name, loss in outcome.loss_by_source.items()},
            **self.speed.read(),
        }
        self._log(step, metrics)
        if self.ranks.is_main:
            log.info(
                "step %d/%d  loss %.4f  grad norm %.3f  lr %.2e  %.0f tokens/s  %s left",
                step, self.total_steps, outcome.loss, outcome.grad_norm, rate,
                metrics["perf/tokens_per_second"], self.speed.left(self.total_steps - step),
            )  # fmt: skip

    @torch.no_grad()
    def _validate(self, step: int) -> None:
        """Loss on the held-out samples, split over ranks; all make the same number of calls."""
        started = time.perf_counter()
        dataset, total, size = (
            self.data.validation,
            self.data.num_validation,
            self.settings.micro_batch,
        )
        assert dataset is not None
        totals = torch.zeros(
            len(self.data.sources), 2, dtype=torch.float64, device=self.ranks.device
        )
        self.objective.eval()
        stride = size * self.ranks.world_size
        for first in range(0, total, stride):
            mine = first + size * self.ranks.rank
            rows = range(mine, min(mine + size, total))
            # FSDP gathers weights in every forward call, so a rank without rows computes some too.
            batch = dataset.batch(rows or [0], separate_documents=self.settings.separate_documents)
            _, per_sample = self.objective(
                self._place(batch["input_ids"]),
                self._place(batch["labels"]),
                **document_arguments(batch, self._place),
            )
            if rows:
                _add_by_source(totals, self._place(batch["source"]), per_sample)
        self.objective.train()
        sums = self.ranks.sum_(totals).tolist()
        metrics = {"validation/loss": sum(s for s, _ in sums) / sum(n for _, n in sums)}
        for name, (loss, number) in zip(self.data.sources, sums, strict=True):
            if number:
                metrics[f"validation/loss_{name}"] = loss / number
        metrics["perf/validation_seconds"] = time.perf_counter() - started
        self._log(step, metrics)
        if self.ranks.is_main:
            log.info("step %d  validation loss %.4f", step, metrics["validation/loss"])

    @property
    def _consumed(self) -> int:
        """Samples [0, this) were trained on, or skipped."""
        return self.progress.batch * self.settings.global_batch

    def _save(self) -> None:
        started = time.perf_counter()
        step = self.progress.step
        if self.sink:
            self.sink.flush()
        documents = {
            "data_state.json": self.data.state(self._consumed),
            progress.FILE_NAME: self.progress.to_json(horizon=self.control.horizon.to_dict()),
        }
        tensors = training_tensors(self.objective, self.optimizer)
        folder = self.checkpoints.save(step, tensors, documents)
        if self.ranks.is_main:
            seconds = time.perf_counter() - started
            log.info("step %d  checkpoint %s in %.2f s", step, folder.name, seconds)

    def _log(self, step: int, metrics: dict[str, float]) -> None:
        if self.sink:
            self.sink.log(step, metrics)

    def _place(self, tensor: Tensor) -> Tensor:
        return tensor.to(self.ranks.device, non_blocking=True)

    def _seed(self, batch: int, micro_batch: int) -> None:
        """Random numbers (dropout) follow from the position, so no generator state is saved."""
        key = f"{self.settings.seed}/{batch}/{micro_batch}/{self.ranks.rank}"
        digest = hashlib.blake2b(key.encode(), digest_size=8).digest()
        torch.manual_seed(int.from_bytes(digest, "little") >> 1)


def _add_by_source(totals: Tensor, source: Tensor, losses: Tensor) -> None:
    """Add losses [B] of sources [B] to totals [num_sources, 2] (sum, number)."""
    losses = losses.to(torch.float64)
    totals.index_add_(0, source, torch.stack([losses, torch.ones_like(losses)], dim=1))


def _every(step: int, interval: int) -> bool:
    return interval > 0 and step % interval == 0
