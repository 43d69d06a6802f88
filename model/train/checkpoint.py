"""Checkpoints that are whole or absent.

    checkpoints/step-00000300.partial/   being written
    checkpoints/step-00000300/
        __0_0.distcp __1_0.distcp .metadata   tensors: a slice per rank (torch's DCP format)
        trainer.json data_state.json …        documents: small JSON
        complete.json                         size and CRC-32 of everything above; written last

Every rank writes and checks its own files; then complete.json, fsync, one rename. Resuming takes
the newest checkpoint whose every file still has its checksum, on any number of ranks.
"""

import json
import logging
import pickle
import shutil
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.checkpoint.filesystem import FileSystemReader, FileSystemWriter
from torch.distributed.checkpoint.metadata import Metadata, StorageMeta
from torch.distributed.checkpoint.state_dict_loader import load as load_tensors
from torch.distributed.checkpoint.state_dict_saver import save as save_tensors

from model.errors import DataError, StageError
from model.train.files import checksum, publish_folder, sync, write_atomically
from model.train.parallel import Parallel

log = logging.getLogger(__name__)

MARKER = "complete.json"
METADATA = ".metadata"


@dataclass(frozen=True, kw_only=True)
class Loaded:
    """What a checkpoint said besides the tensors, which were loaded in place."""

    step: int
    documents: dict[str, str]


class Checkpoints:
    """The checkpoints of one run; every method is called by all ranks together."""

    def __init__(self, folder: Path, ranks: Parallel, *, keep_last: int) -> None:
        self.folder = folder
        self.ranks = ranks
        self.keep_last = keep_last

    def save(self, step: int, tensors: Mapping[str, Tensor], documents: Mapping[str, str]) -> Path:
        """Write a checkpoint after `step` completed steps; returns when it is durable.

        Raises StageError when the disk refuses it.
        """
        ranks = self.ranks
        final = self.folder / f"step-{step:08d}"
        partial = final.with_name(final.name + ".partial")
        if ranks.is_main:
            shutil.rmtree(partial, ignore_errors=True)
            partial.mkdir(parents=True)
        ranks.barrier()
        try:
            save_tensors(
                dict(tensors),
                storage_writer=FileSystemWriter(partial, sync_files=False),
                process_group=ranks.control,
            )
        except CheckpointException as error:  # a BaseException, alike on every rank
            raise StageError(
                f"checkpoint {final.name} could not be written to {self.folder}: {_reason(error)}. "
                "Earlier checkpoints are untouched; make room there and start again"
            ) from error
        written = sorted(partial.glob(f"__{ranks.rank}_*"))
        if ranks.is_main:
            for name, text in documents.items():
                write_atomically(partial / name, text)
                written.append(partial / name)
            written.append(partial / METADATA)
        for file in written:
            sync(file)
        described = {f.name: {"bytes": f.stat().st_size, "crc32": checksum(f)} for f in written}
        everyone = ranks.gather(described)
        if ranks.is_main:
            files = {name: entry for part in everyone for name, entry in sorted(part.items())}
            marker = {"step": step, "world_size": ranks.world_size, "files": files}
            write_atomically(partial / MARKER, json.dumps(marker, indent=2) + "\n")
            publish_folder(partial, final)
            self._retire()
        ranks.barrier()
        return final

    def load_newest(self, tensors: Mapping[str, Tensor]) -> Loaded | None:
        """Load the newest intact checkpoint into `tensors`; None when there is none at all.

        A damaged one is named in a warning, set aside as `*.damaged`, and the one before it is
        taken. Raises DataError when there were checkpoints and all of them are damaged, or when
        the newest intact one holds another model.
        """
        names = self.ranks.gather([path.name for path in complete_checkpoints(self.folder)])[0]
        for name in reversed(names):
            folder = self.folder / name
            if damage := self._damage(folder):
                log.warning("checkpoint %s is damaged (%s); taking the one before", name, damage)
                self.ranks.barrier()
                if self.ranks.is_main:
                    aside = folder.with_name(f"{name}.damaged")
                    shutil.rmtree(aside, ignore_errors=True)
                    folder.rename(aside)
                continue
            try:
                load_tensors(
                    dict(tensors),
                    storage_reader=_Reader(folder),
                    process_group=self.ranks.control,
                )
            except CheckpointException as error:
                raise DataError(
                    f"checkpoint {folder} does not fit this model: {_reason(error)}"
                ) from error
            marker = json.loads((folder / MARKER).read_text(encoding="utf-8"))
            documents = {
                file: (folder / file).read_text(encoding="utf-8")
                for file in marker["files"]
                if file.endswith(".json")
            }
            return Loaded(step=int(marker["step"]), documents=documents)
        if names:
            raise DataError(
                f"every checkpoint in {self.folder} is damaged ({', '.join(names)}, now named "
                "*.damaged); restore one of them, or start again to train from the beginning"
            )
        return None

    def _damage(self, folder: Path) -> str:
        """What is wrong with a checkpoint, or ""; the ranks share the reading."""
        marker = json.loads((folder / MARKER).read_text(encoding="utf-8"))
        found = ""
        for number, (name, entry) in enumerate(marker["files"].items()):
            if number % self.ranks.world_size != self.ranks.rank:
                continue
            path = folder / name
            if not path.exists():
                found = f"{name} is missing"
            elif path.stat().st_size != entry["bytes"]:
                found = f"{name} has {path.stat().st_size} bytes instead of {entry['bytes']}"
            elif checksum(path) != entry["crc32"]:
                found = f"{name} has another checksum than when it was written"
        return next((text for text in self.ranks.gather(found) if text), "")

    def _retire(self) -> None:
        """Remove all but the newest complete checkpoints, and what interrupted saves left."""
        complete = complete_checkpoints(self.folder)
        leftovers = [p for p in self.folder.glob("step-*") if p.suffix]
        for path in [*complete[: -self.keep_last], *leftovers]:
            # Out of the way by a rename first: half-deleted folders must not look complete.
            doomed = path.with_name(f"{path.stem}.old.partial")
            if path != doomed:
                shutil.rmtree(doomed, ignore_errors=True)
                path.rename(doomed)
            shutil.rmtree(doomed)


def complete_checkpoints(folder: Path) -> list[Path]:
    """Folders of complete checkpoints, oldest first."""
    found = [p for p in folder.glob("step-*") if not p.suffix and _readable_marker(p / MARKER)]
    return sorted(found, key=lambda path: int(path.name.removeprefix("step-")))


def _reason(error: CheckpointException) -> str:
    """The failures of the ranks, without their stack traces."""
    return "; ".join(sorted({str(failure) for failure, _ in error.failures.values()}))


def _readable_marker(path: Path) -> bool:
    try:
        return "files" in json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return False


def training_tensors(module: nn.Module, optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    """Weights and AdamW state under stable names; loading into them loads the run.

    AdamW's step count is one number for all weights, so it is saved once (`restore_steps` spreads
    it again): one tensor of four bytes per weight would double the checkpoint's index.
    """
    tensors: dict[str, Tensor] = {f"model.{k}": v for k, v in module.state_dict().items()}
    for name, parameter in module.named_parameters():
        if not parameter.requires_grad:
            continue
        for kind in ("exp_avg", "exp_avg_sq"):
            tensors[f"optimizer.{name}.{kind}"] = optimizer.state[parameter][kind]
    tensors["optimizer.step"] = next(_steps(optimizer))
    return tensors


def restore_steps(optimizer: torch.optim.Optimizer) -> None:
    """After loading: give every weight the step count that the first one received."""
    steps = list(_steps(optimizer))
    for step in steps[1:]:
        step.copy_(steps[0])


def _steps(optimizer: torch.optim.Optimizer) -> Iterator[Tensor]:
    for group in optimizer.param_groups:
        for parameter in group["params"]:
            yield optimizer.state[parameter]["step"]


class _Reader(FileSystemReader):
    """DCP's reader, which keeps its index as a pickle: here only the index's own types load."""

    def read_metadata(self, *args: Any, **kwargs: Any) -> Metadata:
        with (Path(self.path) / METADATA).open("rb") as file:
            metadata = _MetadataUnpickler(file).load()
        assert isinstance(metadata, Metadata)
        if getattr(metadata, "storage_meta", None) is None:
            metadata.storage_meta = StorageMeta()
        metadata.storage_meta.load_id = self.load_id  # type: ignore[union-attr]
        return metadata


class _MetadataUnpickler(pickle.Unpickler):
    MODULES = ("torch.distributed.checkpoint.metadata", "torch.distributed.checkpoint.filesystem",
               "torch.distributed.checkpoint.storage")  # fmt: skip
    NAMES = frozenset({
        ("torch", "Size"), ("torch", "device"), ("torch.serialization", "_get_layout"),
        ("collections", "OrderedDict"), ("collections", "defaultdict"),
        ("pathlib", "PosixPath"), ("pathlib", "WindowsPath"), ("pathlib", "Path"),
    })  # fmt: skip

    def find_class(self, module: str, name: str) -> Any:
        is_dtype = module == "torch" and isinstance(getattr(torch, name, None), torch.dtype)
        if module in self.MODULES or (module, name) in self.NAMES or is_dtype:
            return super().find_class(module, name)
        raise DataError(f"a checkpoint's {METADATA} names {module}.{name}, which no index contains")
