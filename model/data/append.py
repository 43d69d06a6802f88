"""Packed data that join a training run while it trains.

    sample 0 ──────────── at_0 ────────────────── at_1 ───────────▶
    first manifest        + append 0              + append 1

From sample `at` on, the order is a fresh permutation over the unseen samples of the old data and
all samples of the new (model/data/order.py has the rule, docs/adr/0004 the reasons). Appends are
ascending in `at`; several may share one.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from common.errors import DataError
from model.data.manifest import PackedManifest

KnownContent = Mapping[str, tuple[str, str]]
"""MD5 of a shard -> its name and the place of its data, for messages."""


@dataclass(frozen=True, kw_only=True)
class Append:
    """One set of shards that joins the order."""

    at: int
    """Global number of the first sample that may come from the new data, >= 0."""
    manifest: PackedManifest
    """The new shards."""
    seed: int
    """Seed of the permutation from `at` on."""
    weights: Mapping[str, float] = field(default_factory=dict)
    """Epochs per source of the new shards; a source that is not named counts once."""

    def __post_init__(self) -> None:
        if type(self.at) is not int or self.at < 0 or type(self.seed) is not int:
            raise DataError(
                f"append at sample {self.at!r} with seed {self.seed!r}: give integers, at >= 0"
            )


def check_appends(base: PackedManifest, appends: Sequence[Append]) -> None:
    """Refuse appends that cannot extend the data that a run started with.

    Raises:
        DataError: an append lies before the one in front of it, was packed with another tokenizer,
            trains on documents that the run holds out, or has content that occurs anywhere else in
            the run; names the shards.
    """
    known = shards_by_content(base, f"the run's first data ({base.folder})")
    for number, append in enumerate(appends):
        before = appends[number - 1].at if number else 0
        if append.at < before:
            raise DataError(
                f"append {number} begins at sample {append.at}, before the one in front of it "
                f"({before}): what was trained on would change"
            )
        for name in ("tokenizer_digest", "vocab_size", "end_of_document"):
            new, old = getattr(append.manifest, name), getattr(base, name)
            if new != old:
                raise DataError(
                    f"{name} of the appended data ({append.manifest.folder}) is {new!r}, of the "
                    f"run {old!r}: pack them with the run's tokenizer (pack.tokenizer: the folder "
                    "tokenizer/ of its packed data)"
                )
        check_held_out(base, append.manifest)
        check_new_content(append.manifest, known)
        place = f"the data appended at sample {append.at} ({append.manifest.folder})"
        known |= shards_by_content(append.manifest, place)


def shards_by_content(manifest: PackedManifest, place: str) -> dict[str, tuple[str, str]]:
    """The shards to train on of some data as known content."""
    return {shard.md5: (shard.name, place) for shard in manifest.of_split("train")}


def check_held_out(base: PackedManifest, new: PackedManifest) -> None:
    """Refuse data whose packing held out less than a run's: some of their documents may be those
    that the run validates with. Raises DataError.
    """
    if new.validation_fraction < base.validation_fraction:
        raise DataError(
            f"the appended data ({new.folder}) were packed with validation_fraction "
            f"{new.validation_fraction}, the run's with {base.validation_fraction}: they may hold "
            "documents that the run holds out for validation. Pack them with "
            f"pack.validation_fraction: {base.validation_fraction}"
        )


def check_new_content(new: PackedManifest, known: KnownContent) -> None:
    """Refuse shards whose content is known already. Raises DataError naming both shards."""
    for shard in new.of_split("train"):  # its held-out documents are not trained on
        if shard.md5 in known:
            name, place = known[shard.md5]
            raise DataError(
                f"shard {shard.name!r} of {new.folder} has the content of {name!r} of {place} "
                f"(MD5 {shard.md5}): it would be trained on twice. Take it out and append the rest"
            )
