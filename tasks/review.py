"""`steel review`: judge what cleaning did in the browser, and run today's operators over verdicts.

store/clean/KEY/review-sample.jsonl ─▶ browser ─▶ verdicts (JSON lines) ─▶ --check
"""

import contextlib
import json
import os
import signal
import sys
import webbrowser
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from common.errors import ConfigError, DataError
from common.paths import display, resolve
from corpus.cleaning import recipe as recipes
from corpus.cleaning.offline import VARIABLES
from corpus.cleaning.quality.labels import sha256_of
from corpus.cleaning.recipe_sets import has_set, recipe_of
from corpus.cleaning.review import verdicts
from corpus.cleaning.review.replay import OUTCOMES, Replayed, replay
from corpus.cleaning.review.sample import FILE_NAME, read_sample
from corpus.cleaning.review.server import HOST, Review, ReviewServer
from corpus.recipes import FAMILIES
from tasks.core.manifest import StageResult
from tasks.core.results.names import find_stage
from tasks.core.store import finished_stages


def cleaned_stage(store: Path, key: str = "") -> StageResult:
    """The newest finished cleaning of a store, or the one that words mean.

    Raises DataError where there is none, ConfigError for words that mean none or several.
    """
    found = [stage for stage in finished_stages(store) if stage.stage == "clean"]
    if not found:
        raise DataError(
            f"{display(store)} has no finished cleaning yet; `steel run CONFIG --stages data` "
            "makes one"
        )
    if not key:
        return found[-1]
    return StageResult.read(find_stage(store, key, ("clean",), what="finished cleaning").folder)


def verdicts_file(store: Path, given: str | None) -> Path:
    """The file of verdicts: the given one, or the store's."""
    return resolve(given) if given else store / verdicts.FILE_NAME


def open_review(store: Path, stage: StageResult, path: Path, *, with_texts: bool) -> Review:
    """The review of a cleaning, with the verdicts that are there.

    Raises:
        DataError: the cleaning has no sample; a damaged file of verdicts.
    """
    if not (stage.folder / FILE_NAME).exists():
        raise DataError(
            f"{display(stage.folder)} has no sample: it was cleaned by an older version of Steel. "
            "Run the same configuration again"
        )
    rows = list(read_sample(stage.folder))
    if not rows:
        raise DataError(
            f"the sample of {display(stage.folder)} is empty: clean.examples is 0, or cleaning ran "
            "on Ray, where no sample is taken"
        )
    ledger = json.loads((stage.folder / "ledger.json").read_text("utf-8"))
    return Review.open(
        rows,
        stage=stage.key,
        sizes=verdicts.stratum_sizes(ledger),
        path=path,
        with_texts=with_texts,
    )


def serve(review: Review, port: int, announce: Callable[[str], None], *, browser: bool) -> None:
    """Show the documents in the browser until interrupted. Raises ConfigError for a used port."""
    try:
        server = ReviewServer(review, port)
    except OSError as error:
        raise ConfigError(
            f"--port {port}: {HOST} cannot listen on it ({error.strerror}); leave --port out for "
            "a free one"
        ) from error
    with server:
        announce(server.url)
        if browser and _has_desktop():
            webbrowser.open(server.url)
        with _interruptible(), contextlib.suppress(KeyboardInterrupt):
            server.serve_forever()


@contextlib.contextmanager
def _interruptible() -> Iterator[None]:
    """Make SIGINT and SIGTERM interrupt the block.

    A program that a shell starts in the background ignores SIGINT otherwise.
    """
    signals = (signal.SIGINT, signal.SIGTERM)
    before = [signal.signal(number, signal.default_int_handler) for number in signals]
    try:
        yield
    finally:
        for number, handler in zip(signals, before, strict=True):
            signal.signal(number, handler)


def _has_desktop() -> bool:
    """False where a browser would be one of the terminal, which would keep the server waiting."""
    return sys.platform == "darwin" or any(map(os.environ.get, ("DISPLAY", "WAYLAND_DISPLAY")))


def describe_shares(review: Review) -> Iterator[str]:
    """Progress and shares, as lines for a terminal."""
    rows = list(review.verdicts.values())
    yield f"{len(rows)} of {len(review.documents)} documents judged, {display(review.path)}"
    for by, found in review.shares(rows).items():
        for one in found:
            if (by, one["name"]) == ("family", "all"):
                continue
            low, high = one["interval_95"]
            yield (
                f"  {one['name']:32} {one['verdict'].replace('_', ' '):15} "
                f"{one['bad']:>3} of {one['judged']:>3}  {one['percent']:5.1f} % "
                f"({low:.1f} to {high:.1f})"
            )


def check_verdicts(store: Path, path: Path, set_name: str | None) -> list[Replayed]:
    """Run today's operators over judged documents.

    Args:
        set_name: set of recipes; None: those that the documents were cleaned with.

    Raises:
        DataError: there are no verdicts.
        ConfigError: a recipe that cannot be loaded.
    """
    rows = list(verdicts.read_verdicts(path).values())
    if not rows:
        raise DataError(f"{display(path)} holds no verdicts; `steel review` records them")
    stages = [s for s in finished_stages(store) if s.stage == "clean"] if store.is_dir() else []
    wanted = {row["sha256"] for row in rows if "text" not in row}
    documents = {
        digest: example
        for stage in stages
        for example in read_sample(stage.folder)
        if (digest := sha256_of(example["before"])) in wanted
    }
    used: dict[str, str] = {}
    for stage in stages:
        if stage.key in {row.get("stage") for row in rows}:
            used |= stage.manifest["notes"]["recipes"]
    if set_name and not has_set(set_name):
        recipe_of(set_name, "web")  # says which sets there are
    loaded: dict[str, recipes.Recipe] = {}
    for family in FAMILIES:
        if family in {row["family"] for row in rows}:
            name = None if set_name else used.get(family)
            loaded[family] = recipes.load(name or recipe_of(set_name or "curated", family))
    recipes.require_packages(list(loaded.values()))
    os.environ.update(VARIABLES)  # before the operators' library is imported
    return list(replay(rows, loaded, documents))


def describe_check(found: list[Replayed]) -> Iterator[str]:
    """The outcomes as lines for a terminal: single documents where they are not as judged."""
    for one in found:
        if one.outcome not in ("as judged", "not replayed"):
            row = one.as_json()
            note = f" ({row['note']})" if row["note"] else ""
            yield (
                f"{one.outcome:12} {row['operator']} {row['id']}: judged "
                f"{row['verdict'].replace('_', ' ')}{note}; now {one.why}"
            )
    left_out = Counter(one.why for one in found if one.outcome == "not replayed")
    yield from (f"not replayed: {number}, {why}" for why, number in left_out.items())
    counts = Counter(one.outcome for one in found)
    yield ", ".join(f"{counts[outcome]} {outcome}" for outcome in OUTCOMES if counts[outcome])


def outcome_counts(found: list[Replayed]) -> dict[str, Any]:
    """As JSON values."""
    counts = Counter(one.outcome for one in found)
    return {"counts": dict(counts), "verdicts": [one.as_json() for one in found]}
