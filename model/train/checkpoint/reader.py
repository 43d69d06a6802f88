"""Reading the tensors of checkpoints, with or without ranks.

Torch's DCP keeps its index (.metadata) as a pickle; here only an index's own types are loaded.
"""

import pickle
import warnings
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.checkpoint.filesystem import FileSystemReader
from torch.distributed.checkpoint.metadata import Metadata, StorageMeta, TensorStorageMetadata
from torch.distributed.checkpoint.state_dict_loader import load

from common.errors import DataError

METADATA = ".metadata"
OPTIMIZER = "optimizer."
"""Prefix of the optimizer's tensors in a checkpoint."""
READ_AT_ONCE = 1 << 30
"""Bytes of tensors that `read_tensors` holds beside what its caller keeps."""


def load_into(
    checkpoint: Path, tensors: Mapping[str, Tensor], group: dist.ProcessGroup | None
) -> None:
    """Fill tensors, by all ranks of a group, or by this process alone.

    Raises DataError when the checkpoint holds others, or its index is none.
    """
    reader = _Reader(checkpoint)
    # Here as well, because torch 2.11's `load` hides what it raises.
    _check_optimizer(checkpoint, reader.read_metadata().state_dict_metadata, tensors)
    try:
        with warnings.catch_warnings():
            # Reading alone is meant.
            warnings.filterwarnings("ignore", message="torch.distributed is disabled")
            load(dict(tensors), storage_reader=reader, process_group=group, no_dist=group is None)
    except CheckpointException as error:  # a BaseException
        raise DataError(
            f"checkpoint {checkpoint} does not fit this model: {failures(error)}"
        ) from error


def _check_optimizer(checkpoint: Path, saved: Collection[str], wanted: Collection[str]) -> None:
    """Raise DataError where a checkpoint has all weights, and another optimizer's state."""
    lacking = [name for name in wanted if name not in saved]
    if lacking and all(name.startswith(OPTIMIZER) for name in lacking):
        there, needed = (
            ", ".join(sorted({name.rpartition(".")[2] for name in names}))
            for names in ([name for name in saved if name.startswith(OPTIMIZER)], lacking)
        )
        raise DataError(
            f"checkpoint {checkpoint} holds the state of another optimizer than this run's (it has "
            f"{there}; this run needs {needed}): set pretrain.optimizer to what config.json in "
            "the checkpoint says, or start a new run from its weights (`steel export RUN --to "
            "FOLDER`, pretrain.model: FOLDER)"
        )


def read_tensors(checkpoint: Path, prefix: str) -> Iterator[tuple[str, Tensor]]:
    """Tensors whose names begin with `prefix`, whole, on the CPU, with the prefix taken off."""
    described = _Reader(checkpoint).read_metadata().state_dict_metadata
    batch: dict[str, Tensor] = {}
    size = 0
    wanted = [name for name in sorted(described) if name.startswith(prefix)]
    for name in wanted:
        about = described[name]
        assert isinstance(about, TensorStorageMetadata)
        batch[name] = torch.empty(about.size, dtype=about.properties.dtype)
        size += batch[name].nbytes
        if size >= READ_AT_ONCE or name == wanted[-1]:
            load_into(checkpoint, batch, None)
            yield from ((key.removeprefix(prefix), tensor) for key, tensor in batch.items())
            batch, size = {}, 0


def failures(error: CheckpointException) -> str:
    """The failures of the ranks, without their stack traces."""
    return "; ".join(sorted({str(failure) for failure, _ in error.failures.values()}))


class _Reader(FileSystemReader):
    """DCP's reader with an index that cannot run code."""

    def read_metadata(self, *args: Any, **kwargs: Any) -> Metadata:
        with (Path(self.path) / METADATA).open("rb") as file:
            metadata = _MetadataUnpickler(file).load()
        assert isinstance(metadata, Metadata)
        if getattr(metadata, "storage_meta", None) is None:
            metadata.storage_meta = StorageMeta()
        metadata.storage_meta.load_id = self.load_id  # type: ignore[union-attr]
        return metadata


class _MetadataUnpickler(pickle.Unpickler):
    MODULES = (
        "torch.distributed.checkpoint.metadata",
        "torch.distributed.checkpoint.filesystem",
        "torch.distributed.checkpoint.storage",
    )
    NAMES = frozenset(
        {
            ("torch", "Size"),
            ("torch", "device"),
            ("torch.serialization", "_get_layout"),
            ("collections", "OrderedDict"),
            ("collections", "defaultdict"),
            ("pathlib", "PosixPath"),
            ("pathlib", "WindowsPath"),
            ("pathlib", "Path"),
        }
    )

    def find_class(self, module: str, name: str) -> Any:
        is_dtype = module == "torch" and isinstance(getattr(torch, name, None), torch.dtype)
        if module in self.MODULES or (module, name) in self.NAMES or is_dtype:
            return super().find_class(module, name)
        raise DataError(f"a checkpoint's {METADATA} names {module}.{name}, which no index contains")
