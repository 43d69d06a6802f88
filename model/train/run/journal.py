"""The journal of a run: everything that changed it since its first step, in order.

    RUN/journal.json    [append] at step 120, sample 61440: manifest, seed, weights, length
                        [length] at step 300: length
                        …

An entry holds from the step it names; rank 0 publishes the whole file in one durable write before
any rank uses it. After a kill at any moment an entry is there and holds, or it is not there and its
request still lies in RUN/requests/.
"""

import os
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, TypeAlias

from common.errors import DataError, shown
from common.files import digest_of, write_json
from common.reading.files import read_json_object
from model.data import Append, PackedManifest
from model.data.manifest import describe_difference
from model.train.run.folder import JOURNAL_FILE
from model.train.run.length import LengthChange, LengthPolicy
from model.train.run.saved_manifests import read_saved_manifest

SCHEMA_VERSION = 2


@dataclass(frozen=True, kw_only=True)
class LengthEntry:
    """Another number of steps, or a beginning of the decay (`steel reschedule`)."""

    request: str
    """Name of the request that it came from."""
    length: LengthChange
    """The run's length from there on."""

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values."""
        return {"kind": "length", "request": self.request, **asdict(self.length)}


@dataclass(frozen=True, kw_only=True)
class AppendEntry:
    """Data that joined the run."""

    request: str
    """Name of the request that it came from."""
    length: LengthChange
    """The run's length from there on."""
    steps: LengthPolicy
    """Effect on the number of steps."""
    data: Append
    """The data, and the sample from which they may come."""

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values, without the place of the data."""
        return {
            "kind": "append",
            "request": self.request,
            **asdict(self.length),
            "at": self.data.at,
            "manifest": self.data.manifest.digest,
            "seed": self.data.seed,
            "weights": dict(self.data.weights),
            "steps": self.steps,
        }


WriteJson: TypeAlias = Callable[[Path, Any], None]
"""Publishes a value as a JSON file."""

JournalEntry = AppendEntry | LengthEntry


def write_journal(
    run: Path, entries: Sequence[JournalEntry], write: WriteJson = write_json
) -> None:
    """Publish a run's journal durably; folders of data are written relative to the run's.

    write: way to publish a JSON file; a training's is its lease's.
    """
    rows = []
    for entry in entries:
        row = entry.to_dict()
        if isinstance(entry, AppendEntry):
            folder = entry.data.manifest.folder
            assert folder is not None, "an appended manifest lies somewhere"
            row["folder"] = os.path.relpath(folder, run)
        rows.append(row | {"check": digest_of(row)[:12]})
    content = {"schema_version": SCHEMA_VERSION, "entries": rows}
    write(run / JOURNAL_FILE, content | {"digest": digest_of(content)})


def read_journal(run: Path) -> tuple[JournalEntry, ...]:
    """The entries of a run's journal, with the manifests of the appended data.

    Raises:
        DataError: the file is damaged, of another schema, was edited, or names a folder whose
            content is another than what was appended; names the entry or the shards.
    """
    return tuple(_entry(run, row) for row in read_journal_rows(run))


def read_journal_rows(run: Path) -> list[dict[str, Any]]:
    """The journal as plain values, checked against its digest; the data are not looked at.

    An absent file is an empty journal. Cheap enough to follow a running training.

    Raises DataError naming the entry when it is damaged, of another schema, or was edited.
    """
    path = run / JOURNAL_FILE
    if not os.path.lexists(path):
        return []
    try:
        raw = read_json_object(path)
        version, rows, digest = raw["schema_version"], raw["entries"], raw["digest"]
    except DataError as error:
        raise DataError(f"{path} is not a readable journal: {error}") from None
    except KeyError as error:
        raise DataError(f"{path} is not a readable journal: {error!r}") from None
    if version != SCHEMA_VERSION:
        raise DataError(
            f"schema_version in {path} is {shown(version)}, this version reads {SCHEMA_VERSION}"
        )
    if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
        raise DataError(f"{path} is not a readable journal: its entries are no list of objects")
    if digest != digest_of({"schema_version": version, "entries": rows}):
        raise DataError(
            f"digest in {path} does not fit its entries: {_edited(rows)} edited. Restore it"
        )
    return list(rows)


def read_total_steps(run: Path, initial_steps: int) -> int:
    """Steps of a whole run as its journal has them now, for those who follow a training."""
    rows = read_journal_rows(run)
    return int(rows[-1]["total_steps"]) if rows else initial_steps


def _entry(run: Path, row: dict[str, Any]) -> JournalEntry:
    try:
        length = LengthChange(**{name: row[name] for name in ("step", "total_steps", "decay_at")})
        if row["kind"] == "length":
            return LengthEntry(request=row["request"], length=length)
        folder = Path(os.path.normpath(run / row["folder"]))
        manifest = PackedManifest.read(folder)
        if manifest.digest != row["manifest"]:
            old = read_saved_manifest(run, row["manifest"])
            what = f": {describe_difference(old, manifest)}" if old else ""
            raise DataError(
                f"{folder} holds other data (digest {manifest.digest}) than were appended "
                f"(manifest {row['manifest']} in {run / JOURNAL_FILE}){what}. Restore them"
            )
        data = Append(
            at=row["at"],
            manifest=manifest,
            seed=row["seed"],
            weights={name: float(epochs) for name, epochs in row["weights"].items()},
        )
        return AppendEntry(request=row["request"], length=length, steps=row["steps"], data=data)
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise DataError(
            f"an entry of {run / JOURNAL_FILE} lacks or garbles {error}: restore the file"
        ) from None


def _edited(rows: list[dict[str, Any]]) -> str:
    """The entry that was changed, as the subject of a sentence."""
    for number, row in enumerate(rows):
        content = {key: value for key, value in row.items() if key != "check"}
        if row.get("check") != digest_of(content)[:12]:
            return f"entry {number} (request {row.get('request')}) was"
    return "the list of entries was"
