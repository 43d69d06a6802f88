"""Stage `mixture_comparison`: SFT models of several mixtures, question by question (Table 3).

evaluations[mixture/seed] ──pair by question──▶ table.json ──▶ table.md, by_subject.csv
trained[mixture/seed] ──losses──▶ curves.png        └──▶ accuracy.png (the same rows)
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from common.config import StageConfig
from common.files import write_json, write_text
from common.names import Name
from common.recipes import load_recipe, recipe_path
from tasks.core.paper.tables import Table3
from tasks.core.stage import StageResult, StageRun, stage

KEY = "mixture-ablation"
"""Key of the Prefect artifacts, and name of the MLflow table."""
SUBJECTS = "by_subject.csv"
PAPER_PARAMETERS = 1_120_000_000


@dataclass(frozen=True, kw_only=True)
class MixtureComparisonConfig(StageConfig):
    """Rows of the table, beside the measurements."""

    mixtures: list[Name]
    """In the order of the table; differences are to the first."""
    titles: dict[Name, str] = field(default_factory=dict)
    """Mixture -> title of its recipe."""
    seeds: list[int] = field(default_factory=list)
    """Seeds that every mixture was to be trained with."""
    failed: dict[str, str] = field(default_factory=dict)
    """`<mixture>/<seed>` (or `base`) -> reason why it has no evaluation."""

    def recipe_files(self) -> list[Path]:
        """The paper's table."""
        return [recipe_path("paper", "table3")]


@stage(version=2)
def mixture_comparison(
    run: StageRun,
    config: MixtureComparisonConfig,
    *,
    evaluations: Mapping[str, StageResult],
    trained: Mapping[str, StageResult],
) -> None:
    """Write table.json, table.md, by_subject.csv and the pictures, and show them.

    Args:
        evaluations: `<mixture>/<seed>`, and `base` where that was evaluated.
        trained: `<mixture>/<seed>` -> the SFT model.

    Raises DataError where models were asked different questions.
    """
    import matplotlib as mpl

    from tasks.core.theme import LIGHT, save, style
    from tasks.mixture_comparison import table as tables
    from tasks.mixture_comparison.answers import read_answers
    from tasks.mixture_comparison.figures import accuracy_figure
    from tasks.report.data import count_parameters, read_training
    from tasks.report.learning_curves import curves_figure, mean_curve

    by_mixture: dict[str, dict[int, StageResult]] = {}
    for name, result in evaluations.items():
        mixture, _, seed = name.rpartition("/")
        by_mixture.setdefault(mixture or name, {})[int(seed) if mixture else 0] = result
    statuses = {mixture: _status(mixture, config, by_mixture) for mixture in config.mixtures}
    if tables.BASE in by_mixture or tables.BASE in config.failed:
        statuses[tables.BASE] = config.failed.get(tables.BASE, "done")
    answers = read_answers(by_mixture)
    table = tables.comparison(
        answers,
        config.mixtures,
        config.titles,
        {name: sorted(by_seed) for name, by_seed in by_mixture.items() if name != tables.BASE},
        statuses,
        load_recipe(Table3, "paper", "table3"),
    )
    models = [model.model_folder for model in trained.values()]
    table["parameters"] = parameters = count_parameters(models[0]) if models else None
    trainings = {
        mixture: [
            read_training(name, result)
            for name, result in trained.items()
            if name.rpartition("/")[0] == mixture
        ]
        for mixture in config.mixtures
    }
    losses = {
        mixture: [t.curves["train/loss"] for t in own if "train/loss" in t.curves]
        for mixture, own in trainings.items()
    }
    table["losses"] = {name: mean_curve(own).end for name, own in losses.items() if own}
    table["english"] = _english(config.mixtures, trained)
    write_json(run.folder / "table.json", table)
    pictures = []
    with mpl.rc_context(style(LIGHT)):
        for name, figure in (
            ("accuracy", accuracy_figure(table, LIGHT)),
            ("curves", curves_figure(trainings, LIGHT)),
        ):
            if figure is not None:
                save(figure, run.folder / f"{name}.png")
                pictures.append(name)
    text = tables.format_page(table, _scale(parameters), pictures)
    write_text(run.folder / "table.md", text)
    subjects = list(tables.subject_rows(answers, config.mixtures, statuses))
    write_text(run.folder / SUBJECTS, tables.format_csv(subjects))
    run.table(KEY, tables.shown_rows(table), "Accuracy by mixture, and differences to the first")
    run.table(f"{KEY} by subject", subjects, "Accuracy by mixture and subject")
    run.markdown(f"{KEY}-page", text)
    for name in pictures:
        run.picture(run.folder / f"{name}.png", f"{name.capitalize()} by mixture")
    run.track.artifact(run.folder / SUBJECTS)
    run.count(models=len(evaluations), failed=len(config.failed), comparisons=table["comparisons"])
    run.note(findings=tables.findings(table), statuses=statuses, pictures=pictures)


def _status(
    mixture: str,
    config: MixtureComparisonConfig,
    evaluated: Mapping[str, Mapping[int, StageResult]],
) -> str:
    """`done`, or what is missing and why."""
    missing = {
        seed: config.failed[f"{mixture}/{seed}"]
        for seed in config.seeds
        if f"{mixture}/{seed}" in config.failed
    }
    if not missing:
        return "done"
    reasons = "; ".join(f"seed {seed} failed: {reason}" for seed, reason in missing.items())
    done = len(evaluated.get(mixture, {}))
    return f"{done} of {len(config.seeds)} seeds; {reasons}" if done else reasons


def _english(
    mixtures: Sequence[str], trained: Mapping[str, StageResult]
) -> dict[str, float | None]:
    """Share of the conversations that a mixture was trained on that are English, over its seeds."""
    found = {}
    for mixture in mixtures:
        own = [r.manifest["counts"] for n, r in trained.items() if n.rpartition("/")[0] == mixture]
        total = sum(counts.get("conversations", 0) for counts in own)
        found[mixture] = sum(c.get("english", 0) for c in own) / total if total else None
    return found


def _scale(parameters: int | None) -> str:
    if parameters is None or parameters >= 0.9 * PAPER_PARAMETERS:
        return ""
    return (
        f"These models have {parameters:,} parameters, the paper's 1.12 billion: its accuracies "
        "stand beside theirs for their order, not for their values."
    )
