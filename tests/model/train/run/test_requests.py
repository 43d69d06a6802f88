"""Requests to a run: refused with a reason, done once, never the end of a training."""

import math
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from common.errors import ConfigError, DataError
from model.data import PackedManifest
from model.train.checkpoint.folders import complete_checkpoints
from model.train.optim.schedule import learning_rate
from model.train.run import plan as plan_module
from model.train.run.client import RequestResult, RunClient
from model.train.run.folder import CHECKPOINTS_FOLDER, JOURNAL_FILE, REQUESTS_FOLDER
from model.train.run.journal import write_journal
from model.train.run.length import TrainingLength
from model.train.run.requests import RequestFolder, RescheduleRequest
from model.train.train_step import TrainStep
from model.train.trainer import Trainer
from tests.model.train import ranks

MakeRun = Callable[..., Trainer]


@pytest.fixture(scope="session")
def more(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return ranks.write_packed(tmp_path_factory.mktemp("more"), tokens=2_000, seed=60)


@pytest.fixture
def idle(packed: Path, tmp_path: Path) -> Path:
    """The folder of a run that was started and has done nothing yet."""
    ranks.write_job(packed, tmp_path / "run", ranks.settings())
    return tmp_path / "run"


def append(run: Path, data: Path, **how: Any) -> RequestResult:
    return RunClient.open(run, running=False).append(data, **how)


def reschedule(run: Path, **how: Any) -> RequestResult:
    return RunClient.open(run, running=False).reschedule(**how)


def folder_of(run: Trainer) -> Path:
    return run.checkpoints.folder.parent


def copy_of(data: Path, place: Path, edit: Callable[[PackedManifest], PackedManifest]) -> Path:
    """The shards of some packed data under a manifest of ours."""
    shutil.copytree(data / "shards", place)
    edit(PackedManifest.read(place)).write(place)
    return place


def with_shard_of(other: Path, place: Path) -> Callable[[PackedManifest], PackedManifest]:
    """Smuggle a shard of other data in, under another name and source."""

    def edit(manifest: PackedManifest) -> PackedManifest:
        shard = PackedManifest.read(other / "shards").shards[0]
        stranger = replace(shard, name="harmless.bin", source="harmless")
        for old, new in ((shard.name, stranger.name), (shard.index_name, stranger.index_name)):
            shutil.copy(other / "shards" / old, place / new)
        return replace(manifest, shards=(*manifest.shards, stranger))

    return edit


def test_known_content_is_refused_by_both_names(packed: Path, more: Path, idle: Path) -> None:
    third = ranks.write_packed(idle.parent / "third", tokens=1_000, seed=61)
    place = idle.parent / "mixed"
    mixed = copy_of(third, place, with_shard_of(packed, place))
    with pytest.raises(DataError, match=r"'harmless\.bin' of .*'alpha-0\d*\.bin' of the run's fir"):
        append(idle, mixed)
    with pytest.raises(DataError, match=r"has the content of .* of the run's first data"):
        append(idle, packed)
    # Data that are only requested count, too.
    assert append(idle, more, at_step=5).status == "requested"
    place = idle.parent / "mixed-again"
    mixed = copy_of(third, place, with_shard_of(more, place))
    with pytest.raises(DataError, match=r"'harmless\.bin' of .* of the data requested \(.*more"):
        append(idle, mixed)
    assert len(RequestFolder(idle).pending()) == 1


def test_a_request_made_twice_is_published_once(more: Path, idle: Path) -> None:
    first = append(idle, more, weights={"alpha": 0.5})
    assert first.status == "requested" and first.num_samples > 0
    for data in (more, more / "shards", more / "shards" / "manifest.json"):
        again = append(idle, data)
        assert (again.status, again.request) == ("pending", first.request)
    with pytest.raises(DataError, match=r"requested already with weights = {'alpha': 0.5}, not"):
        append(idle, more, weights={"alpha": 1.0})
    with pytest.raises(DataError, match=f"steps = 'keep', not 'extend'.* {first.request}"):
        append(idle, more, steps="extend")
    assert len(list((idle / REQUESTS_FOLDER).iterdir())) == 1
    moved = reschedule(idle, steps=20)
    assert reschedule(idle, steps=20).status == "pending"
    assert moved.total_steps == 20 and len(list((idle / REQUESTS_FOLDER).iterdir())) == 2


@pytest.mark.parametrize(
    ("how", "error", "message"),
    [
        ({"weights": {"gamma": 1.0}}, ConfigError, "'gamma' is no source"),
        ({"weights": {"alpha": -1.0}}, ConfigError, "must be a number >= 0"),
        ({"weights": {"alpha": 0.0, "beta": 0.0}}, DataError, "gives no sample of 32 tokens"),
        ({"at_step": 12}, ConfigError, "ends at step 12 .* --steps extend"),
        ({"at_step": 99, "steps": "extend"}, DataError, "order ends at"),
        ({"at_step": 3}, ConfigError, "lies in the past: the run has done 4 steps; give 4 or"),
    ],
)
def test_what_cannot_be_is_refused(
    more: Path, idle: Path, how: dict[str, Any], error: type[Exception], message: str
) -> None:
    saved = idle / CHECKPOINTS_FOLDER / "step-00000004"
    saved.mkdir(parents=True)
    (saved / "complete.json").write_text('{"files": {}}')
    with pytest.raises(error, match=message):
        append(idle, more, **how)
    assert not (idle / REQUESTS_FOLDER).exists()


def test_other_and_damaged_data_are_refused(more: Path, idle: Path, tmp_path: Path) -> None:
    other = copy_of(more, tmp_path / "other", lambda m: replace(m, tokenizer_digest="1" * 32))
    with pytest.raises(DataError, match="tokenizer_digest of the appended data"):
        append(idle, other)
    with pytest.raises(DataError, match="no packed data in"):
        append(idle, tmp_path / "nowhere")
    with pytest.raises(DataError, match="no pretraining that has begun"):
        append(tmp_path, more)
    damaged = copy_of(more, tmp_path / "damaged", lambda m: m)
    shard = next(damaged.glob("alpha*.bin"))
    content = bytearray(shard.read_bytes())
    content[100] ^= 1
    shard.write_bytes(content)
    with pytest.raises(DataError, match=shard.name):
        append(idle, damaged)
    assert not (idle / REQUESTS_FOLDER).exists()


def test_ends_that_cannot_be_are_refused(packed: Path, idle: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="nothing is asked for"):
        reschedule(idle)
    with pytest.raises(ConfigError, match=r"steps = 1000, but the data suffice for 44"):
        reschedule(idle, steps=1000)
    with pytest.raises(ConfigError, match="warm-up alone takes 2"):
        reschedule(idle, steps=2)
    with pytest.raises(ConfigError, match="cosine falls from the end of the warm-up"):
        reschedule(idle, decay_at="now")
    ranks.write_job(packed, tmp_path / "wsd", ranks.settings(schedule="wsd"))
    with pytest.raises(ConfigError, match="decay begins at step 15, but the run ends at 12"):
        reschedule(tmp_path / "wsd", decay_at=15)
    assert reschedule(tmp_path / "wsd", decay_at=15, steps=20).total_steps == 20
    assert reschedule(idle, steps=12).status == "done"


def test_of_two_ends_that_wait_the_later_one_is_meant(idle: Path) -> None:
    first = reschedule(idle, steps=20)
    assert reschedule(idle, steps=20).request == first.request
    # 12 is what the run has, and not what it will have.
    back = reschedule(idle, steps=12)
    assert (back.status, back.total_steps) == ("requested", 12)
    again = reschedule(idle, steps=20)
    assert (again.status, again.total_steps) == ("requested", 20)


def measured_rates(folder: Path) -> list[float]:
    return [m["train/learning_rate"] for _, m in sorted(ranks.read_run(folder).items())]


@pytest.mark.parametrize("policy", ["keep", "extend"])
@pytest.mark.parametrize("schedule", ["cosine", "wsd"])
def test_the_documented_rates_step_by_step(
    make_run: MakeRun, more: Path, policy: Any, schedule: Any
) -> None:
    run = make_run(schedule=schedule, warmup_steps=2, decay_fraction=0.5, min_learning_rate=1e-4)
    answer = append(folder_of(run), more, at_step=8, steps=policy)
    gained = answer.num_samples // 8
    run.fit()
    total = 12 + (gained if policy == "extend" else 0)
    found = measured_rates(folder_of(run))
    assert answer.total_steps == total == len(found)
    high, low = 1e-2, 1e-4
    if schedule == "cosine":  # 0.6 of the way at step 8, the rest by the end
        progress = [(s - 2) / 10 for s in range(8)]
        progress += [0.6 + 0.4 * (s - 8) / (total - 8) for s in range(8, total)]
        expected = [low + (high - low) * _cosine(p) for p in progress]
    else:  # a third of the way down at 8; where longer, it waits there for the new last half
        begin = total - round(0.5 * total)
        progress = [max(0, s - 6) / 6 if s < 8 else 1 / 3 for s in range(total)]
        start = 8 if policy == "keep" else max(8, begin)
        for s in range(start, total):
            progress[s] = 1 / 3 + 2 / 3 * (s - start) / (total - start)
        expected = [low + (high - low) * (1 - p) for p in progress]
    expected[:2] = [high / 2, high]
    assert found == pytest.approx(expected)


def _cosine(progress: float) -> float:
    return (1 + math.cos(math.pi * progress)) / 2


def when_logged(run: Trainer, step: int, act: Callable[[], object]) -> None:
    """Act just when a step was logged."""
    log = run.log

    def logged(done: int, metrics: Any) -> None:
        log(done, metrics)
        if done == step:
            act()

    run.log = logged  # type: ignore[method-assign]


def test_a_running_constant_rate_decays_on_request(make_run: MakeRun) -> None:
    run = make_run(schedule="constant", steps=12, eval_interval=0)
    folder = folder_of(run)
    when_logged(run, 4, lambda: reschedule(folder, decay_at="now", steps=10))
    run.fit()
    # Logged after step 4, seen in step 5: the decay begins with the step that has number 5.
    falling = [0.008, 0.006, 0.004, 0.002]
    assert measured_rates(folder) == pytest.approx([1e-2] * 6 + falling)
    [saved] = complete_checkpoints(folder / CHECKPOINTS_FOLDER)[-1:]
    assert saved.name == "step-00000010"
    assert reschedule(folder, decay_at="now").status == "done"


def test_a_running_wsd_is_made_longer_without_a_restart(make_run: MakeRun) -> None:
    run = make_run(schedule="wsd", decay_fraction=0.25, steps=8, eval_interval=0)
    when_logged(run, 2, lambda: reschedule(folder_of(run), steps=12))
    run.fit()
    values, length = run.settings, TrainingLength(initial_steps=12)
    expected = [learning_rate(values, step, length) for step in range(12)]
    assert measured_rates(folder_of(run)) == expected
    assert expected[:10] == [1e-2] * 10 and expected[10] < 1e-2


def test_the_end_can_be_moved_in_the_last_step(make_run: MakeRun, more: Path) -> None:
    run = make_run(steps=4, schedule="constant", eval_interval=0)
    folder = folder_of(run)
    when_logged(run, 3, lambda: append(folder, more, steps="extend"))
    run.fit()
    assert max(ranks.read_run(folder)) == run.total_steps > 4
    [change] = run.request_handler.length.changes
    assert change.step == 4


def test_no_request_ends_a_training(make_run: MakeRun, more: Path, tmp_path: Path) -> None:
    run = make_run(steps=6, min_learning_rate=1e-3)
    folder = folder_of(run)
    gone = tmp_path / "gone"
    shutil.copytree(more, gone)
    requests = RequestFolder(folder)
    names = {
        "gone": append(folder, gone, at_step=2).request,
        "late": requests.publish(replace(requests.pending()[0].request, at_step=0)),  # type: ignore[arg-type,type-var]
        "cosine": requests.publish(RescheduleRequest(decay_at="now")),
    }
    (folder / REQUESTS_FOLDER / "note.json").write_text("buy milk")
    shutil.rmtree(gone)
    run.fit()
    refused = RequestFolder(folder).refused()
    assert "is no request" in refused["note"]
    assert "does not exist" in refused[names["gone"]]
    assert "cosine falls" in refused[names["cosine"]]
    assert names["late"] in refused and not requests.names()
    assert run.request_handler.plan.entries == ()
    assert max(ranks.read_run(folder)) == 6


def test_a_full_disk_refuses_the_request_and_nothing_else(
    make_run: MakeRun, more: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The journal could not be written: the append was never made."""

    def full(run: Path, entries: Any, write: Any) -> None:
        if any(entry.request == name for entry in entries):
            raise OSError(28, "No space left on device")
        write_journal(run, entries, write)

    run = make_run(steps=6, checkpoints={"interval": 2})
    folder = folder_of(run)
    name = append(folder, more, at_step=2, steps="extend").request
    moved = reschedule(folder, steps=7).request
    with monkeypatch.context() as patch:
        patch.setattr(plan_module, "write_journal", full)
        run.fit()
    assert "No space left" in RequestFolder(folder).refused()[name]
    assert max(ranks.read_run(folder)) == 7
    again = make_run(steps=6, checkpoints={"interval": 2})
    assert [entry.request for entry in again.request_handler.plan.entries] == [moved]
    again.resume()
    # And a cosine that has come down to 0 is not made longer: nothing would be learned.
    with pytest.raises(ConfigError, match="fallen to 0 at step 7"):
        append(folder, more, steps="extend")


def test_skipped_batches_count_as_consumed(make_run: MakeRun, more: Path) -> None:
    values = {"steps": 6, "schedule": "constant", "checkpoints": {"interval": 3}}
    run = make_run(**values)
    append(folder_of(run), more, at_step=2)
    run.progress.batch = 3  # as after three batches that were skipped
    run.fit()
    [entry] = run.request_handler.plan.appends
    assert entry.at == (2 + 3) * 8
    # A later request is placed by samples, too.
    third = ranks.write_packed(folder_of(run).parent / "third", tokens=1_000, seed=62)
    assert append(folder_of(run), third, steps="extend").status == "requested"
    longer = make_run(**values)
    longer.fit()
    assert [e.at for e in longer.request_handler.plan.appends] == [40, (6 + 3) * 8]


def test_a_rollback_over_an_append_keeps_it(
    make_run: MakeRun, more: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Back before the step of the append: its data and rates hold from where they held before."""
    monkeypatch.setattr(TrainStep, "forward", TrainStep.forward)  # undone at the end
    ranks.scale_losses({10: 10.0})
    health = {"spike": "rollback", "spike_window": 4, "spike_threshold": 20.0, "rollback_steps": 0}
    values = {"steps": 12, "schedule": "wsd", "health": health, "checkpoints": {"interval": 4}}
    run = make_run(**values)
    folder = folder_of(run)
    answer = append(folder, more, at_step=9, steps="extend")
    run.fit()
    total = answer.total_steps
    progress = run.progress
    assert (progress.step, progress.batch) == (total, total + 3), "8 to 10 were skipped"
    [entry], length = run.request_handler.plan.appends, run.request_handler.length
    assert entry.at == 9 * 8
    settings = run.settings
    expected = [learning_rate(settings, step, length) for step in range(total)]
    assert measured_rates(folder) == expected
    again = make_run(**values)
    again.resume()
    assert again.progress.batch == total + 3


def test_a_shard_that_vanished_after_it_joined_is_missed_by_name(
    make_run: MakeRun, more: Path, tmp_path: Path
) -> None:
    data = tmp_path / "data"
    shutil.copytree(more, data)
    run = make_run(steps=6, checkpoints={"interval": 2})
    append(folder_of(run), data, at_step=2)
    run.fit()
    # Under other names it is the same data.
    shards = data / "shards"
    manifest = PackedManifest.read(shards)
    for shard in manifest.shards:
        (shards / shard.name).rename(shards / f"x{shard.name}")
        (shards / shard.index_name).rename(shards / f"x{shard.index_name}")
    replace(manifest, shards=tuple(replace(s, name=f"x{s.name}") for s in manifest.shards)).write(
        shards
    )
    newest = complete_checkpoints(folder_of(run) / CHECKPOINTS_FOLDER)[-1]
    shutil.rmtree(newest)
    again = make_run(steps=6, checkpoints={"interval": 2})
    again.fit()
    assert (
        again.request_handler.plan.order.num_samples == run.request_handler.plan.order.num_samples
    )
    shutil.rmtree(shards)
    with pytest.raises(DataError, match=str(shards)):
        make_run(steps=6)


def test_a_lost_journal_is_missed(make_run: MakeRun, more: Path) -> None:
    run = make_run(steps=6, checkpoints={"interval": 2})
    folder = folder_of(run)
    append(folder, more, at_step=2)
    run.fit()
    (folder / JOURNAL_FILE).unlink()
    with pytest.raises(DataError, match=r"restore the run's journal\.json"):
        make_run(steps=6).resume()
