"""A tokenizer that makes no control token of any text: its own have other names."""

import json
from collections.abc import Mapping, Sequence
from typing import Any

from tokenizers import Tokenizer
from transformers import PreTrainedTokenizerBase

from model.tokenizer.marks import UNUSED, Interval


class PlainBackend:
    """The tokenizer with its control tokens renamed to what no text contains.

    In one pass it encodes a text exactly as the tokenizer does, except that only the new names are
    control tokens, and what spells an old one is text like any other.
    """

    def __init__(
        self, tokenizer: PreTrainedTokenizerBase, tokens: Mapping[str, int], mark: str
    ) -> None:
        self.control_ids = frozenset(tokens.values())
        self.stand_ins = {
            token: f"{mark}{chr(UNUSED[-1] - number)}{mark}" for number, token in enumerate(tokens)
        }
        # Padding and truncation that a file asks for are no part of the encoding.
        described = json.loads(tokenizer.backend_tokenizer.to_str())
        described |= {"truncation": None, "padding": None}
        for added in described["added_tokens"]:
            if added["content"] in self.stand_ins:
                added["content"] = self.stand_ins[added["content"]]
                added |= {"normalized": False, "single_word": False, "special": True}
        described["model"] = self._renamed(described["model"])
        self.backend = Tokenizer.from_str(json.dumps(described))
        old_names = {stand_in: token for token, stand_in in self.stand_ins.items()}
        real = tokenizer.backend_tokenizer.get_vocab(with_added_tokens=True)
        self._ids = {
            id_: real[old_names.get(token, token)]
            for token, id_ in self.backend.get_vocab(with_added_tokens=True).items()
        }

    def _renamed(self, model: dict[str, Any]) -> dict[str, Any]:
        """The model without the control tokens' old names, which plain text might be cut into."""
        names, vocabulary = self.stand_ins, model["vocab"]
        if isinstance(vocabulary, dict):
            model["vocab"] = {names.get(token, token): id_ for token, id_ in vocabulary.items()}
        else:  # Unigram: [token, score]
            model["vocab"] = [[names.get(token, token), score] for token, score in vocabulary]
        if model.get("unk_token") in names:
            model["unk_token"] = names[model["unk_token"]]
        if "merges" in model:
            model["merges"] = [
                [left, right]
                for left, right in map(_pair, model["merges"])
                if not {left, right, left + right} & names.keys()
            ]
        return model

    def moved(self) -> str:
        """The first token that got another id than the tokenizer gives it, or ""."""
        ids = sorted(id_ for id_, real in self._ids.items() if id_ != real)
        return str(self.backend.id_to_token(ids[0])) if ids else ""

    def encode(
        self, text: str, *, add_special_tokens: bool = False
    ) -> tuple[list[int], list[Interval]]:
        """Ids, and the characters that each stands for."""
        found = self.backend.encode(text, add_special_tokens=add_special_tokens)
        return [self._ids[id_] for id_ in found.ids], list(found.offsets)


def _pair(merge: str | Sequence[str]) -> tuple[str, str]:
    left, right = merge.split(" ") if isinstance(merge, str) else merge
    return left, right
