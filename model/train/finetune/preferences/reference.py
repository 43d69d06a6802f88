"""Log-probabilities of answers under the reference: computed once, kept, and checked when read.

    reference/<key>/part-00000.npy   fp32, tokens of the answers of pairs [0, 512)
                    part-00001.npy   …
                    reference.json   what the key was made of, and the CRC-32 of each part

    key = digest of (weights and config of the model, tokens of all pairs, precision, device, rule)

The reference of DPO is the model that training starts from, and never changes: another beta,
learning rate or number of epochs needs no new pass over the data, and no second model in memory. A
part is the same bytes on any number of ranks and after any interruption, because its micro-batches
follow from its pairs alone; what was computed before a kill is not computed again.
"""

import hashlib
import json
import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from io import BytesIO
from pathlib import Path
from typing import Any, Protocol
from zlib import crc32

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from common.errors import DataError
from common.files import canonical_json, write_json, write_shared
from model.data import MicroBatch
from model.data.permutation import Ints
from model.digest import NETWORK_FILES, model_digest
from model.train.distributed.signals import Stopped
from model.train.finetune.data import RowLayout
from model.train.finetune.preferences.batches import documents_of
from model.train.finetune.preferences.prepare import PreferencePairs

log = logging.getLogger("steel.finetune")

REFERENCE_FILE = "reference.json"
RULE = 1
"""Raise it when other numbers come out for the same key."""
PAIRS_IN_PART = 512
"""Pairs that are computed between two writes."""
TOKENS_IN_BATCH = 16_384
"""Tokens of a micro-batch at most, unless a single pair has more."""

Floats = npt.NDArray[np.float32]


class StoppedBeforeTraining(Stopped):
    """Asked to stop while the reference's log-probabilities were computed."""

    def __init__(self) -> None:
        Exception.__init__(
            self, "stopped before the first step; what the reference has said so far is kept"
        )
        self.step = 0


class Ranks(Protocol):
    """The ranks of a run, as model/train/distributed/context.py has them."""

    @property
    def rank(self) -> int: ...

    @property
    def world_size(self) -> int: ...

    def gather(self, value: Any) -> list[Any]:
        """Return the value of every rank."""
        ...


@dataclass(frozen=True, kw_only=True)
class ReferenceLogProbs:
    """Log-probability of each answer token of some pairs."""

    values: Floats = field(repr=False)
    """Pair by pair, the chosen answer first."""
    starts: Ints = field(repr=False)
    """First value of each pair in `values`, and the end of the last, [N + 1]."""

    def of_pairs(self, numbers: Sequence[int]) -> Tensor:
        """Those of these pairs, in this order, fp32 [N]: the targets of a `PairBatch`."""
        parts = [self.values[self.starts[n] : self.starts[n + 1]] for n in numbers]
        return torch.from_numpy(np.concatenate([np.zeros(0, np.float32), *parts]))


@dataclass(frozen=True, kw_only=True)
class ReferenceStore:
    """Files with the log-probabilities of one reference model on one set of pairs."""

    folder: Path
    """Of this key alone."""
    pairs: PreferencePairs
    """The pairs, in order."""
    made_of: Mapping[str, Any]
    """Everything that the key was made of."""

    @classmethod
    def of(
        cls,
        parent: Path,
        pairs: PreferencePairs,
        *,
        model: Path,
        dtype: torch.dtype,
        device: torch.device,
    ) -> "ReferenceStore":
        """Find the place for a model folder's log-probabilities of these pairs.

        parent: folder of all of them. dtype: precision of the forward pass.
        """
        made_of = {
            "rule": RULE,
            "model": model_digest(model, NETWORK_FILES),
            "pairs": pairs.digest(),
            "dtype": str(dtype).removeprefix("torch."),
            "device": device.type,
        }
        key = hashlib.blake2b(canonical_json(made_of).encode(), digest_size=16).hexdigest()
        return cls(folder=parent / key, pairs=pairs, made_of=made_of)

    @property
    def num_parts(self) -> int:
        """Parts that all pairs make."""
        return -(-len(self.pairs) // PAIRS_IN_PART)

    def numbers(self, part: int) -> range:
        """Pairs of a part."""
        return range(part * PAIRS_IN_PART, min((part + 1) * PAIRS_IN_PART, len(self.pairs)))

    def read(self) -> ReferenceLogProbs | None:
        """Read all of them; None where a part is missing or damaged, which the log says."""
        try:
            about = json.loads((self.folder / REFERENCE_FILE).read_text(encoding="utf-8"))
            checksums = dict(about["parts"])
        except FileNotFoundError:
            return None
        except (OSError, ValueError, TypeError, KeyError) as error:
            log.warning("%s is damaged (%s)", self.folder / REFERENCE_FILE, error)
            return None
        parts = [self.read_part(part, checksums) for part in range(self.num_parts)]
        if any(part is None for part in parts):
            return None
        starts = np.concatenate([[0], np.cumsum(self._answer_tokens())])
        values = np.concatenate([np.zeros(0, np.float32), *(p for p in parts if p is not None)])
        return ReferenceLogProbs(values=values, starts=starts)

    def read_part(self, part: int, checksums: Mapping[str, str] | None = None) -> Floats | None:
        """Read one part; None where it is missing, or has other bytes than were written."""
        path = self._path(part)
        try:
            content = path.read_bytes()
            expected = (checksums or {}).get(path.name) or _checksum_beside(path)
            if f"{crc32(content):08x}" != expected:
                raise ValueError("other bytes than were written")
            values = np.load(BytesIO(content), allow_pickle=False)
            tokens = int(self._answer_tokens()[self.numbers(part)].sum())
            if values.dtype != np.float32 or values.shape != (tokens,):
                raise ValueError(f"{values.shape} {values.dtype}, not {tokens} numbers")
        except FileNotFoundError:
            return None
        except (OSError, ValueError) as error:
            log.warning("%s is damaged (%s): it is computed again", path, error)
            return None
        return np.asarray(values, np.float32)

    def write_part(self, part: int, values: Floats) -> None:
        """Write one part and its checksum; whole or not at all, whoever writes it too."""
        buffer = BytesIO()
        np.save(buffer, values, allow_pickle=False)
        path = self._path(part)
        write_shared(path, buffer.getvalue())
        write_shared(_beside(path), f"{crc32(buffer.getvalue()):08x}".encode())

    def finish(self) -> None:
        """Write reference.json, when all parts are there."""
        paths = [self._path(part) for part in range(self.num_parts)]
        checksums = {path.name: _checksum_beside(path) for path in paths}
        content = {"made_of": dict(self.made_of), "pairs": len(self.pairs), "parts": checksums}
        write_json(self.folder / REFERENCE_FILE, content)

    def _path(self, part: int) -> Path:
        return self.folder / f"part-{part:05d}.npy"

    def _answer_tokens(self) -> Ints:
        """Tokens of both answers of each pair, [N]."""
        tokens: Ints = self.pairs.parts[:, 1:].sum(axis=1)
        return tokens


def compute_reference(
    store: ReferenceStore,
    ranks: Ranks,
    log_probs: Callable[[MicroBatch], Tensor],
    layout: RowLayout,
    *,
    progress: Callable[[int, int], None] = lambda done, total: None,
    stop: Callable[[], bool] = lambda: False,
) -> ReferenceLogProbs:
    """Read what is there, compute the rest, each rank some parts of it; called by all ranks.

    log_probs: the reference's log-probability of each target of a batch, fp32 [N]. All ranks call
    it equally often, as sharded weights demand. progress: called with (parts done, all).

    Raises Stopped when a rank is asked to stop, DataError when what was written cannot be read.
    """
    complete = store.read()
    if all(ranks.gather(complete is not None)) and complete is not None:
        if ranks.rank == 0:
            log.info("log-probabilities of the reference were computed before: %s", store.folder)
        return complete
    own = range(ranks.rank, store.num_parts, ranks.world_size)
    found: list[list[int]] = ranks.gather([p for p in own if store.read_part(p) is None])
    missing = sorted(part for of_rank in found for part in of_rank)
    store.folder.mkdir(parents=True, exist_ok=True)
    for first in range(0, len(missing), ranks.world_size):
        if any(ranks.gather(stop())):
            raise StoppedBeforeTraining
        progress(store.num_parts - len(missing) + first, store.num_parts)
        together = missing[first : first + ranks.world_size]
        part = together[ranks.rank] if ranks.rank < len(together) else None
        batches = [] if part is None else list(_batches(store, part, layout))
        values = []
        # Where weights are sharded, each forward pass is one of all ranks.
        for number in range(max(ranks.gather(len(batches)))):
            numbers = batches[number] if number < len(batches) else []
            rows = layout.batch([d for n in numbers for d in documents_of(store.pairs, n)])
            values.append(log_probs(rows).cpu())
        if part is not None:
            store.write_part(part, _in_order(store, part, batches, values))
    ranks.gather(None)
    if ranks.rank == 0:
        store.finish()
    ranks.gather(None)
    complete = store.read()
    if complete is None:
        raise DataError(
            f"{store.folder} cannot be read right after it was written: is the disk full or "
            "damaged? Remove the folder and start again"
        )
    return complete


def _batches(store: ReferenceStore, part: int, layout: RowLayout) -> Iterator[list[int]]:
    """Pairs of a part by micro-batch: similar lengths together, up to a budget of tokens."""
    numbers = store.numbers(part)
    longest = 2 * (store.pairs.parts[:, 0] + store.pairs.parts[:, 1:].max(axis=1))
    order = sorted(numbers, key=lambda number: (-int(longest[number]), number))
    budget = min(TOKENS_IN_BATCH, layout.row_tokens)
    taken: list[int] = []
    size = 0
    for number in order:
        # A padded row is as long as the longest, which comes first.
        tokens = int(store.pairs.lengths[number] if layout.packed else longest[order[0]])
        if taken and size + tokens > budget:
            yield taken
            taken, size = [], 0
        taken.append(number)
        size += tokens
    if taken:
        yield taken


def _in_order(
    store: ReferenceStore, part: int, batches: Sequence[list[int]], values: Sequence[Tensor]
) -> Floats:
    """Values of a part's pairs in their own order."""
    of_pair: dict[int, Floats] = {}
    for numbers, found in zip(batches, values, strict=False):
        sizes = store.pairs.parts[numbers, 1:].sum(axis=1)
        pieces = np.split(found.numpy(), np.cumsum(sizes)[:-1])
        of_pair |= dict(zip(numbers, pieces, strict=True))
    return np.concatenate([of_pair[number] for number in store.numbers(part)]).astype(np.float32)


def _beside(path: Path) -> Path:
    return path.with_suffix(".crc32")


def _checksum_beside(path: Path) -> str:
    return _beside(path).read_text(encoding="utf-8").strip()
