"""Stage `pretrain`: packed shards ──torchrun, FSDP2──▶ model/, checkpoints/, metrics.jsonl."""

import dataclasses
import hashlib
import statistics
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import torch
from transformers import AutoModelForCausalLM

from common.config import NOT_IN_KEY
from common.disk import total_bytes
from common.errors import ConfigError
from common.paths import resolve
from model.data import PackedManifest
from model.entry.launch import Nodes
from model.train.build_model import check_model, model_config
from model.train.config import PretrainJob, PretrainSettings
from model.train.run.client import RunClient
from model.train.run.folder import METRICS_FILE
from model.train.run.journal import read_total_steps
from model.train.run.metrics import last_value, read_metrics
from model.train.run.plan import RunPlan
from tasks.core.stage import StageResult, StageRun, stage
from tasks.core.torchrun import torchrun
from tasks.pretrain import appends as _appends
from tasks.pretrain.appends import AppendConfig

CPU_PROCESSES = 2

MODEL_FILES = ("config.json", "*.safetensors", "*.safetensors.index.json", "*.bin")
"""What a run takes from the folder of a pretrained model."""


@dataclass(frozen=True, kw_only=True)
class PretrainConfig:
    """How to pretrain, and on how many processes."""

    settings: PretrainSettings = field(default_factory=PretrainSettings)
    """What is learned, and how."""
    num_processes: int | Literal["auto"] = field(default="auto", metadata=NOT_IN_KEY)
    """Ranks on each machine; auto: one per GPU, or 2 without a GPU, but no more than split
    global_batch_size into whole micro-batches."""
    nodes: int | Literal["auto"] = field(default="auto", metadata=NOT_IN_KEY)
    """Machines; auto: what the environment says (PET_NNODES), or this one alone. The others run
    `python -m model.entry.join STORE` beside the same store."""
    rendezvous: str = field(default="", metadata=NOT_IN_KEY)
    """HOST:PORT where several machines meet: this one's, as the others reach it; empty: what the
    environment says (PET_RDZV_ENDPOINT)."""
    append: list[AppendConfig] = field(default_factory=list, metadata=NOT_IN_KEY)
    """Packed data that join the run. Adding some continues a run that is stopped; a finished run
    that lacks them is refused."""

    def fingerprint(self) -> dict[str, str] | None:
        """Content of the pretrained model that the run starts from: its path says nothing of it."""
        if not isinstance(self.settings.model, str):
            return None
        folder = resolve(self.settings.model)
        paths = sorted(path for pattern in MODEL_FILES for path in folder.glob(pattern))
        return {path.name: _sha256(path) for path in paths}

    def check_finished(self, result: StageResult) -> None:
        """Refuse a finished run that lacks a configured append. Raises ConfigError."""
        _appends.check_finished(self.append, result)


def check(config: PretrainConfig) -> None:
    """Refuse contradictory settings before anything starts. Raises ConfigError or DataError."""
    settings = _resolved(config.settings)
    settings.check()
    on_each = num_processes(config)
    settings.check_ranks(on_each * machines(config).num)
    settings.parallel.width(on_each * machines(config).num, on_each)
    check_model(settings)
    _appends.check(config.append)


def bytes_needed(config: PretrainConfig, *, vocab_size: int) -> int:
    """Disk that the kept checkpoints, one that is being written, and the exports take at the most.

    A checkpoint holds fp32 weights and AdamW's two moments: 12 bytes a parameter. An export is
    counted in fp32. Where `steps` is left to the data, those kept for good by `keep_every` are not
    counted.

    vocab_size: rows of the embedding where the settings don't say.
    """
    settings = config.settings
    if isinstance(settings.model, str):
        weights = total_bytes(resolve(settings.model).glob("*.safetensors"))
    else:
        with torch.device("meta"):
            network = AutoModelForCausalLM.from_config(
                model_config(settings, {"vocab_size": vocab_size})
            )
        weights = 4 * sum(parameter.numel() for parameter in network.parameters())
    saved = settings.checkpoints
    for_good = saved.keep_best + (settings.steps // saved.keep_every if saved.keep_every else 0)
    # The newest may be an extra one, and one more is being written.
    num_checkpoints = saved.keep_last + 2 + for_good
    num_exports = 1 + (for_good + 1 if saved.export else 0)
    return weights * (3 * num_checkpoints + num_exports)


def machines(config: PretrainConfig) -> Nodes:
    """The machines of a run. Raises ConfigError when several have no place to meet."""
    nodes = Nodes.from_environment()
    if config.nodes != "auto":
        nodes = dataclasses.replace(nodes, num=config.nodes)
    if config.rendezvous:
        nodes = dataclasses.replace(nodes, rendezvous=config.rendezvous)
    try:
        nodes.check()
    except ConfigError as error:
        raise ConfigError(f"pretrain: {error}") from error
    return nodes


def num_processes(config: PretrainConfig) -> int:
    """Ranks that a run has on each machine. Raises ConfigError for a number below 1."""
    if config.num_processes != "auto":
        if config.num_processes < 1:
            raise ConfigError(
                f"pretrain: num_processes = {config.num_processes}; give 1 or more, or auto"
            )
        return config.num_processes
    settings = config.settings
    available = torch.cuda.device_count() or CPU_PROCESSES
    together = settings.micro_batch_size * machines(config).num
    fitting = [
        n for n in range(1, available + 1) if settings.global_batch_size % (together * n) == 0
    ]
    return max(fitting, default=1)


@stage(version=1, trains=True)
def pretrain(run: StageRun, config: PretrainConfig, *, packed: StageResult) -> None:
    """Train on the packed shards; an interrupted run continues from its newest checkpoint."""
    settings = _resolved(config.settings)
    manifest = PackedManifest.read(packed.folder / "shards")
    client = RunClient(run.folder, settings, manifest, running=False)
    _appends.request(run, client, config.append)
    ranks = num_processes(config)
    job = PretrainJob(settings=settings, packed=str(packed.folder), output=str(run.folder))
    torchrun(
        run,
        "model.entry.pretrain",
        dataclasses.asdict(job),
        num_processes=ranks,
        nodes=machines(config),
        total_steps=lambda: read_total_steps(run.folder, client.plan.initial_steps),
    )
    plan = RunPlan.read(run.folder, settings, manifest)
    run.count(**summary(run.folder / METRICS_FILE))
    run.note(
        num_processes=ranks,
        nodes=machines(config).num,
        samples_by_source=plan.order.samples_by_source(),
        num_validation_samples=plan.order.num_validation_samples,
        manifest_digest=manifest.digest,
    )
    _appends.note(run, plan, client.requests.refused(), client.requests.names())
    _appends.check_trained(run, config.append)


def summary(metrics: Path) -> dict[str, float]:
    """The numbers of a finished run, from its metrics file."""
    speeds = [
        line["metrics"]["perf/tokens_per_second"]
        for line in read_metrics(metrics)
        if "perf/tokens_per_second" in line["metrics"]
    ]
    names = {
        "tokens": "data/tokens",
        "samples": "data/samples",
        "train_loss": "train/loss",
        "validation_loss": "validation/loss",
        "causal_loss": "validation/causal_loss",  # of routings that leak
    }
    values = {name: last_value(metrics, metric) for name, metric in names.items()}
    counts = {name: value for name, value in values.items() if value is not None}
    return {**counts, "tokens_per_second": statistics.median(speeds)} if speeds else counts


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _resolved(settings: PretrainSettings) -> PretrainSettings:
    """A pretrained model's folder is relative to the project's root."""
    if isinstance(settings.model, str):
        return dataclasses.replace(settings, model=str(resolve(settings.model)))
    return settings
