"""Files of a data set that an earlier acquisition has, which so need not be fetched again.

identity at the source ── the one in sources.json of then? ──▶ its files, MD5 as in its manifest
bytes of a file here   ── those of its file of that name? ───▶ that file
                                                                │ hard links (or copies)
                                                                ▼
                                                           <name>/… of the new acquisition
"""

import os
from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from common.errors import DataError
from common.files import link_or_copy, md5_of_file, same_bytes
from common.paths import display
from common.reading.files import read_json_object
from corpus.sources.compression import unpacked_name

RECORD = "sources.json"
"""File of an acquisition: data set -> name of a file at its source -> its identity there."""


def recorded_identities(acquisition: Path, name: str) -> dict[str, str]:
    """Name at the source -> identity there, of the files of a data set; none where an acquisition
    has no such record, as older ones, or a damaged one."""
    if not (acquisition / RECORD).is_file():
        return {}
    with suppress(DataError):
        recorded = read_json_object(acquisition / RECORD).get(name)
        return recorded if isinstance(recorded, dict) else {}
    return {}


@dataclass(frozen=True, kw_only=True)
class Piece:
    """A file as the manifest of its acquisition has it."""

    path: str
    """Path below the data set's folder."""
    num_bytes: int
    md5: str


@dataclass(frozen=True, kw_only=True)
class Earlier:
    """A data set of a finished acquisition."""

    folder: Path
    """Its folder."""
    num_bytes: int
    """Size of its files."""
    identities: Mapping[str, str]
    """Name at the source -> identity there; of those that have one (`Source.identity`)."""
    pieces: Mapping[str, list[Piece]]
    """Name at the source -> what it became here: one file, or those of an archive."""

    @classmethod
    def read(
        cls, acquisition: Path, name: str, files: Iterable[Mapping[str, Any]], *, streams: bool
    ) -> "Earlier":
        """Read what is known of a data set.

        Args:
            acquisition: folder of the finished stage.
            name: of the data set.
            files: those of its manifest: {path, bytes, md5}.
            streams: if true, single `.gz` and `.zst` files were decompressed.
        """
        identities = recorded_identities(acquisition, name)
        becomes = {unpacked_name(file, streams=streams): file for file in identities}
        pieces: dict[str, list[Piece]] = {}
        num_bytes = 0
        for entry in files:
            path = PurePosixPath(entry["path"])
            if path.parts[0] != name or len(path.parts) == 1:
                continue
            path = path.relative_to(name)
            num_bytes += entry["bytes"]
            piece = Piece(path=str(path), num_bytes=entry["bytes"], md5=entry["md5"])
            for place in (path, *path.parents):
                if file := becomes.get(str(place)):
                    pieces.setdefault(file, []).append(piece)
        return cls(
            folder=acquisition / name, num_bytes=num_bytes, identities=identities, pieces=pieces
        )

    def has(self, file: str, identity: str) -> bool:
        """True if a file was the same at its source then."""
        return bool(identity) and self.identities.get(file) == identity and file in self.pieces

    def give(self, file: str, target: str, place: Path) -> None:
        """Put what a file became at `place`, where nothing is, every byte verified.

        target: path of it below the data set's folder.

        Raises DataError for a piece that is damaged or gone; `place` may hold some of them then.
        """
        for piece in self.pieces[file]:
            at = place / PurePosixPath(piece.path).relative_to(target)
            at.parent.mkdir(parents=True, exist_ok=True)
            stored = self.folder / piece.path
            try:
                link_or_copy(stored.resolve(), at)
            except FileNotFoundError:
                raise DataError(f"{display(stored)} is gone") from None
            if at.stat().st_size != piece.num_bytes or md5_of_file(at) != piece.md5:
                raise DataError(f"{display(stored)} is damaged: its MD5 is not {piece.md5}")

    def link_same(self, path: Path, target: str, place: Path) -> bool:
        """Put the file `target` at `place`, where nothing is, if its bytes are those of `path`.

        Returns False where they are others, or there are no hard links.
        """
        stored = self.folder / target
        with suppress(OSError):
            if same_bytes(path, stored):
                place.parent.mkdir(parents=True, exist_ok=True)
                os.link(stored.resolve(), place)
                return True
        return False

    def share(self, path: Path, target: str, aside: Path) -> bool:
        """Let a file be another name of the file `target`, if the bytes are the same.

        aside: a path on the same disk that is free.
        """
        with suppress(OSError):
            if path.samefile(self.folder / target):
                return True
        if self.link_same(path, target, aside):
            aside.replace(path)
            return True
        return False
