"""Settings and job of a pretraining: `PretrainJob` = `PretrainSettings` + folders.

A job travels as JSON from the stage to the ranks, so every field is a plain value.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Annotated, Any, ClassVar, Literal

from common.config import IN_KEY_UNLESS_DEFAULT, NOT_IN_KEY
from common.errors import ConfigError, SteelError
from common.ranges import (
    Epochs,
    Ge,
    Gt,
    Le,
    Limit,
    Lt,
    NonNegativeFloat,
    NonNegativeInt,
    PositiveFloat,
    Rate,
    Samples,
    Seed,
    Steps,
)
from model.architecture import AttentionImplementation, MergedProduct
from model.train.batch import BatchSettings
from model.train.callbacks.profiler import ProfileSettings
from model.train.checkpoint.retention import CheckpointSettings
from model.train.distributed.config import KernelSettings, ParallelSettings
from model.train.health import HealthSettings
from model.train.optim.config import MuonSettings

Beta = Annotated[float, Ge(0), Lt(1)]
"""Decay rate of one of AdamW's moments."""


@dataclass(frozen=True, kw_only=True)
class PretrainSettings(BatchSettings):
    """Everything that decides what is learned; two runs with equal settings learn the same."""

    RENAMED: ClassVar[Mapping[str, str]] = {
        "clip": "max_grad_norm",
        "validate_every": "eval_interval",
    }

    model: dict[str, Any] | str = field(default_factory=dict)
    """Fields of the model's config, to start from random weights (`model_type` chooses another
    architecture of Transformers, default "steel"; `vocab_size` defaults to the tokenizer's length
    rounded up), or a folder with a pretrained causal language model. Section 3, Table 1."""
    vocab_multiple: Annotated[int, Ge(1), Limit(10**6)] = 64
    """The derived vocabulary size is rounded up to a multiple of this; tokens."""
    sequence_length: Annotated[int, Ge(1), Limit(10**8)] = 2048
    """Tokens that one sample predicts. Section 5: 2048."""
    global_batch_size: Samples = 512
    """Samples in a step, all ranks together. Section 5: 8 x 8 x 8 GPUs = 512."""
    micro_batch_size: Samples = field(default=8, metadata=NOT_IN_KEY)
    """Samples in one forward pass of one rank. Section 5: 8."""
    steps: Steps = 0
    """Optimizer steps; 0 = as many whole steps as the packed data holds at `weights`."""
    learning_rate: Rate = 3e-4
    """Peak learning rate. Section 5: 3e-4."""
    min_learning_rate: NonNegativeFloat = 0.0
    """Learning rate at the last step. Section 5: 0."""
    warmup_steps: Steps = 2000
    """Steps of linear warm-up. Section 5: 2,000."""
    schedule: Literal["cosine", "wsd", "constant"] = "cosine"
    """Shape after the warm-up: cosine (section 5), warm-up-stable-decay, or constant until a decay
    is asked for (`steel reschedule`)."""
    decay_fraction: Annotated[float, Gt(0), Le(1)] = 0.1
    """wsd only: the last fraction of all steps in which the rate decays linearly; (0, 1]. It moves
    with the end of the run (`steel append --steps extend`, `steel reschedule`)."""
    optimizer: Literal["adamw", "muon"] = "adamw"
    """Algorithm of the update: AdamW (section 5), or Muon for the matrices of hidden layers, expert
    by expert, and AdamW for embeddings, head, routing, norms and biases (ADR 0086)."""
    muon: MuonSettings = field(default_factory=MuonSettings, metadata=IN_KEY_UNLESS_DEFAULT)
    """Settings of Muon."""
    betas: tuple[Beta, Beta] = (0.9, 0.95)
    """AdamW's decay rates of the two moments. Section 5."""
    epsilon: Annotated[float, Gt(0), Limit(1)] = 1e-8
    """AdamW's epsilon."""
    weight_decay: Annotated[float, Ge(0), Limit(100)] = 0.05
    """Decoupled decay of matrices; vectors (norms, biases, scales) have none. Section 5: 0.05."""
    max_grad_norm: PositiveFloat = 1.0
    """Largest global gradient norm. Section 5: 1.0."""
    precision: Literal["auto", "fp32", "bf16", "fp8"] = "auto"
    """Precision of the forward and backward pass; auto: bf16 on a GPU that has it, else fp32.
    Weights, optimizer and reductions are fp32 in any. fp8: bf16, and the linear layers' products in
    8 bits (compute capability 9.0 and newer; with `compile`; docs/adr/0085)."""
    epochs: Epochs = 1.0
    """Epochs of every source that `weights` does not name, fractions allowed; 0 or more."""
    weights: dict[str, Epochs] = field(default_factory=dict)
    """Epochs per source, fractions allowed; a source that is not named has `epochs`."""
    eval_interval: Steps = field(default=0, metadata=NOT_IN_KEY)
    """Steps between validations; 0 = only after the last step."""
    validation_samples: NonNegativeInt = field(default=0, metadata=NOT_IN_KEY)
    """At most this many held-out samples a validation, the same ones each time; 0 = all."""
    checkpoints: CheckpointSettings = field(default_factory=CheckpointSettings, metadata=NOT_IN_KEY)
    """Interval and retention of checkpoints."""
    health: HealthSettings = field(default_factory=HealthSettings)
    """Reaction to losses and gradients that go wrong, or to a training that hangs."""
    separate_documents: bool = True
    """Attention, routing and positions start anew at each document within a sample."""
    attn_implementation: AttentionImplementation = field(default="auto", metadata=NOT_IN_KEY)
    """Attention: auto (the best that the GPU, the precision and the installation have, see
    model/attention.py), eager, sdpa, varlen, flex_attention, or flash_attention_2, _3, _4."""
    activation_checkpointing: Literal["none", "selective", "full"] = field(
        default="none", metadata=NOT_IN_KEY
    )
    """Activations that the backward pass computes again, to save memory: none; all but matrix
    products and attention (selective); or every layer whole (full)."""
    compile: bool = field(default=False, metadata=NOT_IN_KEY)
    """torch.compile each layer."""
    merged_products: tuple[MergedProduct, ...] = field(default=(), metadata=NOT_IN_KEY)
    """Matrix products of Steel's own layers that are computed as one each: `qkv` (queries, keys,
    values), `ffn_in` (gate and up of the FFN's or the experts' first layer), `ffn_out` (of the
    experts' second). The same weights, results up to rounding; none until a GPU has measured it
    (docs/adr/0015)."""
    profile: ProfileSettings = field(default_factory=ProfileSettings, metadata=NOT_IN_KEY)
    """Steps that are traced."""
    parallel: ParallelSettings = field(default_factory=ParallelSettings, metadata=NOT_IN_KEY)
    """Sharding of the model over ranks."""
    kernels: KernelSettings = field(default_factory=KernelSettings, metadata=NOT_IN_KEY)
    """Test of the fused operations that `model.kernels` chooses."""
    seed: Seed = 0
    """Seed of the initial weights, of the data order and of dropout."""
    deterministic: bool = field(default=False, metadata=NOT_IN_KEY)
    """On a GPU: only operations that give the same bits each time, slower ones where there is a
    choice, so that a resumed run equals the uninterrupted one bit for bit. A CPU does so anyway."""
    log_interval: Annotated[int, Ge(1), Limit(10**10)] = field(default=1, metadata=NOT_IN_KEY)
    """Steps between lines in metrics.jsonl."""

    def check(self) -> Iterator[SteelError]:
        if self.min_learning_rate > self.learning_rate:
            yield ConfigError(
                f"min_learning_rate = {self.min_learning_rate}; it must be between 0 and "
                f"learning_rate = {self.learning_rate}"
            )
        if self.steps and self.warmup_steps >= self.steps:
            yield ConfigError(
                f"warmup_steps = {self.warmup_steps} leaves none of the {self.steps} steps for "
                "training; lower it"
            )
        saved, back = self.checkpoints, self.health.rollback_steps
        reach = (saved.keep_last - 1) * saved.interval
        if self.health.spike == "rollback" and reach < back:
            yield ConfigError(
                f"health.rollback_steps = {back}, but the last checkpoints.keep_last = "
                f"{saved.keep_last} checkpoints, one every {saved.interval} steps, may reach back "
                f"only {reach}: a rollback would find none and skip the batch instead. Keep "
                f"{1 - (-back // saved.interval)} or more, or lower rollback_steps"
            )


@dataclass(frozen=True, kw_only=True)
class PretrainJob:
    """Input of `python -m model.entry.pretrain JOB.json`."""

    settings: PretrainSettings
    """Settings of the training."""
    packed: str
    """Folder of the stage `pack`: tokenizer/ and shards/."""
    output: str
    """Folder that receives checkpoints/, metrics.jsonl and model/; a run there is continued."""
