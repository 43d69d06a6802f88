"""Artifact `where-to-look` of a run: MLflow's comparison, the report, the logs of its stages."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from common.paths import display
from common.redaction import redact
from flows.services.addresses import is_server, mlflow_page
from tasks.core.artifacts import flow_run_id, publish_artifact, run_logger
from tasks.core.markdown import markdown_table
from tasks.core.tracking import MODELS, PIPELINES, default_uri, experiment_links

KEY = "where-to-look"


def show_pages(
    name: str, store: Path, stages: Sequence[Mapping[str, Any]], views: Sequence[str]
) -> None:
    """Publish the artifact, in a flow run; stages: as the tracker lists them; views: of its models
    in MLflow, the best one first."""
    if flow_run_id() is None:
        return
    uri = default_uri(store)
    links = experiment_links(uri, *views)
    publish_artifact(
        run_logger(),
        "markdown",
        key=KEY,
        links=addresses(uri, links),
        markdown=pages(name, store, stages, uri, links),
        description=f"Results of {name}",
    )


def addresses(uri: str, links: Mapping[str, str]) -> dict[str, str]:
    """Word for an experiment's page -> its address.

    uri: of MLflow; links: its pages by experiment, below that address.
    """
    served = redact(mlflow_page(uri))
    return {f"MLFLOW:{experiment}:": f"{served}/{link}" for experiment, link in links.items()}


def pages(
    name: str, store: Path, stages: Sequence[Mapping[str, Any]], uri: str, links: Mapping[str, str]
) -> str:
    """The artifact's Markdown, with words in the place of MLflow's addresses."""
    lines = [f"# Results of {name}", ""]
    titles = {MODELS: "Comparison of the models in MLflow", PIPELINES: "Runs in MLflow"}
    for experiment, title in titles.items():
        if experiment in links:
            lines.append(f"- [{title}](MLFLOW:{experiment}:)")
    folders = {str(s["stage"]): store / str(s["stage"]).split()[0] / str(s["key"]) for s in stages}
    for folder in folders.values():
        for page in sorted(folder.glob("report*.html")):
            lines.append(f"- Report: `{page}`")
    rows = [
        {
            "stage": title,
            "folder": f"`{display(folder)}`",
            "logs of its processes, all ranks": ", ".join(
                f"`{path.name}`" for path in sorted(folder.glob("*.log"))
            ),
        }
        for title, folder in folders.items()
    ]
    if not is_server(uri):
        lines.append("- MLflow's pages open while `make up` is running.")
    if rows:
        lines += ["", "## Stages", "", markdown_table(rows)]
    return "\n".join(lines) + "\n"
