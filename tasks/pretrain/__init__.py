"""Stage `pretrain`: packed shards ──torchrun, FSDP2──▶ model/, checkpoints/, metrics.jsonl."""

import dataclasses
import statistics
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

from common.config import NOT_IN_KEY, StageConfig, errors_of, narrowed
from common.disk import total_bytes
from common.errors import ConfigError, SteelError
from common.paths import resolve
from common.ranges import Ge, Limit, Processes
from corpus.sources.source import file_checksum
from model.data import PackedManifest
from model.entry.launch import Nodes
from model.train.checkpoint.folders import complete_checkpoints
from model.train.config import PretrainJob, PretrainSettings
from model.train.distributed.gpus import check_one_each, num_gpus
from model.train.model_settings import check_model, num_parameters
from model.train.run.client import RunClient
from model.train.run.folder import CHECKPOINTS_FOLDER, METRICS_FILE, SESSIONS_FILE
from model.train.run.journal import read_total_steps
from model.train.run.metrics import last_value, read_metrics
from model.train.run.plan import RunPlan
from model.train.run.sessions import energy_counts
from tasks.core.stage import StageResult, StageRun, stage
from tasks.core.torchrun import shares, torchrun
from tasks.pretrain import appends
from tasks.pretrain.appends import AppendConfig
from tasks.pretrain.predicted import predict

CPU_PROCESSES = 2

MODEL_FILES = ("config.json", "*.safetensors", "*.safetensors.index.json", "*.bin")
"""Files that a run takes from the folder of a pretrained model."""


@dataclass(frozen=True, kw_only=True)
class PretrainConfig(PretrainSettings, StageConfig):
    """All of a pretraining: what is learned (model/train/config.py), and on how many processes."""

    RENAMED: ClassVar[Mapping[str, str]] = {"settings": ""}

    num_processes: Processes | Literal["auto"] = field(default="auto", metadata=NOT_IN_KEY)
    """Ranks on each machine; auto: one per GPU, or 2 without a GPU, but no more than split
    global_batch_size into whole micro-batches."""
    nodes: Annotated[int, Ge(1), Limit(10**5)] | Literal["auto"] = field(
        default="auto", metadata=NOT_IN_KEY
    )
    """Machines; auto: what the environment says (PET_NNODES), or this one alone. The others run
    `python -m model.entry.join STORE` beside the same store."""
    rendezvous: str = field(default="", metadata=NOT_IN_KEY)
    """HOST:PORT where several machines meet: this one's, as the others reach it; empty: what the
    environment says (PET_RDZV_ENDPOINT)."""
    append: list[AppendConfig] = field(default_factory=list, metadata=NOT_IN_KEY)
    """Packed data that join the run. Adding some continues a run that is stopped; a finished run
    that lacks them is refused."""

    @property
    def settings(self) -> PretrainSettings:
        """The part that travels to the ranks; a pretrained model's folder as an absolute path."""
        settings = narrowed(self, PretrainSettings)
        if isinstance(self.model, str):
            # A relative one starts at the project's root.
            return dataclasses.replace(settings, model=str(resolve(self.model)))
        return settings

    def check(self) -> Iterator[SteelError]:
        yield from super().check()
        yield from appends.problems(self.append)
        yield from errors_of(check_model, self.settings)
        try:
            per_node, num_nodes = self.ranks_per_node(), self.machines().num
        except ConfigError as error:
            yield error
            return
        yield from errors_of(check_one_each, per_node, num_gpus())
        yield from errors_of(self.check_ranks, per_node * num_nodes)
        yield from errors_of(self.parallel.width, per_node * num_nodes, per_node)

    def fingerprint(self) -> dict[str, str] | None:
        """Content of the pretrained model that the run starts from: its path says nothing of it."""
        if not isinstance(self.model, str):
            return None
        folder = resolve(self.model)
        paths = sorted(path for pattern in MODEL_FILES for path in folder.glob(pattern))
        return {path.name: file_checksum(path, "sha256") for path in paths}

    def check_finished(self, folder: Path, manifest: Mapping[str, Any]) -> None:
        """Refuse a finished run that lacks a configured append. Raises ConfigError."""
        appends.check_finished(self.append, folder, manifest)

    def bytes_needed(self) -> int:
        """Bytes of the kept checkpoints, one that is being written, and the exports, at the most.

        A checkpoint holds fp32 weights and at most two moments: 12 bytes a parameter. An export is
        counted in fp32. Where `steps` is left to the data, those kept for good by `keep_every` are
        not counted; where `model` leaves out `vocab_size`, the embedding is not.
        """
        weights = self.weights_bytes()
        saved = self.checkpoints
        for_good = saved.keep_best + (self.steps // saved.keep_every if saved.keep_every else 0)
        # The newest may be an extra one, and one more is being written.
        num_checkpoints = saved.keep_last + 2 + for_good
        num_exports = 1 + (for_good + 1 if saved.export else 0)
        return weights * (3 * num_checkpoints + num_exports)

    def weights_bytes(self) -> int:
        """Bytes of the model in fp32, as far as they are known before the data are packed."""
        if isinstance(self.model, str):
            return total_bytes(resolve(self.model).glob("*.safetensors"))
        return 4 * num_parameters(self.settings)

    def machines(self) -> Nodes:
        """The machines of a run. Raises ConfigError when several have no place to meet."""
        nodes = Nodes.from_environment()
        if self.nodes != "auto":
            nodes = dataclasses.replace(nodes, num=self.nodes)
        if self.rendezvous:
            nodes = dataclasses.replace(nodes, rendezvous=self.rendezvous)
        nodes.check()
        return nodes

    def ranks_per_node(self) -> int:
        """Number of ranks that a run has on each machine."""
        if self.num_processes != "auto":
            return self.num_processes
        available = num_gpus() or CPU_PROCESSES
        return self.fitting_ranks(available, self.machines().num)


@stage(version=2, trains=True)
def pretrain(run: StageRun, config: PretrainConfig, *, packed: StageResult) -> None:
    """Train on the packed shards; an interrupted run continues from its newest checkpoint."""
    settings = config.settings
    manifest = PackedManifest.read(packed.folder / "shards")
    client = RunClient(run.folder, settings, manifest, running=False)
    appends.request(run, client, config.append)
    ranks = config.ranks_per_node()
    predict(
        run,
        settings,
        vocabulary=manifest.vocab_size,
        steps=client.plan.initial_steps,
        ranks=ranks * config.machines().num,
        ranks_per_node=ranks,
    )
    job = PretrainJob(settings=settings, packed=str(packed.folder), output=str(run.folder))
    torchrun(
        run,
        "model.entry.pretrain",
        job,
        num_processes=ranks,
        nodes=config.machines(),
        checkpoints=run.folder / CHECKPOINTS_FOLDER,
        total_steps=lambda: read_total_steps(run.folder, client.plan.initial_steps),
    )
    plan = RunPlan.read(run.folder, settings, manifest)
    run.count(**summary(run.folder / METRICS_FILE), **energy_counts(run.folder / SESSIONS_FILE))
    # As the trainer saved it, whatever was logged.
    for path in complete_checkpoints(run.folder / CHECKPOINTS_FOLDER)[-1:]:
        run.count(steps=int(path.name.removeprefix("step-")))
    samples = plan.order.samples_by_source()
    tokens = {name: number * settings.sequence_length for name, number in samples.items()}
    run.settle(nodes=config.machines().num, share=shares(tokens), tokens=sum(tokens.values()))
    run.note(
        num_processes=ranks,
        nodes=config.machines().num,
        samples_by_source=samples,
        validation_samples_by_source=plan.order.validation_samples_by_source(),
        manifest_digest=manifest.digest,
    )
    appends.note(run, plan, client.requests.refused(), client.requests.names())
    appends.check_trained(run, config.append)


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
        "learning_rate": "train/learning_rate",
        "validation_loss": "validation/loss",
        "causal_loss": "validation/causal_loss",  # of routings that leak
        "routing_entropy": "routing/entropy",
        "routing_effect": "routing/effect",  # of routing `token`
    }
    values = {name: last_value(metrics, metric) for name, metric in names.items()}
    counts = {name: value for name, value in values.items() if value is not None}
    return {**counts, "tokens_per_second": statistics.median(speeds)} if speeds else counts
