"""Requests to a pretraining of a store: which folder is meant, what became of it, in words."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Literal

from common.errors import ConfigError, DataError
from common.paths import display, resolve
from model.train.run import client as asking
from model.train.run.client import Answer, RunState
from model.train.run.folder import PROFILE_FOLDER
from model.train.run.length import Policy
from model.train.run.requests import ProfileRequest
from tasks.core.lock import is_held


def append(
    store: str,
    run: str,
    data: str,
    *,
    at_step: int | None = None,
    weights: Mapping[str, float] | None = None,
    seed: int | None = None,
    horizon: Policy | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> dict[str, Any]:
    """Ask a pretraining to train on more data; see model/train/run/client.py.

    Args:
        run: folder or key of a pretraining; data: folder or key of packed shards.

    Raises:
        ConfigError, DataError: it cannot be done; says why.
    """
    state, running = run_state(resolve(store), run)
    found = packed_data(resolve(store), data)
    answer = asking.append(
        state,
        found,
        at_step=at_step,
        weights=weights,
        seed=seed,
        horizon=horizon,
        progress=progress,
    )
    return _told(answer, f"the data in {display(found)}", state, running)


def move_end(
    store: str, run: str, *, steps: int | None, decay_at: int | Literal["now"] | None
) -> dict[str, Any]:
    """Ask a pretraining for another end. Raises ConfigError or DataError."""
    state, running = run_state(resolve(store), run)
    answer = asking.move_end(state, steps=steps, decay_at=decay_at)
    return _told(answer, "the horizon", state, running)


def profile(store: str, run: str, *, num_steps: int) -> dict[str, Any]:
    """Ask a pretraining for a trace of its next steps. Raises ConfigError or DataError."""
    if num_steps < 1:
        raise ConfigError(f"--steps {num_steps}: give 1 or more")
    state, running = run_state(resolve(store), run)
    request = state.requests.publish(ProfileRequest(num_steps=num_steps))
    when = "after its next step boundary" if running else "when the run goes on"
    folder = display(state.folder / PROFILE_FOLDER)
    return {
        "request": request,
        "run": display(state.folder),
        "folder": folder,
        "message": f"asked for: a trace of {num_steps} steps, {when}; it will be in {folder}",
    }


def run_state(store: Path, run: str) -> tuple[RunState, bool]:
    """The pretraining that is meant, and whether it runs now.

    Raises:
        DataError: there is none, or it is finished.
    """
    folder = _run_folder(store, run)
    running = is_held(folder.with_name(folder.name.removesuffix(".partial") + ".lock"))
    return RunState.read(folder, running=running), running


def _run_folder(store: Path, run: str) -> Path:
    """Where an unfinished pretraining writes."""
    for named in (resolve(run), store / "pretrain" / run):
        finished = named.with_name(named.name.removesuffix(".partial"))
        partial = finished.with_name(f"{finished.name}.partial")
        if (finished / "manifest.json").is_file():
            raise DataError(
                f"the pretraining {display(finished)} is finished. Go on from its model in a new "
                f"run: --set pretrain.settings.model={display(finished / 'model')}"
            )
        for folder in (named, partial):
            if folder.is_dir():
                return folder
    going = sorted(path.stem for path in (store / "pretrain").glob("*.partial"))
    there = f"unfinished in {display(store)}: {', '.join(going)}" if going else "none is unfinished"
    raise DataError(f"there is no pretraining {run!r}; {there}")


def packed_data(store: Path, data: str) -> Path:
    """The packed shards at a path or under a key of the store. Raises DataError."""
    for place in (resolve(data), store / "pack" / data):
        if place.exists():
            return place
    raise DataError(
        f"there are no packed data {data!r}, neither at that path nor as a stage in "
        f"{display(store / 'pack')}"
    )


def _told(answer: Answer, what: str, state: RunState, running: bool) -> dict[str, Any]:
    """The answer with a sentence for people."""
    if answer.status == "done":
        message = f"nothing to do: {what} changed this run at step {answer.step} already"
    elif answer.status == "pending":
        message = f"nothing to do: {what}: asked for before, not done yet ({answer.request})"
    elif answer.step is not None:
        message = f"asked for: {what} at step {answer.step}"
    else:
        when = "at its next step boundary" if running else "when the run goes on"
        message = f"asked for: {what}, {when}"
    if answer.num_samples:
        message += f"; {answer.num_samples} samples ({answer.num_tokens} tokens) more"
    message += f"; the run ends at step {answer.total_steps}"
    return {**answer.to_dict(), "run": display(state.folder), "message": message}
