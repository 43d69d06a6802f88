"""The same pretraining several times, one thing changed each time, and one table at the end."""

from collections.abc import Mapping, Sequence
from typing import Any

from prefect.artifacts import create_table_artifact
from prefect.runtime import flow_run

from flows.session import session
from model.errors import ConfigError, SteelError
from tasks._artifacts import run_logger
from tasks._recipes import read_yaml, recipe_path

KERNELS = {"torch": "eager", "fused": "triton", "triton": "triton"}
"""The paper's words for an implementation -> ours (model/kernels)."""

ATTENTION = {"torch": "eager", "flash": "sdpa"}
"""The paper's attention -> Transformers' name; sdpa takes its flash backend on a GPU."""


def ablation(
    name: str,
    variants: Mapping[str, Mapping[str, Any]],
    config: str,
    store: str,
    settings: list[str],
) -> dict[str, Any]:
    """Pretrain each variant of one configuration and show their figures side by side.

    A variant that this machine or this version cannot run is listed with the reason; the others
    go on.
    """
    log = run_logger()
    rows: list[dict[str, Any]] = []
    for variant, changes in variants.items():
        changes = {"name": f"{name} {variant}", **changes}
        try:
            with session(config, store, settings, changes) as run:
                run.make("pretrain")
                counts = run.pipeline.base.manifest["counts"]
            rows.append({"variant": variant, "status": "done", **counts})
        except SteelError as error:
            log.warning("%s %s: %s", name, variant, error)
            rows.append({"variant": variant, "status": str(error).splitlines()[0]})
    columns = list(dict.fromkeys(key for row in rows for key in row))
    table = [{column: row.get(column) for column in columns} for row in rows]
    if flow_run.id:
        create_table_artifact(key=name, table=table, description=f"{name}: one row per variant")
    return {"name": name, "results": table}


def table2_variants(experiments: Sequence[int] | None) -> dict[str, dict[str, Any]]:
    """Config changes for the experiments of the paper's Table 2, and for our own best choice.

    Raises ConfigError for a number that the table does not have.
    """
    rows = {row["number"]: row for row in read_yaml(recipe_path("paper", "table2"))["experiments"]}
    unknown = sorted(set(experiments or []) - set(rows))
    if unknown:
        raise ConfigError(f"Table 2 has no experiments {unknown}; it has {sorted(rows)}")
    variants: dict[str, dict[str, Any]] = {}
    for number in experiments or sorted(rows):
        row = rows[number]
        variants[f"exp{number}"] = {
            "pretrain.settings.model.attn_implementation": ATTENTION[row["attention"]],
            "pretrain.settings.model.kernels": {
                "rope": KERNELS[row["rope"]],
                "rms_norm": KERNELS[row["rms_norm"]],
                "cross_entropy": KERNELS[row["loss"]],
            },
            "pretrain.settings.parallel.reshard_after_forward": row["shard_parameters"],
        }
    return {**variants, "ours": {"pretrain.settings.model.kernels": "auto"}}
