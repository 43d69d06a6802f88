"""The digest of a tokenizer: equal where the same text gives the same ids, and an id is one token.

    tokens and ids ─┐
    merges, scores ─┤
    added tokens   ─┼─ canonical JSON, each part ─▶ digests of the parts ─▶ the digest
    normalizer …   ─┘

Taken from the tokenizer as it is loaded: layout and formatting of files, the version of
Transformers that wrote them, padding, truncation and the chat template play no part. The chat
template has a digest of its own.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from tokenizers import Tokenizer
from transformers import PreTrainedTokenizerBase

from common.errors import DataError
from common.files import canonical_json, digest_of

VOCABULARY = "tokens and ids"
PARTS = {
    VOCABULARY: "other tokens or ids",
    "added tokens": "other added tokens, or other properties of them",
    "merges": "other merges",
    "model": "another model (its type, its scores or its options)",
    "normalizer": "another normalizer",
    "pre-tokenizer": "another pre-tokenizer",
    "decoder": "another decoder",
    "frame": "other tokens that are put around a text",
}
"""Parts of a tokenizer that decide about ids -> how one that differs is called."""

_NO_EFFECT = {"trim_offsets", "vocab", "merges"}
"""Fields that change no id, or that are parts of their own."""

MOST_SHOWN = 100
"""Characters of a part's description that a message shows."""


@dataclass(frozen=True, kw_only=True)
class TokenizerDigest:
    """The digest of a tokenizer, and what is needed to name a difference."""

    digest: str
    """MD5 (32 hex digits) over all parts."""
    num_tokens: int
    """Tokens, added ones included."""
    parts: Mapping[str, str]
    """Part (PARTS) -> its MD5."""
    chat_template: str
    """MD5 of the chat template; empty without one. No part of the digest."""


def digest_tokenizer(tokenizer: PreTrainedTokenizerBase) -> TokenizerDigest:
    """The digest of a tokenizer. Raises DataError where it does not run on `tokenizers`."""
    parts = {name: digest_of(part) for name, part in _parts(_backend(tokenizer)).items()}
    template = tokenizer.chat_template
    return TokenizerDigest(
        digest=digest_of(parts),
        num_tokens=len(tokenizer),
        parts=parts,
        chat_template=digest_of(template) if template else "",
    )


def describe_difference(one: PreTrainedTokenizerBase, other: PreTrainedTokenizerBase) -> str:
    """The first difference of two tokenizers, in one clause about the second; "" for none."""
    backends = _backend(one), _backend(other)
    ours, theirs = (
        {id_: token for token, id_ in backend.get_vocab(with_added_tokens=True).items()}
        for backend in backends
    )
    for id_ in sorted(ours.keys() | theirs.keys()):
        if ours.get(id_) != theirs.get(id_):
            was, is_ = (
                repr(tokens[id_]) if id_ in tokens else "no token" for tokens in (ours, theirs)
            )
            return f"{len(theirs):,} tokens instead of {len(ours):,}; id {id_} is {is_}, not {was}"
    left, right = (_parts(backend) for backend in backends)
    for name, sentence in PARTS.items():
        if left[name] != right[name]:
            values = _values(left[name], right[name])
            return f"the same {len(ours):,} tokens and ids, but {sentence}{values}"
    return ""


def _backend(tokenizer: PreTrainedTokenizerBase) -> Tokenizer:
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if not isinstance(backend, Tokenizer):
        raise DataError(
            f"the tokenizer {type(tokenizer).__name__} ({tokenizer.name_or_path}) does not run on "
            "the tokenizers library: convert it to a tokenizer.json"
        )
    return backend


def _parts(backend: Tokenizer) -> dict[str, Any]:
    described = json.loads(backend.to_str())
    if described["padding"] or described["truncation"]:
        described |= {"padding": None, "truncation": None}
        backend = Tokenizer.from_str(json.dumps(described))
    model = described["model"]
    vocabulary = model.get("vocab")
    # Of Unigram: [token, score] in the order of ids.
    scores = [score for _, score in vocabulary] if isinstance(vocabulary, list) else []
    return {
        VOCABULARY: sorted(
            [id_, token] for token, id_ in backend.get_vocab(with_added_tokens=True).items()
        ),
        "added tokens": sorted(
            [added["id"], *sorted(key for key, value in added.items() if value is True)]
            for added in described["added_tokens"]
        ),
        "merges": [m.split(" ") if isinstance(m, str) else m for m in model.get("merges", ())],
        "model": [_canonical(model), scores],
        "normalizer": _canonical(described["normalizer"]),
        "pre-tokenizer": _canonical(described["pre_tokenizer"]),
        "decoder": _canonical(described["decoder"], decodes=True),
        "frame": backend.encode("", add_special_tokens=True).ids,
    }


def _canonical(component: Any, *, decodes: bool = False) -> Any:
    """A component without what is absent or off, and without sequences inside sequences."""
    if isinstance(component, list):
        return [_canonical(each, decodes=decodes) for each in component]
    if not isinstance(component, dict):
        return component
    kind = component.get("type")
    if kind == "Sequence":
        steps: list[Any] = []
        for step in next(value for value in component.values() if isinstance(value, list)):
            plain = _canonical(step, decodes=decodes)
            steps += plain if isinstance(plain, list) else [plain]
        return steps[0] if len(steps) == 1 else steps or None
    if kind == "ByteLevel" and decodes:  # its options are about encoding
        return {"type": kind}
    return {
        key: _canonical(value, decodes=decodes)
        for key, value in component.items()
        if value not in (None, False, "") and key not in _NO_EFFECT
    }


def _values(one: Any, other: Any) -> str:
    """Two parts in brackets, where they are short enough to be read."""
    texts = [canonical_json(part) for part in (one, other)]
    return f" ({texts[1]} instead of {texts[0]})" if max(map(len, texts)) <= MOST_SHOWN else ""
