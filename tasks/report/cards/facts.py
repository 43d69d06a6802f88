"""Results behind a model: stages by the keys in manifests, data sets and their licences, scores."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from common.errors import DataError, SteelError
from common.reading.files import read_json_object
from corpus.chats import load_set
from corpus.recipes import corpus
from tasks.core.manifest import StageResult
from tasks.core.results.entries import folders_by_key
from tasks.report.data import count_parameters
from tasks.report.results import parameters_of, read_results
from tasks.report.trace.lineage import input_keys_of
from tasks.report.trace.numbers import Known, known

TRAININGS = ("pretrain", "sft", "dpo")
KINDS = ("corpora", "sft", "preferences")
"""Kinds of data sets that a model is trained on; folders of their recipes."""


@dataclass(frozen=True, kw_only=True)
class DataSet:
    """A data set that a model was trained on."""

    name: str
    title: str
    kind: str
    """corpora, sft or preferences."""
    language: str
    """zh, en, zh-en, mixed, or a programming language."""
    licence: str
    """Licence its makers state."""
    origin: str
    """Location it came from."""
    repository: str = ""
    """Its repository on the Hugging Face hub, where it came from there."""
    revision: str = ""
    documents: Known | None = None
    """Documents, conversations or pairs that were trained on."""
    tokens: Known | None = None


@dataclass(kw_only=True)
class Facts:
    """Facts about a model, from manifests."""

    model: StageResult
    parameters: int | None = None
    config: dict[str, Any] = field(default_factory=dict)
    """Its config.json."""
    trainings: list[StageResult] = field(default_factory=list)
    """Trainings behind it, the first one first."""
    cleaned: StageResult | None = None
    packed: StageResult | None = None
    normalized: StageResult | None = None
    data: list[DataSet] = field(default_factory=list)
    scores: list[tuple[StageResult, dict[str, dict[str, Any]]]] = field(default_factory=list)
    """Evaluations of it, the newest last, each with benchmark -> scores."""
    unknown_base: str = ""
    """A model that training began from and whose own training is not known."""

    @property
    def parameters_known(self) -> Known | None:
        """Parameters of the model, counted in the headers of its weights."""
        return parameters_of(self.model, self.parameters)

    @property
    def title(self) -> str:
        """Name of the model."""
        label = str(self.model.manifest.get("label", ""))
        stage = self.model.stage if self.model.stage in TRAININGS else ""
        return " ".join(part for part in ("Steel", stage, label) if part)

    @property
    def languages(self) -> list[str]:
        """Languages of its data, as ISO 639-1 codes."""
        codes = {"zh-en": ("zh", "en"), "mixed": ("zh", "en"), "zh": ("zh",), "en": ("en",)}
        found = {code for data_set in self.data for code in codes.get(data_set.language, ())}
        return sorted(found, reverse=True)

    @property
    def is_sample(self) -> bool:
        """True if its data were generated."""
        return any(data_set.origin == "sample-data" for data_set in self.data)


def gather_facts(
    store: Path, model: StageResult, evaluations: Sequence[StageResult] | None = None
) -> Facts:
    """Gather what manifests say about a model; stages that are not there are left out.

    evaluations: scores of it; None looks for them in the store. Raises DataError.
    """
    facts = Facts(model=model)
    folder = model.model_folder
    if (folder / "config.json").is_file():
        facts.config = read_json_object(folder / "config.json")
    if list(folder.glob("*.safetensors")):
        facts.parameters = count_parameters(folder)
    folders = folders_by_key(store)
    acquired: list[StageResult] = []
    for result in _ancestors(model, folders):
        if result.stage in TRAININGS:
            facts.trainings.insert(0, result)
            facts.unknown_base = facts.unknown_base or _unknown_base(result, folders)
        elif result.stage == "acquire":
            acquired.append(result)
        elif result.stage == "clean":
            facts.cleaned = facts.cleaned or result
        elif result.stage == "pack":
            facts.packed = facts.packed or result
        elif result.stage == "normalize":
            facts.normalized = facts.normalized or result
    for result in acquired:
        facts.data += _data_sets(facts, result)
    if evaluations is None:
        evaluations = sorted(_evaluations(model, folders), key=lambda r: r.manifest["finished"])
    facts.scores = [(result, read_results(result)) for result in evaluations]
    return facts


def _ancestors(model: StageResult, folders: dict[str, Path]) -> Iterator[StageResult]:
    """Yield a result, then the stages behind it, each once and nearest first."""
    seen, waiting = {model.key}, [model]
    while waiting:
        result = waiting.pop(0)
        yield result
        for _, identity in input_keys_of(result.manifest.get("inputs", {})):
            key = identity.partition("+")[0]
            if key in folders and key not in seen:
                seen.add(key)
                waiting.append(StageResult.read(folders[key]))


def _unknown_base(result: StageResult, folders: dict[str, Path]) -> str:
    inputs = dict(input_keys_of(result.manifest.get("inputs", {})))
    for role, setting in (("base", "base_model"), ("policy", "policy_model")):
        if role in inputs and inputs[role].partition("+")[0] not in folders:
            return str(result.manifest["config"].get(setting) or inputs[role])
    return ""


def _evaluations(model: StageResult, folders: dict[str, Path]) -> Iterator[StageResult]:
    for folder in folders.values():
        if folder.parent.name == "evaluate":
            result = StageResult.read(folder)
            if result.manifest["inputs"].get("model") == model.identity:
                yield result


def _data_sets(facts: Facts, acquired: StageResult) -> Iterator[DataSet]:
    """Yield the data sets of an `acquire` that the model was trained on."""
    kind = str(acquired.manifest["config"].get("kind", ""))
    if kind not in KINDS:
        return  # benchmarks
    used = _used(facts, kind)
    notes = acquired.manifest["notes"]
    for name, origin in notes.get("origins", {}).items():
        if name not in used:
            continue
        documents, tokens = used[name]
        title, language, licence, repository = _described(kind, name)
        yield DataSet(
            name=name,
            title=title,
            kind=kind,
            language=language,
            licence=licence,
            origin=str(origin),
            repository=repository if origin == "hub" else "",
            revision=str(notes.get("revisions", {}).get(name) or ""),
            documents=documents,
            tokens=tokens,
        )


def _used(facts: Facts, kind: str) -> dict[str, tuple[Known | None, Known | None]]:
    """Name -> (documents, tokens) of the data sets of a kind that were trained on."""
    if kind == "corpora":
        packed = facts.packed
        rows = packed.manifest["notes"].get("sources", {}) if packed else {}
        return {
            name: (
                known(packed, f"{name}, documents", "notes", "sources", name, "documents"),
                known(packed, f"{name}, tokens", "notes", "sources", name, "tokens"),
            )
            for name in rows
        }
    stage = {"sft": "sft", "preferences": "dpo"}[kind]
    found: dict[str, tuple[Known | None, Known | None]] = {}
    for training in (t for t in facts.trainings if t.stage == stage):
        for place, row in enumerate(training.manifest["notes"].get("mixture", [])):
            name = str(row.get("set"))
            column = "trained on" if "trained on" in row else "taken"
            about = f"{name}, {column}"
            found[name] = (known(training, about, "notes", "mixture", place, column), None)
    return found


def _described(kind: str, name: str) -> tuple[str, str, str, str]:
    """Title, language, licence and hub repository of a data set; its name without a recipe."""
    try:
        recipe = corpus(name) if kind == "corpora" else load_set(kind, name)  # type: ignore[arg-type]
    except SteelError:
        return name, "", "not known", ""
    hub = recipe.hub.repository if recipe.hub is not None else ""
    return recipe.title, recipe.language, recipe.licence, hub


def result_of(place: Path) -> tuple[StageResult | None, bool]:
    """The finished stage that a folder of a model belongs to, and True if it is its final model.

    (None, False) for a folder outside of a store's stages. Raises DataError for a damaged manifest.
    """
    for folder in (place, *list(place.parents)[:3]):
        if (folder / "manifest.json").is_file():
            try:
                result = StageResult.read(folder)
            except DataError:
                return None, False
            final = place.resolve() in (folder.resolve(), result.model_folder.resolve())
            return result, final
    return None, False
