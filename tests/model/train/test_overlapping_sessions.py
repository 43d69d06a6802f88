"""A session that was replaced ends itself and changes nothing, wherever it was stopped."""

import json
import random
import shutil
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from model.train.run.folder import LEASE_FOLDER, REQUESTS_FOLDER, SESSIONS_FILE
from model.train.run.lease import EXIT_REPLACED
from model.train.run.sessions import read_sessions
from tests.model.train import ranks
from tests.model.train.overlap import Pause, Session, assert_same_history

pytestmark = pytest.mark.usefixtures("fork_server")

LOSSES = {9: 10.0}
"""A spike, which is rolled back to step 6 or before."""
JOB = ranks.settings(
    steps=14,
    schedule="constant",
    eval_interval=4,
    health={
        "spike_window": 4,
        "spike_threshold": 20.0,
        "rollback_steps": 3,
        "spike": "rollback",
        "non_finite": "skip",
    },
    checkpoints={"interval": 2, "keep_last": 4},
    profile={"start_step": 3, "num_steps": 1},
)
REQUESTS = {
    "1-longer": {"steps": 15, "decay_at": None},
    "2-shorter": {"steps": 0, "decay_at": None},
}
"""Done, and refused."""

MakeSession = Callable[..., Session]


def prepare(packed: Path, run: Path) -> Path:
    """A job with two requests that wait for its first step."""
    job = ranks.write_job(packed, run, JOB)
    (run / REQUESTS_FOLDER).mkdir()
    for name, request in REQUESTS.items():
        content = {"schema_version": 1, "kind": "reschedule", "request": request}
        (run / REQUESTS_FOLDER / f"{name}.json").write_text(json.dumps(content))
    return job


@pytest.fixture
def start() -> Iterator[MakeSession]:
    """Start a session of a job: start(job, 2, pause=…)."""
    started: list[Session] = []

    def make(job: Path, world_size: int = 1, **options: Any) -> Session:
        started.append(Session(job, world_size, losses=LOSSES, **options))
        return started[-1]

    yield make
    for session in started:
        session.kill()


@pytest.fixture(scope="module")
def undisturbed(
    packed: Path, fork_server: None, tmp_path_factory: pytest.TempPathFactory
) -> dict[int, Path]:
    """Runs of one and of two ranks, by the number, of one session each."""
    runs = {}
    for world_size in (1, 2):
        run = tmp_path_factory.mktemp("undisturbed") / "run"
        session = Session(prepare(packed, run), world_size, losses=LOSSES)
        assert session.wait() == [0] * world_size, session.log.read_text()
        runs[world_size] = run
    return runs


WRITES = [
    Pause("metrics 11"),
    Pause("own > checkpoints/step-00000012"),
    Pause("checkpoints/step-00000008 > own"),  # forgotten by the rollback
]
MORE_WRITES = [
    Pause("own > metrics.jsonl", number=2),  # the rollback's cut
    Pause("own > journal.json"),
    Pause("own > model"),
    Pause("own > checkpoints"),
    Pause("own > metrics.jsonl"),
    Pause("health 9"),
    Pause("begin 1"),
    Pause("end 1"),
    Pause("checkpoints/step-00000002 > own"),  # more than are kept
    Pause("own > manifests/base.json"),
    Pause("requests/1-longer.json > own"),
    Pause("own > requests/refused/2-shorter.json"),
    Pause("requests/2-shorter.json > own"),
    Pause("own > profile/step-00000003/rank-0.json.gz"),
    Pause("ranks/rank-00000.json > own"),
]


@pytest.mark.parametrize(
    "pause",
    [*WRITES, *(pytest.param(pause, marks=pytest.mark.slow) for pause in MORE_WRITES)],
    ids=lambda pause: f"{pause.write} {pause.number}",
)
def test_a_write_that_comes_late_changes_nothing(
    packed: Path, undisturbed: dict[int, Path], start: MakeSession, tmp_path: Path, pause: Pause
) -> None:
    job = prepare(packed, tmp_path / "run")
    old = start(job, pause=pause)
    assert old.wait_until_stopped(0), "the write was made"
    # A checkpoint that is published late must not be there yet, and must not be resumed from.
    publishes = pause.write.startswith("own > checkpoints/")
    new = start(job, pause=Pause("metrics *" if publishes else "metrics 12"))
    new.wait_until_stopped(0)  # or it ended, where the last step was made before
    old.signal(signal.SIGCONT)
    assert old.wait() == [EXIT_REPLACED], old.log.read_text()
    assert "session 1 of the run in " in (log := old.log.read_text())
    assert " was replaced by session 2 (process " in log
    if publishes:
        new.signal(signal.SIGKILL)
        new = start(job)
    new.signal(signal.SIGCONT)
    assert new.wait() == [0], new.log.read_text()
    assert_same_history(tmp_path / "run", undisturbed[1])
    assert "profile" not in pause.write or not list((tmp_path / "run").glob("profile/*/*"))
    told = {s.number: s.how for s in read_sessions(tmp_path / "run" / SESSIONS_FILE)}
    how = "done" if pause.write == "own > model" else "killed"  # its last step was made
    assert told.pop(1, how) == how and list(told) == ([2, 3] if publishes else [2])
    assert told[max(told)] == "done"


@pytest.mark.parametrize(
    "pause",
    [
        Pause("own > checkpoints/step-00000004"),
        Pause("own > profile/step-00000003/rank-1.json.gz", rank=1),
    ],
    ids=["rank 0", "rank 1"],
)
def test_a_rank_that_outlives_the_others_changes_nothing(
    packed: Path, undisturbed: dict[int, Path], start: MakeSession, tmp_path: Path, pause: Pause
) -> None:
    job = prepare(packed, tmp_path / "run")
    old = start(job, 2, pause=pause)
    assert old.wait_until_stopped(pause.rank)
    old.signal(signal.SIGKILL, 1 - pause.rank)
    new = start(job, 2, pause=Pause("metrics 7"))
    assert new.wait_until_stopped(0)
    old.signal(signal.SIGTERM, pause.rank)  # as the death of its launcher does
    old.signal(signal.SIGCONT, pause.rank)
    assert old.wait()[pause.rank] == EXIT_REPLACED, old.log.read_text()
    new.signal(signal.SIGCONT)
    assert new.wait() == [0, 0], new.log.read_text()
    assert_same_history(tmp_path / "run", undisturbed[2])


def test_of_two_that_take_a_run_up_the_later_one_goes_on(
    packed: Path, undisturbed: dict[int, Path], start: MakeSession, tmp_path: Path
) -> None:
    """The second is stopped between its claim and the end of the first one's lease."""
    job = prepare(packed, tmp_path / "run")
    first = start(job, pause=Pause("metrics 5"))
    assert first.wait_until_stopped(0)
    second = start(job, pause=Pause("lease/* > own"))
    assert second.wait_until_stopped(0)
    third = start(job)
    assert third.wait() == [0], third.log.read_text()
    for replaced in (first, second):
        replaced.signal(signal.SIGCONT)
        assert replaced.wait() == [EXIT_REPLACED], replaced.log.read_text()
    assert_same_history(tmp_path / "run", undisturbed[1])
    told = read_sessions(tmp_path / "run" / SESSIONS_FILE)
    assert [(s.number, s.how) for s in told] == [(1, "killed"), (3, "done")]


# Random


@pytest.mark.slow
@pytest.mark.timeout(1800)  # each takes seconds, on a busy machine half a minute
@pytest.mark.parametrize("seeds", [range(n, n + 10) for n in range(0, 50, 10)], ids=str)
@pytest.mark.parametrize("world_size", [1, 2])
def test_random_interleavings_leave_one_history(
    packed: Path, undisturbed: dict[int, Path], tmp_path: Path, world_size: int, seeds: range
) -> None:
    """Two to four sessions, stopped anywhere, killed, gone on with at any later time.

    The seed of a failure is printed with what was done; it repeats the interleaving up to how fast
    the processes are.
    """
    for seed in seeds:
        run = tmp_path / f"seed-{seed}" / "run"
        interleaving = Interleaving(prepare(packed, run), world_size, random.Random(seed))
        try:
            interleaving.play()
            assert_same_history(run, undisturbed[world_size])
            interleaving.check_sessions()
        except BaseException:
            print(f"seed {seed}, {world_size} rank(s):", *interleaving.told, sep="\n  ")
            print(interleaving.log)
            raise
        finally:
            interleaving.kill()
        shutil.rmtree(run.parent)


class Interleaving:
    """One run and the sessions that meddle with it; only the last one is left alone."""

    def __init__(self, job: Path, world_size: int, chance: random.Random) -> None:
        self.job, self.world_size, self.chance = job, world_size, chance
        self.sessions: list[Session] = []
        self.asleep: list[tuple[Session, int]] = []
        """Stopped ranks whose session was killed, and which may go on any time."""
        self.told: list[str] = []

    @property
    def log(self) -> str:
        path = self.job.parent.with_suffix(".log")
        return path.read_text() if path.exists() else ""

    def play(self) -> None:
        for _ in range(self.chance.randint(1, 3)):
            self.disturbed()
        last = self.start(None)
        while self.asleep:
            self.wait(0.8)
            self.wake()
        codes = last.wait()
        assert codes == [0] * self.world_size, codes
        for session in self.sessions[:-1]:
            session.kill_who_waits_for_a_partner()
            for code in session.wait():
                # Replaced, killed, or, while it still was the newest: lost its partner, stopped
                # with a checkpoint, done.
                assert code in (EXIT_REPLACED, -signal.SIGKILL, -signal.SIGTERM, 3, 143, 0), code

    def disturbed(self) -> None:
        """A session one rank of which is stopped; then it goes on, is killed, or left behind."""
        rank = self.chance.randrange(self.world_size)
        if rank == 0 and self.chance.random() < 0.7:
            session = self.start(Pause("*", number=self.chance.randint(1, 70)))
            session.wait_until_stopped(0)
        else:
            session = self.start(None)
            self.wait(2.0)
            session.signal(signal.SIGSTOP, rank)
        if self.asleep and self.chance.random() < 0.5:
            self.wake()
        end = self.chance.choice(["kill", "leave", "leave", "leave", "go on"])
        self.told.append(f"rank {rank} of session {len(self.sessions)} is stopped; {end}")
        if end == "go on":
            session.signal(signal.SIGCONT, rank)
            self.wait(0.5)
        if end != "leave":
            session.signal(signal.SIGKILL)
            return
        others = [r for r in range(self.world_size) if r != rank]
        if others:
            session.signal(signal.SIGKILL, *others)
        if self.chance.random() < 0.5:
            session.signal(signal.SIGTERM, rank)  # as the death of its launcher does
        self.asleep.append((session, rank))
        if self.chance.random() < 0.2:
            self.wake()  # before anything replaced it

    def wake(self) -> None:
        session, rank = self.asleep.pop(self.chance.randrange(len(self.asleep)))
        self.told.append(f"rank {rank} of session {1 + self.sessions.index(session)} goes on")
        session.signal(signal.SIGCONT, rank)

    def start(self, pause: Pause | None) -> Session:
        self.sessions.append(Session(self.job, self.world_size, losses=LOSSES, pause=pause))
        self.told.append(f"session {len(self.sessions)} starts, to be stopped at {pause}")
        return self.sessions[-1]

    def wait(self, seconds: float) -> None:
        time.sleep(self.chance.uniform(0, seconds))

    def kill(self) -> None:
        for session in self.sessions:
            session.kill()

    def check_sessions(self) -> None:
        """Compare what sessions.jsonl tells with what became of the processes of rank 0."""
        run = self.job.parent
        claims = {
            json.loads(path.read_text())["pid"]: int(path.stem)
            for path in (run / LEASE_FOLDER).glob("*.json")
        }
        codes = {
            claims[rank_0.pid]: rank_0.exitcode
            for rank_0 in (session.processes[0] for session in self.sessions)
            if rank_0.pid in claims
        }
        told = read_sessions(run / SESSIONS_FILE)
        numbers = [session.number for session in told]
        assert numbers == sorted(set(numbers))
        assert told[-1].how == "done" and told[-1].number == max(codes)
        ends = {0: {"done"}, 143: {"stopped"}}
        for session in told:
            # Killed or replaced, it may have noted its end before.
            allowed = ends.get(codes[session.number] or 0, {"killed", "done", "stopped"})
            assert session.how in allowed or codes[session.number] == 3, session
