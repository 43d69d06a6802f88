"""The report's section on training: losses, checkpoints, the timeline, the sets of each mixture."""

from collections.abc import Callable, Mapping
from typing import Any

from model.train.run.folder import METRICS_FILE, SESSIONS_FILE
from tasks.checkpoint_scores.curves import ALL, CURVES_FILE, IN_ROWS
from tasks.core.manifest import StageResult
from tasks.core.markdown import markdown_table
from tasks.report.data import Curve, ReportData, Training
from tasks.report.language import Writer
from tasks.report.results import loss_text
from tasks.report.timeline import Timeline, TimelineEvent
from tasks.report.trace.numbers import Known, Place, computed, known, place_in, pointer

ALIVE = 0.01
"""Nats by which mean routing weights change the held-out loss of a model whose routing decides
something: 0.002 and less where it does not, 0.1 where it does (docs/adr/0087)."""

DRAWN = {
    "train/loss": "training.curve_loss",
    "validation/loss": "training.curve_held_out",
    "validation/causal_loss": "training.curve_causal",
    "train/learning_rate": "training.curve_rate",
    "perf/tokens_per_second": "training.curve_speed",
    "train/preference_accuracy": "training.curve_preferred",
    "validation/preference_accuracy": "training.curve_preferred_held_out",
    "train/reward_chosen": "training.curve_chosen",
    "train/reward_rejected": "training.curve_rejected",
}
"""Metric that a picture shows -> key of its words."""


def training_section(data: ReportData, picture: Callable[[str], str], say: Writer) -> str:
    """Format losses and mixtures; `picture` gives the Markdown of a picture by its name."""
    tuned = [name for name in data.trainings if name.startswith("sft ")]
    parts = [
        picture("pretraining"),
        _curves(data, ["base"], say),
        _routing(data, say),
        _timeline(data, data.timeline, say),
        _checkpoints(data, picture, say),
        picture("sft"),
        _curves(data, tuned, say, only=("train/loss",)),
        picture("dpo"),
        _curves(data, ["dpo"], say),
    ]
    rows = [
        training_row(training, data.stages.get(training.name), say)
        for training in data.trainings.values()
    ]
    if rows:
        parts += [markdown_table(rows, right=list(rows[0])[1:]), say("training.legend")]
    else:
        parts.append(f"*{say('not_run')}.*")
    parts += [_replaced_kernels(data, name, say) for name in data.trainings]
    parts += [_mixture(data, t, say) for t in data.trainings.values() if t.mixture]
    return "\n\n".join(part for part in parts if part)


def _replaced_kernels(data: ReportData, name: str, say: Writer) -> str:
    """Say which kernels of a training failed their self-test; nothing where all passed.

    The reasons, which are full of numbers, stand in its manifest.
    """
    stage = data.stages.get(name)
    settled = stage.manifest["notes"].get("settled", {}) if stage else {}
    replaced: Mapping[str, str] = settled.get("kernels_replaced", {})
    if not replaced:
        return ""
    operations = ", ".join(f"{key} ({what.partition(':')[0]})" for key, what in replaced.items())
    return say("training.kernels_replaced", name=name, operations=operations)


def _curves(
    data: ReportData, names: list[str], say: Writer, only: tuple[str, ...] = tuple(DRAWN)
) -> str:
    """Names of the curves of a picture, each with an id that lists its points."""
    curves: list[tuple[str, str, Place | None]] = []
    for name in names:
        training = data.trainings.get(name)
        for metric in only if training else ():
            if training and metric in training.curves:
                place = place_in(data.stages.get(name), METRICS_FILE, how=metric)
                words = name if len(only) == 1 else say(DRAWN[metric])
                curves.append((words, f"{name}, {metric} by step", place))
    return say.curves(curves)


def _routing(data: ReportData, say: Writer) -> str:
    """Say whether the base's routing decides anything; nothing where that was not measured."""
    stage = data.stages.get("base")
    effect = known(stage, "loss with mean routing weights, minus loss", "counts", "routing_effect")
    entropy = known(stage, "entropy of routing weights", "counts", "routing_entropy")
    if effect is None or effect.value is None:
        return ""
    alive = abs(effect.value) >= ALIVE
    return say(
        "training.routing_alive" if alive else "training.routing_inert",
        effect=say.known("{:+.4f}".format, effect),
        entropy=say.known("{:.3f}".format, entropy),
    )


def _checkpoints(data: ReportData, picture: Callable[[str], str], say: Writer) -> str:
    """Picture, curves and table of the scores of checkpoints; nothing where none were scored."""
    found = data.checkpoints
    if found is None or not found["tokens"]:
        return ""
    folder = data.stages["checkpoints"].folder
    key = f"{folder.parent.name}/{folder.name}"

    def at(*names: str | int) -> Place:
        return Place(
            stage=data.stages["checkpoints"].stage,
            key=key,
            file=CURVES_FILE,
            pointer=pointer(*names),
        )

    metrics: Mapping[str, list[float | None]] = found["metrics"]
    curves = [(name, f"{name} by tokens read", at("metrics", name)) for name in metrics]
    columns = {
        name: title for name in metrics if (title := _checkpoint_column(name, say)) is not None
    }
    rows = []
    for row, (step, tokens) in enumerate(zip(found["steps"], found["tokens"], strict=True)):
        about = f"checkpoint of step {step}"
        cells = {
            say("column.step"): say.number(f"{step:,}", f"{about}: step", step, at("steps", row)),
            say("column.tokens"): say.number(
                f"{tokens:,}", f"{about}: tokens read", tokens, at("tokens", row)
            ),
        }
        for name, title in columns.items():
            value = metrics[name][row]
            cells[title] = (
                say("not_measured")
                if value is None
                else say.number(f"{value:.3f}", f"{about}: {name}", value, at("metrics", name, row))
            )
        rows.append(cells)
    number = computed(
        "checkpoints that were scored",
        "number",
        *(
            Known(value=step, about=f"checkpoint of step {step}: step", place=at("steps", row))
            for row, step in enumerate(found["steps"])
        ),
    )
    table = f"{markdown_table(rows, right=list(rows[0]))}\n\n{say('training.checkpoints_legend')}"
    line = say("training.checkpoints", n=say.known(str, number))
    return "\n\n".join([picture("checkpoints"), say.curves(curves), say.details(line, table)])


def _checkpoint_column(metric: str, say: Writer) -> str | None:
    """Column of a metric in the table of checkpoints; None for one that the table leaves out."""
    kind, _, figure = metric.partition("/")
    if kind == "bits_per_byte":
        return say(
            "training.bits_per_byte", source=say("training.all") if figure == ALL else figure
        )
    return f"{kind}: {say.word('figure', IN_ROWS[figure])}" if figure in IN_ROWS else None


def _mixture(data: ReportData, training: Training, say: Writer) -> str:
    """Table of the sets of a mixture, behind a line with their number."""
    stage = data.stages.get(training.name)

    def cell(row: int, column: str, value: Any) -> str:
        part = str(training.mixture[row].get("set", ""))
        place = place_in(
            stage, "manifest.json", pointer=pointer("notes", "mixture", row, column), part=part
        )
        about = f"{training.name}, {part}: {column}"
        if type(value) in (int, float):
            shown = f"{value:,}" if isinstance(value, int) else f"{value:,.4g}"
            return say.number(shown, about, value, place)
        return str(value) if column == "set" else say.in_text(str(value), about, place)

    columns = list(dict.fromkeys(column for row in training.mixture for column in row))
    filled = [
        c for c in columns if any(row.get(c) not in (0, "", None) for row in training.mixture)
    ]
    numeric = [c for c, v in training.mixture[0].items() if isinstance(v, int | float)]
    rows = [
        {
            say.word("column", column): cell(row, column, content.get(column, ""))
            for column in filled
        }
        for row, content in enumerate(training.mixture)
    ]
    table = markdown_table(rows, right=[say.word("column", column) for column in numeric])
    line = say("training.data_of", name=training.name, n=_rows_of(data, training, say))
    empty = [say.word("column", column) for column in columns if column not in filled]
    if empty:
        table += "\n\n" + say("training.empty", columns=", ".join(empty))
    return say.details(line, table)


def _rows_of(data: ReportData, training: Training, say: Writer) -> str:
    """Conversations or pairs that a model was trained on."""
    stage = data.stages.get(training.name)
    for field in ("conversations", "pairs"):
        if (found := known(stage, f"{training.name}, {field}", "counts", field)) is not None:
            return say(f"training.{field}", n=say.known("{:,.0f}".format, found))
    sets = say("training.sets", n=say.known(str, _sets_of(data, training)))
    return sets


def _sets_of(data: ReportData, training: Training) -> Known:
    stage = data.stages.get(training.name)
    taken = [
        found
        for row in range(len(training.mixture))
        if (found := known(stage, f"{training.name}, taken", "notes", "mixture", row, "taken"))
    ]
    return computed(f"{training.name}, sets", "number", *taken)


def _timeline(data: ReportData, timeline: Timeline | None, say: Writer) -> str:
    """List events and sessions of the pretraining; nothing for a run in one piece."""
    if timeline is None or not (timeline.events or len(timeline.sessions) > 1):
        return ""
    stage = data.stages.get("base")

    def number(value: int, session: int, what: str) -> str:
        how = f"{what} of session {session}"
        return say.number(f"{value:,}", how, value, place_in(stage, SESSIONS_FILE, how=how))

    rows = [
        {
            "session": str(place),
            "from step": number(session.step, place, "first step"),
            "to step": say("not_known")
            if session.last_step is None
            else number(session.last_step, place, "last step"),
            "processes": number(session.num_processes, place, "processes"),
            "device": session.device,
            "ended": say.word("ended", session.how),
        }
        for place, session in enumerate(timeline.sessions, 1)
    ]
    named = [{say(f"column.{c}"): cell for c, cell in row.items()} for row in rows]

    def event(place: int, text: str) -> str:
        at = place_in(stage, SESSIONS_FILE, how=f"event {place} of the timeline")
        return say.in_text(text, f"timeline, event {place}", at)

    events = "\n".join(
        event(place, say("training.event", step=f"{event_.step:,}", text=_event(event_, say)))
        for place, event_ in enumerate(timeline.events, 1)
    )
    right = [say(f"column.{c}") for c in ("session", "from step", "to step", "processes")]
    return f"### {say('training.timeline')}\n\n{events}\n\n{markdown_table(named, right=right)}"


def _event(event: TimelineEvent, say: Writer) -> str:
    """The event in a few words."""
    fields = {
        name: f"{value:,}" if isinstance(value, int) else say.word(name, value)
        for name, value in event.fields.items()
    }
    how = event.fields.get("how", "")
    if how.startswith("failed"):  # with what: no fixed word
        fields["how"] = say("happened.failed", how=how)
    key = "rolled_back" if "to_step" in fields else event.kind.replace(" ", "_")
    return say(f"happened.{key}", **fields)


def training_row(training: Training, stage: StageResult | None, say: Writer) -> dict[str, str]:
    """Steps and losses of a training, alike in the report and in a model's card."""
    name = training.name
    loss, validation = training.curves.get("train/loss"), training.validation

    def nats(curve: Curve | None, value: Callable[[Curve], float], about: str, how: str) -> str:
        if curve is None:
            return say("not_measured")
        words = f"{name}, {about} in nats per {'pair' if name == 'dpo' else 'token'}"
        place = place_in(stage, METRICS_FILE, how=how)
        return say.known(loss_text, Known(value=value(curve), about=words, place=place))

    steps = known(stage, f"{name}, steps", "counts", "steps")
    if steps is None and loss is not None:
        place = place_in(stage, METRICS_FILE, how="last step of train/loss")
        steps = Known(value=loss.steps[-1], about=f"{name}, steps", place=place)
    row = {
        "model": name,
        "steps": say.known("{:,.0f}".format, steps),
        "first loss": nats(loss, lambda c: c.values[0], "first loss", "first value of train/loss"),
        "loss at the end": nats(
            loss, lambda c: c.end, "loss at the end", "last value of the running mean of train/loss"
        ),
        "validation loss": nats(
            validation,
            lambda c: c.values[-1],
            "validation loss",
            "last value of the validation loss",
        ),
    }
    return {say(f"column.{column}"): cell for column, cell in row.items()}
