"""A stage of a store by the words that a person has for it. One rule, wherever a key is asked for.

newest              the one that was finished last, of those that fit
newest:pack, pack   the newest of a stage
sft/balanced        the newest of a stage with this label (the mixture's name)
balanced            the same of any stage that fits
smoke               the newest that belongs to the configuration of this name
smoke:pack          the same of one stage
1f0c5a2b            a key, or a beginning of it that no other key has
pack/1f0c           the same of one stage
PATH                its folder, with or without .partial
"""

from collections.abc import Collection, Sequence
from pathlib import Path

from common.errors import ConfigError, shown
from common.files import PARTIAL
from common.paths import display, resolve
from tasks.core.results.entries import Entry, entries, links_of, with_inputs

NEWEST = "newest"
SHORTEST_KEY = 4
"""Characters of a key's beginning that name it."""


def find_stage(
    store: Path, words: str, stages: Collection[str], *, unfinished: bool = False, what: str = ""
) -> Entry:
    """The stage that some words mean.

    Args:
        store: where to look.
        words: see above.
        stages: kinds of stages that fit.
        unfinished: take those that are not finished as well; `newest` takes them before others.
        what: thing that is asked for, in messages (default: the stages).

    Raises ConfigError where there is none, or where several keys begin so.
    """
    found = [e for e in entries(store, stages) if unfinished or e.state == "finished"]
    if (entry := _at_path(words, found)) is not None:
        return entry
    if matching := matches(store, words, found):
        return matching[-1]
    raise ConfigError(
        f"there is no {what or ' or '.join(stages)} {shown(words)}, {known(store, found)}"
    )


def matches(store: Path, words: str, found: Sequence[Entry]) -> list[Entry]:
    """Those of some stages that words mean, the best one last.

    Raises ConfigError for words that are the beginning of several keys.
    """
    found = sorted(found, key=lambda entry: (entry.state != "finished", entry.at))
    if direct := [entry for entry in found if words in names(entry)]:
        return direct
    if begun := _by_beginning(words, found):
        return begun
    return _of_configuration(store, words, found)


def names(entry: Entry) -> set[str]:
    """All names of a stage but the beginnings of its key and those of a configuration."""
    stage, key, label = entry.stage, entry.key, entry.label
    plain = {NEWEST, stage, f"{NEWEST}:{stage}", f"{stage}:{NEWEST}", f"{stage}/{NEWEST}", key}
    return plain | {f"{stage}/{key}"} | ({label, f"{stage}/{label}"} if label else set())


def _at_path(words: str, found: Sequence[Entry]) -> Entry | None:
    try:
        places = {resolve(words).resolve(), Path(words).absolute().resolve()}
    except (ConfigError, OSError):
        return None
    for entry in found:
        final = entry.folder.with_name(entry.key).resolve()
        if places & {entry.folder.resolve(), final, final.with_name(f"{entry.key}{PARTIAL}")}:
            return entry
    return None


def _by_beginning(words: str, found: Sequence[Entry]) -> list[Entry]:
    """The stage whose key begins so. Raises ConfigError for several."""
    stage, _, key = words.rpartition("/")
    if len(key) < SHORTEST_KEY:
        return []
    begun = [e for e in found if stage in ("", e.stage) and e.key.startswith(key)]
    if len({entry.key for entry in begun}) > 1:
        several = ", ".join(f"{entry.stage}/{entry.key}" for entry in begun[:5])
        raise ConfigError(f"{shown(words)} is the beginning of several keys: {several}; give more")
    return begun


def _of_configuration(store: Path, words: str, found: Sequence[Entry]) -> list[Entry]:
    """The stages that belong to the configuration of a name."""
    name, _, stage = words.partition(":")
    keys = belonging(store, name) if name else set()
    return [e for e in found if e.key in keys and stage in ("", e.stage)]


def belonging(store: Path, name: str) -> set[str]:
    """Keys of the stages that belong to the configuration of a name: those that its report or its
    pretraining was made from, and those that were made from its pretraining."""
    everything = entries(store)
    own = {e.key for e in everything if name in (e.title, e.label if e.stage == "pretrain" else "")}
    if not own:
        return set()
    links = links_of(everything)
    roots = {e.key for e in everything if e.key in own and e.stage == "pretrain"}
    after = {key for key in links if roots & with_inputs({key}, links)}
    return with_inputs(own, links) | after


def known(store: Path, found: Sequence[Entry]) -> str:
    """Words for what a store has to choose from."""
    where = display(resolve(store))
    if not found:
        return f"neither as a path nor in {where}, which holds no finished one"
    there = dict.fromkeys(f"{e.stage}/{e.label or e.key}" for e in reversed(found))
    return f"neither as a path nor in {where}, which has {', '.join([*there][:8])}"
