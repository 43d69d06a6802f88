"""The same pretraining with each of several settings, in one table (steel/ffn-ablation)."""

from collections.abc import Mapping
from typing import Any

from common.errors import SteelError
from flows.runs.session import session
from tasks.core.artifacts import publish_artifact, run_logger


def pretrain_variants(
    name: str,
    changes_by_variant: Mapping[str, Mapping[str, Any]],
    config: str,
    store: str,
    overrides: list[str],
) -> dict[str, Any]:
    """Pretrain each variant of one configuration and show their figures side by side.

    A variant that this machine or this version cannot run is listed with the reason; the others
    go on. Raises the first one's error when none could run.
    """
    log = run_logger()
    rows: list[dict[str, Any]] = []
    errors: list[SteelError] = []
    for variant, changes in changes_by_variant.items():
        try:
            with session(config, store, overrides, {"name": f"{name} {variant}", **changes}) as run:
                run.make("pretrain")
                counts = run.pipeline.base.manifest["counts"]
            rows.append({"variant": variant, "status": "done", **counts})
        except SteelError as error:
            log.warning("%s %s: %s", name, variant, error)
            errors.append(error)
            rows.append({"variant": variant, "status": str(error).splitlines()[0]})
    if len(errors) == len(rows):
        raise errors[0]
    columns = list(dict.fromkeys(key for row in rows for key in row))
    table = [{column: row.get(column) for column in columns} for row in rows]
    publish_artifact(
        log, "table", key=name, table=table, description=f"{name}: one row per variant"
    )
    return {"name": name, "results": table}
