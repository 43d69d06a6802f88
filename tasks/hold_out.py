"""Stage `hold_out`: texts taken out of the corpora before they are cleaned, to score models on.

normalized/<source>.jsonl ──▶ <source>.jsonl         what is cleaned and trained on
                          └─▶ held_out/<name>.jsonl  a kind of text that no model has seen
"""

from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from common.config import StageConfig, errors_of
from common.disk import require_free_space, total_bytes
from common.errors import ConfigError, SteelError
from common.files import complete_file, json_line, md5_of_file, read_json_lines
from common.names import NamesOf
from common.paths import resolve
from corpus.cleaning.quality.labels import read_labels
from corpus.held_out_texts import HeldOutSet, SharedPassages, passages, scored, split
from tasks.core.stage import StageResult, StageRun, stage

FOLDER = "held_out"


@dataclass(frozen=True, kw_only=True)
class HoldOutConfig(StageConfig):
    """The kinds of text that are held out."""

    sets: NamesOf[HeldOutSet] = field(default_factory=dict)
    """Name of a kind of text -> where its documents come from."""

    def check(self) -> Iterator[SteelError]:
        owner: dict[str, str] = {}
        for name, one in self.sets.items():
            for corpus in one.corpora:
                if corpus in owner:
                    yield ConfigError(
                        f"sets.{name}: {corpus} is in {owner[corpus]} already; a document can be "
                        "in one set only"
                    )
                owner[corpus] = name
            if one.verdicts:
                yield from errors_of(read_labels, [resolve(one.verdicts)])

    def fingerprint(self) -> dict[str, str] | None:
        """Content of the verdicts that decide which texts are scored."""
        files = {one.verdicts for one in self.sets.values() if one.verdicts}
        return {file: md5_of_file(resolve(file)) for file in sorted(files)} or None

    def fraction_of(self, source: str) -> float:
        """Share of a corpus's documents that is held out."""
        return max((one.fraction for one in self.sets.values() if source in one.corpora), default=0)


@stage(version=1)
def hold_out(run: StageRun, config: HoldOutConfig, *, normalized: StageResult) -> None:
    """Write `<source>.jsonl` for training and `held_out/<name>.jsonl` for scoring.

    Raises DataError where a set has no document that can be scored, or the disk is too small.
    """
    files = sorted(normalized.folder.glob("*.jsonl"))
    require_free_space(run.folder, total_bytes(files), "hold_out")
    held: dict[str, list[dict[str, Any]]] = {name: [] for name in config.sets}
    for path in files:
        _divide(run, config, path, held)
    rows = []
    texts = {name: SharedPassages([d["text"] for d in found]) for name, found in held.items()}
    for path in files:
        target = run.folder / path.name
        if not target.exists():  # the whole corpus is held out
            continue
        for document in read_json_lines(target):
            others = passages(document["text"])
            for one in texts.values():
                one.look_at(others)
    folder = run.folder / FOLDER
    folder.mkdir(exist_ok=True)
    for name, found in held.items():
        kept = scored(name, config.sets[name], found, texts[name].shares())
        with complete_file(folder / f"{name}.jsonl") as file:
            file.writelines(json_line(document) for document in kept)
        rows.append(_row(name, found, kept))
    run.table("held out", rows, "Texts that no model is trained on, by kind")
    run.note(sets={row["kind"]: row for row in rows})
    run.count(
        documents=sum(row["documents held out"] for row in rows),
        documents_scored=sum(row["documents scored"] for row in rows),
        bytes_scored=sum(row["bytes scored"] for row in rows),
    )


def _divide(
    run: StageRun, config: HoldOutConfig, path: Path, held: Mapping[str, list[dict[str, Any]]]
) -> None:
    """Write what a corpus keeps for training, and add the rest to its set."""
    fraction = config.fraction_of(path.stem)
    owner = next((name for name, one in config.sets.items() if path.stem in one.corpora), None)
    with ExitStack() as stack:
        target = None
        for document, out in split(path, fraction):
            if out:
                assert owner is not None
                held[owner].append(document)
            else:
                target = target or stack.enter_context(complete_file(run.folder / path.name))
                target.write(json_line(document))


def _row(name: str, held: list[dict[str, Any]], kept: list[dict[str, Any]]) -> dict[str, Any]:
    return {
        "kind": name,
        "documents held out": len(held),
        "documents scored": len(kept),
        "bytes scored": sum(len(document["text"].encode()) for document in kept),
    }
