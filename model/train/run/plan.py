"""What changed a run since it started: its append journal and its horizon, as one value.

    request ──Changes.apply──▶ longer Changes ──write──▶ horizon.json, then journal.json
                  └──▶ refused: DataError, ConfigError

`write` commits an append with journal.json: what horizon.json says about data that the journal does
not know is void (horizon.py). So after a kill at any moment a change either holds, with
the step and sample it was made at, or was never made and its request still lies there.
"""

from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Self

from common.errors import ConfigError, DataError
from model.data import Journal, PackedManifest, SampleOrder
from model.data import append as journal_file
from model.train.run.saved_manifests import check_contents, remember
from model.train.config import PretrainSettings
from model.train.run.length import FILE_NAME as HORIZON_FILE
from model.train.run.length import Horizon, HorizonChange, read_changes, write_changes
from model.train.run.requests import AppendRequest, HorizonRequest, ProfileRequest, Request
from model.train.schedule import learning_rate


@dataclass(frozen=True, kw_only=True)
class Changes:
    """A run's data and end as they are now."""

    settings: PretrainSettings
    base: PackedManifest
    """Data that the run started with."""
    journal: Journal
    horizon: Horizon

    @classmethod
    def read(cls, run: Path, settings: PretrainSettings, base: PackedManifest) -> Self:
        """The changes written in a run's folder; none in an empty one.

        Raises:
            ConfigError: the data do not suffice for the settings.
            DataError: a file is damaged, or data are missing or others; names the shards.
        """
        check_contents(run, base)
        journal = Journal.read(run / journal_file.FILE_NAME)
        journal.check(base)
        steps = count_steps(settings, sample_order(settings, base))
        appended = {entry.manifest for entry in journal.entries}
        changes = read_changes(run, appended)
        if lost := appended - {change.manifest for change in changes}:
            raise DataError(
                f"{run / HORIZON_FILE} lacks the append of {min(lost)}, which the journal has: "
                "restore that file"
            )
        return cls(
            settings=settings,
            base=base,
            journal=journal,
            horizon=Horizon(steps=steps, changes=changes),
        )

    @cached_property
    def order(self) -> SampleOrder:
        """The order of all data."""
        return sample_order(self.settings, self.base, self.journal)

    @property
    def last_step(self) -> int:
        """Step of the last change; none may be made before it."""
        return self.horizon.changes[-1].step if self.horizon.changes else 0

    def change_of(self, name: str, request: Request | None = None) -> HorizonChange | None:
        """The change that did a request already: of this name, or of the same data."""
        manifest = request.manifest if isinstance(request, AppendRequest) else None
        for change in self.horizon.changes:
            if change.request == name or (manifest is not None and change.manifest == manifest):
                return change
        return None

    def is_due(self, request: Request, step: int) -> bool:
        """Whether a request is to be done after `step` completed steps."""
        return step >= (self.last_step if request.at_step is None else request.at_step)

    def apply(self, name: str, request: Request, *, step: int, consumed: int) -> "Changes":
        """What the run becomes when a request is done at a step boundary.

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
                f"asked for step {request.at_step}, but the run has done {step}: ask for a later "
                "one, or for none to have it done at once"
            )
        if step < self.last_step:
            raise DataError(
                f"step {step} lies before the change that was made at step {self.last_step}: "
                "changes are made in order"
            )
        if isinstance(request, AppendRequest):
            changed = self._append(name, request, step, consumed)
        else:
            changed = self._move(name, request, step, consumed)
        if step < changed.horizon.total_steps and not learning_rate(
            self.settings, max(step, self.settings.warmup_steps), changed.horizon
        ):
            raise ConfigError(
                f"the learning rate has fallen to 0 at step {step} and never rises again, so more "
                "steps would change nothing: start a new run from the model, or set "
                "min_learning_rate in the next one"
            )
        return changed

    def write(self, run: Path) -> None:
        """Make the changes durable, the journal last."""
        self.remember(run)
        write_changes(run, self.horizon)
        if self.journal.entries:
            self.journal.write(run / journal_file.FILE_NAME)

    def remember(self, run: Path) -> None:
        """Keep the lists of shards beside the run, to name what differs in a later launch."""
        remember(run, self.base, self.journal.manifests)

    def _append(self, name: str, request: AppendRequest, step: int, consumed: int) -> "Changes":
        new = PackedManifest.read(Path(request.folder))
        if new.digest != request.manifest:
            raise DataError(
                f"{request.folder} holds other data (digest {new.digest}) than were asked for "
                f"({request.manifest}): ask again"
            )
        journal = self.journal.append(
            self.base, new, at=consumed, seed=request.seed, weights=request.weights
        )
        longer = replace(self, journal=journal)
        gained = longer.order.num_samples - self.order.num_samples
        if gained < 1:
            raise DataError(
                f"{request.folder} gives no sample of {self.settings.sequence_length} tokens with "
                f"weights {dict(request.weights)}: its {new.num_tokens} tokens are too few"
            )
        total = self.horizon.total_steps
        if request.horizon == "extend":
            total += gained // self.settings.global_batch_size
        if step >= total:
            raise ConfigError(
                f"the run ends at step {total} and has done {step}, so no step is left for the new "
                "data; append them with --horizon extend"
            )
        change = HorizonChange(
            step=step,
            total_steps=total,
            decay_at=self.horizon.decay_at,
            policy=request.horizon,
            manifest=new.digest,
            request=name,
        )
        return replace(longer, horizon=self.horizon.change(change))

    def _move(self, name: str, request: HorizonRequest, step: int, consumed: int) -> "Changes":
        total = self.horizon.total_steps if request.steps is None else request.steps
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
            decay_at = self.horizon.decay_at
        elif self.settings.schedule == "cosine":
            raise ConfigError(
                "schedule = cosine falls from the end of the warm-up on; a decay can be asked for "
                "with wsd and constant. Move the end instead (--steps)"
            )
        elif decay_at < step:
            raise ConfigError(f"decay-at = {decay_at}, but the run has done {step} steps")
        if decay_at is not None and total <= decay_at:
            raise ConfigError(
                f"the decay begins at step {decay_at}, but the run ends at {total}: give an "
                "earlier --decay-at, or more --steps"
            )
        change = HorizonChange(
            step=step, total_steps=total, decay_at=decay_at, policy="set", request=name
        )
        return replace(self, horizon=self.horizon.change(change))


def sample_order(
    settings: PretrainSettings, manifest: PackedManifest, journal: Journal | None = None
) -> SampleOrder:
    """The order that these settings give these data."""
    epochs = {shard.source: settings.epochs for shard in manifest.shards}
    return SampleOrder(
        manifest,
        sequence_length=settings.sequence_length,
        seed=settings.seed,
        weights=epochs | settings.weights,
        validation_fraction=settings.validation_fraction,
        journal=journal,
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
