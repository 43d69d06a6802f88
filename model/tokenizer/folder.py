"""The tokenizer in a model's folder: loaded, checked, and sealed by a digest beside it.

    config.json  generation_config.json  *.safetensors   ids and rows that fit the tokenizer?
    tokenizer.json  tokenizer_config.json  chat_template.jinja
    tokenizer_digest.json    written with every tokenizer of ours: are these its files still?

A folder from elsewhere has no tokenizer_digest.json; the digest is computed from its own files.
"""

import json
import struct
from collections.abc import Iterator, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer
from transformers import AutoTokenizer, PreTrainedTokenizerBase, PreTrainedTokenizerFast

import model.config as _registers_our_config  # noqa: F401
from common.errors import DataError, first_line
from common.files import write_json
from model.tokenizer.digest import TokenizerDigest, describe_difference, digest_tokenizer
from model.tokenizer.identity import SEAL, TOKENIZER_FILES
from model.tokenizer.reference_ids import REFERENCE_IDS

SCHEMA_VERSION = 1

EMBEDDINGS = ("embed_tokens", "wte", "word_embeddings", "embed_in", "tok_embeddings", "embeddings")
"""Last names of an input embedding in the architectures of Transformers."""

AS_IN_FILE = ("PreTrainedTokenizerFast", "TokenizersBackend")
"""Classes of Transformers that are what tokenizer.json says."""

LARGEST_HEADER = 100 << 20
"""Bytes of a safetensors header (the format's own limit)."""

PROBES = (
    *REFERENCE_IDS,
    " in front",
    "two  spaces   three\t\ttabs",
    "\uff26\uff55\uff4c\uff4c width, \ufb01, \u212b, UPPER lower, e\u0301 \xe9, \u0130",
    "123456 7,890",
    "a\xa0b\u200bc",
    "\n\n \n",
)
"""Texts that tokenizers of unlike normalization or cutting encode differently."""


def load_folder_tokenizer(folder: Path) -> PreTrainedTokenizerBase:
    """Load the tokenizer in a folder and check that it is the one it was saved as.

    Raises DataError where there is none, its files were exchanged, or Transformers makes another
    one of them than tokenizer.json says.
    """
    if not any((folder / name).is_file() for name in TOKENIZER_FILES):
        raise DataError(
            f"{folder} holds no tokenizer, so nothing says what its ids mean: put the tokenizer "
            "that the model was trained with beside it (tokenizer.json and tokenizer_config.json)"
        )
    try:
        # By the model's type AutoTokenizer chooses a class that builds another tokenizer, also
        # where the folder's own config says that the file is to be taken as it is.
        as_in_file = _read(folder / "tokenizer_config.json").get("tokenizer_class") in AS_IN_FILE
        loader = PreTrainedTokenizerFast if as_in_file else AutoTokenizer
        tokenizer: PreTrainedTokenizerBase = loader.from_pretrained(
            folder, local_files_only=True, trust_remote_code=False
        )
    except Exception as error:  # the tokenizers library raises bare ones
        raise DataError(
            f"the tokenizer in {folder} cannot be loaded: {first_line(error)}"
        ) from error
    found = digest_tokenizer(tokenizer)
    _check_as_in_file(folder, tokenizer)
    _check_seal(folder, found)
    return tokenizer


def save_digest(tokenizer: PreTrainedTokenizerBase, folder: Path) -> TokenizerDigest:
    """Write tokenizer_digest.json beside a tokenizer that was saved; returns the digest."""
    digest = digest_tokenizer(tokenizer)
    write_json(folder / SEAL, {"schema_version": SCHEMA_VERSION, **asdict(digest)})
    return digest


def check_same(
    one: PreTrainedTokenizerBase, place: str, other: PreTrainedTokenizerBase, place_of_other: str
) -> None:
    """Refuse two tokenizers of unlike digests.

    Raises DataError that names both places, both digests and the first difference.
    """
    ours, theirs = digest_tokenizer(one), digest_tokenizer(other)
    if ours.digest != theirs.digest:
        raise DataError(
            f"the tokenizer of {place} (digest {ours.digest[:12]}) is another one than that of "
            f"{place_of_other} (digest {theirs.digest[:12]}), so the same ids mean other tokens: "
            f"the first has {describe_difference(other, one)}"
        )


def check_model_folder(folder: Path, tokenizer: PreTrainedTokenizerBase | None = None) -> None:
    """Refuse a model's folder whose config, weights and tokenizer do not fit each other.

    tokenizer: the folder's own, where it is loaded already. Raises DataError that lists everything
    that is wrong.
    """
    tokenizer = tokenizer or load_folder_tokenizer(folder)
    if found := list(_misfits(folder, tokenizer)):
        raise DataError(
            f"{folder}: model and tokenizer do not fit: {'; '.join(found)}. Put the model's own "
            "tokenizer and configs there, or correct them"
        )


def _check_as_in_file(folder: Path, tokenizer: PreTrainedTokenizerBase) -> None:
    """Refuse a tokenizer.json whose class in Transformers ignores a part that changes ids."""
    path = folder / "tokenizer.json"
    if not path.is_file():
        return
    written, loaded = Tokenizer.from_file(str(path)), tokenizer.backend_tokenizer
    for backend in (written, loaded):
        backend.no_padding()
        backend.no_truncation()
    for text in PROBES:
        ids = [b.encode(text, add_special_tokens=False).ids for b in (written, loaded)]
        if ids[0] != ids[1]:
            raise DataError(
                f"{path} says one thing and {type(tokenizer).__name__}, which "
                f"tokenizer_config.json names, does another: {text!r} gives ids {ids[0][:8]} by "
                f"the file, {ids[1][:8]} as loaded; {_part_that_differs(written, loaded)}"
            )


def _part_that_differs(written: Tokenizer, loaded: Tokenizer) -> str:
    pair = [json.loads(backend.to_str()) for backend in (written, loaded)]
    for part in ("normalizer", "pre_tokenizer", "added_tokens"):
        if pair[0][part] != pair[1][part]:
            return f"they differ in the {part.replace('_', ' ')}"
    return "they differ in the model"


def _check_seal(folder: Path, found: TokenizerDigest) -> None:
    path = folder / SEAL
    if not path.is_file():
        return
    try:
        saved = json.loads(path.read_text(encoding="utf-8"))
        if saved["schema_version"] != SCHEMA_VERSION:
            raise ValueError(f"schema_version {saved['schema_version']!r}")
        expected = TokenizerDigest(**{k: v for k, v in saved.items() if k != "schema_version"})
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise DataError(f"{path} cannot be read ({error}): export the model again") from error
    if expected == found:
        return
    if expected.digest != found.digest:
        names = [name for name in found.parts if found.parts[name] != expected.parts.get(name)]
        what = (
            f"the tokenizer in {folder} has digest {found.digest[:12]} and {found.num_tokens:,} "
            f"tokens, but the model was trained with {expected.digest[:12]} and "
            f"{expected.num_tokens:,}: they differ in {', '.join(names)}"
        )
    else:
        what = (
            f"the chat template in {folder} is not the one that the model was trained with "
            f"(digest {found.chat_template[:12] or 'none'}, not "
            f"{expected.chat_template[:12] or 'none'})"
        )
    raise DataError(f"{what}. Put its files back, or remove {SEAL} if the change is meant")


def _misfits(folder: Path, tokenizer: PreTrainedTokenizerBase) -> Iterator[str]:
    highest = max(tokenizer.get_vocab().values(), default=-1)
    config = _read(folder / "config.json")
    text_config = config.get("text_config")
    if isinstance(text_config, dict):
        config = {**config, **text_config}
    sizes = {"config.vocab_size": config.get("vocab_size"), **_rows(folder)}
    for name, size in sizes.items():
        if isinstance(size, int) and size <= highest:
            yield f"{name} is {size:,}, but the tokenizer has ids up to {highest:,}"
    configs = {"config": config, "generation_config": _read(folder / "generation_config.json")}
    for role in ("bos", "eos", "pad"):
        own = getattr(tokenizer, f"{role}_token_id")
        listed = {name: _ids(values.get(f"{role}_token_id")) for name, values in configs.items()}
        for name, ids in listed.items():
            for id_ in ids:
                token = tokenizer.convert_ids_to_tokens(id_) if 0 <= id_ <= highest else None
                if token is None:
                    yield f"{role}_token_id in {name} is {id_}, which the tokenizer does not have"
                elif role == "eos" and id_ != own and id_ not in tokenizer.added_tokens_decoder:
                    yield f"eos_token_id in {name} is {id_}, an ordinary token ({token!r})"
                elif (
                    own is not None
                    and role != "eos"
                    and id_ != own
                    and not (
                        # Published models of DeepSeek leave Qwen's in config.json.
                        role == "bos" and own in listed["generation_config"]
                    )
                ):
                    yield f"{role}_token_id in {name} is {id_} ({token!r}), in the tokenizer {own}"
        ends = {id_ for ids in listed.values() for id_ in ids}
        if role == "eos" and own is not None and ends and own not in ends:
            named = f"{own} ({tokenizer.eos_token!r})"
            yield f"eos_token_id is {sorted(ends)}, in the tokenizer {named}"


def _ids(given: Any) -> list[int]:
    """Ids that a config names; -1 and null stand for none."""
    return [id_ for id_ in (given if isinstance(given, list) else [given]) if id_ not in (None, -1)]


def _read(path: Path) -> dict[str, Any]:
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    except (OSError, ValueError) as error:
        raise DataError(f"{path} cannot be read: {error}") from error
    if not isinstance(value, dict):
        raise DataError(f"{path} holds no JSON object")
    return value


def _rows(folder: Path) -> Mapping[str, int]:
    """Rows of the input embedding by the headers of the safetensors files, without reading them."""
    rows = {}
    for path in sorted(folder.glob("*.safetensors")):
        with path.open("rb") as file:
            start = file.read(8)
            size = struct.unpack("<Q", start)[0] if len(start) == 8 else 0
            if not 0 < size <= LARGEST_HEADER:
                continue  # damaged: whoever loads the weights says so
            try:
                header = json.loads(file.read(size))
            except ValueError:
                continue
        for name, tensor in header.items():
            parts = name.split(".")
            if parts[-1] == "weight" and len(parts) > 1 and parts[-2] in EMBEDDINGS:
                rows[f"the embedding {name}"] = int(tensor["shape"][0])
    return rows
