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
from tasks.core.manifest import StageResult
from tasks.core.markdown import markdown_table
from tasks.report.cards.facts import Facts
from tasks.report.cards.writers import ModelCardWriter
from tasks.report.data import read_training
from tasks.report.language import Writer
from tasks.report.results import SAMPLE_DATA, compare_with_chance, is_written, percent
from tasks.report.sections.cost import hours_text
from tasks.report.sections.provenance import title_of
from tasks.report.sections.results import accuracy, score_known
from tasks.report.sections.training import training_row
from tasks.report.trace.numbers import known

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


def model_card(facts: Facts, say: ModelCardWriter, loading: Loading) -> str:
    """Write the card. Raises ValueError for metadata that the hub's format does not have."""
    scores = {} if loading.checkpoint else newest_scores(facts)
    parts = [
        f"# {facts.title}",
        _summary(facts, say, loading),
        f"> {say('card.sample')}" if facts.is_sample else "",
        f"## {say('card.use')}",
        _use(facts, say, loading),
        f"## {say('card.scores')}",
        _scores(facts, scores, say, loading),
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
    parts.append(say.links())
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
    routed = facts.config.get("routing", "dense") not in ("dense", "uniform")
    tags = ["steel", *(["soft-moe"] if routed else [])]
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
        metric_value=float(percent(result["accuracy_micro"])),
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
    size = say.known("{:,}".format, facts.parameters_known, "not_measured")
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


def _scores(
    facts: Facts, scores: Mapping[str, Mapping[str, Any]], say: Writer, loading: Loading
) -> str:
    if loading.checkpoint:
        return say("card.checkpoint_scores")
    if not scores:
        return f"*{say('not_run')}.*"
    stages = {name: stage for stage, results in facts.scores for name in results}
    rows = []
    for name, result in scores.items():
        model = str(stages[name].manifest.get("label") or facts.title)
        place = {f"evaluate {model}": stages[name]}

        def number(
            field: str,
            words: str,
            name: str = name,
            result: Mapping[str, Any] = result,
            model: str = model,
            place: Mapping[str, StageResult] = place,
        ) -> str:
            if field not in result or result[field] is None:
                return say("adjusted.own")
            return say.known("{:,}".format, score_known(result, model, name, place, field, words))

        sample = say("card.sample_short") if result.get("origin") == SAMPLE_DATA else ""
        rows.append(
            {
                say("column.benchmark"): f"{result['title']}{sample}",
                say("card.accuracy"): accuracy(result, model, name, place, say),
                say("column.questions"): number("num_questions", "questions"),
                say("card.shots"): number("num_fewshot", "worked examples"),
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
            say("card.rows"): say.known("{:,}".format, d.documents, "not_known"),
            say("column.tokens"): say.known("{:,}".format, d.tokens, "not_measured"),
            say("card.licence_stated"): d.licence,
        }
        for d in facts.data
    ]
    text = markdown_table(rows, right=[say("card.rows"), say("column.tokens")])
    if facts.cleaned is None:
        return text
    number = known(
        facts.cleaned,
        "documents with a benchmark's question",
        *("counts", "contaminated_documents"),
    )
    questions = known(
        facts.cleaned, "questions looked for", "notes", "contamination_index", "checkable"
    )
    if questions is not None and questions.value and number is not None:
        text += "\n\n" + say(
            "card.decontaminated",
            n=say.known("{:,}".format, number),
            questions=say.known("{:,}".format, questions),
        )
    return text + "\n\n" + say("card.croissant")


def _trainings(facts: Facts, say: Writer) -> str:
    """Steps and losses as the report has them, beside what else a training's manifest says."""
    rows = []
    for result in facts.trainings:
        name = title_of(result)
        # As the report calls it, so that one number has one text.
        training = read_training("dpo" if result.stage == "dpo" else name, result)
        row = training_row(training, result, say)
        row.pop(say("column.model"))
        tokens = known(result, f"{name}, tokens trained on", "counts", "tokens")
        seconds = known(result, f"{name}, seconds of wall clock", "counts", "seconds")
        rate = known(result, f"{name}, learning rate", "config", "learning_rate")
        rows.append(
            {
                say("column.stage"): name,
                **row,
                say("column.tokens"): say.known("{:,.0f}".format, tokens, "not_measured"),
                say("column.hours"): say.known(hours_text, seconds, "not_measured"),
                say("card.learning_rate"): say.known(str, rate, "not_known"),
            }
        )
    return markdown_table(rows, right=list(rows[0])[1:]) if rows else say("card.unknown_training")


def _origin(facts: Facts, say: Writer) -> str:
    rows = [
        {
            say("column.stage"): title_of(result),
            say("column.key"): f"`{result.key}`",
            say("column.commit"): f"`{str(result.manifest.get('git_commit') or '')[:12]}`",
        }
        for result in [facts.cleaned, facts.packed, *facts.trainings, *(r for r, _ in facts.scores)]
        if result is not None
    ]
    if not rows:
        return say("card.unknown_training")
    return f"{markdown_table(rows)}\n\n{say('card.origin_text')}"
