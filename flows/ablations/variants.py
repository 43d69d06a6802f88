"""Training steps by choice of kernels, beside the paper's Table 2 (steel/kernel-ablation)."""

from collections.abc import Sequence
from typing import Any

import torch

from common.config import validate
from common.errors import ConfigError
from common.paths import resolve
from flows.runs.session import tracked
from model.train.throughput import variants
from model.train.throughput.variants import Variant
from tasks.core.artifacts import shorten_user_errors
from tasks.core.paper.tables import Table2, load_table2
from tasks.core.stage import plain
from tasks.kernel_table import KernelTableConfig, kernel_table
from tasks.throughput import ThroughputConfig, throughput

OURS = {"ours": variants.OURS, "ours compiled": Variant(compile=True)}
"""Measured beside the paper's eight columns."""
CPU_PROCESSES = 2


def kernel_variants(
    experiments: Sequence[int] | None, num_processes: int | None, timed_steps: int, store: str
) -> dict[str, Any]:
    """Measure the paper's columns and ours, each in processes of its own, and make the table.

    Raises ConfigError for a measurement that no machine could make, before anything starts.
    """
    shorten_user_errors()
    paper = load_table2()
    tiny = not torch.cuda.is_available()
    configs = kernel_configs(paper, experiments, num_processes, timed_steps, tiny=tiny)
    for name, config in configs.items():
        validate(config, name)
    with tracked("kernel-ablation", resolve(store), {"measured": plain(configs)}) as context:
        measured = {
            label: throughput(config, context=context, label=label)
            for label, config in configs.items()
        }
        table = kernel_table(
            KernelTableConfig(tiny=tiny), context=context, label="", measured=measured
        )
        return {"name": "kernel-ablation", "store": str(context.store), "folder": str(table.folder)}


def kernel_configs(
    paper: Table2,
    experiments: Sequence[int] | None,
    num_processes: int | None,
    timed_steps: int,
    *,
    tiny: bool,
) -> dict[str, ThroughputConfig]:
    """Measurements by row of the table. `tiny`: tiny sizes in place of the paper's.

    Raises ConfigError for an experiment that Table 2 does not have.
    """
    if num_processes is not None and num_processes < 1:
        raise ConfigError(f"kernel-ablation: num_processes = {num_processes}; give 1 or more")
    numbers = experiments or [e.number for e in paper.experiments]
    rows: dict[str, Variant] = {}
    for experiment in map(paper.experiment, dict.fromkeys(numbers)):
        rows[f"exp{experiment.number}"] = variants.from_paper(
            attention=experiment.attention,
            rope=experiment.rope,
            rms_norm=experiment.rms_norm,
            loss=experiment.loss,
            shard_parameters=experiment.shard_parameters,
        )
    ranks = num_processes or torch.cuda.device_count() or CPU_PROCESSES
    return {
        name: ThroughputConfig(
            settings=variant.settings(
                paper.model | variants.TINY if tiny else paper.model,
                num_processes=ranks,
                micro_batch_size=variants.TINY_MICRO_BATCH if tiny else paper.micro_batch_size,
                sequence_length=variants.TINY_SEQUENCE if tiny else paper.sequence_length,
            ),
            attention=variant.attention,
            num_processes=ranks,
            timed_steps=timed_steps,
        )
        for name, variant in {**rows, **OURS}.items()
    }
