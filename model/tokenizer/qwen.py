"""Qwen1.5's tokenizer: obtained, verified, applied in bulk, and pruned to what a corpus uses.

    "auto" ─▶ hub cache? ─▶ installed package? ─▶ hub ─┐
    "package" | folder | hub id ──────────────────────┴▶ ids verified ─▶ one canonical form
                                                                           │
                               encode_corpus (control tokens are text) ◀───┴──▶ prune_tokenizer

Canonical: NFC, one digit a token, `<|endoftext|>` as end and padding, and our ChatML template
(model/tokenizer/chat_template.jinja), whichever source it came from. `<|im_end|>` ends chat turns.
"""

import json
import logging
import os
import shutil
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from transformers import AutoTokenizer, PreTrainedTokenizerBase
from transformers.models.qwen2 import Qwen2Tokenizer

from common.errors import DataError
from common.files import digest_of, md5_of_file, sync, write_json
from model.tokenizer.encoder import EncoderOf, ReferenceEncoder
from model.tokenizer.identity import (
    END_OF_TEXT,
    HUB_ID,
    IM_END,
    IM_START,
    PRUNED_FROM,
    SPECIAL_TOKENS,
    VOCABULARY_MD5,
)
from model.tokenizer.probes import PROBES
from model.tokenizer.tiktoken import (
    Merge,
    byte_letters,
    packaged_ranks,
    read_ranks,
    vocabulary_and_merges,
)

_BATCH_TEXTS, _BATCH_CHARACTERS = 10_000, 2_000_000
"""Texts encoded at once: enough to keep all cores busy, little enough to stay small."""

log = logging.getLogger(__name__)


# ── obtaining ────────────────────────────────────────────────────────────────────────────────────


def obtain_tokenizer(source: str = "auto", *, cache: Path | None = None) -> PreTrainedTokenizerBase:
    """Qwen1.5's tokenizer, its ids verified.

    source: "auto" takes the first there is of the hub's local cache, the installed package and the
    hub itself; "package" reads `dashscope`'s rank file; else a folder (Hugging Face files, or
    qwen.tiktoken) or a hub id. cache: folder that keeps what is rebuilt from a rank file, which
    takes some 7 s. Raises DataError where nothing is found or ids differ; the message names each
    place that was tried.
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
        "installed package": lambda: obtain_tokenizer("package", cache=cache),
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
        reason = str(error).strip().splitlines()[0]
        raise DataError(f"no tokenizer could be loaded from {source!r}: {reason}") from error
    # Before it is made canonical: that would hide, say, a pattern that groups digits.
    verify_tokenizer(loaded, where=source)
    vocabulary, merges = _bpe_tables(loaded)
    return _build(vocabulary, merges)


def _from_ranks(path: Path, cache: Path | None) -> PreTrainedTokenizerBase:
    kept = cache / f"qwen-tiktoken-{md5_of_file(path)}" if cache else None
    if kept and kept.is_dir():
        tokenizer = load_tokenizer(kept)
    else:
        tokenizer = _build(*vocabulary_and_merges(read_ranks(path)))
        if kept:
            save_tokenizer(tokenizer, kept)
    verify_tokenizer(tokenizer, where=str(path))
    return tokenizer


def load_tokenizer(folder: Path) -> PreTrainedTokenizerBase:
    """A tokenizer that `save_tokenizer` or `prune_tokenizer` wrote; ids are not verified, since a
    pruned one has its own. Raises DataError where the folder holds none."""
    if not (folder / "tokenizer.json").is_file():
        raise DataError(f"{folder} holds no tokenizer.json: name a tokenizer's folder")
    return AutoTokenizer.from_pretrained(folder, local_files_only=True, trust_remote_code=False)


def save_tokenizer(
    tokenizer: PreTrainedTokenizerBase, folder: Path, *, extra: dict[str, Any] | None = None
) -> None:
    """Write a Hugging Face folder, complete or not at all; `extra` goes into pruned_from.json.

    Raises DataError where the folder exists. One that appears meanwhile is left as it is: another
    process was faster.
    """
    if folder.exists():
        raise DataError(f"{folder} exists already: remove it or choose another folder")
    partial = folder.with_name(f"{folder.name}.partial-{os.getpid()}")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    tokenizer.save_pretrained(partial)
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


def _build(vocabulary: dict[str, int], merges: Sequence[Merge]) -> PreTrainedTokenizerBase:
    """The canonical tokenizer of an ordinary vocabulary; control tokens follow it."""
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


def _bpe_tables(tokenizer: PreTrainedTokenizerBase) -> tuple[dict[str, int], list[Merge]]:
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


# ── verifying and encoding ───────────────────────────────────────────────────────────────────────


def verify_tokenizer(tokenizer: PreTrainedTokenizerBase, *, where: str = "the tokenizer") -> None:
    """Raise DataError, naming what differs, unless ids are those of the published Qwen1.5."""
    differences = []
    for token, expected in SPECIAL_TOKENS.items():
        found = tokenizer.convert_tokens_to_ids(token)
        if found != expected:
            differences.append(f"{token} has id {found}, not {expected}")
    if len(tokenizer) != max(SPECIAL_TOKENS.values()) + 1:
        differences.append(
            f"it has {len(tokenizer)} tokens, not {max(SPECIAL_TOKENS.values()) + 1}"
        )
    for text, ids in PROBES:
        cut = list(tokenizer.encode(text, add_special_tokens=False))
        if cut != list(ids):
            differences.append(f"{text!r} gives ids {cut}, not {list(ids)}")
    # Probes cannot show every token: two of them with each other's ids would pass.
    if not differences and (found := digest_of(tokenizer.get_vocab())) != VOCABULARY_MD5:
        differences.append(f"its tokens and ids have MD5 {found}, not {VOCABULARY_MD5}")
    if differences:
        shown = "; ".join(differences[:3])
        more = f"; and {len(differences) - 3} more" if len(differences) > 3 else ""
        raise DataError(
            f"{where} is not Qwen1.5's: {shown}{more}. Name Qwen1.5's own files, or 'package'"
        )


def encode_corpus(tokenizer: PreTrainedTokenizerBase, texts: Sequence[str]) -> list[list[int]]:
    """Ids of raw texts, without any control token: one that is spelled out is cut as plain text.

    NFC, no end token appended. Uses all cores; give it some MB at a time.
    """
    found = ReferenceEncoder(tokenizer.backend_tokenizer).encode(texts)
    return [found[number].tolist() for number in range(found.num_texts)]


# ── pruning ──────────────────────────────────────────────────────────────────────────────────────


@dataclass(frozen=True, kw_only=True)
class ProofReport:
    """What was shown to be cut into the same pieces."""

    num_texts: int
    """Texts compared."""

    num_tokens: int
    """Tokens compared, each equal."""


@dataclass(frozen=True, kw_only=True)
class PruneReport:
    """What pruning left, and on what it was proven."""

    num_tokens_before: int
    """Tokens of the full vocabulary, control tokens included."""

    num_tokens_after: int
    """Tokens of the pruned one, control tokens included."""

    num_merges_after: int
    """Merges of the pruned one."""

    proof: ProofReport
    """Every text given was compared."""


def prune_tokenizer(
    tokenizer: PreTrainedTokenizerBase,
    texts: Iterable[str],
    out: Path,
    *,
    encoder_of: EncoderOf = ReferenceEncoder,
) -> PruneReport:
    """Write to `out` a tokenizer with only the tokens that encoding `texts` makes, renumbered.

    Kept: 256 byte tokens, control tokens, what our chat template says itself, and every token on
    the way to a kept one. Merging applies the earliest merge first and never undoes one, so every
    merge made in these texts is on the way to a token found in them: leaving out the others changes
    no step. Other texts stay encodable, in smaller pieces. That the texts are cut alike is proven
    before anything is published. Order is kept: a smaller old id is a smaller new id.

    texts: anything that can be iterated over twice (not a generator). encoder_of: makes whatever
    cuts the texts, for both tokenizers. Raises DataError where there is no text, or where the proof
    fails; `out` must not exist.
    """
    if iter(texts) is texts:
        raise TypeError("texts is a one-time iterator: pruning reads them twice")
    if out.exists():  # asked again when saving; here it spares the work
        raise DataError(f"{out} exists already: remove it or choose another folder")
    encoder = encoder_of(tokenizer.backend_tokenizer)
    used = np.zeros(len(tokenizer), dtype=np.bool_)
    num_texts = 0
    for batch in _batches(texts):
        num_texts += len(batch)
        used[encoder.encode(batch).ids] = True
    if not num_texts:
        raise DataError("there is no text to prune the vocabulary for: the corpus is empty")
    used[encoder.encode(_template_words()).ids] = True

    vocabulary, merges = _bpe_tables(tokenizer)
    token_of = {index: token for token, index in vocabulary.items()}
    found = {token_of[int(index)] for index in np.flatnonzero(used)}
    kept = _closure(found | set(byte_letters()), merges)
    old_ids = sorted(vocabulary[token] for token in kept)
    pruned = _build(
        {token_of[old]: new for new, old in enumerate(old_ids)},
        [(left, right) for left, right in merges if left + right in kept],
    )
    proof = prove_same_pieces(tokenizer, pruned, texts, encoder_of=encoder_of)
    old_ids += tokenizer.convert_tokens_to_ids(list(SPECIAL_TOKENS))
    report = PruneReport(
        num_tokens_before=len(tokenizer),
        num_tokens_after=len(pruned),
        num_merges_after=len(_bpe_tables(pruned)[1]),
        proof=proof,
    )
    save_tokenizer(pruned, out, extra={"schema": 1, **asdict(report), "old_ids": old_ids})
    return report


def pruned_from(folder: Path) -> list[int] | None:
    """For each id of the tokenizer in `folder` its id in the full one; None if it is not pruned."""
    path = folder / PRUNED_FROM
    if not path.is_file():
        return None
    old_ids: list[int] = json.loads(path.read_text(encoding="utf-8"))["old_ids"]
    return old_ids


def prove_same_pieces(
    full: PreTrainedTokenizerBase,
    pruned: PreTrainedTokenizerBase,
    texts: Iterable[str],
    *,
    encoder_of: EncoderOf = ReferenceEncoder,
) -> ProofReport:
    """Encode every text with both and compare the pieces one by one.

    A piece is a token's bytes, compared by its id in `full`. Raises DataError that shows the first
    text cut differently.
    """
    known = full.get_vocab()
    pieces = pruned.get_vocab()
    unknown = sorted(set(pieces) - set(known))
    if unknown:
        raise DataError(f"not pruned from this vocabulary: it lacks {unknown[0]!r}")
    full_id = np.zeros(len(pieces), dtype=np.uint32)
    for piece, index in pieces.items():
        full_id[index] = known[piece]
    encoders = [encoder_of(each.backend_tokenizer) for each in (full, pruned)]
    num_texts = num_tokens = 0
    for batch in _batches(texts):
        expected, found = (encoder.encode(batch) for encoder in encoders)
        place = expected.first_difference(replace(found, ids=full_id[found.ids]))
        if place is not None:
            raise DataError(
                _first_difference(
                    full, pruned, batch[place], expected[place].tolist(), found[place].tolist()
                )
            )
        num_texts += found.num_texts
        num_tokens += len(found.ids)
    return ProofReport(num_texts=num_texts, num_tokens=num_tokens)


def _first_difference(
    full: PreTrainedTokenizerBase,
    pruned: PreTrainedTokenizerBase,
    text: str,
    expected: list[int],
    found: list[int],
) -> str:
    left, right = full.convert_ids_to_tokens(expected), pruned.convert_ids_to_tokens(found)
    pairs = enumerate(zip(left, right, strict=False))
    place = next((i for i, (a, b) in pairs if a != b), min(len(left), len(right)))
    return (
        f"the pruned tokenizer cuts a text differently from token {place} on: "
        f"{full.decode(expected[place : place + 3])!r} becomes "
        f"{pruned.decode(found[place : place + 3])!r} in {text[:60]!r}. "
        "Prune again with this text included"
    )


def _template_words() -> list[str]:
    """What the chat template itself can say, in the pieces that control tokens leave."""
    system = "system\nYou are a helpful assistant."
    return [system, "system\n", "user\n", "assistant\n", "\n"]


def _closure(tokens: set[str], merges: Sequence[Merge]) -> set[str]:
    """`tokens` and everything that is merged on the way to them."""
    parts: dict[str, list[Merge]] = {}
    for left, right in merges:
        parts.setdefault(left + right, []).append((left, right))
    kept: set[str] = set()
    waiting = list(tokens)
    while waiting:
        token = waiting.pop()
        if token not in kept:
            kept.add(token)
            waiting.extend(part for pair in parts.get(token, ()) for part in pair)
    return kept


def _batches(texts: Iterable[str]) -> Iterator[list[str]]:
    batch: list[str] = []
    size = 0
    for text in texts:
        batch.append(text)
        size += len(text)
        if len(batch) == _BATCH_TEXTS or size >= _BATCH_CHARACTERS:
            yield batch
            batch, size = [], 0
    if batch:
        yield batch
