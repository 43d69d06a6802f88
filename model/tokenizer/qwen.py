"""Qwen1.5's tokenizer: found, verified and saved.

    "auto" ─▶ hub cache? ─▶ installed package? ─▶ hub ─┐
    "package" | folder | hub id ──────────────────────┴▶ ids verified ─▶ one canonical form
                                                                           └──▶ pruning.py

Canonical: NFC, one digit a token, `<|endoftext|>` as end and padding, and our ChatML template
(model/tokenizer/chat_template.jinja), whichever source it came from. `<|im_end|>` ends chat turns.
"""

import json
import logging
import os
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from transformers import AutoTokenizer, PreTrainedTokenizerBase
from transformers.models.qwen2 import Qwen2Tokenizer

from common.errors import DataError, first_line
from common.files import digest_of, md5_of_file, sync, write_json
from model.tokenizer.folder import save_digest
from model.tokenizer.identity import (
    END_OF_TEXT,
    HUB_ID,
    IM_END,
    IM_START,
    PRUNED_FROM,
    SPECIAL_TOKENS,
    VOCABULARY_MD5,
)
from model.tokenizer.reference_ids import REFERENCE_IDS
from model.tokenizer.tiktoken import Merge, packaged_ranks, read_ranks, vocabulary_and_merges

log = logging.getLogger(__name__)


# ── finding ────────────────────────────────────────────────────────────────────────────────────


def get_tokenizer(source: str = "auto", *, cache: Path | None = None) -> PreTrainedTokenizerBase:
    """Find Qwen1.5's tokenizer and verify its ids.

    source: "auto" takes the first that exists of the hub's local cache, the installed package and
    the hub itself; "package" reads `dashscope`'s rank file; else a folder (Hugging Face files, or
    qwen.tiktoken) or a hub id. cache: folder for tokenizers rebuilt from a rank file, which takes
    some 7 s. Raises DataError if nothing is found or ids differ; the message names each place that
    was tried.
    """
    if source == "auto":
        return _first_available(cache)
    if source == "package":
        path = packaged_ranks()
        if path is None:
            raise DataError(
                "the package dashscope, which carries qwen.tiktoken, is not installed: "
                "install it (pip install 'steel-lm[tokenizer]') or name a folder or a hub id"
            )
        return _from_ranks(path, cache)
    folder = Path(source)
    if (folder / "qwen.tiktoken").is_file():
        return _from_ranks(folder / "qwen.tiktoken", cache)
    if folder.is_dir():
        return _from_transformers(source, local_files_only=True)
    if folder.is_absolute() or source.startswith(".") or source.count("/") != 1:
        raise DataError(f"tokenizer {source!r} is neither a folder nor a hub id (owner/name)")
    return _from_transformers(source)


def _first_available(cache: Path | None) -> PreTrainedTokenizerBase:
    def hub() -> PreTrainedTokenizerBase:
        log.info("Fetching the tokenizer %s from the Hugging Face hub", HUB_ID)
        return _from_transformers(HUB_ID)

    places: dict[str, Callable[[], PreTrainedTokenizerBase]] = {
        "local hub cache": lambda: _from_transformers(HUB_ID, local_files_only=True),
        "installed package": lambda: get_tokenizer("package", cache=cache),
        "hub": hub,
    }
    failures = []
    for place, attempt in places.items():
        try:
            tokenizer = attempt()
        except DataError as error:
            failures.append(f"{place}: {error}")
        else:
            log.info("Tokenizer taken from: %s", place)
            return tokenizer
    raise DataError("no Qwen1.5 tokenizer found. Tried " + " | ".join(failures))


def _from_transformers(source: str, *, local_files_only: bool = False) -> PreTrainedTokenizerBase:
    try:
        loaded = AutoTokenizer.from_pretrained(
            source, local_files_only=local_files_only, trust_remote_code=False
        )
    except (OSError, ValueError) as error:
        raise DataError(
            f"no tokenizer could be loaded from {source!r}: {first_line(error)}"
        ) from error
    # Before the canonical form is made, which would hide, for example, a pattern that groups
    # digits.
    verify_tokenizer(loaded, where=source)
    vocabulary, merges = bpe_tables(loaded)
    return build_tokenizer(vocabulary, merges)


def _from_ranks(path: Path, cache: Path | None) -> PreTrainedTokenizerBase:
    kept = cache / f"qwen-tiktoken-{md5_of_file(path)}" if cache else None
    if kept and kept.is_dir():
        tokenizer = load_tokenizer(kept)
    else:
        tokenizer = build_tokenizer(*vocabulary_and_merges(read_ranks(path)))
        if kept:
            save_tokenizer(tokenizer, kept)
    verify_tokenizer(tokenizer, where=str(path))
    return tokenizer


def load_tokenizer(folder: Path) -> PreTrainedTokenizerBase:
    """Load a tokenizer written by `save_tokenizer` or `prune_tokenizer`.

    Ids are not verified, since a pruned tokenizer has its own. Raises DataError if the folder holds
    no tokenizer.
    """
    if not (folder / "tokenizer.json").is_file():
        raise DataError(f"{folder} holds no tokenizer.json: name a tokenizer's folder")
    return AutoTokenizer.from_pretrained(folder, local_files_only=True, trust_remote_code=False)


def save_tokenizer(
    tokenizer: PreTrainedTokenizerBase, folder: Path, *, extra: dict[str, Any] | None = None
) -> None:
    """Write a Hugging Face folder atomically, with the digest of what it holds.

    extra: is written to pruned_from.json.

    Raises DataError if the folder exists. One that another process creates meanwhile is left as it
    is.
    """
    if folder.exists():
        raise DataError(f"{folder} exists already: remove it or choose another folder")
    partial = folder.with_name(f"{folder.name}.partial-{os.getpid()}")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    tokenizer.save_pretrained(partial)
    save_digest(tokenizer, partial)
    if extra is not None:
        write_json(partial / PRUNED_FROM, extra)
    for path in partial.iterdir():
        sync(path)
    sync(partial)
    try:
        partial.rename(folder)
    except OSError:
        shutil.rmtree(partial)
        if not (folder / "tokenizer.json").is_file():
            raise
    sync(folder.parent)


def build_tokenizer(vocabulary: dict[str, int], merges: Sequence[Merge]) -> PreTrainedTokenizerBase:
    """Build the canonical tokenizer of an ordinary vocabulary, followed by the control tokens."""
    # With another eos_token here, Transformers would number the control tokens in another order.
    tokenizer = Qwen2Tokenizer(
        vocab=vocabulary,
        merges=list(merges),
        unk_token=None,
        eos_token=END_OF_TEXT,
        pad_token=END_OF_TEXT,
        additional_special_tokens=[IM_START, IM_END],
    )
    tokenizer.chat_template = chat_template()
    ids = tokenizer.convert_tokens_to_ids(list(SPECIAL_TOKENS))
    assert ids == [len(vocabulary) + i for i in range(len(SPECIAL_TOKENS))]
    return tokenizer


def chat_template() -> str:
    """ChatML as Qwen1.5 renders it, with assistant turns marked by {% generation %}."""
    return Path(__file__).with_name("chat_template.jinja").read_text(encoding="utf-8")


def bpe_tables(tokenizer: PreTrainedTokenizerBase) -> tuple[dict[str, int], list[Merge]]:
    """Ordinary vocabulary and ordered merges of a fast BPE tokenizer."""
    model = json.loads(tokenizer.backend_tokenizer.to_str())["model"]
    if model["type"] != "BPE":
        raise DataError(f"the tokenizer is of type {model['type']}: Qwen1.5's is a byte-level BPE")
    vocabulary = {t: i for t, i in model["vocab"].items() if t not in SPECIAL_TOKENS}
    merges: list[Merge] = []
    for merge in model["merges"]:
        left, right = merge.split(" ") if isinstance(merge, str) else merge
        merges.append((left, right))
    return vocabulary, merges


# ── verifying ──────────────────────────────────────────────────────────────────────────────────


def verify_tokenizer(tokenizer: PreTrainedTokenizerBase, *, where: str = "the tokenizer") -> None:
    """Raise DataError naming the differences unless ids are those of the published Qwen1.5."""
    differences = []
    for token, expected in SPECIAL_TOKENS.items():
        found = tokenizer.convert_tokens_to_ids(token)
        if found != expected:
            differences.append(f"{token} has id {found}, not {expected}")
    if len(tokenizer) != max(SPECIAL_TOKENS.values()) + 1:
        differences.append(
            f"it has {len(tokenizer)} tokens, not {max(SPECIAL_TOKENS.values()) + 1}"
        )
    for text, ids in REFERENCE_IDS.items():
        found = list(tokenizer.encode(text, add_special_tokens=False))
        if found != list(ids):
            differences.append(f"{text!r} gives ids {found}, not {list(ids)}")
    # These texts do not contain every token: two tokens with exchanged ids would pass.
    if not differences and (digest := digest_of(tokenizer.get_vocab())) != VOCABULARY_MD5:
        differences.append(f"its tokens and ids have MD5 {digest}, not {VOCABULARY_MD5}")
    if differences:
        shown = "; ".join(differences[:3])
        more = f"; and {len(differences) - 3} more" if len(differences) > 3 else ""
        raise DataError(
            f"{where} is not Qwen1.5's: {shown}{more}. Name Qwen1.5's own files, or 'package'"
        )
