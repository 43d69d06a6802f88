"""Position of a training in its data: a few hundred bytes of JSON, under a hundred more an append.

Since the order is a function (model/data/order.py), the state is its arguments and one number. It
names no path, belongs to no rank, and is as valid on 4 processes as on 8. Every field carries a
check of its own, so that an edited or damaged file is refused by the field's name.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import astuple, dataclass, fields
from typing import Any

from common.errors import DataError, shown
from common.files import digest_of
from model.data.append import Append
from model.data.manifest import PackedManifest
from model.data.order import SampleOrder

SCHEMA_VERSION = 4


@dataclass(frozen=True, kw_only=True)
class SavedAppend:
    """The fields that distinguish one append from another, in little space."""

    at: int
    seed: int
    manifest: str
    """Digest of the manifest."""
    weights: str
    """Digest of the weights (12 hex digits) without those that are 1; "" where all are."""

    @classmethod
    def of(cls, append: Append) -> SavedAppend:
        """The digest of an append."""
        weights = {name: float(weight) for name, weight in append.weights.items() if weight != 1}
        return cls(
            at=append.at,
            seed=append.seed,
            manifest=append.manifest.digest,
            weights=digest_of(weights)[:12] if weights else "",
        )


@dataclass(frozen=True, kw_only=True)
class DataState:
    """Everything needed, beside the shards, to go on with the next sample.

    Raises:
        DataError: a field has the wrong type or is out of range.
    """

    manifest_digest: str
    """Digest of the manifest that the run started with."""
    seed: int
    """Seed of the order."""
    sequence_length: int
    """Tokens per sample, >= 1."""
    weights: Mapping[str, float]
    """Epochs per source of the first manifest, every source named."""
    samples_consumed: int
    """Samples [0, samples_consumed) have been trained on."""
    appends: tuple[SavedAppend, ...] = ()
    """Data appended so far; the run's journal has the same in full."""

    def __post_init__(self) -> None:
        for name in ("seed", "sequence_length", "samples_consumed"):
            value = getattr(self, name)
            if type(value) is not int or (value < 0 and name != "seed"):
                raise DataError(f"{name} {value!r} of the data state must be an integer >= 0")
        if type(self.manifest_digest) is not str:
            raise DataError(f"manifest_digest {self.manifest_digest!r} must be a string")
        for name, number in self.weights.items():
            if not isinstance(number, int | float) or not math.isfinite(number) or number < 0:
                raise DataError(f"{name} {number!r} of the data state must be a number >= 0")
        object.__setattr__(self, "weights", {k: float(v) for k, v in self.weights.items()})

    @classmethod
    def of(cls, order: SampleOrder, samples_consumed: int) -> DataState:
        """The state of a run that has trained on samples [0, samples_consumed) of an order."""
        assert 0 <= samples_consumed <= order.num_samples
        return cls(
            manifest_digest=order.manifest.digest,
            seed=order.seed,
            sequence_length=order.sequence_length,
            weights=order.weights,
            samples_consumed=samples_consumed,
            appends=tuple(map(SavedAppend.of, order.appends)),
        )

    def order(self, manifest: PackedManifest, appends: Sequence[Append] = ()) -> SampleOrder:
        """The order this state speaks of.

        manifest: the data the run started with; checked.
        appends: the run's; later ones than the state has are left out.

        Raises DataError when these are other data, or other appends.
        """
        self.check(manifest)
        self._check_appends(appends)
        return SampleOrder(
            manifest,
            sequence_length=self.sequence_length,
            seed=self.seed,
            weights=self.weights,
            appends=appends[: len(self.appends)],
        )

    def check(self, manifest: PackedManifest) -> None:
        """Raise DataError naming `manifest_digest` for other data than the run started with."""
        if manifest.digest != self.manifest_digest:
            raise DataError(
                f"manifest_digest of the checkpoint is {self.manifest_digest}, of the packed data "
                f"in {manifest.folder} {manifest.digest}: their content differs, so the order "
                "would too. Restore the shards, or start a new run"
            )

    def check_order(self, order: SampleOrder) -> None:
        """Refuse to go on with another order: other data, or other settings.

        An order may have appends that the state does not, as long as they begin at or after
        `samples_consumed`: data appended since the checkpoint.

        Raises:
            DataError: names the first field that differs, both values, and the remedy.
        """
        self.check(order.manifest)
        now = DataState.of(order, 0)
        for name in ("seed", "sequence_length", "weights"):
            old, new = getattr(self, name), getattr(now, name)
            if old != new:
                raise DataError(
                    f"{name} of the checkpoint is {old!r}, configured is {new!r}: samples would be "
                    f"lost or repeated. Set {name} back, or start a new run"
                )
        self._check_appends(order.appends)
        for append in order.appends[len(self.appends) :]:
            if append.at < self.samples_consumed:
                raise DataError(
                    f"data of manifest {append.manifest.digest} are appended at sample "
                    f"{append.at}, but {self.samples_consumed} are trained on already: append at "
                    "that sample or later"
                )
        if self.samples_consumed > order.num_samples:
            raise DataError(
                f"samples_consumed {self.samples_consumed} of the checkpoint is beyond the order's "
                f"{order.num_samples} samples"
            )

    def _check_appends(self, appends: Sequence[Append]) -> None:
        """Refuse appends that do not begin with this state's. Raises DataError naming the first."""
        for number, saved in enumerate(self.appends):
            if number >= len(appends):
                raise DataError(
                    f"appends of the checkpoint are {len(self.appends)}, those of the run "
                    f"{len(appends)}: the append of manifest {saved.manifest} at sample {saved.at} "
                    "is missing. Restore the run's journal"
                )
            now = SavedAppend.of(appends[number])
            for name in ("at", "seed", "manifest", "weights"):
                old, new = getattr(saved, name), getattr(now, name)
                if old != new:
                    raise DataError(
                        f"the checkpoint says {name} = {old!r} of append {number} (manifest "
                        f"{saved.manifest}), the run's journal {new!r}: restore the journal"
                    )

    def to_json(self) -> str:
        """One line of JSON with the schema version and the checks."""
        content = self._content()
        content |= {"checks": _checks(content)}
        return json.dumps(content, ensure_ascii=False, separators=(",", ":"))

    @classmethod
    def from_json(cls, text: str) -> DataState:
        """Read what `to_json` wrote.

        Raises DataError naming the field when one is missing, unknown or does not fit its check,
        and for another schema version.
        """
        try:
            raw = json.loads(text)
        except (ValueError, RecursionError) as error:
            raise DataError(f"the data state is not JSON: {error}") from None
        if not isinstance(raw, dict):
            raise DataError("the data state is not a JSON object")
        if raw.get("schema_version") != SCHEMA_VERSION:
            raise DataError(
                f"schema_version of the data state is {shown(raw.get('schema_version'))}, this "
                f"version reads {SCHEMA_VERSION}"
            )
        checks = raw.pop("checks", None)
        if not isinstance(checks, dict):
            raise DataError("checks is missing from the data state: the file was edited")
        names = {"schema_version", *(f.name for f in fields(cls))}
        for name in sorted(names ^ set(raw)):
            what = "missing from" if name in names else "unknown in"
            raise DataError(f"{name[:200]} is {what} the data state: the file was edited")
        for name, expected in _checks(raw).items():
            if checks.get(name) != expected:
                raise DataError(
                    f"{name} of the data state does not fit its check: the file was edited or "
                    "damaged. Restore it, or resume from an earlier checkpoint"
                )
        if set(checks) != set(_checks(raw)):
            raise DataError("checks of the data state name other fields: the file was edited")
        values: dict[str, Any] = {f.name: raw[f.name] for f in fields(cls)}
        values["appends"] = tuple(map(_saved_append, raw["appends"]))
        return cls(**values)

    def _content(self) -> dict[str, Any]:
        content: dict[str, Any] = {"schema_version": SCHEMA_VERSION}
        content |= {f.name: getattr(self, f.name) for f in fields(self)}
        content["weights"] = dict(self.weights)
        content["appends"] = [list(astuple(append)) for append in self.appends]
        return content


def _saved_append(raw: Any) -> SavedAppend:
    kinds = (int, int, str, str)
    if not isinstance(raw, list) or tuple(map(type, raw)) != kinds or raw[0] < 0:
        raise DataError(f"appends of the data state: {raw!r} is no [at, seed, manifest, weights]")
    at, seed, manifest, weights = raw
    return SavedAppend(at=at, seed=seed, manifest=manifest, weights=weights)


def _checks(content: Mapping[str, Any]) -> dict[str, str]:
    """Twelve hex digits for each field, and for all of them together (catches swapped checks)."""
    checks = {name: digest_of([name, value])[:12] for name, value in content.items()}
    return checks | {"digest": digest_of(content)}
