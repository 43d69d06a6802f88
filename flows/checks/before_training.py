"""Refusals of later stages that can be known before the pretraining."""

import importlib.util
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from common.config import errors_of
from common.disk import total_bytes
from common.errors import ConfigError, DataError, SteelError
from common.paths import display, resolve
from common.reading.files import read_json_object
from common.recipes import load_recipe, recipe_path
from corpus.benchmarks.open_questions import answer_tokens, is_open
from corpus.benchmarks.questions import BenchmarkRecipe
from corpus.chats.recipes import load_set
from corpus.sources.datasets import local_dataset
from model.train.run.folder import MODEL_FOLDER
from tasks.core.finetune import FinetuneConfig
from tasks.core.given_model import check_given_model, has_chat_template
from tasks.evaluate import check_task_file
from tasks.evaluate.open_answers import check_runs_code

if TYPE_CHECKING:
    from flows.config import PipelineConfig

POSITIONS = ("max_position_embeddings", "n_positions", "max_seq_len", "n_ctx")
"""Names of the number of positions in the configs of models."""


def before_training(config: "PipelineConfig") -> Iterator[SteelError]:
    """Yield an error for each later stage that would fail on what is known now."""
    yield from _given_models(config)
    yield from _lengths(config)
    yield from _languages_of_pairs(config)
    yield from _benchmarks(config)
    yield from _benchmark_files_as_sets(config)


def _given_models(config: "PipelineConfig") -> Iterator[SteelError]:
    """Models of a path that are no whole models with their tokenizers, or cannot chat."""
    paths = {f"evaluate.models.{name}": path for name, path in config.evaluate.models.items()}
    trained = _given_starts(config)
    for place, path in {**paths, **trained}.items():
        found = list(errors_of(check_given_model, path))
        for error in found:
            yield type(error)(f"{place}: {error}")
        must_chat = place in trained or config.evaluate.chat is True
        if not found and must_chat and not has_chat_template(model_folder(path)):
            yield ConfigError(
                f"{place}: {display(model_folder(path))} has no chat template, which says how a "
                "conversation is written: add chat_template.jinja"
            )


def _given_starts(config: "PipelineConfig") -> dict[str, str]:
    """Models of a path that a training starts from, by the key that names them."""
    starts = {}
    if config.sft is not None and config.mixtures and config.sft.base_model:
        starts["sft.base_model"] = config.sft.base_model
    if config.dpo is not None and config.preference_sets and config.dpo.policy_model:
        starts["dpo.policy_model"] = config.dpo.policy_model
    return starts


def model_folder(path: str) -> Path:
    """The Transformers folder behind a path to it, or to the folder of a stage."""
    folder = resolve(path)
    return folder / MODEL_FOLDER if (folder / MODEL_FOLDER).is_dir() else folder


def _lengths(config: "PipelineConfig") -> Iterator[SteelError]:
    """Samples that are longer than the model has positions."""
    own = _positions_of_pretrained(config)
    stages: list[tuple[str, FinetuneConfig | None, str, bool]] = [
        ("sft", config.sft, config.sft.base_model if config.sft else "", bool(config.mixtures)),
        ("dpo", config.dpo, config.dpo.policy_model if config.dpo else "", config.aligns),
    ]
    base = own
    for key, stage, path, runs in stages:
        if stage is None or not runs:
            continue
        base = _positions_in(model_folder(path)) if path else base
        if base is not None and stage.max_length > base:
            yield ConfigError(
                f"{key}.max_length = {stage.max_length:,}, but the model has {base:,} positions "
                f"({POSITIONS[0]}): lower it, or pretrain with more"
            )


def _positions_of_pretrained(config: "PipelineConfig") -> int | None:
    if config.pretrain is None or not config.pretrains:
        return None
    model = config.pretrain.model
    if isinstance(model, str):
        return _positions_in(resolve(model))
    return _positions(model) or config.pretrain.sequence_length


def _positions_in(folder: Path) -> int | None:
    try:
        return _positions(read_json_object(folder / "config.json"))
    except SteelError:
        return None  # it is no model, and reported


def _positions(values: Mapping[str, Any]) -> int | None:
    known = [values[name] for name in POSITIONS if isinstance(values.get(name), int)]
    return known[0] if known else None


def _languages_of_pairs(config: "PipelineConfig") -> Iterator[SteelError]:
    """A ratio of languages of which the sets have one alone."""
    if config.dpo is None or not config.aligns or not config.dpo.chinese_per_english:
        return
    try:
        languages = {load_set("preferences", name).language for name in config.dpo_of().sets}
    except SteelError:
        return  # a set without a recipe, which is reported
    for language, name in (("zh", "Chinese"), ("en", "English")):
        if not languages & {language, "mixed"}:
            yield ConfigError(
                f"dpo.chinese_per_english = {config.dpo.chinese_per_english}, but none of the "
                f"preference sets has {name} pairs: add one, or set it to 0 for all pairs there are"
            )


def _benchmarks(config: "PipelineConfig") -> Iterator[SteelError]:
    """Benchmarks that lm-eval does not know, or that have too few worked examples."""
    if config.benchmarks and importlib.util.find_spec("lm_eval") is None:
        yield ConfigError(
            "`benchmarks` are scored by lm-eval, which is not installed: pip install lm_eval, or "
            "leave them out"
        )
        return
    for name, location in config.benchmarks.items():
        if not recipe_path("evals", name).is_file():
            continue  # reported with its location
        wrong = list(errors_of(check_task_file, name))
        yield from wrong
        yield from errors_of(check_runs_code, config.evaluate, name)
        if is_open(name) and not wrong:
            yield from _room_for_answers(config, name)
        yield from errors_of(_check_num_examples, config, name, location)


def _room_for_answers(config: "PipelineConfig", name: str) -> Iterator[SteelError]:
    """Models whose context an answer would fill, so that there is no room for the question."""
    needed = answer_tokens(name)
    lengths = {"the pretrained model": _positions_of_pretrained(config)}
    given = {f"evaluate.models.{n}": path for n, path in config.evaluate.models.items()}
    for place, path in {**given, **_given_starts(config)}.items():
        lengths[f"the model of {place}"] = _positions_in(model_folder(path))
    for model, positions in lengths.items():
        if positions is not None and positions <= needed:
            yield ConfigError(
                f"benchmarks.{name}: an answer may take {needed:,} tokens, but {model} has "
                f"{positions:,} positions ({POSITIONS[0]}), which leaves no room for the question: "
                "leave the benchmark out, or take a model with more"
            )


def _check_num_examples(config: "PipelineConfig", name: str, location: str) -> None:
    if is_open(name):
        return  # its worked examples are lm-eval's own
    recipe = load_recipe(BenchmarkRecipe, "evals", name)
    known, asked = recipe.num_examples, config.evaluate.most_fewshot
    if known is not None and asked > known and not local_dataset(location):
        raise ConfigError(
            f"evaluate.num_fewshot = {asked}, but {recipe.title} has {known} worked examples a "
            f"subject (split {recipe.fewshot_split}): lower it"
        )


def _benchmark_files_as_sets(config: "PipelineConfig") -> Iterator[SteelError]:
    """Training data that are files of a benchmark which is scored, or taken out of the corpora."""
    owners: dict[Path, str] = {}
    for name, location in config.screened.items():
        for path, _ in local_dataset(location):
            owners.setdefault(path.resolve(), name)
    if not owners:
        return
    for key, sets in (("sft_sets", config.sft_sets), ("preference_sets", config.preference_sets)):
        for name, location in sets.items():
            for path, _ in local_dataset(location):
                if (owner := owners.get(path.resolve())) is not None:
                    yield DataError(
                        f"{key}.{name}: {display(path)} is a file of the benchmark {owner}: a "
                        "model that is trained on it knows the questions. Give another location"
                    )
                    break


def bytes_after_pretraining(config: "PipelineConfig", weights: int) -> int:
    """Disk that SFT and DPO take at the most.

    weights: bytes of a model in fp32. A training keeps checkpoints of weights and AdamW's two
    moments while it runs: the last two, and one that is being written.
    """
    num_models = len(config.mixtures) + config.aligns
    return num_models * weights + (3 * 3 * weights if num_models else 0)


def weights_of(config: "PipelineConfig") -> int:
    """Bytes of the weights of the models that trainings start from, at the most; 0: not known."""
    folders = [model_folder(path) for path in _given_starts(config).values()]
    return max((total_bytes(folder.glob("*.safetensors")) for folder in folders), default=0)
