"""Stages: skipped when finished, continued when interrupted, never visible half-made."""

import json
import os
import signal
import subprocess
import sys
import textwrap
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from common.config import StageConfig
from common.errors import StageError
from common.files import publish_folder
from common.processes import RunStopped, stop_on_signals
from tasks.core.lock import StageLock
from tasks.core.stage import Context, StageResult, StageRun, stage, stage_key
from tasks.core.tracking import PIPELINES

CALLS: list[str] = []


@dataclass(frozen=True, kw_only=True)
class WordConfig(StageConfig):
    word: str = "steel"
    recipe: Path | None = None

    def recipe_files(self) -> list[Path]:
        return [self.recipe] if self.recipe else []


@stage(version=1)
def write_word(run: StageRun, config: WordConfig, *, before: StageResult | None = None) -> None:
    CALLS.append(config.word)
    (run.scratch / "draft").write_text("draft")
    text = config.word if before is None else (before.folder / "word").read_text() + config.word
    (run.folder / "word").write_text(text)
    run.count(letters=len(text))
    run.table("words", [{"word": config.word}])


@stage(version=1)
def fail_once(run: StageRun, config: WordConfig) -> None:
    if not (run.folder / "half").exists():
        (run.folder / "half").write_text("half")
        raise RuntimeError("interrupted")
    (run.folder / "whole").write_text((run.folder / "half").read_text() * 2)


@stage(version=1)
def count_drafts(run: StageRun, config: WordConfig) -> None:
    """Count its runs by a working file each."""
    number = len(list(run.scratch.glob("draft-*")))
    (run.scratch / f"draft-{number}").touch()
    (run.folder / "whole").write_text("whole")
    run.count(drafts=number + 1)


def test_finished_stage_is_published_whole_and_then_skipped(context: Context) -> None:
    CALLS.clear()
    first = write_word(WordConfig(), context=context)
    again = write_word(WordConfig(), context=context)
    assert CALLS == ["steel"]
    assert (first.reused, again.reused) == (False, True)
    assert (first.folder / "word").read_text() == "steel"
    assert first.manifest["counts"]["letters"] == 5
    assert [f["path"] for f in first.manifest["files"]] == ["word"]
    assert sorted(p.name for p in first.folder.parent.iterdir()) == [first.key]


def test_a_table_without_rows_is_a_sentence(
    context: Context, monkeypatch: pytest.MonkeyPatch
) -> None:
    shown: list[dict[str, Any]] = []

    def publish(log: Any, kind: str, **fields: Any) -> None:
        shown.append({"kind": kind, **fields})

    @stage(version=1)
    def two_tables(run: StageRun, config: WordConfig) -> None:
        run.table("near-duplicates", [], "The largest clusters of near-duplicates")
        run.table("cleaned", [{"source": "wikipedia_cn"}], "Documents before and after")

    monkeypatch.setattr("tasks.core.stage.publish_artifact", publish)
    two_tables(WordConfig(), context=context)
    empty, full = (one for one in shown if one["kind"] in ("table", "markdown"))
    assert empty["markdown"] == "The largest clusters of near-duplicates: none."
    assert (empty["key"], empty["kind"], full["kind"]) == ("near-duplicates", "markdown", "table")
    assert full["table"] == [{"source": "wikipedia_cn"}]


def test_a_password_that_is_a_word_of_ours_changes_no_field_that_is_read_again(
    context: Context, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in {"A": "write_word", "B": "2-word", "C": "letters", "D": "before"}.items():
        monkeypatch.setenv(f"{name}_KEY", value)
    base = write_word(WordConfig(), context=context)
    made = write_word(WordConfig(word="2-word"), context=context, before=base)
    manifest = StageResult.read(made.folder).manifest
    assert made.key == manifest["key"] and manifest["stage"] == "write_word"
    assert manifest["inputs"] == {"before": base.identity}
    assert manifest["counts"]["letters"] == len("steel2-word")
    assert manifest["config"]["word"] == "***"


def test_key_follows_config_inputs_and_recipe_content(context: Context, tmp_path: Path) -> None:
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text("a: 1")
    config = WordConfig(recipe=recipe)
    one = stage_key("s", 1, config, {})
    assert one == stage_key("s", 1, config, {})
    assert one != stage_key("s", 2, config, {})
    assert one != stage_key("s", 1, WordConfig(word="iron", recipe=recipe), {})
    recipe.write_text("a: 2")
    assert one != stage_key("s", 1, config, {})
    base = write_word(WordConfig(), context=context)
    assert stage_key("s", 1, config, {"before": base}) != stage_key("s", 1, config, {})
    assert write_word(WordConfig(word="!"), context=context, before=base).manifest["counts"][
        "letters"
    ] == len("steel!")


def test_failed_stage_is_invisible_and_continues_from_what_it_has(context: Context) -> None:
    with pytest.raises(RuntimeError, match="interrupted"):
        fail_once(WordConfig(), context=context)
    folder = context.store / "fail_once"
    assert [p.suffix for p in folder.iterdir()] == [".partial"]
    result = fail_once(WordConfig(), context=context)
    assert (result.folder / "whole").read_text() == "halfhalf"
    assert [p.name for p in folder.iterdir()] == [result.key]


@pytest.mark.parametrize("moment", ["before the rename", "after the rename"])
def test_killed_while_it_is_published_it_loses_no_working_file(
    context: Context, monkeypatch: pytest.MonkeyPatch, moment: str
) -> None:
    """A training that is finished but for its last rename still needs its checkpoints' names."""

    def killed(partial: Path, folder: Path) -> None:
        if moment == "after the rename":
            publish_folder(partial, folder)
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr("tasks.core.manifest.publish_folder", killed)
        count_drafts(WordConfig(), context=context)
    result = count_drafts(WordConfig(), context=context)
    drafts = 2 if moment == "before the rename" else 1
    assert result.manifest["counts"]["drafts"] == drafts
    assert [entry["path"] for entry in result.manifest["files"]] == ["whole"]
    assert [path.name for path in (context.store / "count_drafts").iterdir()] == [result.key]
    assert sorted(path.name for path in result.folder.iterdir()) == ["manifest.json", "whole"]


def test_interrupted_stage_continues_in_its_mlflow_run(context: Context) -> None:
    with pytest.raises(RuntimeError):
        fail_once(WordConfig(), context=context)
    fail_once(WordConfig(), context=context)
    client = context.tracker.client
    runs = client.search_runs([client.get_experiment_by_name("steel").experiment_id])
    stages = [r for r in runs if r.data.tags.get("steel.stage") == "fail_once"]
    assert [r.info.status for r in stages] == ["FINISHED"]


def test_lock_names_its_owner_and_is_taken_from_the_dead(tmp_path: Path) -> None:
    path = tmp_path / "key.lock"
    with StageLock(path, what="pack"), pytest.raises(StageError, match=f"process {os.getpid()}"):
        StageLock(path, what="pack").__enter__()
    assert not path.exists()
    holder = subprocess.Popen(
        [
            sys.executable,
            "-c",
            textwrap.dedent(f"""
            import time
            from pathlib import Path
            from tasks.core.lock import StageLock
            with StageLock(Path({str(path)!r}), what="pack"):
                print("held", flush=True)
                time.sleep(600)
        """),
        ],
        stdout=subprocess.PIPE,
        text=True,
    )
    assert holder.stdout is not None
    assert holder.stdout.readline() == "held\n"
    with pytest.raises(StageError, match=f"process {holder.pid}"):
        StageLock(path, what="pack").__enter__()
    holder.send_signal(signal.SIGKILL)
    holder.wait()
    holder.stdout.close()
    with StageLock(path, what="pack"):
        assert json.loads(path.read_text())["pid"] == os.getpid()
    assert list(tmp_path.iterdir()) == []


@stage(version=1, keeps="finished words")
def stop_once(run: StageRun, config: WordConfig) -> None:
    if not (run.folder / "half").exists():
        (run.folder / "half").write_text("half")
        run.progress(2, 5)
        os.kill(os.getpid(), signal.SIGTERM)
        pytest.fail("it goes on")
    (run.folder / "whole").write_text("whole")


def test_a_stage_that_is_asked_to_stop_says_what_it_kept_and_goes_on(context: Context) -> None:
    with pytest.raises(RunStopped) as caught, stop_on_signals():
        stop_once(WordConfig(), context=context)
    assert caught.value.message == (
        "stopped by SIGTERM, stop_once at 40 % (finished words are kept); the same run continues"
    )
    (partial,) = (context.store / "stop_once").glob("*")
    assert partial.suffix == ".partial", "no lock is left"
    seconds = partial / ".scratch" / "seconds.json"
    seconds.write_text(json.dumps({"seconds": 1000.0}))
    result = stop_once(WordConfig(), context=context)
    assert result.manifest["counts"]["seconds"] > 1000, "of both sessions"
    (track,) = context.tracker.client.search_runs(
        [context.tracker.client.get_experiment_by_name(PIPELINES).experiment_id],
        "tags.`steel.stage` = 'stop_once'",
    )
    assert track.info.status == "FINISHED", "the run that it began"
