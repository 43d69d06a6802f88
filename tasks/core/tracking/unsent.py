"""Records that MLflow did not take, kept in the store until it does.

    STORE/mlflow/unsent/<stage>-<key>.json   all that the runs of a stage would say
    STORE/mlflow/unsent/scores-<key>.json    figures of an evaluation, for the run of their model

The stage's own files are the truth (manifest.json, metrics.jsonl), so that a run can be made from
them at any later time: parameters, inputs, counts, metrics by step, the manifest. Tables, pictures
and texts are not made up for: they stand in the stage's folder and in the report.
"""

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from common.errors import StageError
from common.files import write_json
from common.redaction import recorded
from model.train.run.folder import METRICS_FILE
from tasks.core.lock import StageLock
from tasks.core.tracking.client import MODELS, PIPELINES, log_metrics
from tasks.core.tracking.metric_mirror import MetricMirror
from tasks.core.tracking.models.scores import read
from tasks.core.tracking.stage_track import counts_table, finish_model, speeds

if TYPE_CHECKING:
    from tasks.core.tracking.tracker import Tracker


def folder_of(store: Path) -> Path:
    """Folder of the records that MLflow lacks."""
    return store / "mlflow" / "unsent"


def keep_stage(store: Path, record: Mapping[str, Any]) -> None:
    """Keep the record of a stage of which MLflow lacks something."""
    _keep(store, f"{record['stage']}-{record['key']}", record)


def keep_model(store: Path, manifest: Mapping[str, Any], tracking_uri: str) -> None:
    """Keep the record of a finished model that another MLflow has and this one lacks."""
    stage, label = manifest["stage"], manifest.get("label", "")
    keep_stage(
        store,
        {
            "stage": stage,
            "title": f"{stage} {label}".strip(),
            "key": manifest["key"],
            "tags": stage_tags(stage, manifest["key"], label),
            "experiments": {MODELS: {"steel.role": "model"}},
            "tracking_uri": tracking_uri,
            "runs": {},
            "config": manifest["config"],
            "inputs": manifest["inputs"],
            "metrics": METRICS_FILE,
            "sent": {},
            "status": "FINISHED",
            "started": manifest["started"],
            "ended": manifest["finished"],
        },
    )


def keep_scores(store: Path, key: str, figures: list[dict[str, Any]]) -> None:
    """Keep figures for the run of the model with this key."""
    path = folder_of(store) / f"scores-{key}.json"
    before = json.loads(path.read_text("utf-8"))["figures"] if path.is_file() else []
    kept = {figure["name"]: figure for figure in (*before, *figures)}
    _keep(store, f"scores-{key}", {"key": key, "figures": list(kept.values())})


def stage_tags(name: str, key: str, label: str) -> dict[str, str]:
    """Tags of the runs of a stage."""
    return {"steel.stage": name, "steel.key": key, "steel.label": label}


def _keep(store: Path, name: str, record: Mapping[str, Any]) -> None:
    folder_of(store).mkdir(parents=True, exist_ok=True)
    names = set(record) - {"config", "tags", "title"}
    write_json(folder_of(store) / f"{name}.json", recorded(record, as_they_are=names))


def unsent(store: Path) -> list[Path]:
    """Files of what MLflow lacks; stages before scores, whose runs may be among them."""
    files = sorted(folder_of(store).glob("*.json"))
    return sorted(files, key=lambda path: path.name.startswith("scores-"))


def send(tracker: "Tracker") -> int:
    """Record everything that MLflow lacks; returns the number of records it took.

    Raises whatever the client does: what is left stays for the next attempt.
    """
    if not unsent(tracker.store):
        return 0
    sent = 0
    try:
        with StageLock(folder_of(tracker.store) / "sending.lock", what="records for MLflow"):
            for path in unsent(tracker.store):
                record = json.loads(path.read_text("utf-8"))
                if path.name.startswith("scores-"):
                    _send_scores(tracker, record)
                else:
                    _send_stage(tracker, path, record)
                path.unlink()
                sent += 1
    except StageError:  # another process sends them
        return sent
    return sent


def _send_scores(tracker: "Tracker", record: Mapping[str, Any]) -> None:
    run_id = model_run(tracker, record["key"])
    if run_id:
        tracker.models.log_scores(run_id, record["key"], read(record["figures"]))


def model_run(tracker: "Tracker", key: str) -> str | None:
    """Run of the model that a stage with this key made, the newest; None without one."""
    experiment = tracker.client.get_experiment_by_name(MODELS)
    if experiment is None:
        return None
    runs = tracker.client.search_runs(
        [experiment.experiment_id], f"tags.`steel.key` = '{key}'", max_results=1
    )
    return str(runs[0].info.run_id) if runs else None


def _send_stage(tracker: "Tracker", path: Path, record: dict[str, Any]) -> None:
    folder = tracker.store / record["stage"] / record["key"]
    begun = int(record["started"] * 1000)
    if record["tracking_uri"] != tracker.shown_uri:  # runs elsewhere do not count here
        record |= {"runs": {}, "sent": {}, "tracking_uri": tracker.shown_uri}
    runs: dict[str, str] = record["runs"]
    for experiment, tags in record["experiments"].items():
        if experiment not in runs:
            tags = {**record["tags"], **tags}
            if experiment == PIPELINES:
                made = tracker.create_run(experiment, record["title"], tags, begun)
            else:
                made = tracker.create_compared_run(
                    experiment, record["title"], record["key"], tags, record["config"], begun
                )
            runs[experiment] = made
            write_json(path, record)  # should the next call fail, it is not made twice
    for run_id in runs.values():
        tracker.describe(run_id, record["config"], record["inputs"])
    if record["metrics"] and (folder / record["metrics"]).is_file():
        # The flat run has the curves where there is one.
        run_id = list(runs.values())[-1]
        state = path.with_suffix(".sent")
        write_json(state, record["sent"])
        mirror = MetricMirror(tracker.client, run_id, folder / record["metrics"], state=state)
        mirror.send()
        state.unlink()
    path = folder / "manifest.json"
    manifest = json.loads(path.read_text("utf-8")) if path.is_file() else None
    for experiment, run_id in runs.items():
        if manifest is not None:
            if experiment == PIPELINES:
                tracker.client.log_table(run_id, counts_table(manifest["counts"]), "counts.json")
                tracker.client.log_artifact(run_id, str(path))
            elif experiment == MODELS:
                finish_model(tracker, run_id, folder, manifest)
            else:
                log_metrics(tracker.client, run_id, speeds(manifest["counts"]))
        tracker.client.set_terminated(run_id, record["status"], int(record["ended"] * 1000))


def missing_names(store: Path) -> Iterator[str]:
    """Names of what MLflow lacks, for a message."""
    return (path.stem for path in unsent(store))
