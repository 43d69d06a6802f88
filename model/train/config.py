"""What a pretraining run is told: `PretrainSettings`, and `PretrainJob` = settings + folders.

A job travels as JSON from the stage to the ranks, so every field is a plain value.
"""

import math
from dataclasses import dataclass, field
from typing import Any, Literal

from common.config import NOT_IN_KEY, require
from common.errors import ConfigError
from model.train.callbacks.profiler import ProfileSettings
from model.train.checkpoint.retention import CheckpointSettings
from model.train.distributed.config import ParallelSettings
from model.train.health import HealthSettings


@dataclass(frozen=True, kw_only=True)
class PretrainSettings:
    """Everything that decides what is learned; two runs with equal settings learn the same."""

    model: dict[str, Any] | str = field(default_factory=dict)
    """Fields of the model's config, to start from random weights (`model_type` chooses another
    architecture of Transformers, default "steel"; `vocab_size` defaults to the tokenizer's length
    rounded up), or a folder with a pretrained causal language model. Section 3, Table 1."""
    vocab_multiple: int = 64
    """The derived vocabulary size is rounded up to a multiple of this; tokens."""
    sequence_length: int = 2048
    """Tokens that one sample predicts. Section 5: 2048."""
    global_batch_size: int = 512
    """Samples in a step, all ranks together. Section 5: 8 x 8 x 8 GPUs = 512."""
    micro_batch_size: int = field(default=8, metadata=NOT_IN_KEY)
    """Samples in one forward pass of one rank. Section 5: 8."""
    steps: int = 0
    """Optimizer steps; 0 = as many whole steps as the packed data holds at `weights`."""
    learning_rate: float = 3e-4
    """Peak learning rate. Section 5: 3e-4."""
    min_learning_rate: float = 0.0
    """Learning rate at the last step. Section 5: 0."""
    warmup_steps: int = 2000
    """Steps of linear warm-up. Section 5: 2,000."""
    schedule: Literal["cosine", "wsd", "constant"] = "cosine"
    """Shape after the warm-up: cosine (section 5), warm-up-stable-decay, or constant until a decay
    is asked for (`steel reschedule`)."""
    decay_fraction: float = 0.1
    """wsd only: the last fraction of all steps in which the rate decays linearly; (0, 1]. It moves
    with the end of the run (`steel append --steps extend`, `steel reschedule`)."""
    optimizer: Literal["adamw"] = "adamw"
    """Algorithm of the update: an entry of model/train/optimizer.py. Section 5: AdamW."""
    betas: tuple[float, float] = (0.9, 0.95)
    """AdamW's decay rates of the two moments. Section 5."""
    epsilon: float = 1e-8
    """AdamW's epsilon."""
    weight_decay: float = 0.05
    """Decoupled decay of matrices; vectors (norms, biases, scales) have none. Section 5: 0.05."""
    max_grad_norm: float = 1.0
    """Largest global gradient norm. Section 5: 1.0."""
    precision: Literal["auto", "fp32", "bf16"] = "auto"
    """Precision of the forward and backward pass; auto: bf16 on a GPU that has it, else fp32.
    Weights, optimizer and reductions are fp32 in either."""
    epochs: float = 1.0
    """Epochs of every source that `weights` does not name, fractions allowed; 0 or more."""
    weights: dict[str, float] = field(default_factory=dict)
    """Epochs per source, fractions allowed; a source that is not named has `epochs`."""
    validation_fraction: float = 0.0
    """Fraction of each source's blocks that is held out and never trained on; [0, 0.5]."""
    eval_interval: int = 0
    """Steps between validations; 0 = only after the last step."""
    validation_samples: int = 0
    """At most this many held-out samples a validation, the same ones each time; 0 = all."""
    checkpoints: CheckpointSettings = field(default_factory=CheckpointSettings, metadata=NOT_IN_KEY)
    """How often state is saved, and which of it is kept."""
    health: HealthSettings = field(default_factory=HealthSettings)
    """What happens when numbers go wrong, or nothing happens at all."""
    separate_documents: bool = True
    """Attention, routing and positions start anew at each document within a sample."""
    attn_implementation: str = "auto"
    """Attention: auto (the best that the GPU, the precision and the installation have, see
    model/attention.py), eager, sdpa, varlen, flex_attention, or flash_attention_2, _3, _4."""
    activation_checkpointing: Literal["none", "selective", "full"] = field(
        default="none", metadata=NOT_IN_KEY
    )
    """What the backward pass computes again, to save memory: nothing; all but matrix products and
    attention (selective); or every layer whole (full)."""
    compile: bool = field(default=False, metadata=NOT_IN_KEY)
    """torch.compile each layer."""
    profile: ProfileSettings = field(default_factory=ProfileSettings, metadata=NOT_IN_KEY)
    """Which steps are traced."""
    parallel: ParallelSettings = field(default_factory=ParallelSettings, metadata=NOT_IN_KEY)
    """How ranks share the model."""
    seed: int = 0
    """Seed of the initial weights, of the data order and of dropout."""
    deterministic: bool = field(default=False, metadata=NOT_IN_KEY)
    """On a GPU: only operations that give the same bits each time, slower ones where there is a
    choice, so that a resumed run equals the uninterrupted one bit for bit. A CPU does so anyway."""
    log_interval: int = field(default=1, metadata=NOT_IN_KEY)
    """Steps between lines in metrics.jsonl."""

    def check(self) -> None:
        """Refuse values that no machine could run. Raises ConfigError."""
        positive = (
            "vocab_multiple",
            "sequence_length",
            "global_batch_size",
            "micro_batch_size",
            "log_interval",
        )
        for name in positive:
            require(self, "pretrain: ", name, getattr(self, name) >= 1, "at least 1")
        for name in ("steps", "warmup_steps", "eval_interval", "validation_samples", "seed"):
            require(self, "pretrain: ", name, getattr(self, name) >= 0, "0 or more")
        for name in ("learning_rate", "max_grad_norm", "epsilon"):
            value = getattr(self, name)
            require(
                self, "pretrain: ", name, value > 0 and math.isfinite(value), "a positive number"
            )
        lowest = 0 <= self.min_learning_rate <= self.learning_rate
        require(self, "pretrain: ", "min_learning_rate", lowest, "between 0 and learning_rate")
        require(self, "pretrain: ", "weight_decay", self.weight_decay >= 0, "0 or more")
        require(
            self,
            "pretrain: ",
            "betas",
            all(0 <= beta < 1 for beta in self.betas),
            "two values in [0, 1)",
        )
        require(self, "pretrain: ", "decay_fraction", 0 < self.decay_fraction <= 1, "in (0, 1]")
        held_out = 0 <= self.validation_fraction <= 0.5
        require(self, "pretrain: ", "validation_fraction", held_out, "in [0, 0.5]")
        require(
            self,
            "pretrain: ",
            "epochs",
            math.isfinite(self.epochs) and self.epochs >= 0,
            "0 or more",
        )
        for source, epochs in self.weights.items():
            if not (epochs >= 0 and math.isfinite(epochs)):
                raise ConfigError(f"pretrain: weights.{source} = {epochs} epochs; give 0 or more")
        self.checkpoints.check()
        self.health.check()
        self._check_rollback()
        self.profile.check()
        if self.eval_interval and not self.validation_fraction:
            raise ConfigError(
                f"pretrain: eval_interval = {self.eval_interval} but validation_fraction = 0 "
                "holds nothing out; set validation_fraction (for example 0.01)"
            )
        if self.steps and self.warmup_steps >= self.steps:
            raise ConfigError(
                f"pretrain: warmup_steps = {self.warmup_steps} leaves none of the {self.steps} "
                "steps for training; lower it"
            )

    def _check_rollback(self) -> None:
        """Refuse rollbacks to checkpoints that will have been removed. Raises ConfigError."""
        saved, back = self.checkpoints, self.health.rollback_steps
        reach = (saved.keep_last - 1) * saved.interval
        if self.health.spike == "rollback" and reach < back:
            raise ConfigError(
                f"pretrain: health.rollback_steps = {back}, but the last checkpoints.keep_last = "
                f"{saved.keep_last} checkpoints, one every {saved.interval} steps, may reach back "
                f"only {reach}: a rollback would find none and skip the batch instead. Keep "
                f"{1 - (-back // saved.interval)} or more, or lower rollback_steps"
            )

    def check_ranks(self, num_processes: int) -> None:
        """Refuse a batch that the ranks cannot split evenly. Raises ConfigError."""
        together = self.micro_batch_size * num_processes
        if self.global_batch_size % together:
            raise ConfigError(
                f"pretrain: global_batch_size = {self.global_batch_size} is not a multiple of "
                f"micro_batch_size x processes = {self.micro_batch_size} x {num_processes} = "
                f"{together}; "
                "change one"
            )


@dataclass(frozen=True, kw_only=True)
class PretrainJob:
    """What `python -m model.entry.pretrain JOB.json` reads."""

    settings: PretrainSettings
    packed: str
    """Folder of the stage `pack`: tokenizer/ and shards/."""
    output: str
    """Folder that receives checkpoints/, metrics.jsonl and model/; a run there is continued."""
