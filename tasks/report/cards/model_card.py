"""A model card: README.md with the metadata of the Hugging Face hub.

The metadata's format is https://huggingface.co/docs/hub/model-cards; it is written by
huggingface_hub's own classes, without the network.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from huggingface_hub import EvalResult, ModelCardData

from common.recipes import load_recipe
from corpus.benchmarks.questions import BenchmarkRecipe
from tasks.core.markdown import markdown_table
from tasks.report.cards.facts import Facts
from tasks.report.language import Writer
from tasks.report.results import SAMPLE_DATA, compare_with_chance, is_written, percent

SAMPLE_TYPE = "steel-sample-data"
"""Beginning of the names of generated benchmarks in the hub's metadata: none of real ones. The hub
takes two results of one name for one benchmark."""


@dataclass(frozen=True, kw_only=True)
class Loading:
    """Form of the folder that a card lies in."""

    exported: bool = False
    """True for a folder that `steel export` made; False for a card beside a report."""
    code: bool = False
    """True if loading needs the code beside the weights."""
    licence: str = ""
    """Licence of the weights, as an identifier of the hub; "" where none was chosen."""
    checkpoint: str = ""
    """Name of a checkpoint, where the weights are not those of the finished training."""


def model_card(facts: Facts, say: Writer, loading: Loading) -> str:
    """Write the card. Raises ValueError for metadata that the hub's format does not have."""
    scores = {} if loading.checkpoint else newest_scores(facts)
    parts = [
        f"# {facts.title}",
        _summary(facts, say, loading),
        f"> {say('card.sample')}" if facts.is_sample else "",
        f"## {say('card.use')}",
        _use(facts, say, loading),
        f"## {say('card.scores')}",
        _scores(scores, say, loading),
        f"## {say('card.data')}",
        _data(facts, say),
        f"## {say('card.training')}",
        _trainings(facts, say),
        f"## {say('card.limits')}",
        say("card.limits_text"),
        f"## {say('card.licence')}",
        say("card.licence_text", licence=loading.licence or say("card.no_licence")),
        f"## {say('card.origin')}",
        _origin(facts, say),
    ]
    text = "\n\n".join(part for part in parts if part)
    return f"---\n{metadata(facts, scores, loading).to_yaml()}\n---\n\n{text}\n"


def newest_scores(facts: Facts) -> dict[str, dict[str, Any]]:
    """Benchmark -> the scores that were made last."""
    return {name: found for _, results in facts.scores for name, found in results.items()}


def metadata(
    facts: Facts, scores: Mapping[str, Mapping[str, Any]], loading: Loading
) -> ModelCardData:
    """The metadata of the hub: languages, licence, data sets, results."""
    repositories = [d.repository for d in facts.data if d.repository]
    results = [_eval_result(name, result) for name, result in scores.items()]
    tags = ["steel", *(["soft-moe"] if facts.config.get("routing", "dense") != "dense" else [])]
    if any(training.stage != "pretrain" for training in facts.trainings):
        tags.append("conversational")
    licence: dict[str, Any] = {"license": loading.licence or "other"}
    if not loading.licence:
        licence["license_name"] = "not-chosen"
    return ModelCardData(
        **licence,
        language=facts.languages or None,
        library_name="transformers",
        pipeline_tag="text-generation",
        tags=tags,
        datasets=list(dict.fromkeys(repositories)) or None,
        model_name=facts.title if results else None,
        eval_results=results or None,
    )


def _eval_result(name: str, result: Mapping[str, Any]) -> EvalResult:
    sample = result.get("origin") == SAMPLE_DATA
    low, high = result["interval_95"]
    return EvalResult(
        task_type="text-generation" if is_written(result) else "multiple-choice",
        dataset_type=f"{SAMPLE_TYPE}-{name}" if sample else _repository(name),
        dataset_name=f"{result['title']} (generated sample questions)"
        if sample
        else result["title"],
        dataset_split=result["split"],
        dataset_args={} if is_written(result) else {"num_few_shot": result["num_fewshot"] or 0},
        metric_type="accuracy",
        metric_name=f"accuracy, % (95 % interval {percent(low)} to {percent(high)})",
        metric_value=round(100 * result["accuracy_micro"], 2),
        verified=False,
    )


def _repository(name: str) -> str:
    """The benchmark's repository on the hub, or its name."""
    try:
        recipe = load_recipe(BenchmarkRecipe, "evals", name)
    except Exception:  # an optional one, or one of the user's own
        return name
    return recipe.hub.repository if recipe.hub is not None else name


def _summary(facts: Facts, say: Writer, loading: Loading) -> str:
    languages = " / ".join(say(f"card.{code}") for code in facts.languages)
    size = f"{facts.parameters:,}" if facts.parameters is not None else say("not_measured")
    text = say("card.summary", parameters=size, languages=languages or say("card.unknown"))
    if facts.unknown_base:
        text += " " + say("card.unknown_base", path=facts.unknown_base)
    if loading.checkpoint:
        text += " " + say("card.checkpoint", name=loading.checkpoint)
    return text


def _use(facts: Facts, say: Writer, loading: Loading) -> str:
    trust = ", trust_remote_code=True" if loading.code else ""
    place = "." if loading.exported else "FOLDER"
    model = facts.model
    lines = [
        "```python",
        "from transformers import AutoModelForCausalLM, AutoTokenizer",
        "",
        f'tokenizer = AutoTokenizer.from_pretrained("{place}")',
        f'model = AutoModelForCausalLM.from_pretrained("{place}"{trust})',
        "```",
    ]
    if not loading.exported:
        lines[:0] = [say("card.export", name=f"{model.stage}/{model.key}"), ""]
    chat = any(training.stage != "pretrain" for training in facts.trainings)
    remark = say("card.chat" if chat else "card.base")
    return "\n".join(lines) + "\n\n" + remark + (" " + say("card.code") if loading.code else "")


def _scores(scores: Mapping[str, Mapping[str, Any]], say: Writer, loading: Loading) -> str:
    if loading.checkpoint:
        return say("card.checkpoint_scores")
    if not scores:
        return f"*{say('not_run')}.*"
    rows = []
    for result in scores.values():
        low, high = (percent(bound) for bound in result["interval_95"])
        sample = say("card.sample_short") if result.get("origin") == SAMPLE_DATA else ""
        rows.append(
            {
                say("column.benchmark"): f"{result['title']}{sample}",
                say("card.accuracy"): say(
                    "results.to", share=percent(result["accuracy_micro"]), low=low, high=high
                ),
                say("column.questions"): f"{result['num_questions']:,}",
                say("card.shots"): say("adjusted.own")
                if is_written(result)
                else str(result["num_fewshot"] or 0),
                say("card.chance"): say(f"card.{compare_with_chance(result)}"),
            }
        )
    return f"{markdown_table(rows, right=list(rows[0])[1:-1])}\n\n{say('card.scores_text')}"


def _data(facts: Facts, say: Writer) -> str:
    if not facts.data:
        return say("card.unknown_data")
    rows = [
        {
            say("column.set"): f"[{d.title}](https://huggingface.co/datasets/{d.repository})"
            if d.repository
            else d.title,
            say("card.kind"): say(f"card.{d.kind}"),
            say("column.language"): d.language,
            say("card.rows"): "" if d.documents is None else f"{d.documents:,}",
            say("column.tokens"): "" if d.tokens is None else f"{d.tokens:,}",
            say("card.licence_stated"): d.licence,
        }
        for d in facts.data
    ]
    text = markdown_table(rows, right=[say("card.rows"), say("column.tokens")])
    if facts.cleaned is None:
        return text
    number = int(facts.cleaned.manifest["counts"].get("contaminated_documents", 0))
    questions = facts.cleaned.manifest["notes"].get("contamination_index", {}).get("checkable")
    if questions:
        text += "\n\n" + say("card.decontaminated", n=f"{number:,}", questions=f"{questions:,}")
    return text + "\n\n" + say("card.croissant")


def _trainings(facts: Facts, say: Writer) -> str:
    rows = []
    for result in facts.trainings:
        counts = result.manifest["counts"]
        loss = counts.get("validation_loss", counts.get("train_loss"))
        rows.append(
            {
                say("column.stage"): f"{result.stage} {result.manifest['label']}".strip(),
                say("column.steps"): f"{counts['steps']:,.0f}" if "steps" in counts else "",
                say("column.tokens"): f"{counts['tokens']:,.0f}" if "tokens" in counts else "",
                say("column.hours"): f"{counts['seconds'] / 3600:,.3f}"
                if "seconds" in counts
                else "",
                say("card.learning_rate"): str(result.manifest["config"].get("learning_rate", "")),
                say("card.loss"): "" if loss is None else f"{loss:.3f}",
            }
        )
    return markdown_table(rows, right=list(rows[0])[1:]) if rows else say("card.unknown_training")


def _origin(facts: Facts, say: Writer) -> str:
    rows = [
        {
            say("column.stage"): f"{result.stage} {result.manifest['label']}".strip(),
            say("column.key"): f"`{result.key}`",
            say("column.commit"): f"`{str(result.manifest.get('git_commit') or '')[:12]}`",
        }
        for result in [facts.cleaned, facts.packed, *facts.trainings, *(r for r, _ in facts.scores)]
        if result is not None
    ]
    if not rows:
        return say("card.unknown_training")
    return f"{markdown_table(rows)}\n\n{say('card.origin_text')}"
