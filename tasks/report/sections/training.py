"""The report's section on training: losses, the timeline, the sets of each mixture."""

from collections.abc import Callable
from typing import Any

from model.train.run.folder import METRICS_FILE
from tasks.core.markdown import markdown_table
from tasks.report.data import ReportData, Training
from tasks.report.language import Writer
from tasks.report.results import loss_text
from tasks.report.timeline import Timeline
from tasks.report.trace.numbers import Place, count_place, place_in, pointer


def training_section(data: ReportData, picture: Callable[[str], str], say: Writer) -> str:
    """Format losses and mixtures; `picture` gives the Markdown of a picture by its name."""
    parts = [picture("pretraining"), _timeline(data.timeline, say)]
    if data.checkpoints is not None:
        parts.append(picture("checkpoints"))
    parts += [picture("sft"), picture("dpo")]
    rows = [_training_row(data, training, say) for training in data.trainings.values()]
    if rows:
        parts += [markdown_table(rows, right=list(rows[0])[1:]), say("training.legend")]
    else:
        parts.append(f"*{say('not_run')}.*")
    for training in data.trainings.values():
        if training.mixture:
            parts.append(f"### {say('training.data_of', name=training.name)}")
            parts.append(_mixture(data, training, say))
    return "\n\n".join(part for part in parts if part)


def _mixture(data: ReportData, training: Training, say: Writer) -> str:
    stage = data.stages.get(training.name)

    def cell(place: int, column: str, value: Any) -> str:
        if type(value) is not int:
            return str(value)
        at = place_in(
            stage,
            "manifest.json",
            pointer=pointer("notes", "mixture", place, column),
            part=str(training.mixture[place].get("set", "")),
        )
        about = f"{training.name}, {training.mixture[place].get('set')}: {column}"
        return say.number(f"{value:,}", about, value, at)

    numeric = [c for c, v in training.mixture[0].items() if isinstance(v, int | float)]
    rows = [
        {say.word("column", column): cell(place, column, v) for column, v in row.items()}
        for place, row in enumerate(training.mixture)
    ]
    return markdown_table(rows, right=[say.word("column", column) for column in numeric])


def _timeline(timeline: Timeline | None, say: Writer) -> str:
    """List events and sessions of the pretraining; nothing for a run in one piece."""
    if timeline is None or not (timeline.events or len(timeline.sessions) > 1):
        return ""
    rows = [
        {
            "session": str(number),
            "from step": f"{session.step:,}",
            "to step": "" if session.last_step is None else f"{session.last_step:,}",
            "processes": str(session.num_processes),
            "device": session.device,
            "ended": session.how,
        }
        for number, session in enumerate(timeline.sessions, 1)
    ]
    named = [{say(f"column.{c}"): cell for c, cell in row.items()} for row in rows]
    events = "\n".join(
        say("training.event", step=f"{event.step:,}", text=event.text) for event in timeline.events
    )
    right = [say(f"column.{c}") for c in ("session", "from step", "to step", "processes")]
    return f"### {say('training.timeline')}\n\n{events}\n\n{markdown_table(named, right=right)}"


def _training_row(data: ReportData, training: Training, say: Writer) -> dict[str, str]:
    loss = training.curves.get("train/loss")
    validation = training.validation
    stage = data.stages.get(training.name)

    def at(how: str) -> Place | None:
        return place_in(stage, METRICS_FILE, how=how)

    def nats(value: float, about: str, how: str) -> str:
        words = (
            f"{training.name}, {about} in nats per {'pair' if training.name == 'dpo' else 'token'}"
        )
        return say.number(loss_text(value), words, value, at(how))

    steps = first = end = say("not_run")
    if loss:
        number = training.counts.get("steps", loss.steps[-1])
        counted = count_place(stage, "steps")
        place = counted if "steps" in training.counts else at("last step of train/loss")
        steps = say.number(f"{number:,.0f}", f"{training.name}, steps", number, place)
        first = nats(loss.values[0], "first loss", "first value of train/loss")
        end = nats(loss.end, "loss at the end", "last value of the running mean of train/loss")
    row = {
        "model": training.name,
        "steps": steps,
        "first loss": first,
        "loss at the end": end,
        "validation loss": nats(
            validation.values[-1], "validation loss", "last value of the validation loss"
        )
        if validation
        else say("not_measured"),
    }
    return {say(f"column.{column}"): cell for column, cell in row.items()}
