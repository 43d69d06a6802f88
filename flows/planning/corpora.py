"""Tokens and epochs by source: measured where the store has them, else estimated.

    packed here        ──▶ measured: tokens to train on
    cleaned here       ──▶ bytes of kept text x tokens of a byte
    stored or stated   ──▶ bytes x text of a byte x kept share x tokens of a byte

The ratios of a source are those of its newest packed data in the store, of whatever run: a sample
(`--fraction 0.01 --stages data`) makes every figure of its corpora better. Without any they are
those of the source's family (data_recipes/paper/sizes.yaml).
"""

import contextlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from common.disk import total_bytes
from common.errors import SteelError
from corpus.recipes import corpus
from corpus.sample_data import DatasetKind
from corpus.sources.datasets import HUBS, SAMPLE_DATA, dataset_bytes
from flows.config import PipelineConfig
from flows.planning.sizes import FamilyRatios, known_sizes
from tasks.core.manifest import StageResult
from tasks.core.plan import PlannedStage
from tasks.core.store import newest_first

CORPORA: DatasetKind = "corpora"


@dataclass(frozen=True, kw_only=True)
class Source:
    """One corpus of a pretraining."""

    source: str
    """Its name."""
    stored_bytes: float | None
    """Bytes as they are stored; None: not known."""
    text_bytes: float | None
    """Bytes of its text in the one format."""
    kept_bytes: float | None
    """Bytes of text that cleaning keeps."""
    tokens: float | None
    """Tokens to train on, once; None: nothing says how many."""
    basis: str
    """`measured` or `estimated`, and from what."""
    epochs: float = 0.0
    """Epochs that the settings allow."""
    trained_tokens: float | None = None
    """Tokens of it that the run trains on."""
    trained_epochs: float | None = None
    """Times that the run sees each of its tokens."""


def sources_of(config: PipelineConfig, stages: Sequence[PlannedStage], store: Path) -> list[Source]:
    """Every corpus of a configuration, by name; what is trained on is filled in by `trained_on`."""
    by_name = {
        stage.name: stage
        for stage in stages
        if stage.state == "finished" and (stage.name != "acquire" or stage.stage.endswith(CORPORA))
    }
    ratios = _measured_ratios(store)
    cleaned, packed = (_counts_of(by_name.get(stage)) for stage in ("clean", "pack"))
    acquired = by_name["acquire"].folder if "acquire" in by_name else None
    return [
        _source(config, name, acquired, ratios, cleaned.get(name), packed.get(name))
        for name in sorted(config.corpora)
    ]


def _source(
    config: PipelineConfig,
    name: str,
    acquired: Path | None,
    measured: Mapping[str, FamilyRatios],
    cleaned: Mapping[str, float] | None,
    packed: Mapping[str, float] | None,
) -> Source:
    """One corpus; acquired: folder of all, if they are there; cleaned, packed: its counts."""
    location = config.corpora[name]
    family = known_sizes().families[corpus(name).family]
    ratio, by = (measured[name], "a run in the store") if name in measured else (family, "samples")
    stored, basis = _stored(config, name, acquired, ratio)
    text = None if stored is None else stored * ratio.text
    stated = known_sizes().corpora.get(name)
    if location in HUBS or basis.startswith("stated"):  # statements are of text, not of files
        text = stored if stated is not None and stated.gigabytes else text
    kept = None if text is None else text * ratio.kept
    tokens = None if kept is None else kept * ratio.tokens
    held_out = config.pack.validation_fraction
    tokens = None if tokens is None else tokens * (1 - held_out)
    said = f"estimated: {basis}, ratios of {by}" if tokens is not None else f"no figure: {basis}"
    if cleaned is not None:
        text, kept = cleaned["bytes_in"], cleaned["bytes_kept"]
        tokens = kept * ratio.tokens * (1 - held_out)
        said = f"estimated: kept text measured, tokens of a byte of {by}"
    if packed is not None:
        tokens, said = packed["tokens"], "measured: packed"
    return Source(
        source=name,
        stored_bytes=stored,
        text_bytes=text,
        kept_bytes=kept,
        tokens=tokens,
        basis=said,
    )


def _stored(
    config: PipelineConfig, name: str, acquired: Path | None, ratio: FamilyRatios
) -> tuple[float | None, str]:
    """Bytes of a corpus as stored, and where that is from."""
    if acquired is not None and (acquired / name).is_dir():
        return _bytes_below(acquired / name), "acquired"
    location = config.corpora[name]
    taken = config.sample.fraction
    limit = config.sample.limit
    found: float | None = None
    basis = "its files are not here, and no size is stated"
    if location == SAMPLE_DATA:
        found, basis = None, "the generator has no sizes; run --stages data"
    elif location not in HUBS:
        with contextlib.suppress(SteelError, OSError):
            found = dataset_bytes(CORPORA, location, config.sample_data, 1.0) or None
            basis = "its files"
    stated = known_sizes().corpora.get(name)
    if found is None and stated is not None and location != SAMPLE_DATA:
        found = stated.gigabytes * 1e9 or stated.documents * ratio.document
        basis = f"stated in {stated.stated}"
    if found is not None:
        found *= taken
        if limit:
            found = min(found, limit * ratio.document)
    return found, basis


def _measured_ratios(store: Path) -> dict[str, FamilyRatios]:
    """Ratios of each source that was ever packed in a store, from its newest run."""
    found: dict[str, FamilyRatios] = {}
    for packed in newest_first(store, "pack"):
        cleaned = _input(store, "clean", packed.manifest["inputs"].get("cleaned"))
        rows = packed.manifest["notes"].get("sources")
        if cleaned is None or not isinstance(rows, Mapping):
            continue
        raw = _raw_folder(store, cleaned)
        for name, row in rows.items():
            if name in found:
                continue
            text = cleaned.manifest["notes"].get("sources", {}).get(name)
            if not text or not text["bytes_in"] or not text["bytes_kept"]:
                continue
            stored = _bytes_below(raw / name) if raw is not None else 0
            tokens = row["tokens"] + row["tokens_held_out"]
            found[name] = FamilyRatios(
                text=text["bytes_in"] / stored if stored else 1.0,
                kept=text["bytes_kept"] / text["bytes_in"],
                tokens=tokens / text["bytes_kept"],
                document=(stored or text["bytes_in"]) / max(1, text["documents_in"]),
            )
    return found


def _raw_folder(store: Path, cleaned: StageResult) -> Path | None:
    """Folder of the stored files of all sources that cleaned texts were made from."""
    inputs = cleaned.manifest["inputs"]
    normalized = _input(store, "normalize", inputs.get("normalized"))
    if normalized is None and (held := _input(store, "hold_out", inputs.get("normalized"))):
        normalized = _input(store, "normalize", held.manifest["inputs"].get("normalized"))
    if normalized is None:
        return None
    return store / "acquire" / str(normalized.manifest["inputs"].get("raw"))


def _input(store: Path, stage: str, key: object) -> StageResult | None:
    folder = store / stage / str(key).split("+", maxsplit=1)[0]
    if not (folder / "manifest.json").is_file():
        return None
    with contextlib.suppress(SteelError):
        return StageResult.read(folder)
    return None


def _counts_of(stage: PlannedStage | None) -> Mapping[str, Mapping[str, float]]:
    """Counts of each source by a finished stage."""
    if stage is not None:
        with contextlib.suppress(SteelError):
            rows = StageResult.read(stage.folder).manifest["notes"].get("sources", {})
            return rows if isinstance(rows, Mapping) else {}
    return {}


def _bytes_below(folder: Path) -> int:
    return total_bytes(path for path in folder.rglob("*") if path.is_file())


def available_tokens(config: PipelineConfig, sources: Sequence[Source]) -> float | None:
    """Tokens that the sources give at the epochs of the settings; None where one is not known."""
    known = [(source.tokens, _epochs(config, source.source)) for source in sources]
    if not known or any(tokens is None for tokens, epochs in known if epochs):
        return None
    return sum(tokens * epochs for tokens, epochs in known if tokens is not None)


def trained_on(
    config: PipelineConfig, sources: Sequence[Source], tokens: float | None
) -> list[Source]:
    """The sources with what a run of so many tokens trains on: each in its share of all."""
    available = available_tokens(config, sources)
    rows = []
    for source in sources:
        epochs = _epochs(config, source.source)
        row = replace(source, epochs=epochs)
        if tokens is not None and available and source.tokens is not None:
            used = epochs * tokens / available
            row = replace(row, trained_tokens=source.tokens * used, trained_epochs=used)
        rows.append(row)
    return rows


def _epochs(config: PipelineConfig, source: str) -> float:
    if config.pretrain is None:
        return 1.0
    return config.pretrain.weights.get(source, config.pretrain.epochs)
