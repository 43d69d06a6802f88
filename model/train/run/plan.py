"""The plan of a run: the data that it trains on and its length, as its journal has changed them.

request ──RunPlan.apply──▶ another plan, one entry longer ──write──▶ RUN/journal.json
              └──▶ refused: DataError, ConfigError
"""

from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Self

from common.errors import ConfigError, DataError
from model.data import Append, PackedManifest, SampleOrder
from model.data.append import check_appends
from model.train.config import PretrainSettings
from model.train.optim.schedule import learning_rate
from model.train.run.journal import (
    AppendEntry,
    JournalEntry,
    LengthEntry,
    read_journal,
    write_journal,
)
from model.train.run.lease import Lease
from model.train.run.length import LengthChange, TrainingLength
from model.train.run.requests import AppendRequest, ProfileRequest, Request, RescheduleRequest
from model.train.run.saved_manifests import check_base, save_manifests


@dataclass(frozen=True, kw_only=True)
class RunPlan:
    """Settings, first data and journal of a run; all else follows from them."""

    settings: PretrainSettings
    base: PackedManifest
    """Data that the run started with."""
    initial_steps: int
    """Steps that the run started with."""
    entries: tuple[JournalEntry, ...] = ()
    """The journal."""

    @classmethod
    def read(cls, run: Path, settings: PretrainSettings, base: PackedManifest) -> Self:
        """The plan in a run's folder; without entries in an empty one.

        Raises:
            ConfigError: the data do not suffice for the settings.
            DataError: the journal is damaged, or data are missing or others; names the shards.
        """
        check_base(run, base)
        steps = count_steps(settings, sample_order(settings, base))
        plan = cls(settings=settings, base=base, initial_steps=steps, entries=read_journal(run))
        check_appends(base, plan.appends)
        return plan

    @property
    def append_entries(self) -> tuple[AppendEntry, ...]:
        """Entries of data that joined the run."""
        return tuple(entry for entry in self.entries if isinstance(entry, AppendEntry))

    @cached_property
    def appends(self) -> tuple[Append, ...]:
        """Data that joined the run."""
        return tuple(entry.data for entry in self.append_entries)

    @cached_property
    def order(self) -> SampleOrder:
        """The order of all data."""
        return sample_order(self.settings, self.base, self.appends)

    @cached_property
    def length(self) -> TrainingLength:
        """The run's length, with all changes."""
        return TrainingLength(
            initial_steps=self.initial_steps, changes=tuple(entry.length for entry in self.entries)
        )

    @property
    def last_step(self) -> int:
        """Step of the last change; none may be made before it."""
        return self.entries[-1].length.step if self.entries else 0

    def is_due(self, request: Request, step: int) -> bool:
        """Return True if a request is to be done after `step` completed steps."""
        return step >= (self.last_step if request.at_step is None else request.at_step)

    def apply(self, name: str, request: Request, *, step: int, consumed: int) -> "RunPlan":
        """The plan after a request was done at a step boundary.

        Args:
            name: of the request.
            step: completed optimizer steps.
            consumed: samples [0, consumed) were trained on.

        Raises:
            ConfigError, DataError: it cannot be done; says why, and what can.
        """
        if isinstance(request, ProfileRequest):
            return self
        if request.at_step is not None and request.at_step != step:
            raise DataError(
                f"requested for step {request.at_step}, but the run has done {step}: name a later "
                "step, or none to have it done at once"
            )
        if step < self.last_step:
            raise DataError(
                f"step {step} lies before the change that was made at step {self.last_step}: "
                "changes are made in order"
            )
        if isinstance(request, AppendRequest):
            changed = self._append(name, request, step, consumed)
        else:
            changed = self._reschedule(name, request, step, consumed)
        if step < changed.length.total_steps and not learning_rate(
            self.settings, max(step, self.settings.warmup_steps), changed.length
        ):
            raise ConfigError(
                f"the learning rate has fallen to 0 at step {step} and never rises again, so more "
                "steps would change nothing: start a new run from the model, or set "
                "min_learning_rate in the next one"
            )
        return changed

    def write(self, lease: Lease) -> None:
        """Make the plan durable in the run's folder."""
        self.save_manifests(lease)
        write_journal(lease.run, self.entries, lease.write_json)

    def save_manifests(self, lease: Lease) -> None:
        """Keep the lists of shards beside the run, to name what differs in a later launch."""
        appended = [append.manifest for append in self.appends]
        save_manifests(lease.run, self.base, appended, lease.write_json)

    def _append(self, name: str, request: AppendRequest, step: int, consumed: int) -> "RunPlan":
        new = PackedManifest.read(Path(request.folder))
        if new.digest != request.manifest:
            raise DataError(
                f"{request.folder} holds other data (digest {new.digest}) than were requested "
                f"({request.manifest}): request them again"
            )
        data = Append(at=consumed, manifest=new, seed=request.seed, weights=dict(request.weights))
        order = sample_order(self.settings, self.base, (*self.appends, data))
        gained = order.num_samples - self.order.num_samples
        if gained < 1:
            raise DataError(
                f"{request.folder} gives no sample of {self.settings.sequence_length} tokens with "
                f"weights {dict(request.weights)}: its "
                f"{sum(new.tokens_by_source('train').values())} tokens to train on are too few"
            )
        total = self.length.total_steps
        if request.steps == "extend":
            total += gained // self.settings.global_batch_size
        if step >= total:
            raise ConfigError(
                f"the run ends at step {total} and has done {step}, so no step is left for the new "
                "data; append them with --steps extend"
            )
        length = LengthChange(step=step, total_steps=total, decay_at=self.length.decay_at)
        return self._with(AppendEntry(request=name, length=length, steps=request.steps, data=data))

    def _reschedule(
        self, name: str, request: RescheduleRequest, step: int, consumed: int
    ) -> "RunPlan":
        total = self.length.total_steps if request.steps is None else request.steps
        if total < step:
            raise ConfigError(f"steps = {total}, but the run has done {step}; give {step} or more")
        if total <= self.settings.warmup_steps:
            raise ConfigError(
                f"steps = {total}, but the warm-up alone takes {self.settings.warmup_steps}"
            )
        left = (self.order.num_samples - consumed) // self.settings.global_batch_size
        if total - step > left:
            raise ConfigError(
                f"steps = {total}, but the data suffice for {step + left}; append more first"
            )
        decay_at = step if request.decay_at == "now" else request.decay_at
        if decay_at is None:
            decay_at = self.length.decay_at
        elif self.settings.schedule == "cosine":
            raise ConfigError(
                "schedule = cosine falls from the end of the warm-up on; a decay can be requested "
                "with wsd and constant. Move the end instead (--steps)"
            )
        elif decay_at < step:
            raise ConfigError(f"decay-at = {decay_at}, but the run has done {step} steps")
        if decay_at is not None and total <= decay_at:
            raise ConfigError(
                f"the decay begins at step {decay_at}, but the run ends at {total}: give an "
                "earlier --decay-at, or more --steps"
            )
        length = LengthChange(step=step, total_steps=total, decay_at=decay_at)
        return self._with(LengthEntry(request=name, length=length))

    def _with(self, entry: JournalEntry) -> "RunPlan":
        return replace(self, entries=(*self.entries, entry))


def sample_order(
    settings: PretrainSettings, manifest: PackedManifest, appends: tuple[Append, ...] = ()
) -> SampleOrder:
    """The order that these settings give these data."""
    epochs = {shard.source: settings.epochs for shard in manifest.shards}
    return SampleOrder(
        manifest,
        sequence_length=settings.sequence_length,
        seed=settings.seed,
        weights=epochs | settings.weights,
        appends=appends,
    )


def count_steps(settings: PretrainSettings, order: SampleOrder) -> int:
    """Optimizer steps of a run on these data. Raises ConfigError when they do not suffice."""
    available = order.num_samples // settings.global_batch_size
    if settings.steps > available or not available:
        raise ConfigError(
            f"pretrain: steps = {settings.steps or 1} of global_batch_size = "
            f"{settings.global_batch_size} need "
            f"{max(settings.steps, 1) * settings.global_batch_size} samples, the packed data hold "
            f"{order.num_samples} at sequence_length = {settings.sequence_length} and these "
            "weights; raise epochs or weights, pack more data, or lower steps"
        )
    steps = settings.steps or available
    if settings.warmup_steps >= steps:
        raise ConfigError(
            f"pretrain: warmup_steps = {settings.warmup_steps} leaves none of the {steps} steps "
            "for training; lower it"
        )
    return steps
