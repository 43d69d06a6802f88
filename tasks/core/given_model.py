"""A model in a folder as the input of a stage: any stage that trains or scores can start from one.

a stage's folder in a store, or its model/ ─▶ that stage: its key, its files as its manifest says
any other Transformers folder ──────────────▶ key: a hash of the content of its files
"""

import hashlib
import json
import logging
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from common.errors import DataError
from common.files import canonical_json, md5_of_file
from common.paths import display, resolve
from common.reading.files import read_json_object
from corpus.sources.source import file_checksum
from model.train.run.folder import MODEL_FOLDER
from tasks.core.manifest import StageResult

MODEL_FILES = ("*.json", "*.jinja", "*.model", "*.py", "*.txt", "*.safetensors", "*.bin")
"""Files of a Transformers folder that say what a model is: config, tokenizer, weights."""

MAX_HEADER = 100_000_000
"""Bytes that safetensors allows for the header of a file."""

INDEX = "model.safetensors.index.json"


@dataclass(frozen=True, kw_only=True)
class GivenModel(StageResult):
    """A Transformers folder that no stage of Steel has made, or whose stage is not known."""

    @property
    def model_folder(self) -> Path:
        """The folder itself."""
        return self.folder


def check_given_model(path: str) -> None:
    """Refuse what is no whole model with its tokenizer, without reading its weights.

    Raises DataError.
    """
    _, folder = _found(path)
    _check_files(folder)


def has_chat_template(folder: Path) -> bool:
    """True if a model's folder says how a conversation is written."""
    if (folder / "chat_template.jinja").is_file():
        return True
    config = folder / "tokenizer_config.json"
    return config.is_file() and read_json_object(config).get("chat_template") is not None


def given_model(path: str) -> StageResult:
    """The model at a path, whose weights are read and, where a manifest lists them, compared.

    Raises DataError for what is no whole model, and for files that have changed since a stage wrote
    them.
    """
    result, folder = _found(path)
    _check_files(folder)
    if result is not None:
        _compare(result)
        return result
    content = {
        file.name: file_checksum(file, "sha256")
        for pattern in MODEL_FILES
        for file in sorted(folder.glob(pattern))
        if file.is_file()
    }
    digest = hashlib.sha256(canonical_json(content).encode()).hexdigest()
    return GivenModel(
        stage="model",
        key=digest[:16],
        folder=folder,
        manifest={
            "stage": "model",
            "key": digest[:16],
            "label": folder.name,
            "counts": {},
            "config": {},
            "inputs": {},
            "notes": {"path": display(folder)},
        },
        reused=True,
    )


def _found(path: str) -> tuple[StageResult | None, Path]:
    """The finished stage that a path leads to, if it is one's, and the folder of the model."""
    given = resolve(path)
    for folder in (given, given.parent) if given.name == MODEL_FOLDER else (given,):
        model = folder / MODEL_FOLDER
        if (folder / "manifest.json").is_file() and model.is_dir():
            return StageResult.read(folder), model
    if given.suffix == ".partial" or (given / "manifest.json").is_file():
        raise DataError(
            f"{display(given)} holds no finished model: it is a stage that makes none, or one that "
            "is not finished"
        )
    return None, given


def _check_files(folder: Path) -> None:
    if not (folder / "config.json").is_file():
        hint = _hint(folder)
        raise DataError(
            f"{display(folder)} is no Transformers folder of a model: it has no config.json{hint}"
        )
    read_json_object(folder / "config.json")
    if missing := [name for name in _weights(folder) if not (folder / name).is_file()]:
        raise DataError(f"{display(folder)} lacks weights: {', '.join(missing)} is not there")
    for name in _weights(folder):
        if name.endswith(".safetensors"):
            _check_length(folder / name)
    from model.tokenizer.folder import check_model_folder

    # Here Transformers knows no Steel, and warns of its type for each file that it reads.
    logger = logging.getLogger("transformers")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        check_model_folder(folder)
    finally:
        logger.setLevel(level)


def _hint(folder: Path) -> str:
    """The folders of models one level below, where there are any."""
    below = sorted(path.parent.name for path in folder.glob("*/config.json"))
    return f". Below it there are: {', '.join(below[:5])}" if below else ""


def _weights(folder: Path) -> list[str]:
    """Names of the files that hold the weights; a name that is expected where there are none."""
    if (folder / INDEX).is_file():
        names = read_json_object(folder / INDEX).get("weight_map")
        if not isinstance(names, dict) or not all(isinstance(n, str) for n in names.values()):
            raise DataError(f"{display(folder / INDEX)} is damaged: it has no weight_map")
        return sorted({Path(name).name for name in names.values()})
    found = [path.name for kind in ("*.safetensors", "*.bin") for path in folder.glob(kind)]
    return sorted(found) or ["model.safetensors"]


def _check_length(path: Path) -> None:
    """Refuse a file of weights that is cut off. Raises DataError."""
    size = path.stat().st_size
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        header = file.read(length) if length < min(size, MAX_HEADER) else b""
    try:
        ends = [
            entry["data_offsets"][1]
            for name, entry in json.loads(header).items()
            if name != "__metadata__"
        ]
        whole = 8 + length + max(ends, default=0) == size
    except (ValueError, KeyError, TypeError, IndexError, AttributeError):
        whole = False
    if not whole:
        raise DataError(f"{display(path)} is damaged or cut off: get it again")


def _compare(result: StageResult) -> None:
    """Raise DataError for files of a stage's model that are not as it has written them."""
    if changed := list(_changed(result)):
        raise DataError(
            f"{display(result.model_folder)}: {', '.join(changed)} is not as the stage "
            f"{result.stage} wrote it. Restore it, or copy the folder away to use it as another "
            "model"
        )


def _changed(result: StageResult) -> Iterator[str]:
    listed = {e["path"]: e["md5"] for e in result.manifest.get("files", [])}
    prefix = f"{MODEL_FOLDER}/"
    for path in sorted(name for name in listed if name.startswith(prefix)):
        file = result.folder / path
        if not file.is_file() or md5_of_file(file) != listed[path]:
            yield path.removeprefix(prefix)
