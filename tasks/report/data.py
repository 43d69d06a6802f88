"""Data of the report: results of all stages, read once for text and figures.

Every stage may be absent: its data are then None or empty, and the report says "not run".
"""

import json
import struct
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from common.errors import DataError, SteelError
from common.reading.files import read_json_object
from corpus.recipes import corpus
from model.data import PackedManifest
from model.train.run.folder import METRICS_FILE
from model.train.run.metrics import read_metrics
from tasks.checkpoint_scores.curves import read_curves
from tasks.core.manifest import StageResult
from tasks.report.cleaning import CleaningData, read_cleaning
from tasks.report.differences import Differences, read_differences
from tasks.report.results import read_results
from tasks.report.sections.adjusted import read_rows
from tasks.report.timeline import Timeline, read_timeline

OPERATOR_COUNTS = (
    "documents_in",
    "documents_changed",
    "documents_dropped",
    "bytes_in",
    "bytes_dropped",
    "bytes_edited",
)
"""Numbers of the ledger that the report adds up over sources."""

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
    bytes_in: int | None = None
    """UTF-8 bytes of their texts before cleaning."""
    bytes_kept: int | None = None
    """… and after it."""
    tokens: int | None = None
    """Token ids in the packed shards."""
    held_out: int = 0
    """Tokens of them in held-out documents."""
    validation_samples: int | None = None
    """Samples that validation is measured on; None where nothing was trained."""
    ledger_row: int | None = None
    """Place in the list `sources` of the cleaning's ledger."""

    @property
    def bytes_per_token(self) -> float | None:
        """Bytes of cleaned text to a token of the packed shards."""
        return self.bytes_kept / self.tokens if self.bytes_kept and self.tokens else None


@dataclass(frozen=True, kw_only=True)
class Operator:
    """Documents and bytes that one cleaning operator took out, over all its sources."""

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
    bytes_in: int
    """UTF-8 bytes that reached it."""
    bytes_dropped: int
    """… of documents that it dropped."""
    bytes_cut: int
    """… that it took out of documents that it changed; below 0 where they grew."""
    tokens: float | None
    """Tokens in all of these bytes: an estimate, by the bytes to a token of each source. None where
    nothing was packed."""

    @property
    def bytes_taken(self) -> int:
        """Bytes that it took out, with documents or from them."""
        return self.bytes_dropped + self.bytes_cut


@dataclass(frozen=True, kw_only=True)
class Curve:
    """A metric by step."""

    steps: list[int]
    values: list[float]

    @property
    def smoothed(self) -> list[float]:
        """Running mean over a fortieth of the values on either side, as pictures draw it."""
        return running_mean(self.values, len(self.values) // 40)

    @property
    def end(self) -> float:
        """Last value of the running mean: the one that pictures and tables state."""
        return self.smoothed[-1]


def running_mean(values: Sequence[float], window: int) -> list[float]:
    """Mean of each value with `window` neighbours on either side.

    Near the beginning, where losses fall fast, with as few on both sides as there are before it;
    near the end with as many as there are after it.
    """
    means = []
    for i in range(len(values)):
        reach = min(window, i)
        part = values[i - reach : i + reach + 1]
        means.append(sum(part) / len(part))
    return means


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
    left_in: dict[str, dict[str, Any]] = field(default_factory=dict)
    """Benchmark -> its questions in the cleaned corpora, as `contamination` counts them."""
    adjusted: dict[str, list[dict[str, Any]]] = field(default_factory=dict)
    """Model -> its contamination-adjusted scores, as the stage `adjusted_scores` wrote them."""
    timeline: Timeline | None = None
    """Sessions and events of the pretraining."""
    kernels: dict[str, Any] | None = None
    """Table 2 as the stage `kernel_table` wrote it."""
    checkpoints: dict[str, Any] | None = None
    """Curves of `steel evaluate-checkpoints`."""
    differences: Differences = field(default_factory=dict)
    """(model, benchmark) -> its difference to another model on the same questions."""
    stages: dict[str, StageResult] = field(default_factory=dict)
    """Part of the report, such as `clean` or `evaluate base` -> its stage, in the order of the
    pipeline."""

    @property
    def finished_stages(self) -> list[StageResult]:
        """Stages that have a manifest, in the order of the pipeline."""
        return [result for name, result in self.stages.items() if name != "checkpoints"]

    @property
    def first_mixture(self) -> str | None:
        """Name of the first SFT model, which the others are compared with."""
        return next((name for name in self.trainings if name.startswith("sft ")), None)

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
    contamination: StageResult | None = None,
    adjusted: Mapping[str, StageResult] | None = None,
    checkpoints: StageResult | None = None,
) -> ReportData:
    """Read the folders of the stages. Raises DataError when one is not what it should be."""
    tuned = {"base": pretrain, **{f"sft {name}": result for name, result in sft.items()}}
    tuned["dpo"] = dpo
    parts = {
        "normalize": normalized,
        "clean": cleaned,
        "contamination": contamination,
        "pack": packed,
        **tuned,
        **{f"evaluate {name}": result for name, result in evaluations.items()},
        "kernel_table": kernels,
        **{f"adjusted_scores {name}": result for name, result in (adjusted or {}).items()},
        "checkpoints": checkpoints,
    }
    data = ReportData(name=str((pretrain.manifest.get("label") if pretrain else "") or "Steel"))
    data.stages = {name: result for name, result in parts.items() if result is not None}
    trained = {name: data.stages[name] for name in tuned if name in data.stages}
    try:
        data.sources = _sources(normalized, cleaned, packed, pretrain)
        data.operators = _operators(cleaned, data.sources)
        data.cleaning = read_cleaning(cleaned) if cleaned else None
        data.vocabulary = _manifest(packed).vocab_size if packed else None
        data.parameters = count_parameters(pretrain.model_folder) if pretrain else None
        data.trainings = {name: read_training(name, result) for name, result in trained.items()}
        data.timeline = read_timeline(pretrain.folder) if pretrain else None
        data.left_in = contamination.manifest["notes"]["benchmarks"] if contamination else {}
        data.kernels = read_json_object(kernels.folder / "table.json") if kernels else None
        data.results = {name: read_results(result) for name, result in evaluations.items()}
        data.adjusted = {name: read_rows(result) for name, result in (adjusted or {}).items()}
        data.checkpoints = read_curves(checkpoints.folder) if checkpoints else None
    except (OSError, KeyError, json.JSONDecodeError) as error:
        raise DataError(
            f"a finished stage lacks what the report needs: {type(error).__name__}: {error}"
        ) from error
    if dpo is not None:
        start = dpo.manifest.get("inputs", {}).get("policy")
        data.policy = next((f"sft {n}" for n, r in sft.items() if r.key == start), None)
    data.differences = read_differences(evaluations, compared_with(data))
    return data


def compared_with(data: ReportData) -> dict[str, str]:
    """Model -> the one that it is compared with: the first mixture; of DPO, the SFT model that it
    started from."""
    pairs = {
        name: data.first_mixture
        for name in data.trainings
        if name.startswith("sft ") and data.first_mixture not in (None, name)
    }
    pairs |= {"dpo": data.policy} if "dpo" in data.trainings and data.policy else {}
    return {model: other for model, other in pairs.items() if other is not None}


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
        for place, row in enumerate(_ledger(cleaned)["sources"]):
            source = at(row["source"])
            source.ledger_row = place
            source.kept = row["documents_kept"]
            source.bytes_in, source.bytes_kept = row["bytes_in"], row["bytes_kept"]
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


def _operators(cleaned: StageResult | None, sources: list[Source]) -> list[Operator]:
    if cleaned is None:
        return []
    known = {s.name: s.bytes_per_token for s in sources if s.bytes_per_token}
    # A source of which nothing was packed is taken to be like all others.
    packed = [s for s in sources if s.name in known]
    mean = sum(s.bytes_kept or 0 for s in packed) / max(1, sum(s.tokens or 0 for s in packed))
    sums: dict[tuple[str, int, str], Counter[str]] = {}
    tokens: dict[tuple[str, int, str], float] = {}
    for row in _ledger(cleaned)["rows"]:
        key = (row["family"], row["position"], row["operator"])
        counts = sums.setdefault(key, Counter())
        counts.update({name: row[name] for name in OPERATOR_COUNTS})
        taken = row["bytes_dropped"] + row["bytes_edited"]
        if mean:
            tokens[key] = tokens.get(key, 0.0) + taken / known.get(row["source"], mean)
    return [
        Operator(
            family=key[0],
            position=key[1],
            name=key[2],
            documents_in=counts["documents_in"],
            changed=counts["documents_changed"],
            dropped=counts["documents_dropped"],
            bytes_in=counts["bytes_in"],
            bytes_dropped=counts["bytes_dropped"],
            bytes_cut=counts["bytes_edited"],
            tokens=tokens.get(key),
        )
        for key, counts in sorted(sums.items())
    ]


def read_training(name: str, result: StageResult) -> Training:
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


def _manifest(packed: StageResult) -> PackedManifest:
    return PackedManifest.read(packed.folder / "shards")


def _ledger(cleaned: StageResult) -> dict[str, Any]:
    ledger: dict[str, Any] = json.loads((cleaned.folder / "ledger.json").read_text("utf-8"))
    return ledger
