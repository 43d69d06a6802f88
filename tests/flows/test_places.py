"""Stores and data sets in places that cannot be theirs: one message before work starts, exit 2."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from common.paths import ROOT
from flows.cli import main
from flows.commands import BAD_INPUT, DONE

SMOKE = "deployments/smoke.yaml"
NOBODY = 65534
"""User id of a user who owns nothing."""

NO_DATA = "is no folder of data"
NO_STORE = "would be the root of the disk or of Steel, or a folder of the system"
IN_DATA = "lies in the data set's own location"


def refused(capsys: pytest.CaptureFixture[str], *argv: str) -> str:
    """The one message of a command that must refuse."""
    assert main(list(argv)) == BAD_INPUT
    output = capsys.readouterr()
    assert output.out == ""
    assert "Traceback" not in output.err
    assert output.err.startswith(f"error: {SMOKE}: ")
    assert len(output.err) < 3000
    return output.err


@pytest.mark.parametrize("command", ["check", "run"])
@pytest.mark.parametrize(
    ("path", "folder", "wanted"),
    [
        ("clean/0123456789abcdef.partial", False, "a folder"),
        ("clean/0123456789abcdef", False, "a folder"),
        ("pretrain", False, "a folder"),
        ("pack/0123456789abcdef.lock", True, "a file"),
    ],
)
def test_a_file_for_a_folder_in_the_store_is_named_and_a_folder_for_a_file(
    command: str,
    path: str,
    folder: bool,
    wanted: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    wrong = tmp_path / path
    wrong.parent.mkdir(exist_ok=True)
    if folder:
        wrong.mkdir()
    else:
        wrong.touch()
    message = refused(capsys, command, SMOKE, "--store", str(tmp_path))
    assert message == f"error: {SMOKE}: {wrong} should be {wanted} and is not: move it away\n"


@pytest.mark.parametrize("command", ["check", "run"])
def test_a_store_that_cannot_be_made(
    command: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "file"
    file.touch()
    for store in (file, file / "deep" / "store"):
        message = refused(capsys, command, SMOKE, "--store", str(store))
        assert f"the store {store} cannot be made: {file} is no folder" in message
    for place in ("/", "/proc/steel", "/dev/steel", str(ROOT)):
        assert NO_STORE in refused(capsys, command, SMOKE, "--store", place)


def test_a_store_that_this_user_may_not_write_to(tmp_path: Path) -> None:
    # The folder must be seen by another user, and root may write to everything.
    for folder in (tmp_path, *tmp_path.parents[:-2]):
        if os.geteuid() == folder.stat().st_uid:
            folder.chmod(0o755)
    store = tmp_path / "store"
    store.mkdir(mode=0o755)
    store.chmod(0o555)
    program = (
        "import os, sys\n"
        "from pathlib import Path\n"
        "from common.errors import SteelError\n"
        "from tasks.core.store import check_store\n"
        f"if os.geteuid() == 0: os.setresuid({NOBODY}, {NOBODY}, {NOBODY})\n"
        "print(*check_store(Path(sys.argv[1])), sep='\\n')"
    )
    for place in (store, store / "below"):
        done = subprocess.run(
            [sys.executable, "-c", program, str(place)],
            cwd=ROOT,
            capture_output=True,
            text=True,
            check=True,
        )
        assert done.stdout == (
            f"the store {place} cannot be written: this user may not write to {store}. Change its "
            "permissions, or give another place with --store\n"
        )


@pytest.mark.parametrize(
    ("location", "part"),
    [
        *((location, NO_DATA) for location in ("/", "//", "/proc", "/proc/1", "/sys", "/dev")),
        *(
            (location, NO_DATA)
            for location in (str(ROOT), str(ROOT.parent), ".", "..", "corpus/..")
        ),
        *((location, NO_DATA) for location in ("/**/*.jsonl", "/*", "/p*/**", "/[ps]*/*/*.jsonl")),
        *((location, NO_DATA) for location in ("/proc/*/environ", "/sys/../proc", "/dev/zero")),
        *((location, NO_DATA) for location in ("./**/*.jsonl", "../**/x/*.jsonl")),
        ("x/**/y/**/*.jsonl", "it has `**` more than once"),
        ("x*/../../**/*.jsonl", "has `..` behind a wildcard"),
    ],
)
def test_what_is_no_place_of_data_is_refused_and_not_looked_through(
    location: str, part: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    keys = ("corpora.skypile", "sft_sets.openhermes", "benchmarks.ceval")
    given = [word for key in keys for word in ("--set", f"{key}={location}")]
    message = refused(capsys, "check", SMOKE, "--store", str(tmp_path / "store"), *given)
    assert message.count(part) == len(keys)
    for name in ("skypile", "openhermes", "ceval"):
        assert f"Data set '{name}': " in message
    assert not (tmp_path / "store").exists()


def test_links_to_such_places_are_refused_too(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for number, place in enumerate(("/", "/proc", str(ROOT))):
        link = tmp_path / f"link-{number}"
        link.symlink_to(place)
        given = ["--set", f"corpora.skypile={link}"]
        assert NO_DATA in refused(capsys, "check", SMOKE, "--store", str(tmp_path / "s"), *given)


@pytest.mark.parametrize("key", ["corpora.skypile", "sft_sets.openhermes"])
def test_a_store_inside_of_a_data_set_is_refused(
    key: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = tmp_path / "data"
    data.mkdir()
    (data / "a.jsonl").write_text('{"text": "a"}\n')
    link = tmp_path / "link"
    link.symlink_to(data)
    for location, store in (
        (data, data / "store"),
        (data, link / "store"),
        (link, data),
        (data / "**" / "*.jsonl", data / "store"),
        (tmp_path / "d*" / "**" / "*.jsonl", data / "store"),
    ):
        argv = [SMOKE, "--store", str(store), "--set", f"{key}={location}"]
        assert f"{key}: the store {store} {IN_DATA}" in refused(capsys, "check", *argv)
    assert IN_DATA in refused(capsys, "run", *argv)
    assert not (data / "store").exists()


def test_a_store_beside_a_data_set_is_sound(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = tmp_path / "data"
    data.mkdir()
    (data / "a.jsonl").write_text('{"text": "a"}\n')
    (data / "odd[1].jsonl").write_text('{"text": "a"}\n')
    cases = {
        data: tmp_path / "store",
        data / "*.jsonl": data / "store",
        data / "a.jsonl": data / "store",
        data / "odd[1].jsonl": data / "store",
    }
    for location, store in cases.items():
        argv = ["check", SMOKE, "--store", str(store), "--set", f"corpora.skypile={location}"]
        assert main(argv) == DONE, capsys.readouterr().err


def test_weights_of_an_unknown_source_are_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    argv = ["check", SMOKE, "--store", str(tmp_path / "s"), "--set"]
    message = refused(capsys, *argv, "pretrain.weights={skypile: 2, skypil: 2}")
    assert "pretrain.weights: 'skypil' is no source of the packed data; they come from " in message
    assert message.endswith("(did you mean 'skypile'?)\n")
    assert main([*argv, "pretrain.weights={skypile: 2}"]) == DONE
