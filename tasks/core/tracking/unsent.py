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
from tasks.core.lock import StageLock
from tasks.core.tracking.client import MODELS, log_metrics
from tasks.core.tracking.metric_mirror import MetricMirror

if TYPE_CHECKING:
    from tasks.core.tracking.tracker import Tracker


def folder_of(store: Path) -> Path:
    """Folder of the records that MLflow lacks."""
    return store / "mlflow" / "unsent"


def keep_stage(store: Path, record: Mapping[str, Any]) -> None:
    """Keep the record of a stage of which MLflow lacks something."""
    _keep(store, f"{record['stage']}-{record['key']}", record)


def keep_scores(store: Path, key: str, metrics: Mapping[str, float]) -> None:
    """Keep figures for the run of the model with this key."""
    path = folder_of(store) / f"scores-{key}.json"
    before = json.loads(path.read_text("utf-8"))["metrics"] if path.is_file() else {}
    _keep(store, f"scores-{key}", {"key": key, "metrics": {**before, **metrics}})


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
        log_metrics(tracker.client, run_id, record["metrics"])


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
            runs[experiment] = tracker.create_run(
                experiment, record["title"], {**record["tags"], **tags}, begun
            )
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
    manifest = folder / "manifest.json"
    for run_id in runs.values():
        if manifest.is_file():
            counts: dict[str, float] = json.loads(manifest.read_text("utf-8"))["counts"]
            log_metrics(tracker.client, run_id, {f"stage/{k}": v for k, v in counts.items()})
            tracker.client.log_artifact(run_id, str(manifest))
        tracker.client.set_terminated(run_id, record["status"], int(record["ended"] * 1000))


def missing_names(store: Path) -> Iterator[str]:
    """Names of what MLflow lacks, for a message."""
    return (path.stem for path in unsent(store))
