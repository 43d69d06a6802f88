"""Data of the report: results of all stages, read once for text and figures.

Every stage may be absent: its data are then None or empty, and the report says "not run".
"""

import json
import struct
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from common.errors import DataError, SteelError
from corpus.recipes import corpus
from model.data import PackedManifest
from model.train.run.folder import METRICS_FILE, MODEL_FOLDER
from model.train.run.metrics import read_metrics
from tasks.core.manifest import StageResult
from tasks.report.cleaning import CleaningData, read_cleaning
from tasks.report.results import read_results
from tasks.report.timeline import Timeline, read_timeline

FULL_SCALE = 1_000_000_000
"""Parameters from which a model is compared with the paper's 1.12 B (Tables 3 and 4)."""


@dataclass(kw_only=True)
class Source:
    """One corpus on its way to the model."""

    name: str
    title: str
    group: str
    """Chinese, English, Chinese and English, or code."""
    documents: int | None = None
    """Documents after normalisation."""
    quarantined: int | None = None
    """Records that could not be read."""
    kept: int | None = None
    """Documents after cleaning."""
    tokens: int | None = None
    """Token ids in the packed shards."""
    held_out: int = 0
    """Tokens of them in held-out documents."""
    validation_samples: int | None = None
    """Samples that validation is measured on; None where nothing was trained."""


@dataclass(frozen=True, kw_only=True)
class Operator:
    """Documents that one cleaning operator changed and dropped, over all its sources."""

    family: str
    """Family of its sources, each with a recipe of its own."""
    position: int
    """Place in the recipe."""
    name: str
    """Data-Juicer's name."""
    documents_in: int
    """Documents that reached it."""
    changed: int
    dropped: int


@dataclass(frozen=True, kw_only=True)
class Curve:
    """A metric by step."""

    steps: list[int]
    values: list[float]


@dataclass(frozen=True, kw_only=True)
class Training:
    """One trained model."""

    name: str
    """base, sft <mixture> or dpo."""
    curves: dict[str, Curve]
    """Metric -> curve."""
    counts: dict[str, float]
    """Numbers of the stage."""
    mixture: list[dict[str, Any]]
    """Sets it was trained on; empty for pretraining."""

    @property
    def validation(self) -> Curve | None:
        """Held-out loss; the causal one where the routing leaks, since the other is too low."""
        causal = self.curves.get("validation/causal_loss")
        return causal or self.curves.get("validation/loss")


@dataclass(frozen=True, kw_only=True)
class Provenance:
    """Key, time and versions of a stage's result."""

    stage: str
    """Stage and label."""
    key: str
    """Hash of everything it depends on."""
    finished: str
    """Time of its end, in UTC."""
    seconds: float
    """Seconds that it worked."""
    commit: str
    """The project's commit; + when the work tree differed."""
    software: dict[str, str]


@dataclass(kw_only=True)
class ReportData:
    """Data of all stages."""

    name: str
    parameters: int | None = None
    vocabulary: int | None = None
    """Token ids of the tokenizer."""
    sources: list[Source] = field(default_factory=list)
    """Most tokens first."""
    operators: list[Operator] = field(default_factory=list)
    """In the order of the recipes."""
    cleaning: CleaningData | None = None
    """Perplexities, near-duplicates, benchmark questions."""
    trainings: dict[str, Training] = field(default_factory=dict)
    """base, sft <mixture>, dpo -> training."""
    results: dict[str, dict[str, dict[str, Any]]] = field(default_factory=dict)
    policy: str | None = None
    """Name of the SFT model that DPO started from."""
    timeline: Timeline | None = None
    """Sessions and events of the pretraining."""
    kernels: dict[str, Any] | None = None
    """Table 2 as the stage `kernel_table` wrote it."""
    provenance: list[Provenance] = field(default_factory=list)
    """In the order of the pipeline."""

    @property
    def full_scale(self) -> bool:
        """True if the model is large enough to be compared with the paper's."""
        return self.parameters is not None and self.parameters >= FULL_SCALE


def gather(
    *,
    normalized: StageResult | None,
    cleaned: StageResult | None,
    packed: StageResult | None,
    pretrain: StageResult | None,
    sft: Mapping[str, StageResult],
    dpo: StageResult | None,
    evaluations: Mapping[str, StageResult],
    kernels: StageResult | None = None,
) -> ReportData:
    """Read the folders of the stages. Raises DataError when one is not what it should be."""
    trained = {"base": pretrain} | {f"sft {name}": result for name, result in sft.items()}
    trained |= {"dpo": dpo}
    everything = [normalized, cleaned, packed, *trained.values(), *evaluations.values(), kernels]
    data = ReportData(name=str((pretrain.manifest.get("label") if pretrain else "") or "Steel"))
    try:
        data.sources = _sources(normalized, cleaned, packed, pretrain)
        data.operators = _operators(cleaned)
        data.cleaning = read_cleaning(cleaned) if cleaned else None
        data.vocabulary = _manifest(packed).vocab_size if packed else None
        data.parameters = count_parameters(pretrain.folder / MODEL_FOLDER) if pretrain else None
        data.trainings = {n: _training(n, r) for n, r in trained.items() if r is not None}
        data.timeline = read_timeline(pretrain.folder) if pretrain else None
        if kernels is not None:
            data.kernels = json.loads((kernels.folder / "table.json").read_text(encoding="utf-8"))
        data.results = {name: read_results(result) for name, result in evaluations.items()}
    except (OSError, KeyError, json.JSONDecodeError) as error:
        raise DataError(
            f"a finished stage lacks what the report needs: {type(error).__name__}: {error}"
        ) from error
    if dpo is not None:
        start = dpo.manifest.get("inputs", {}).get("policy")
        data.policy = next((f"sft {n}" for n, r in sft.items() if r.key == start), None)
    data.provenance = [_provenance(result) for result in everything if result is not None]
    return data


def count_parameters(model: Path) -> int:
    """Parameters of a Transformers folder, from the headers of its safetensors files.

    The format is documented at https://huggingface.co/docs/safetensors: eight bytes of length, then
    JSON with every tensor's shape.
    """
    files = sorted(model.glob("*.safetensors"))
    if not files:
        raise DataError(f"{model} holds no safetensors file")
    total = 0
    for path in files:
        with path.open("rb") as file:
            (length,) = struct.unpack("<Q", file.read(8))
            header = json.loads(file.read(length))
        for name, tensor in header.items():
            if name != "__metadata__":
                size = 1
                for extent in tensor["shape"]:
                    size *= extent
                total += size
    return total


def _sources(
    normalized: StageResult | None,
    cleaned: StageResult | None,
    packed: StageResult | None,
    pretrain: StageResult | None,
) -> list[Source]:
    sources: dict[str, Source] = {}

    def at(name: str) -> Source:
        if name not in sources:
            title, group = _described(name)
            sources[name] = Source(name=name, title=title, group=group)
        return sources[name]

    if normalized is not None:
        for name, row in normalized.manifest["notes"]["sources"].items():
            at(name).documents, at(name).quarantined = row["documents"], row["quarantined"]
    if cleaned is not None:
        for row in _ledger(cleaned)["sources"]:
            at(row["source"]).kept = row["documents_kept"]
    if packed is not None:
        for shard in _manifest(packed).shards:
            source = at(shard.source)
            source.tokens = (source.tokens or 0) + shard.num_tokens
            source.held_out += shard.num_tokens if shard.split == "validation" else 0
    if pretrain is not None:
        notes = pretrain.manifest["notes"]
        for name, number in notes.get("validation_samples_by_source", {}).items():
            at(name).validation_samples = number
    return sorted(sources.values(), key=lambda s: (-(s.tokens or 0), s.name))


def _described(name: str) -> tuple[str, str]:
    """Title and group of a corpus; one without a recipe goes by its name."""
    try:
        recipe = corpus(name)
    except SteelError:
        return name, "other"
    languages = {"zh": "Chinese", "en": "English", "zh-en": "Chinese and English"}
    if recipe.family == "code":
        return recipe.title, "code"
    return recipe.title, languages.get(recipe.language, recipe.language)


def _operators(cleaned: StageResult | None) -> list[Operator]:
    if cleaned is None:
        return []
    sums: dict[tuple[str, int, str], list[int]] = {}
    for row in _ledger(cleaned)["rows"]:
        counts = sums.setdefault((row["family"], row["position"], row["operator"]), [0, 0, 0])
        counts[0] += row["documents_in"]
        counts[1] += row["documents_changed"]
        counts[2] += row["documents_dropped"]
    return [
        Operator(
            family=family,
            position=position,
            name=name,
            documents_in=counts[0],
            changed=counts[1],
            dropped=counts[2],
        )
        for (family, position, name), counts in sorted(sums.items())
    ]


def _training(name: str, result: StageResult) -> Training:
    curves: dict[str, Curve] = {}
    for line in read_metrics(result.folder / METRICS_FILE):
        for metric, value in line["metrics"].items():
            curve = curves.setdefault(metric, Curve(steps=[], values=[]))
            curve.steps.append(line["step"])
            curve.values.append(value)
    return Training(
        name=name,
        curves=curves,
        counts=result.manifest["counts"],
        mixture=result.manifest["notes"].get("mixture", []),
    )


def _provenance(result: StageResult) -> Provenance:
    manifest = result.manifest
    return Provenance(
        stage=f"{manifest['stage']} {manifest.get('label', '')}".strip(),
        key=result.key,
        finished=time.strftime("%Y-%m-%d %H:%M:%S", time.gmtime(manifest["finished"])),
        seconds=float(manifest["finished"] - manifest["started"]),
        commit=str(manifest.get("git_commit") or "outside git"),
        software=manifest.get("software", {}),
    )


def _manifest(packed: StageResult) -> PackedManifest:
    return PackedManifest.read(packed.folder / "shards")


def _ledger(cleaned: StageResult) -> dict[str, Any]:
    ledger: dict[str, Any] = json.loads((cleaned.folder / "ledger.json").read_text("utf-8"))
    return ledger
