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
import os
from collections.abc import Callable, Iterator, Mapping
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
from common.files import canonical_json, sync, write_json
from model.data.permutation import Ints
from model.train.finetune.preferences.batches import PairBatch, pair_batch
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
    """Where each pair begins in `values`, and the end of the last, [N + 1]."""

    def of(self, numbers: list[int]) -> Tensor:
        """Those of these pairs, in this order, fp32; as `pair_batch` orders its targets."""
        parts = [self.values[self.starts[n] : self.starts[n + 1]] for n in numbers]
        return torch.from_numpy(np.concatenate(parts))


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
            "model": model_digest(model),
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
        except FileNotFoundError:
            return None
        except (OSError, ValueError) as error:
            log.warning("%s is damaged (%s)", self.folder / REFERENCE_FILE, error)
            return None
        parts = [self.read_part(part, about["parts"]) for part in range(self.num_parts)]
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
        _publish(path, buffer.getvalue())
        _publish(_beside(path), f"{crc32(buffer.getvalue()):08x}".encode())

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
        tokens: Ints = self.pairs.lengths[:, 1:].sum(axis=1)
        return tokens


def compute_reference(
    store: ReferenceStore,
    ranks: Ranks,
    log_probs: Callable[[PairBatch], Tensor],
    *,
    packed: bool,
    padding: int,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> ReferenceLogProbs:
    """Compute what is missing, each rank some parts of it, and read all; called by all ranks.

    log_probs: the reference's log-probability of each target of a batch, fp32 [N]. All ranks call
    it equally often, as sharded weights demand. progress: called with (parts done, all).

    Raises DataError when what was written cannot be read.
    """
    found: list[list[int]] = ranks.gather(
        [p for p in range(ranks.rank, store.num_parts, ranks.world_size) if not _is_there(store, p)]
    )
    missing = sorted(part for of_rank in found for part in of_rank)
    store.folder.mkdir(parents=True, exist_ok=True)
    for first in range(0, len(missing), ranks.world_size):
        together = missing[first : first + ranks.world_size]
        progress(store.num_parts - len(missing) + first, store.num_parts)
        own = together[ranks.rank] if ranks.rank < len(together) else None
        batches = list(_batches(store, own if own is not None else together[0], packed, padding))
        # Where weights are sharded, each forward pass is one of all ranks.
        number = max(ranks.gather(len(batches)))
        values = [log_probs(batches[min(n, len(batches) - 1)][1]).cpu() for n in range(number)]
        if own is not None:
            store.write_part(own, _in_order(store, own, batches, values))
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


def _is_there(store: ReferenceStore, part: int) -> bool:
    return store.read_part(part) is not None


def _batches(
    store: ReferenceStore, part: int, packed: bool, padding: int
) -> Iterator[tuple[list[int], PairBatch]]:
    """Micro-batches of a part, and the pairs in them: similar lengths together, up to a budget."""
    numbers = np.asarray(store.numbers(part))
    tokens = store.pairs.tokens[numbers]
    longest = 2 * (store.pairs.lengths[numbers, 0] + store.pairs.lengths[numbers, 1:].max(axis=1))
    order = np.argsort(-longest, kind="stable").tolist()
    while order:
        taken = [order.pop(0)]
        size = int(tokens[taken[0]] if packed else longest[taken[0]])
        while order:
            more = int(tokens[order[0]]) if packed else int(longest[taken[0]])
            if size + more > TOKENS_IN_BATCH:
                break
            size += more
            taken.append(order.pop(0))
        of_batch = numbers[taken].tolist()
        yield of_batch, pair_batch(store.pairs, of_batch, packed=packed, padding=padding)


def _in_order(
    store: ReferenceStore,
    part: int,
    batches: list[tuple[list[int], PairBatch]],
    values: list[Tensor],
) -> Floats:
    """Values of a part's pairs in their own order."""
    of_pair: dict[int, npt.NDArray[Any]] = {}
    for (numbers, _), found in zip(batches, values, strict=False):
        sizes = store.pairs.lengths[numbers, 1:].sum(axis=1)
        pieces = np.split(found.numpy(), np.cumsum(sizes)[:-1])
        of_pair |= dict(zip(numbers, pieces, strict=True))
    return np.concatenate([of_pair[number] for number in store.numbers(part)]).astype(np.float32)


def model_digest(folder: Path) -> str:
    """32 hexadecimal digits of a Transformers folder's weights and config, by their bytes."""
    files = sorted([folder / "config.json", *folder.glob("*.safetensors")])
    digest = hashlib.blake2b(digest_size=16)
    for path in files:
        digest.update(f"{path.name}\0{path.stat().st_size}\0".encode())
        with path.open("rb", buffering=0) as file:
            while block := file.read(1 << 22):
                digest.update(block)
    return digest.hexdigest()


def _beside(path: Path) -> Path:
    return path.with_suffix(".crc32")


def _checksum_beside(path: Path) -> str:
    return _beside(path).read_text(encoding="utf-8").strip()


def _publish(path: Path, content: bytes) -> None:
    """Write a file whole or not at all; two runs may, at once: they write the same bytes."""
    own = path.with_name(f"{path.name}.{os.getpid()}.partial")
    with own.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    own.replace(path)
    sync(path.parent)
