"""A stage while it is made: what others see of it, and what is kept for the run."""

from dataclasses import dataclass

from common.config import StageConfig
from tasks.core.results.entries import Entry, entries
from tasks.core.results.names import find_stage
from tasks.core.results.unneeded import is_in_use, unneeded
from tasks.core.stage import Context, StageResult, StageRun, stage

SEEN: list[Entry] = []


@dataclass(frozen=True, kw_only=True)
class PartConfig(StageConfig):
    part: str = "first"


@stage(version=1)
def make_part(run: StageRun, config: PartConfig, *, before: StageResult | None = None) -> None:
    assert run.store is not None
    SEEN[:] = entries(run.store)
    (run.folder / "part").write_text(config.part)


def test_a_stage_that_runs_is_seen_with_its_label_inputs_and_state(context: Context) -> None:
    first = make_part(PartConfig(), context=context, label="one")
    second = make_part(PartConfig(part="second"), context=context, label="two", before=first)
    (running,) = (entry for entry in SEEN if entry.state == "running")
    assert (running.stage, running.key, running.label) == ("make_part", second.key, "two")
    assert running.about["inputs"] == {"before": first.key}
    assert running.about["config"] == {"part": "second"}
    # Nothing of it is published, and the state is another one now.
    assert [file["path"] for file in second.manifest["files"]] == ["part"]
    states = {entry.key: entry.state for entry in entries(context.store)}
    assert states == {first.key: "finished", second.key: "finished"}
    assert find_stage(context.store, "one", ("make_part",)).key == first.key


def test_what_a_run_goes_on_from_stays_until_the_run_is_over(context: Context) -> None:
    made = make_part(PartConfig(), context=context)
    (entry,) = entries(context.store)
    assert is_in_use(entry)
    assert unneeded(context.store, (), keep=0) == []
    later = Context(store=context.store, tracker=context.tracker, is_task=False)
    assert make_part(PartConfig(), context=later).reused
    context.uses.release()
    assert is_in_use(entry)
    later.uses.release()
    assert not is_in_use(entry)
    assert [one.key for one in unneeded(context.store, (), keep=0)] == [made.key]
