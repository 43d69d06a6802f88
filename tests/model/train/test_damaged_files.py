"""Files of a run, damaged byte by byte and value by value: the right value, or one clear error."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from common.errors import SteelError
from model.data import DataState, PackedManifest, SampleOrder
from model.data.verify.simulated_data import simulated_manifest
from model.train.checkpoint.folders import MARKER, read_files, read_marker
from model.train.checkpoint.progress import Progress
from model.train.run.folder import DATA_STATE_FILE, JOURNAL_FILE, PROGRESS_FILE
from model.train.run.journal import LengthEntry, read_journal, write_journal
from model.train.run.length import LengthChange
from model.train.run.requests import AppendRequest, RequestFolder
from tasks.core.manifest import StageResult
from tasks.report.results import read_results

MANIFEST = simulated_manifest(60, sequence_length=8)
ORDER = SampleOrder(MANIFEST, sequence_length=8, seed=3)


def _progress(folder: Path) -> Any:
    return Progress.from_json(read_files(folder, [PROGRESS_FILE])[PROGRESS_FILE])[0]


def _state(folder: Path) -> Any:
    return DataState.from_json(read_files(folder, [DATA_STATE_FILE])[DATA_STATE_FILE])


def _request(folder: Path) -> Any:
    [pending] = RequestFolder(folder).pending()
    if pending.request is None:
        raise SteelError(pending.problem)
    return pending.request


def _results(folder: Path) -> Any:
    stage = StageResult(stage="evaluate", key="k", folder=folder, manifest={})
    return read_results(stage)


def _stage(folder: Path) -> Any:
    return StageResult.read(folder).identity


def write_all(folder: Path) -> dict[str, tuple[Path, Callable[[Path], Any]]]:
    """A real file of each kind, and its reader."""
    write_journal(
        folder,
        [LengthEntry(request="r", length=LengthChange(step=3, total_steps=90, decay_at=None))],
    )
    (folder / PROGRESS_FILE).write_text(Progress(step=7, batch=8).to_json(), encoding="utf-8")
    state = DataState.of(ORDER, 16).to_json()
    (folder / DATA_STATE_FILE).write_text(state, encoding="utf-8")
    marker = {"step": 7, "regular": True, "files": {"a": {"bytes": 1, "crc32": "x"}}}
    (folder / MARKER).write_text(json.dumps(marker), encoding="utf-8")
    request = AppendRequest(folder="/x", manifest="0" * 32, seed=3, weights={"a": 2.0}, at_step=9)
    name = RequestFolder(folder).publish(request)
    packed, stage = folder / "packed", folder / "stage"
    for made in (packed, stage):
        made.mkdir()
    MANIFEST.write(packed)
    about = {"schema": 1, "stage": "pack", "key": "k", "files": []}
    (stage / "manifest.json").write_text(json.dumps(about), encoding="utf-8")
    (folder / "results.json").write_text('{"ceval": {"accuracy_micro": 0.5}}', encoding="utf-8")
    return {
        "journal": (folder / JOURNAL_FILE, lambda _: read_journal(folder)),
        "progress": (folder / PROGRESS_FILE, lambda _: _progress(folder)),
        "state": (folder / DATA_STATE_FILE, lambda _: _state(folder)),
        "marker": (folder / MARKER, lambda _: read_marker(folder)),
        "request": (RequestFolder(folder).folder / f"{name}.json", lambda _: _request(folder)),
        "packed": (packed / "manifest.json", lambda _: PackedManifest.read(packed)),
        "stage": (stage / "manifest.json", lambda _: _stage(stage)),
        "results": (folder / "results.json", lambda _: _results(folder)),
    }


CHECKED = ("journal", "state", "packed")
"""Files with a checksum: what is read from them is what was written, in every field.

The others have none inside: of a damaged one that is still well formed, another value may be read.
A marker lists the checksums of a checkpoint's files, trainer.json among them (`find_damage`)."""

KINDS = (*CHECKED, "progress", "marker", "request", "stage", "results")
VALUES = st.sampled_from(
    [None, True, -1, 1.5, 10**30, 1e308, "", "3", "x" * 9999, [], {}, [[1]], {"a": {}}]
)


def damaged(draw: st.DrawFn, content: bytes) -> bytes:
    """A file's bytes with one piece changed, cut off or doubled, or one value replaced."""
    at = draw(st.integers(0, len(content)))
    match draw(st.integers(0, 3)):
        case 0:
            return content[:at]
        case 1:
            piece = draw(st.sampled_from([b"\0", b"\xff", b"[" * 20_000, b"NaN", b"9" * 5000, b""]))
            return content[:at] + piece + content[at + draw(st.integers(0, 30)) :]
        case 2:
            return content + content
    value = json.loads(content)
    keys = [key for key in value if isinstance(value, dict)]
    value[draw(st.sampled_from(sorted(keys)))] = draw(VALUES)
    return json.dumps(value).encode()


DAMAGE = st.composite(damaged)


@pytest.mark.parametrize("kind", KINDS)
def test_damage_is_the_right_value_or_an_error_that_names_the_file(
    kind: str, tmp_path: Path
) -> None:
    path, read = write_all(tmp_path)[kind]
    content, right = path.read_bytes(), read(path)

    @settings(max_examples=100, deadline=None, suppress_health_check=list(HealthCheck))
    @given(DAMAGE(content))
    def tried(data: bytes) -> None:
        path.write_bytes(data)
        try:
            found = read(path)
        except SteelError as error:
            assert len(str(error)) < 5000
            assert path.name in str(error) or "data state" in str(error)
        else:
            assert kind not in CHECKED or found == right

    tried()


@pytest.mark.parametrize("kind", KINDS)
def test_a_folder_in_its_place_is_named(kind: str, tmp_path: Path) -> None:
    path, read = write_all(tmp_path)[kind]
    path.unlink()
    path.mkdir()
    with pytest.raises(SteelError, match=path.name):
        read(path)
