"""A random sample of what cleaning did: documents changed, dropped and kept.

Of each operator and source (of kept ones: of each source) those are taken whose hash is least. A
hash of the document's id and the operator's name is as good as a random number, and the same in
every run, whatever the partitions and worker processes.
"""

import hashlib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, get_args

from common.files import complete_file, json_line, read_json_lines

Kind = Literal["changed", "dropped", "kept"]
KINDS: tuple[Kind, ...] = get_args(Kind)

KEPT = "(kept)"
"""Stands for an operator where a document passed all of them."""

EXCERPT = 200
"""Characters of a text shown in an example."""

LONGEST = 100_000
"""Characters of a text that are stored; longer ones are cut, and cannot be replayed."""

FILE_NAME = "review-sample.jsonl"
"""The sample in a finished stage's folder."""

Rows = list[dict[str, Any]]


def rank(operator: str, document: str) -> int:
    """A number that is as good as random: 64 bits of a hash of an operator's name and an id."""
    digest = hashlib.blake2b(f"{operator}\n{document}".encode("utf-8", "replace"), digest_size=8)
    return int.from_bytes(digest.digest(), "big")


@dataclass(kw_only=True)
class Sample:
    """Documents with the least ranks, of each kind, operator and source.

    An example is a mapping with `position`, `operator`, `source` and `id`; `before` is the text
    that the operator got, `after` the one that it made of it.
    """

    most: int
    """Of each kind, operator and source."""
    _taken: dict[tuple[Kind, int, str], list[tuple[int, dict[str, Any]]]] = field(
        default_factory=dict
    )

    def wants(self, kind: Kind, about: Mapping[str, Any]) -> bool:
        """True if `add` would take an example: worth asking before texts are copied."""
        if self.most == 0:
            return False
        taken = self._taken.get((kind, about["position"], about["source"]), [])
        return len(taken) < self.most or rank(about["operator"], about["id"]) < taken[-1][0]

    def add(self, kind: Kind, example: Mapping[str, Any]) -> None:
        """Take an example, unless there are enough with lesser ranks."""
        if not self.wants(kind, example):
            return
        place = self._taken.setdefault((kind, example["position"], example["source"]), [])
        place.append((rank(example["operator"], example["id"]), _bounded(example)))
        place.sort(key=lambda pair: (pair[0], pair[1]["id"]))
        del place[self.most :]

    def take(self, other: Mapping[Kind, Iterable[Mapping[str, Any]]]) -> None:
        """Take what is in the sample of another partition."""
        for kind in KINDS:
            for example in other.get(kind, ()):
                self.add(kind, example)

    def as_json(self) -> dict[Kind, Rows]:
        """As JSON values, by position, source and rank."""
        found: dict[Kind, Rows] = {kind: [] for kind in KINDS}
        for (kind, _, _), taken in sorted(self._taken.items()):
            found[kind] += [example for _, example in taken]
        return found


def _bounded(example: Mapping[str, Any]) -> dict[str, Any]:
    """An example whose texts are of bounded length; `cut` says that they were longer."""
    long = [n for n in ("before", "after") if len(example.get(n) or "") > LONGEST]
    return {**example} | {n: example[n][:LONGEST] for n in long} | ({"cut": True} if long else {})


def write_sample(folder: Path, rows: Iterable[Mapping[str, Any]]) -> None:
    """Write the sample of a cleaned folder; each row has its `kind` and `family`."""
    with complete_file(folder / FILE_NAME) as file:
        for row in rows:
            file.write(json_line(row))


def read_sample(folder: Path) -> Iterator[dict[str, Any]]:
    """The sample of a cleaned folder; nothing where none was taken."""
    path = folder / FILE_NAME
    return read_json_lines(path) if path.exists() else iter(())


def excerpts(example: Mapping[str, Any]) -> dict[str, str]:
    """Excerpts of the text before and after, from shortly before the first change on."""
    before, after = example["before"], example["after"]
    pairs = enumerate(zip(before, after, strict=False))
    first = next((i for i, (a, b) in pairs if a != b), min(len(before), len(after)))
    start = max(0, first - 20)
    return {"before": before[start : start + EXCERPT], "after": after[start : start + EXCERPT]}
