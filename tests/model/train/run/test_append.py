"""Data that join a run: what is trained on is the formula's, sample by sample."""

import json
import os
import random
import signal
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest

from common.config import from_json
from model.data import Append, DataState, PackedDataset, PackedManifest
from model.train.checkpoint.folders import complete_checkpoints
from model.train.config import PretrainJob
from model.train.run.client import RequestResult, RunClient
from model.train.run.folder import (
    CHECKPOINTS_FOLDER,
    DATA_STATE_FILE,
    JOB_FILE,
    MODEL_FOLDER,
    PROGRESS_FILE,
    REQUESTS_FOLDER,
)
from model.train.run.journal import AppendEntry
from model.train.run.plan import RunPlan, sample_order
from model.train.run.requests import RequestFolder
from tests.model.train import ranks
from tests.model.train.ranks import Fault
from tests.processes import PATIENCE_SECONDS, wait_until

pytestmark = pytest.mark.usefixtures("fork_server")

STOPPED = 143
BATCH = 8


@pytest.fixture(scope="session")
def more(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Three folders of packed data that the first ones know nothing of."""
    folders = [tmp_path_factory.mktemp(f"more-{i}") for i in range(3)]
    return [ranks.write_packed(f, tokens=2_000, seed=50 + i) for i, f in enumerate(folders)]


def append(output: Path, data: Path, *, running: bool = False, **how: Any) -> RequestResult:
    return RunClient.open(output, running=running).append(data, **how)


def finish(job: Path, world_size: int = 2) -> None:
    codes = ranks.run_ranks(job, world_size)
    assert codes == [0] * world_size, (job.parent / "rank-0.log").read_text()


def plan_of(output: Path) -> RunPlan:
    job = from_json(PretrainJob, output / JOB_FILE)
    return RunPlan.read(output, job.settings, PackedManifest.read(Path(job.packed) / "shards"))


def assert_order(output: Path, appends: list[tuple[Path, int]]) -> None:
    """Every sample had the tokens of the order that these appends (data, at) make, none twice."""
    job = from_json(PretrainJob, output / JOB_FILE)
    base = PackedManifest.read(Path(job.packed) / "shards")
    joined = tuple(
        Append(at=at, manifest=PackedManifest.read(data / "shards"), seed=job.settings.seed)
        for data, at in appends
    )
    order = sample_order(job.settings, base, joined)
    total = plan_of(output).length.total_steps
    numbers = list(range(total * BATCH))
    batch = PackedDataset(Path(job.packed) / "shards", order).batch(numbers)
    expected = {number: ranks.content(row) for number, row in enumerate(batch["input_ids"])}
    assert ranks.read_contents(output) == expected
    found = order.locate_many(numbers)
    places = {*zip(found.shard.tolist(), found.epoch.tolist(), found.start.tolist(), strict=True)}
    assert len(places) == len(numbers), "a block is trained on once an epoch"
    if total == order.num_samples // BATCH:
        assert order.num_samples - len(places) < BATCH, "every block is, but for half a batch"


def assert_same_run(output: Path, reference: Path) -> None:
    assert ranks.read_run(output) == ranks.read_run(reference)
    assert ranks.read_contents(output) == ranks.read_contents(reference)
    weights = [
        (folder / MODEL_FOLDER / "model.safetensors").read_bytes() for folder in (output, reference)
    ]
    assert weights[0] == weights[1]


@pytest.fixture(scope="session")
def appended(
    packed: Path, more: list[Path], fork_server: None, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """A run that nothing disturbed, which new data joined at step 6 and made longer."""
    output = tmp_path_factory.mktemp("appended")
    job = ranks.write_job(packed, output, ranks.settings())
    assert append(output, more[0], at_step=6, steps="extend").status == "requested"
    finish(job)
    return output


def test_new_data_join_at_the_step_and_make_the_run_longer(
    appended: Path, more: list[Path]
) -> None:
    new = PackedManifest.read(more[0] / "shards")
    gained = sum((shard.num_tokens - 1) // 32 for shard in new.shards) // BATCH
    assert gained >= 6
    [entry] = plan_of(appended).append_entries
    length = entry.length
    assert (length.step, length.total_steps, entry.steps) == (6, 12 + gained, "extend")
    assert sorted(ranks.read_run(appended)) == list(range(1, 13 + gained))
    assert_order(appended, [(more[0], 6 * BATCH)])
    assert not list((appended / REQUESTS_FOLDER).iterdir())
    newest = complete_checkpoints(appended / CHECKPOINTS_FOLDER)[-1]
    saved = json.loads((newest / PROGRESS_FILE).read_text())
    assert saved["length"] == json.loads(json.dumps(asdict(plan_of(appended).length)))
    state = DataState.from_json((newest / DATA_STATE_FILE).read_text())
    assert [entry.at for entry in state.appends] == [6 * BATCH]


def test_an_append_costs_no_communication_while_none_is_requested(
    appended: Path, uninterrupted: Path
) -> None:
    def reductions(output: Path) -> int:
        counted = json.loads((output / "collectives-0.json").read_text())
        # A validation sums once as the model is, and once with mean routing.
        sums = ("validation/loss", "validation/loss_mean_routing")
        steps = ranks.read_run(output).values()
        return int(counted["all_reduce"]) - sum(
            name in metrics for metrics in steps for name in sums
        )

    assert reductions(uninterrupted) == 12
    assert reductions(appended) == max(ranks.read_run(appended))


CHANGE = 6
KILLS = [
    Fault(step=CHANGE, at="before journal"),  # the request alone is on disk
    Fault(step=CHANGE, at="after journal"),  # the request still lies there
    Fault(step=CHANGE, rank=1),  # before the first new batch
    Fault(step=8, at="before rename"),  # before the first checkpoint that knows
]


def assert_killed(job: Path, fault: Fault) -> None:
    codes = ranks.run_ranks(job, 2, fault)
    assert codes[fault.rank] == -signal.SIGKILL, (
        fault,
        codes,
        (job.parent / "rank-0.log").read_text(),
    )
    assert codes[1 - fault.rank] != 0


def test_kills_around_an_append_leave_no_trace(
    packed: Path, more: list[Path], appended: Path, tmp_path: Path
) -> None:
    job = ranks.write_job(packed, tmp_path, ranks.settings())
    append(tmp_path, more[0], at_step=CHANGE, steps="extend")
    for fault in KILLS:
        assert_killed(job, fault)
    finish(job)
    assert_same_run(tmp_path, appended)


def test_kills_around_a_change_of_the_length_leave_no_trace(packed: Path, tmp_path: Path) -> None:
    outputs = [tmp_path / "undisturbed", tmp_path / "killed"]
    jobs = [ranks.write_job(packed, output, ranks.settings()) for output in outputs]
    for output in outputs:
        RunClient.open(output, running=False).reschedule(steps=15)
    finish(jobs[0])
    assert_killed(jobs[1], Fault(step=0, at="before journal"))
    assert plan_of(outputs[1]).entries == () and RequestFolder(outputs[1]).names()
    assert_killed(jobs[1], Fault(step=0, at="after journal"))
    assert len(plan_of(outputs[1]).entries) == 1 and RequestFolder(outputs[1]).names()
    finish(jobs[1])
    assert len(plan_of(outputs[1]).entries) == 1 and not RequestFolder(outputs[1]).names()
    assert max(ranks.read_run(outputs[1])) == 15
    assert_same_run(*outputs)


def test_append_from_outside_while_two_ranks_train(
    packed: Path, more: list[Path], tmp_path: Path
) -> None:
    job = ranks.write_job(packed, tmp_path, ranks.settings(steps=0, checkpoints={"interval": 100}))
    pause = Fault(step=4, number=signal.SIGSTOP)  # so that it has not ended before it is asked
    training = ranks.start_ranks(ranks._train, 2, job, pause, {}, {})
    try:
        log = tmp_path / "rank-0.log"
        stopped = lambda: ranks.is_stopped(training[0])  # noqa: E731
        wait_until(stopped, "rank 0 has made four steps", rank=training[0], log=log)
        answer = append(tmp_path, more[0], running=True, steps="extend")
        assert append(tmp_path, more[0], running=True, steps="extend").status == "pending"
        assert training[0].pid
        os.kill(training[0].pid, signal.SIGCONT)
        for process in training:
            process.join(PATIENCE_SECONDS)
        assert [process.exitcode for process in training] == [0, 0], log.read_text()
    finally:
        for process in training:
            process.kill()
            process.join()
    plan = plan_of(tmp_path)
    [entry] = plan.appends
    assert entry.at >= 3 * BATCH and entry.at % BATCH == 0
    assert plan.length.total_steps == answer.total_steps
    assert_order(tmp_path, [(more[0], entry.at)])
    # The very run, had the step been named beforehand.
    again = tmp_path / "again"
    job = ranks.write_job(packed, again, ranks.settings(steps=0, checkpoints={"interval": 100}))
    append(again, more[0], at_step=entry.at // BATCH, steps="extend")
    finish(job)
    assert_same_run(tmp_path, again)


def test_appends_to_a_stopped_run_that_moves_to_other_ranks(
    packed: Path, more: list[Path], tmp_path: Path
) -> None:
    job = ranks.write_job(packed, tmp_path, ranks.settings())
    assert ranks.run_ranks(job, 2, Fault(step=2, number=signal.SIGTERM)) == [STOPPED, STOPPED]
    append(tmp_path, more[0])  # joins when it goes on, after step 3
    append(tmp_path, more[1], at_step=8, steps="extend")
    assert ranks.run_ranks(job, 1, Fault(step=6, number=signal.SIGTERM)) == [STOPPED]
    assert [entry.at for entry in plan_of(tmp_path).appends] == [3 * BATCH]
    finish(job, 2)
    assert_order(tmp_path, [(more[0], 3 * BATCH), (more[1], 8 * BATCH)])
    assert [entry.steps for entry in plan_of(tmp_path).append_entries] == ["keep", "extend"]


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(4))
def test_random_appends_kills_stops_and_ranks(
    packed: Path, more: list[Path], tmp_path: Path, seed: int
) -> None:
    """Whatever happens: the order is the journal's, and a twin that was never disturbed equals it
    (same ranks: bit for bit)."""
    chance = random.Random(seed)
    schedule = chance.choice(["cosine", "wsd"])
    values = ranks.settings(micro_batch_size=4, steps=30, schedule=schedule)
    job = ranks.write_job(packed, tmp_path, values)
    left, fixed_ranks, done = list(more), seed % 2 == 0, 0
    for number in range(10):
        requested = bool(left) and number % 3 == 0
        if requested:
            pending = [p.request for p in RequestFolder(tmp_path).pending()]
            earliest = max([done, *(r.at_step or 0 for r in pending if r)])
            at_step = chance.choice([None, earliest + chance.randint(0, 4)])
            append(tmp_path, left.pop(), at_step=at_step, steps=chance.choice(["keep", "extend"]))
        at, step = "log", done + chance.randint(1, 6)
        if requested and chance.random() < 0.7:
            at = chance.choice(["before journal", "after journal"])
        elif chance.random() < 0.4:
            at, step = chance.choice(["before tensors", "before rename"]), 4 * (done // 4 + 1)
        kind = chance.choice([signal.SIGKILL, signal.SIGKILL, signal.SIGTERM])
        world_size = 2 if fixed_ranks else chance.choice([1, 2])
        codes = ranks.run_ranks(job, world_size, Fault(step=step, at=at, number=kind))  # type: ignore[arg-type]
        if not any(codes):
            break
        saved = complete_checkpoints(tmp_path / CHECKPOINTS_FOLDER)
        done = int(saved[-1].name.split("-")[1]) if saved else 0
    if not (tmp_path / MODEL_FOLDER).exists():
        finish(job)
    entries = plan_of(tmp_path).append_entries
    assert len(entries) >= 2 and not RequestFolder(tmp_path).refused()
    by_digest = {PackedManifest.read(f / "shards").digest: f for f in more}
    assert_order(tmp_path, [(by_digest[e.data.manifest.digest], e.data.at) for e in entries])
    if fixed_ranks:
        twin = tmp_path / "twin"
        job = ranks.write_job(packed, twin, values)
        for entry in entries:
            data = by_digest[entry.data.manifest.digest]
            append(twin, data, at_step=entry.length.step, steps=entry.steps)
        finish(job)
        assert_same_run(tmp_path, twin)
        assert [*map(_when, plan_of(twin).append_entries)] == [*map(_when, entries)]


def _when(entry: AppendEntry) -> tuple[int, int, str]:
    return entry.length.step, entry.length.total_steps, entry.data.manifest.digest
