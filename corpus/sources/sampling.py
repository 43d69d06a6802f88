"""Samples of a corpus: always the same records, without fetching the rest.

    16 files, fraction 0.1     ▓▓░░░░░░ ▓▓░░░░░░ ▓▓░░░░░░ …     the first records of each

docs/acquire.md says which files and records are taken. An archive counts as one file; it is fetched
whole, and the same is then done with the files inside.
"""

import json
import math
import shutil
from collections.abc import Sequence
from contextlib import closing
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path, PurePosixPath
from typing import Any

from common.disk import require_free_space
from common.files import complete_file, write_json
from corpus.sources.archives import unpack_archive
from corpus.sources.compression import ArchiveType, archive_type, unpacked_name
from corpus.sources.first_records import (
    NOTHING,
    Reading,
    RecordLimit,
    TakenRecords,
    write_first_records,
)
from corpus.sources.local import LocalSource
from corpus.sources.retry import RangesNotSupported
from corpus.sources.source import Source, StoredFile
from corpus.sources.transfer import Destination, cleared, unpacked_bytes

SPREAD = 16
"""Least number of files that a sample comes from, where a corpus has so many."""

_ACCOMPANYING = {
    "readme",
    "license",
    "licence",
    "notice",
    "changelog",
    "citation",
    "sha256sums",
    "md5sums",
    "dataset_infos",
    "dataset_info",
}
_ACCOMPANYING_SUFFIXES = (".sha256", ".md5", ".lock")


def evenly_spaced(files: Sequence[StoredFile]) -> list[StoredFile]:
    """Files in an order whose every beginning is spread evenly over them."""
    bits = max(1, (len(files) - 1).bit_length())
    reversed_bits = [int(f"{i:0{bits}b}"[::-1], 2) for i in range(len(files))]
    return [files[i] for i in sorted(range(len(files)), key=lambda i: reversed_bits[i])]


def record_files(files: Sequence[StoredFile]) -> list[StoredFile]:
    """The files that hold records: not empty, and not merely about the data."""
    full = [file for file in files if file.size != 0]
    data = []
    for file in full:
        base = PurePosixPath(file.name).name.lower()
        if base.partition(".")[0] not in _ACCOMPANYING and not base.endswith(
            _ACCOMPANYING_SUFFIXES
        ):
            data.append(file)
    return data or full


def write_sample(
    destination: Destination,
    source: Source,
    files: Sequence[StoredFile],
    *,
    fraction: float,
    limit: int,
    reading: Reading = "records",
) -> tuple[int, int]:
    """Write a sample of a corpus. Returns (records, files that they come from).

    Args:
        destination: folders of the corpus.
        source: where the files are.
        files: all of them, sorted by name.
        fraction: share of the corpus's bytes, above 0, at most 1.
        limit: most records; 0 for all.
        reading: what is a record.

    Raises:
        DataError: a file is damaged or cannot be fetched.
    """
    notes = destination.scratch / "sampled.json"
    done = json.loads(notes.read_text(encoding="utf-8")) if notes.exists() else {}
    sample = _Sample(destination, source, destination.folder, reading, notes, done)
    return sample.take(files, fraction, limit)


@dataclass
class _Sample:
    """One corpus, or one archive of it."""

    destination: Destination
    source: Source
    folder: Path
    reading: Reading
    notes: Path | None = None
    """File that `done` is kept in; None inside of an archive."""
    done: dict[str, dict[str, Any]] = field(default_factory=dict)
    """File -> the share and limit asked for, and the records taken."""

    def take(self, files: Sequence[StoredFile], fraction: float, limit: int) -> tuple[int, int]:
        ordered = evenly_spaced([self._with_size(file) for file in record_files(files)])
        sizes = {file.name: file.size or 0 for file in ordered}
        budget = fraction * sum(sizes.values())
        chosen, held = ordered, sum(sizes.values())
        if fraction < 1:
            chosen, held = [], 0
            for file in ordered:
                if held >= budget and len(chosen) >= SPREAD:
                    break
                chosen.append(file)
                held += sizes[file.name]
        if not limit:
            space_needed = min(math.ceil(budget), held)
            require_free_space(
                self.destination.folder, space_needed, f"sample of {self.destination.name}"
            )
        # Each file's share follows from what the ones before have left: files that are one record
        # take more than their share.
        left, after = budget, held
        shares: dict[str, float] = {}
        taken: dict[str, TakenRecords] = {}
        records = 0
        for position, file in enumerate(chosen):
            if limit and records >= limit:
                break
            size = sizes[file.name]
            share = size * min(1.0, max(0.0, left / after)) if fraction < 1 else float(size)
            num_records = None
            if limit:
                rest = max(1, min(SPREAD, len(chosen)) - position)
                num_records = math.ceil((limit - records) / rest)
            part = taken[file.name] = self._take(file, share, num_records)
            shares[file.name] = share
            records += part.num_records
            left -= max(share, part.num_bytes)
            after -= size
            self.destination.progress(
                position + 1, len(chosen), f"files of {self.destination.name}"
            )
        for file in chosen:  # files that had more than their part of the limit
            had = taken.get(file.name)
            if had is not None and had.has_more and records < limit:
                num_records = had.num_records + limit - records
                taken[file.name] = self._take(file, shares[file.name], num_records)
                records += taken[file.name].num_records - had.num_records
        return records, sum(part.num_records > 0 for part in taken.values())

    def _with_size(self, file: StoredFile) -> StoredFile:
        """A file whose size is known, at the price of fetching it."""
        if file.size is not None:
            return file
        return replace(file, size=self.source.fetch(file).stat().st_size)

    def _take(self, file: StoredFile, share: float, num_records: int | None) -> TakenRecords:
        """Take the first records of one file, unless that was done before."""
        asked = {"share": share, "limit": num_records}
        known = self.done.get(file.name)
        if known is not None and known["asked"] == asked:
            return TakenRecords(**known["taken"])
        if share <= 0:
            return NOTHING
        packed = archive_type(file.name, streams=True)
        if packed is not None and packed.is_container:
            taken = self._take_archive(file, packed, share, num_records)
        else:
            taken = self._take_first_records(file, share, num_records)
        self.done[file.name] = {"asked": asked, "taken": asdict(taken)}
        if self.notes is not None:
            write_json(self.notes, self.done)
        return taken

    def _take_first_records(
        self, file: StoredFile, share: float, num_records: int | None
    ) -> TakenRecords:
        target = self.folder / unpacked_name(file.name, streams=True)
        target.parent.mkdir(parents=True, exist_ok=True)
        unfinished = self.destination.scratch / "first_records"
        label = f"{self.source.origin}: {file.name}"
        limit = RecordLimit(num_bytes=share, num_records=num_records)
        assert file.size is not None
        for whole in (False, True):
            raw = self.source.fetch(file).open("rb") if whole else self.source.open(file)
            try:
                with closing(raw), complete_file(unfinished) as out:
                    taken = write_first_records(
                        raw, file.size, file.name, out, limit, label, self.reading
                    )
                break
            except RangesNotSupported:  # the server gives files only as a whole
                assert not whole
        if taken.num_records:
            unfinished.replace(target)
        else:
            unfinished.unlink()
        return taken

    def _take_archive(
        self, file: StoredFile, packed: ArchiveType, share: float, num_records: int | None
    ) -> TakenRecords:
        assert file.size is not None
        require_free_space(self.destination.folder, unpacked_bytes(file, streams=True), file.name)
        path = self.source.fetch(file)
        label = f"{self.source.origin}: {file.name}"
        scratch = self.destination.scratch
        inside, unfinished = scratch / "unpacking", scratch / "sampling"
        unpack_archive(path, cleared(inside), packed, label, streams=True)
        cleared(unfinished).mkdir()
        content = LocalSource(str(inside), origin=label)
        inner = _Sample(self.destination, content, unfinished, self.reading)
        records, _ = inner.take(content.files(), share / file.size, num_records or 0)
        target = self.folder / unpacked_name(file.name, streams=True)
        shutil.rmtree(target, ignore_errors=True)  # of a smaller part of the limit
        target.parent.mkdir(parents=True, exist_ok=True)
        unfinished.replace(target)
        cleared(inside)
        return TakenRecords(
            num_records=records, num_bytes=math.ceil(share), has_more=records == num_records
        )
