"""A lease: one session writes, and what another one had begun reaches nothing."""

import json
import multiprocessing
import os
import shutil
from collections.abc import Callable, Iterator
from multiprocessing.synchronize import Barrier
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from model.train.run import lease as lease_module
from model.train.run import metrics as metrics_module
from model.train.run.folder import LEASE_FOLDER, METRICS_FILE
from model.train.run.lease import EXIT_REPLACED, LEASE_FILE, Lease
from model.train.run.metrics import JsonLines
from tests.processes import PATIENCE_SECONDS

Act = Callable[[Lease], None]


class Replaced(BaseException):
    """Raised where a process would end."""


@pytest.fixture(autouse=True)
def ends_are_raised(monkeypatch: pytest.MonkeyPatch) -> None:
    def end(code: int) -> None:
        assert code == EXIT_REPLACED
        raise Replaced

    monkeypatch.setattr(lease_module, "exit_now", end)


def seen(run: Path) -> dict[str, bytes | None]:
    """All that others see of a run: content by name, None for folders."""
    return {
        str(path.relative_to(run)): path.read_bytes() if path.is_file() else None
        for path in sorted(run.rglob("*"))
        if path.relative_to(run).parts[0] != LEASE_FOLDER
    }


def publish_folder(lease: Lease) -> None:
    with lease.guard():
        prepared = lease.stage("folder")
        prepared.mkdir()
        (prepared / "new").write_text("new")
        lease.publish_folder(prepared, lease.run / "folder")


def publish_new_folder(lease: Lease) -> None:
    with lease.guard():
        prepared = lease.stage("other")
        prepared.mkdir()
        lease.publish_folder(prepared, lease.run / "deep" / "other")


def append(lease: Lease) -> None:
    lines = JsonLines(lease.run / METRICS_FILE, lease)
    lines.append(step=2)
    lines.append(step=3)


ACTS: dict[str, Act] = {
    "write over": lambda lease: lease.write_json(lease.run / "file", {"new": 1}),
    "write anew": lambda lease: lease.write_text(lease.run / "deep" / "file", "new"),
    "status": lambda lease: lease.write_status(lease.run / "ranks" / "file", 1),
    "publish over": publish_folder,
    "publish anew": publish_new_folder,
    "remove file": lambda lease: lease.remove(lease.run / "file"),
    "remove folder": lambda lease: lease.remove(lease.run / "folder"),
    "move": lambda lease: lease.move(lease.run / "folder", lease.run / "folder.aside"),
    "make folder": lambda lease: lease.make_folder(lease.run / "a" / "b"),
    "append": append,
    "cut": lambda lease: JsonLines(lease.run / METRICS_FILE, lease).cut(0),
}


def make_run(run: Path) -> Lease:
    """A session of a run that has a file, a folder and measurements."""
    lease = Lease.take(run)
    lease.write_text(run / "file", "old")
    prepared = lease.stage("folder")
    prepared.mkdir()
    (prepared / "old").write_text("old")
    lease.publish_folder(prepared, run / "folder")
    JsonLines(run / METRICS_FILE, lease).append(step=1)
    return lease


@pytest.mark.parametrize("name", ACTS)
def test_what_a_session_does_is_done_while_it_has_the_lease(tmp_path: Path, name: str) -> None:
    lease = make_run(tmp_path)
    before = seen(tmp_path)
    ACTS[name](lease)
    assert seen(tmp_path) != before
    assert {path.name for path in lease.folder.iterdir()} == {LEASE_FILE}, "nothing is left over"


@settings(
    max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    name=st.sampled_from(sorted(ACTS)),
    number=st.integers(1, 6),
    others=st.lists(st.sampled_from(sorted(ACTS)), max_size=3),
)
def test_no_step_of_a_session_that_is_replaced_just_before_it_is_seen(
    tmp_path_factory: pytest.TempPathFactory, name: str, number: int, others: list[str]
) -> None:
    """Another session takes the run up, and does `others`, before the n-th system call of one."""
    run = tmp_path_factory.mktemp("run")
    old = make_run(run)
    after: list[dict[str, bytes | None]] = []
    rename, write = lease_module._rename, metrics_module._write
    calls = 0

    def overtaken() -> None:
        nonlocal calls
        calls += 1
        if calls == number and not after:
            new = Lease.take(run)
            # As a session begins: with its own copy, up to what its checkpoint knows of.
            JsonLines(run / METRICS_FILE, new).cut((run / METRICS_FILE).stat().st_size)
            for other in others:
                ACTS[other](new)
            after.append(seen(run))

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(lease_module, "_rename", lambda a, b: (overtaken(), rename(a, b))[1])
        patch.setattr(metrics_module, "_write", lambda a, b: (overtaken(), write(a, b))[1])
        try:
            ACTS[name](old)
            ended = False
        except Replaced:
            ended = True
    if after:
        assert seen(run) == after[0]
        with pytest.raises(Replaced):
            old.check()
        assert ended or name == "append", "a last line that nobody sees may be the end of it"
    assert not after or len(list((run / LEASE_FOLDER).glob("*-*"))) == 1
    shutil.rmtree(run)


def test_who_comes_late_takes_no_number_twice(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Stopped before its claim, while two others came and the first of them went."""
    first = Lease.take(tmp_path)
    numbers = lease_module._numbers

    def stopped(place: Path) -> Iterator[int]:
        found = list(numbers(place))
        monkeypatch.setattr(lease_module, "_numbers", numbers)
        later.extend([Lease.take(tmp_path), Lease.take(tmp_path)])
        return iter(found)

    later: list[Lease] = []
    monkeypatch.setattr(lease_module, "_numbers", stopped)
    with pytest.raises(Replaced):
        Lease.take(tmp_path)
    assert [lease.number for lease in later] == [2, 3]
    assert [lease.held() for lease in (first, *later)] == [False, False, True]
    assert len(list((tmp_path / LEASE_FOLDER).glob("*-*"))) == 1, "it left no folder either"


def _take(run: Path, barrier: Barrier) -> None:
    lease_module.exit_now = os._exit
    barrier.wait()
    lease = Lease.take(run)
    (run / f"took-{lease.number}").write_text(lease.folder.name)
    os._exit(0)


def test_of_many_at_the_same_moment_one_has_the_run(tmp_path: Path) -> None:
    context = multiprocessing.get_context("fork")
    for _ in range(5):
        barrier = context.Barrier(6)
        contenders = [context.Process(target=_take, args=(tmp_path, barrier)) for _ in range(6)]
        for contender in contenders:
            contender.start()
        for contender in contenders:
            contender.join(PATIENCE_SECONDS)
        assert {contender.exitcode for contender in contenders} <= {0, EXIT_REPLACED}
        [holder] = (tmp_path / LEASE_FOLDER).glob("*-*")
        number, _, token = holder.name.partition("-")
        lease = Lease(tmp_path, int(number), token)
        assert lease.held()
        claims = sorted((tmp_path / LEASE_FOLDER).glob("*.json"))
        assert claims[-1].stem == number
        assert (tmp_path / f"took-{int(number)}").read_text() == holder.name


def test_an_error_that_has_another_reason_is_raised(tmp_path: Path) -> None:
    lease = Lease.take(tmp_path)
    with pytest.raises(KeyError), lease.guard():
        raise KeyError("mine")
    (tmp_path / "blocked").write_text("a file where a folder should be")
    with pytest.raises(OSError, match="blocked"):
        lease.write_text(tmp_path / "blocked" / "file", "text")
    assert lease.held()


def test_the_claim_says_who_it_was(tmp_path: Path) -> None:
    lease = Lease.take(tmp_path)
    claim = json.loads((tmp_path / LEASE_FOLDER / "00000001.json").read_text())
    assert claim["pid"] == os.getpid() and claim["host"]
    lease.release()
    assert [path.name for path in (tmp_path / LEASE_FOLDER).iterdir()] == ["00000001.json"]
    assert Lease.take(tmp_path).number == 2
