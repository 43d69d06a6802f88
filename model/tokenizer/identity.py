"""Facts that identify Qwen1.5's tokenizer, and a look at its files without Transformers."""

import functools
from pathlib import Path

import tokenizers

from common.files import digest_of, md5_of_file
from model.tokenizer.reference_ids import REFERENCE_IDS
from model.tokenizer.tiktoken import byte_characters, packaged_ranks, read_ranks

END_OF_TEXT, IM_START, IM_END = "<|endoftext|>", "<|im_start|>", "<|im_end|>"

SPECIAL_TOKENS = {END_OF_TEXT: 151_643, IM_START: 151_644, IM_END: 151_645}
"""Control tokens and their published ids, which follow the ordinary vocabulary."""

VOCABULARY_MD5 = "86a1fd66f8e3efff6eeb26e6ddb4cc96"
"""MD5 of all tokens and ids as canonical JSON (common/files.py); the same from the published
tokenizer.json and from the published ranks."""

RANKS_MD5 = "f0bffbad8c413a41d51fe6da4a7e99d7"
"""MD5 of the published rank file, byte for byte, whose tokens and ids have VOCABULARY_MD5."""

HUB_ID = "Qwen/Qwen1.5-1.8B"
"""Repository that "auto" uses on the hub. Every size of Qwen1.5 has the same tokenizer."""

PRUNED_FROM = "pruned_from.json"
"""File in a pruned tokenizer's folder that maps its ids to the full vocabulary's."""

SEAL = "tokenizer_digest.json"
"""File beside every tokenizer that Steel writes: its digest (model/tokenizer/folder.py)."""

TOKENIZER_FILES = ("tokenizer.json", "tokenizer.model", "vocab.json", "vocab.txt", "spiece.model")
"""Files of which a folder with a tokenizer has one at least."""


def files_are_qwen(source: str) -> bool:
    """Return True if files on this machine show that a source is Qwen1.5's tokenizer.

    source: as for `get_tokenizer` (model/tokenizer/qwen.py). False means that
    Transformers must load it: it is another tokenizer, not on this machine, or in other files.
    """
    if source == "auto":
        cached = _in_hub_cache(HUB_ID)
        return _file_is_qwen(cached) if cached is not None else files_are_qwen("package")
    if source == "package":
        ranks = packaged_ranks()
        return ranks is not None and _ranks_are_qwen(ranks)
    folder = Path(source)
    if (folder / "qwen.tiktoken").is_file():
        return _ranks_are_qwen(folder / "qwen.tiktoken")
    path = folder / "tokenizer.json" if folder.is_dir() else _in_hub_cache(source)
    return path is not None and path.is_file() and _file_is_qwen(path)


def _in_hub_cache(repository: str) -> Path | None:
    from huggingface_hub import try_to_load_from_cache
    from huggingface_hub.errors import HFValidationError

    try:
        found = try_to_load_from_cache(repository, "tokenizer.json")
    except HFValidationError:  # no name of a repository
        return None
    return Path(found) if isinstance(found, str) else None


def _ranks_are_qwen(path: Path) -> bool:
    # Several stages ask in one run; reading and sorting all tokens takes half a second of CPU.
    found = md5_of_file(path)
    return found == RANKS_MD5 or _tokens_are_qwen(path, found)


@functools.lru_cache(maxsize=8)
def _tokens_are_qwen(path: Path, content: str) -> bool:
    """The same from the tokens of a rank file, once for each content."""
    letters = byte_characters()
    vocabulary = {
        "".join(letters[byte] for byte in token): rank for token, rank in read_ranks(path).items()
    }
    return digest_of(vocabulary | SPECIAL_TOKENS) == VOCABULARY_MD5


def _file_is_qwen(path: Path) -> bool:
    return _tokenizer_is_qwen(path, md5_of_file(path))


@functools.lru_cache(maxsize=8)
def _tokenizer_is_qwen(path: Path, content: str) -> bool:
    """The same of a tokenizer.json, once for each content."""
    try:
        tokenizer = tokenizers.Tokenizer.from_file(str(path))
    except Exception:  # the library raises bare ones; Transformers says what is wrong
        return False
    if any(
        tuple(tokenizer.encode(text, add_special_tokens=False).ids) != ids
        for text, ids in REFERENCE_IDS.items()
    ):
        return False
    return digest_of(tokenizer.get_vocab(with_added_tokens=True)) == VOCABULARY_MD5
