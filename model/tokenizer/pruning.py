"""Pruning: Qwen1.5's tokenizer with only the tokens that a corpus uses.

texts ──encode──▶ tokens found ──▶ all tokens merged on the way to them ──▶ renumbered tokenizer
                                                                                 │
               published only after every text gives the same pieces ◀───────────┘
"""

import hashlib
from collections.abc import Iterable, Iterator, Mapping, Sequence, Set
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np
from transformers import PreTrainedTokenizerBase

from common.errors import DataError
from model.tokenizer.digest import digest_tokenizer
from model.tokenizer.encoder import Encoded, Encoder, EncoderFactory, ReferenceEncoder
from model.tokenizer.identity import SPECIAL_TOKENS
from model.tokenizer.qwen import bpe_tables, build_tokenizer, save_tokenizer
from model.tokenizer.tiktoken import Merge, byte_characters

_BATCH_TEXTS, _BATCH_CHARACTERS = 10_000, 2_000_000
"""Texts encoded at once: enough to keep all cores busy, little enough to stay small."""


@dataclass(frozen=True, kw_only=True)
class ProofReport:
    """Extent of a comparison in which all pieces were equal."""

    num_texts: int
    """Texts compared."""

    num_tokens: int
    """Tokens compared, each equal."""


@dataclass(frozen=True, kw_only=True)
class PruneReport:
    """Result of pruning and of its proof."""

    num_tokens_before: int
    """Tokens of the full vocabulary, control tokens included."""

    num_tokens_after: int
    """Tokens of the pruned one, control tokens included."""

    num_merges_after: int
    """Merges of the pruned one."""

    proof: ProofReport
    """Comparison of every text given."""


def prune_tokenizer(
    tokenizer: PreTrainedTokenizerBase,
    texts: Iterable[str],
    out: Path,
    *,
    make_encoder: EncoderFactory = ReferenceEncoder,
) -> PruneReport:
    """Write to `out` a tokenizer with only the tokens that encoding `texts` needs, renumbered.

    Kept: 256 byte tokens, control tokens, the words of the chat template, and every intermediate
    token of a kept one. Merging applies the earliest merge first and never undoes one, so every
    merge made in these texts leads to a token found in them: leaving out the others changes no
    step. Other texts can still be encoded, in smaller pieces. The tokenizer is written only after
    every text was shown to give the same pieces. Order is kept: a smaller old id is a smaller new
    id.

    texts: an iterable that can be read twice (not a generator). make_encoder: makes the encoder of
    both tokenizers. Raises DataError if there is no text or a text gives other pieces; `out` must
    not exist.
    """
    if iter(texts) is texts:
        raise TypeError("texts is a one-time iterator: pruning reads them twice")
    if out.exists():  # checked again when saving; here it saves the work
        raise DataError(f"{out} exists already: remove it or choose another folder")
    encoder = make_encoder(tokenizer.backend_tokenizer)
    used = np.zeros(len(tokenizer), dtype=np.bool_)
    seen: list[bytes] = []
    for batch in _batches(texts):
        found = encoder.encode(batch)
        used[found.ids] = True
        seen.append(_digest(found))
    if not seen:
        raise DataError("there is no text to prune the vocabulary for: the corpus is empty")
    used[encoder.encode(_template_words()).ids] = True

    vocabulary, merges = bpe_tables(tokenizer)
    token_of = {index: token for token, index in vocabulary.items()}
    kept = {token_of[int(index)] for index in np.flatnonzero(used)}
    pruned, old_ids, num_merges = _restricted(vocabulary, merges, kept)
    proof = _prove_same_pieces(
        tokenizer, pruned, texts, encoder, make_encoder(pruned.backend_tokenizer), seen
    )
    old_ids += tokenizer.convert_tokens_to_ids(list(SPECIAL_TOKENS))
    report = PruneReport(
        num_tokens_before=len(tokenizer),
        num_tokens_after=len(pruned),
        num_merges_after=num_merges,
        proof=proof,
    )
    save_tokenizer(pruned, out, extra={"schema": 1, **asdict(report), "old_ids": old_ids})
    return report


def is_pruned_from(pruned: PreTrainedTokenizerBase, full: PreTrainedTokenizerBase) -> bool:
    """True if pruning `full` for some texts could give the tokenizer `pruned`."""
    vocabulary, merges = bpe_tables(full)
    kept = pruned.get_vocab().keys() - SPECIAL_TOKENS.keys()
    if not kept <= vocabulary.keys():
        return False
    expected, _, _ = _restricted(vocabulary, merges, kept)
    return digest_tokenizer(expected).digest == digest_tokenizer(pruned).digest


def _restricted(
    vocabulary: Mapping[str, int], merges: Sequence[Merge], tokens: Set[str]
) -> tuple[PreTrainedTokenizerBase, list[int], int]:
    """The tokenizer of these tokens and those that they are made of, their old ids, and the number
    of merges."""
    kept = _closure({*tokens, *byte_characters()}, merges)
    old_ids = sorted(vocabulary[token] for token in kept)
    token_of = {index: token for token, index in vocabulary.items()}
    left_over = [(left, right) for left, right in merges if left + right in kept]
    pruned = build_tokenizer({token_of[old]: new for new, old in enumerate(old_ids)}, left_over)
    return pruned, old_ids, len(left_over)


def prove_same_pieces(
    full: PreTrainedTokenizerBase,
    pruned: PreTrainedTokenizerBase,
    texts: Iterable[str],
    *,
    make_encoder: EncoderFactory = ReferenceEncoder,
) -> ProofReport:
    """Encode every text with both and compare the pieces one by one.

    A piece is a token's bytes, compared by its id in `full`. Raises DataError that shows the first
    text that is split differently.
    """
    one, other = (make_encoder(each.backend_tokenizer) for each in (full, pruned))
    return _prove_same_pieces(full, pruned, texts, one, other)


def _prove_same_pieces(
    full: PreTrainedTokenizerBase,
    pruned: PreTrainedTokenizerBase,
    texts: Iterable[str],
    full_encoder: Encoder,
    pruned_encoder: Encoder,
    seen: Sequence[bytes] = (),
) -> ProofReport:
    """The same with encoders that are there: making one of 151,646 tokens takes a second.

    seen: digests of what `full` gave for these batches a moment ago. What has the same one is the
    same; any other batch is encoded again.
    """
    known = full.get_vocab()
    pieces = pruned.get_vocab()
    unknown = sorted(set(pieces) - set(known))
    if unknown:
        raise DataError(f"not pruned from this vocabulary: it lacks {unknown[0]!r}")
    full_id = np.zeros(len(pieces), dtype=np.uint32)
    for piece, index in pieces.items():
        full_id[index] = known[piece]
    num_texts = num_tokens = 0
    for number, batch in enumerate(_batches(texts)):
        found = pruned_encoder.encode(batch)
        renumbered = replace(found, ids=full_id[found.ids])
        if seen[number : number + 1] != [_digest(renumbered)]:
            expected = full_encoder.encode(batch)
            place = expected.first_difference(renumbered)
            if place is not None:
                raise DataError(
                    _first_difference(
                        full, pruned, batch[place], expected[place].tolist(), found[place].tolist()
                    )
                )
        num_texts += found.num_texts
        num_tokens += len(found.ids)
    return ProofReport(num_texts=num_texts, num_tokens=num_tokens)


def _digest(found: Encoded) -> bytes:
    """32 bytes that only the same ids of the same texts have."""
    digest = hashlib.sha256(found.offsets.astype("<i8").tobytes())
    digest.update(found.ids.astype("<u4").tobytes())
    return digest.digest()


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
    """Words of the chat template itself, split at control tokens."""
    system = "system\nYou are a helpful assistant."
    return [system, "system\n", "user\n", "assistant\n", "\n"]


def _closure(tokens: set[str], merges: Sequence[Merge]) -> set[str]:
    """`tokens` and all intermediate tokens that are merged to them."""
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
