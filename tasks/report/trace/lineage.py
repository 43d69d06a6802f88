"""The stages behind a number of a report, down to the raw files.

    number ─▶ stage that wrote it ─▶ its inputs, and theirs ─▶ acquire: files, checksums, origins

Stages are found by the keys in manifests, which are hashes of content: the chain is the one the
number was made from, not one that looks like it.
"""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from common.errors import ConfigError, DataError, shown
from common.paths import display, resolve
from tasks.core.manifest import StageResult
from tasks.core.results.entries import finished_at, finished_folders, folders_by_key
from tasks.report.trace.now import origins, points_of, state_of
from tasks.report.trace.numbers import ANCHOR, Number, read_numbers

SHORTEST = 4
"""Digits of an id's beginning that name it."""

CURVES = "checkpoint_scores"
"""Folder of a store with the scores of checkpoints."""

MODEL_PATHS = ("base_model", "policy_model")
"""Settings that name a model by its path, which is then no stage of the store."""


@dataclass(frozen=True, kw_only=True)
class Link:
    """A stage on the way from a number to raw files."""

    role: str
    """Name under which the stage before takes it: model, base, packed, raw …"""
    depth: int
    """Stages between it and the number."""
    stage: str
    key: str
    label: str = ""
    folder: str = ""
    """"" where the stage is not in this store."""
    commit: str = ""
    """The project's commit that made it; + when the work tree differed."""
    finished: float = 0.0
    """Seconds since 1970."""
    config: dict[str, Any] = field(default_factory=dict)
    counts: dict[str, Any] = field(default_factory=dict)
    origins: dict[str, str] = field(default_factory=dict)
    """Data set -> location it came from; of stages that bring data in."""
    revisions: dict[str, Any] = field(default_factory=dict)
    """Data set -> commit of its repository."""
    sources: dict[str, Any] = field(default_factory=dict)
    """Source -> its documents, tokens or shards."""
    files: list[dict[str, Any]] = field(default_factory=list)
    """`path`, `bytes`, `md5` of the files that matter: weights, shards, texts, raw files."""
    seen: bool = False
    """True if it stands further up with its details."""
    remark: str = ""
    """Reason for which the chain ends here, where it does."""


@dataclass(frozen=True, kw_only=True)
class Lineage:
    """A number, the report it stands in, the state of its file, and the stages behind it."""

    number: Number
    report: str
    """Folder of the newest report that has it."""
    state: str
    """`as in the file`, `computed`, or what is wrong."""
    links: list[Link]
    parts: list[Number] = field(default_factory=list)
    """Numbers that it was computed from."""
    points: list[tuple[float, float]] = field(default_factory=list)
    """(step or tokens, value) of a curve."""


def trace(store: Path, name: str, card: Path | None = None) -> Lineage:
    """Find a number by its id, or the beginning of one, and the stages behind it.

    card: folder of a card, such as that of an exported model, whose numbers are looked up, too.

    Raises:
        ConfigError: no report of the store has it; the nearest ids are named.
        DataError: there is no report, or a manifest is damaged.
    """
    store = resolve(store)
    known: dict[str, tuple[Number, Path]] = {}
    for folder in [*_reports(store), *([card] if card else [])]:
        known |= {number.id: (number, folder) for number in read_numbers(folder)}
    if not known:
        raise DataError(
            f"no report in {display(store)} has numbers with ids: `steel run` or `steel report` "
            "makes one"
        )
    number, folder = known[_id(name, known)]
    by_id = {identity: found for identity, (found, _) in known.items()}
    return Lineage(
        number=number,
        report=display(folder),
        state=state_of(store, number, by_id),
        links=list(walk(store, origins(number, by_id))),
        parts=[by_id[part] for part in number.parts if part in by_id],
        points=points_of(store, number),
    )


def _reports(store: Path) -> list[Path]:
    """Folders of reports, oldest first."""
    return sorted(finished_folders(store, "report"), key=finished_at)


def _id(name: str, known: Mapping[str, tuple[Number, Path]]) -> str:
    """The id that `name` means: with or without # and n-, or the beginning of one."""
    asked = name.strip().lower().removeprefix("#").removeprefix(ANCHOR)
    begin = sorted(i for i in known if i.startswith(asked)) if len(asked) >= SHORTEST else []
    if len(begin) == 1:
        return begin[0]
    near = begin or get_close_matches(asked[:40], list(known), n=3, cutoff=0.4) or list(known)[:3]
    words = "; ".join(f"{i} ({known[i][0].about}: {known[i][0].shown})" for i in near[:5])
    what = "is the beginning of several ids" if begin else "is no id of a number in these reports"
    raise ConfigError(
        f"{shown(name)} {what}. {'Give more of one' if begin else 'Near ones'}: {words}. The ids "
        "stand in report.html, on each number, and in numbers.json beside it"
    )


def walk(store: Path, numbers: Iterable[Number]) -> Iterator[Link]:
    """Yield the stages that wrote numbers, then their inputs and theirs, each before its own."""
    seen: set[str] = set()
    folders = folders_by_key(store)
    read = [number.place for number in numbers if number.place is not None]
    places = {place.key: place for place in read}
    sources = {place.part for place in read}
    part = sources.pop() if len(sources) == 1 else ""
    waiting = [("", place.key, 0, "") for place in reversed(places.values())]
    while waiting:
        role, identity, depth, given = waiting.pop()
        key = identity.partition("+")[0]
        if depth == 0 and places[identity].stage == CURVES:
            # Records of a pretraining, by its key and that of the questions: no stage of their own.
            folder = display(store / CURVES / key)
            yield Link(role=role, depth=depth, stage=CURVES, key=key, folder=folder)
            waiting.append(("pretraining", key.partition("/")[0], depth + 1, ""))
            continue
        found = folders.get(key)
        if found is None:
            remark = f"a model given by its path, {given}" if given else "not in this store"
            yield Link(role=role, depth=depth, stage="", key=key, remark=remark)
            continue
        result = StageResult.read(found)
        if key in seen:
            yield Link(
                role=role,
                depth=depth,
                stage=result.stage,
                key=key,
                label=result.manifest["label"],
                seen=True,
            )
            continue
        seen.add(key)
        yield _link(result, role, depth, part)
        inputs = [*input_keys_of(result.manifest["inputs"]), *_joined(result, folders)]
        waiting += [
            (name, each, depth + 1, _given(result, name)) for name, each in reversed(inputs)
        ]


def input_keys_of(inputs: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """(role, key) of each input; a data set by data set ones without repeating a stage."""
    for name, value in inputs.items():
        if isinstance(value, str):
            yield name, value
        elif isinstance(value, Mapping):
            by_key: dict[str, list[str]] = {}
            for label, key in value.items():
                if isinstance(key, str):
                    by_key.setdefault(key, []).append(str(label))
            for key, labels in by_key.items():
                yield f"{name} {', '.join(labels)}", key


def _joined(result: StageResult, folders: Mapping[str, Path]) -> Iterator[tuple[str, str]]:
    """(role, key) of the packed data that joined a training after its start, in their order.

    Shards that no stage of this store made have their folder for a key.
    """
    journal = result.manifest["notes"].get("journal")
    for row in journal if isinstance(journal, list) else []:
        if isinstance(row, Mapping) and isinstance(place := row.get("folder"), str):
            key = next((part for part in Path(place).parts if part in folders), display(place))
            yield f"joined at step {row['step']}", key


def _given(result: StageResult, role: str) -> str:
    """Path of a model that a stage was given in place of another stage's; "" for none."""
    if role not in ("base", "policy", "model"):
        return ""
    config = result.manifest["config"]
    for path in (config.get(name) for name in MODEL_PATHS):
        if isinstance(path, str) and path:
            return path
    models = config.get("models")
    found = models.get(result.manifest["label"]) if isinstance(models, Mapping) else None
    return found if isinstance(found, str) else ""


_FILES = {
    "acquire": "",
    "normalize": "",
    "clean": "",
    "pack": "shards/",
    "pretrain": "model/",
    "sft": "model/",
    "dpo": "model/",
}
"""Stage -> beginning of the paths of its files that the next stage reads."""


def _link(result: StageResult, role: str, depth: int, part: str) -> Link:
    manifest = result.manifest
    notes = manifest["notes"]
    files = [e for e in manifest.get("files", []) if result.stage in _FILES]
    files = [e for e in files if e["path"].startswith(_FILES[result.stage])]
    sources = notes.get("sources", {})
    if part and isinstance(sources, Mapping) and part in sources:
        sources = {part: sources[part]}
    if part and (own := [e for e in files if part in Path(e["path"]).parts]):
        files = own  # of the source or benchmark that the number is about

    def of_part(values: Any) -> dict[str, Any]:
        values = values if isinstance(values, Mapping) else {}
        return {part: values[part]} if part in values else dict(values)

    return Link(
        role=role,
        depth=depth,
        stage=result.stage,
        key=result.key,
        label=manifest["label"],
        folder=display(result.folder),
        commit=str(manifest.get("git_commit") or "outside git"),
        finished=float(manifest["finished"]),
        config=manifest["config"],
        counts=manifest["counts"],
        origins=of_part(notes.get("origins")),
        revisions=of_part(notes.get("revisions")),
        sources=dict(sources) if isinstance(sources, Mapping) else {},
        files=files,
    )
