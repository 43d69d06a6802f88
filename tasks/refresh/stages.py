"""Stages that leave only what a training does not have yet: files, documents, cleaned texts."""

import os
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from common.config import NOT_IN_KEY, StageConfig
from common.disk import require_free_space, total_bytes
from common.files import complete_file, json_line, link_or_copy, make_folder, read_json_lines
from common.names import Name
from corpus.cleaning import recipe as recipes
from corpus.recipes import corpus
from corpus.refresh.copies import DEFAULTS, find_copies, parameters_of
from corpus.refresh.seen import digests_of, write_unseen
from tasks.core.stage import StageResult, StageRun, stage
from tasks.hold_out import FOLDER


@dataclass(frozen=True, kw_only=True)
class NewFilesConfig(StageConfig):
    """The corpora whose files are looked at."""

    corpora: tuple[Name, ...] = ()
    """Names; of others nothing is new."""


@stage(version=1)
def new_files(
    run: StageRun, config: NewFilesConfig, *, raw: StageResult, known: Mapping[str, StageResult]
) -> None:
    """Write `<corpus>/…`: the acquired files whose content was not acquired before.

    Args:
        raw: corpora as they are now.
        known: `acquire` and `new_files` stages of a training's data.
    """
    seen = {entry["md5"] for result in known.values() for entry in _files(result)}
    rows: list[dict[str, Any]] = []
    for name in config.corpora:
        own = [entry for entry in _files(raw) if Path(entry["path"]).parts[0] == name]
        new = [entry for entry in own if entry["md5"] not in seen and entry["bytes"]]
        for entry in new:
            target = run.folder / entry["path"]
            make_folder(target.parent)
            target.unlink(missing_ok=True)  # of an interrupted attempt
            link_or_copy(raw.folder / entry["path"], target)
        rows.append(
            {
                "corpus": name,
                "files": len(own),
                "new or changed": len(new),
                "bytes": sum(entry["bytes"] for entry in new),
            }
        )
    run.count(files=sum(row["new or changed"] for row in rows), bytes=sum(r["bytes"] for r in rows))
    run.note(corpora={row["corpus"]: row for row in rows})
    run.table("new files", rows, "Files that are new since the training's data were acquired")


def _files(result: StageResult) -> Iterator[dict[str, Any]]:
    yield from result.manifest.get("files", [])


@dataclass(frozen=True, kw_only=True)
class NewDocumentsConfig(StageConfig):
    """A document is new where its text is. Some are held out as those before were."""

    held_out: Mapping[str, float] = field(default_factory=dict)
    """Source -> share of its documents that no model is trained on, by a hash of each text."""


@stage(version=2)
def new_documents(
    run: StageRun,
    config: NewDocumentsConfig,
    *,
    normalized: StageResult,
    known: Mapping[str, StageResult],
) -> None:
    """Write `<source>.jsonl`: the documents whose text is in none of the known ones.

    Args:
        normalized: `<source>.jsonl` of new and changed files.
        known: `normalize` stages of a training's data.
    """
    files = sorted(normalized.folder.glob("*.jsonl"))
    old = [path for result in known.values() for path in sorted(result.folder.glob("*.jsonl"))]
    require_free_space(run.folder, total_bytes(files), "new_documents")
    done = iter(range(len(old)))
    digests = digests_of(old, lambda: run.progress(next(done) + 1, len(old) + 1, "of known texts"))
    here: set[bytes] = set()
    rows: list[dict[str, Any]] = []
    for path in files:
        share = config.held_out.get(path.stem, 0.0)
        new, out, seen = write_unseen(path, digests, here, run.folder / path.name, held_out=share)
        row = {"source": path.stem, "documents": new + out + seen, "new": new, "held out": out}
        rows.append({**row, "known": seen})
    run.count(
        documents=sum(row["new"] for row in rows),
        known_documents=sum(row["known"] for row in rows),
        documents_held_out=sum(row["held out"] for row in rows),
    )
    run.note(sources={row["source"]: row for row in rows})
    run.table("new documents", rows, "Documents of new and changed files, and those known before")


@dataclass(frozen=True, kw_only=True)
class NewTextsConfig(StageConfig):
    """The recipes whose parameters say what a near-duplicate is."""

    recipes: Mapping[str, str] = field(default_factory=dict)
    """Family of sources -> cleaning recipe. Families without one, and recipes without MinHash, take
    the parameters of the curated text recipes."""
    workers: int = field(default=0, metadata=NOT_IN_KEY)
    """Worker processes; 0: one for each core."""

    def fingerprint(self) -> Any:
        """The parameters themselves."""
        return {name: self.parameters(name) for name in sorted(self.recipes)}

    def parameters(self, family: str) -> dict[str, Any]:
        """Parameters of the MinHash for a family of sources."""
        name = self.recipes.get(family)
        return parameters_of(recipes.load(name)) if name else dict(DEFAULTS)


@stage(version=1)
def new_texts(
    run: StageRun,
    config: NewTextsConfig,
    *,
    cleaned: StageResult,
    known: Mapping[str, StageResult],
    held_out: Mapping[str, StageResult],
) -> None:
    """Write `<source>/<number>.jsonl` without copies of known texts, and `copies.jsonl`.

    Args:
        cleaned: `<source>/<number>.jsonl` of new documents.
        known: stages with cleaned texts that the training has.
        held_out: stages with texts that no model is trained on.
    """
    files = sorted(cleaned.folder.glob("*/[0-9]*.jsonl"))
    old = [p for r in known.values() for p in sorted(r.folder.glob("*/[0-9]*.jsonl"))]
    old += [p for r in held_out.values() for p in sorted((r.folder / FOLDER).glob("*.jsonl"))]
    require_free_space(run.folder, 2 * total_bytes(files), "new_texts")
    groups: dict[str, tuple[dict[str, Any], list[Path]]] = {}
    for path in files:
        parameters = config.parameters(corpus(path.parent.name).family)
        groups.setdefault(str(parameters), (parameters, []))[1].append(path)
    copies = {}
    for number, (parameters, group) in enumerate(groups.values()):
        for found in find_copies(
            group,
            old,
            parameters,
            scratch=run.scratch / f"copies-{number}",
            cache=run.cache / "minhash",
            workers=config.workers or os.cpu_count() or 1,
            tick=run.check_lock,
        ):
            copies[found.document] = found
    rows: dict[str, dict[str, Any]] = {}
    for path in files:
        name = path.parent.name
        row = rows.setdefault(name, {"source": name, "documents": 0, "copies": 0, "bytes": 0})
        lines = list(read_json_lines(path))
        kept = [line for line in lines if line["id"] not in copies]
        row["copies"] += len(lines) - len(kept)
        row["documents"] += len(kept)
        row["bytes"] += sum(len(line["text"].encode("utf-8", "surrogatepass")) for line in kept)
        if kept:
            make_folder(run.folder / name)
            with complete_file(run.folder / name / path.name) as file:
                for line in kept:
                    file.write(json_line(line))
    with complete_file(run.folder / "copies.jsonl") as file:
        for one in copies.values():
            file.write(json_line(asdict(one)))
    run.count(documents=sum(r["documents"] for r in rows.values()), copies=len(copies))
    run.note(sources=rows)
    run.table("new texts", list(rows.values()), "New documents, and copies of known ones")
