"""Other libraries' ways from packed tokens to shuffled batches, each as its makers recommend.

Every peer is given the same ids, writes them in its own format, and yields int tensors [b, L + 1]
of one shuffled epoch, in this process, without workers. This project needs none of them.
"""

import importlib
import importlib.util
import os
import random
import sys
import types
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.utils.data import DataLoader, IterableDataset

Ids = npt.NDArray[np.uint32]
Open = Callable[[], Iterator[Tensor]]
"""Starts an epoch."""


def tinyllama(ids: Ids, folder: Path, length: int, batch: int) -> Open:
    """The algorithm of TinyLlama's `PackedDataset` (lit_gpt/packed_dataset.py), in our words.

    Files are memory-mapped, a few at a time; the blocks of these are shuffled and taken one by one:
    a view of the file, widened to int64. The default collation stacks them.
    """
    block, blocks_per_file, files_at_once = length + 1, 8192, 4
    paths = []
    for number, begin in enumerate(range(0, ids.size - block + 1, block * blocks_per_file)):
        part = ids[begin : begin + block * blocks_per_file]
        path = folder / f"{number:05d}.bin"
        part[: part.size // block * block].tofile(path)
        paths.append(path)

    class Packed(IterableDataset[Tensor]):
        def __iter__(self) -> Iterator[Tensor]:
            shuffle = np.random.default_rng(1)
            for first in range(0, len(paths), files_at_once):
                maps = [np.memmap(p, np.uint32, "r") for p in paths[first : first + files_at_once]]
                buffers = [memoryview(m) for m in maps]  # type: ignore[arg-type]
                starts = np.cumsum([0, *(m.size // block for m in maps)])
                for index in shuffle.permutation(int(starts[-1])):
                    chunk = int(np.searchsorted(starts, index, side="right")) - 1
                    row = np.frombuffer(
                        buffers[chunk], np.uint32, block, int(index - starts[chunk]) * block * 4
                    )
                    yield torch.from_numpy(row.astype(np.int64))

    return lambda: iter(DataLoader(Packed(), batch_size=batch, drop_last=True))


def litdata(ids: Ids, folder: Path, length: int, batch: int) -> Open:
    """`StreamingDataset` with a `TokensLoader`, the format that LitGPT pretrains from."""
    from litdata import StreamingDataLoader, StreamingDataset, TokensLoader
    from litdata.streaming.writer import BinaryWriter

    block = length + 1
    writer = BinaryWriter(str(folder), chunk_size=block * 8192, item_loader=TokensLoader(block))
    step = block * 64
    for number, begin in enumerate(range(0, ids.size // step * step, step)):
        writer.add_item(number, torch.from_numpy(ids[begin : begin + step].astype(np.int32)))
    writer.done()
    writer.merge(1)

    def open_() -> Iterator[Tensor]:
        dataset = StreamingDataset(
            str(folder), item_loader=TokensLoader(block_size=block), shuffle=True, drop_last=True
        )
        return iter(StreamingDataLoader(dataset, batch_size=batch, num_workers=0, drop_last=True))

    return open_


def mosaic(ids: Ids, folder: Path, length: int, batch: int) -> Open:
    """`StreamingDataset` of MDS shards with one array a sample, as LLM Foundry pretrains from."""
    base = _streaming_base()
    block = length + 1
    rows = ids[: ids.size // block * block].astype(np.int32).reshape(-1, block)
    columns = {"tokens": f"ndarray:int32:{block}"}
    with base.MDSWriter(out=str(folder), columns=columns, size_limit=1 << 26) as writer:
        for row in rows:
            writer.write({"tokens": row})

    def open_() -> Iterator[Tensor]:
        dataset = base.StreamingDataset(local=str(folder), shuffle=True, batch_size=batch)
        loader = DataLoader(dataset, batch_size=batch, drop_last=True)
        return (each["tokens"] for each in loader)

    return open_


def _streaming_base() -> types.ModuleType:
    """streaming.base, past the package's front door, which imports torchvision for images."""
    if "streaming" not in sys.modules:
        spec = importlib.util.find_spec("streaming")
        if spec is None or not spec.submodule_search_locations:
            raise ModuleNotFoundError("No module named 'streaming'")
        package = types.ModuleType("streaming")
        package.__path__ = list(spec.submodule_search_locations)
        sys.modules["streaming"] = package
    return importlib.import_module("streaming.base")


def hugging_face(ids: Ids, folder: Path, length: int, batch: int) -> Open:
    """An Arrow table of fixed-length rows, shuffled, read in batches as tensors."""
    from datasets import Dataset, Features, Sequence, Value

    block = length + 1
    rows = ids[: ids.size // block * block].astype(np.int32).reshape(-1, block)
    features = Features({"input_ids": Sequence(Value("int32"), length=block)})

    def examples() -> Iterator[dict[str, npt.NDArray[np.int32]]]:
        for row in rows:
            yield {"input_ids": row}

    table = Dataset.from_generator(examples, features=features, cache_dir=str(folder))

    def open_() -> Iterator[Tensor]:
        shuffled = table.with_format("torch").shuffle(seed=random.randrange(1 << 30))
        return (
            shuffled[first : first + batch]["input_ids"]
            for first in range(0, len(shuffled) // batch * batch, batch)
        )

    return open_


PEERS: dict[str, tuple[str, Callable[[Ids, Path, int, int], Open]]] = {
    "TinyLlama packed": ("", tinyllama),
    "litdata": ("litdata", litdata),
    "MosaicML streaming": ("mosaicml-streaming", mosaic),
    "Hugging Face datasets": ("datasets", hugging_face),
}
"""Name -> (distribution to install, how it is opened)."""


def quiet() -> None:
    """No network, no progress bars, no warnings from inside of the peers."""
    warnings.filterwarnings("ignore", message="The given NumPy array is not writable")
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    os.environ.setdefault("HF_DATASETS_DISABLE_PROGRESS_BARS", "1")
    os.environ.setdefault("HF_DATASETS_OFFLINE", "1")
    os.environ.setdefault("LITDATA_DISABLE_VERSION_CHECK", "1")
