"""The pipeline's run that an interrupted pipeline goes on in.

    steel run CONFIG      ✕ killed         run 1 (KILLED) ── clean, pack, pretrain (KILLED)
    steel run CONFIG      goes on           run 1 (RUNNING) ─ …, pretrain goes on, sft, …

The same configuration in the same store is the same pipeline. With another configuration there is
a new run, and a stage that goes on moves below it. docs/adr/0075
"""

import hashlib
import json
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from tasks.core.tracking.client import PIPELINES
from tasks.core.tracking.killed import is_dead

if TYPE_CHECKING:
    from tasks.core.tracking.tracker import Tracker

SAME = "steel.pipeline"
"""Tag: hash of what makes a pipeline the same one."""
FLOW_RUNS = "steel.flow_runs"
"""Tag: ids of all flow runs that worked in a run, oldest first."""
ENDED = ("KILLED", "FAILED")


def same_pipeline(tracker: "Tracker") -> str:
    """Value of the tag `SAME`: 16 hexadecimal digits."""
    material = [
        str(tracker.store.resolve()),
        tracker.pipeline,
        tracker.parent_run,
        _without_places(tracker.config),
    ]
    text = json.dumps(material, sort_keys=True, ensure_ascii=False, default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def _without_places(config: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in config.items() if key != "file"}


def continued(tracker: "Tracker", process: Mapping[str, str]) -> str | None:
    """Take up the newest run of this pipeline, if it did not finish and nothing works in it.

    process: tags of this process. Returns its id, or None: then a new run is to be made. Raises
    what MLflow raises.
    """
    client = tracker.client
    experiment = client.get_experiment_by_name(PIPELINES)
    if experiment is None:
        return None
    found = client.search_runs(
        [experiment.experiment_id],
        f"tags.`{SAME}` = '{same_pipeline(tracker)}'",
        max_results=1,
        order_by=["attributes.start_time DESC"],
    )
    if not found:
        return None
    status = found[0].info.status
    if status not in ENDED and not (status == "RUNNING" and is_dead(found[0])):
        return None
    run_id, tags = str(found[0].info.run_id), found[0].data.tags
    # Runs of models are joined by it: those of before and those to come belong together.
    tracker.pipeline_id = tags.get("pipeline_id", tracker.pipeline_id)
    flow_runs = tags.get(FLOW_RUNS, tags.get("prefect.flow_run_id", "")).split()
    client.update_run(run_id, status="RUNNING")
    changed = {**process, "prefect.flow_run_id": tracker.flow_run_id or ""}
    changed[FLOW_RUNS] = " ".join([*flow_runs, tracker.flow_run_id or ""]).strip()
    for name, value in changed.items():
        if value:
            client.set_tag(run_id, name, value)
    return run_id
