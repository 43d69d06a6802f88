"""Settings of SFT and DPO, and jobs: settings and folders.

A job travels as JSON from the stage to the ranks, so every field is a plain value. Does not import
torch: stages read it to check configs before anything starts.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Annotated, ClassVar, Literal

from common.config import NOT_IN_KEY
from common.ranges import Ge, Gt, Limit, Lt, PositiveFloat, Rate, Samples, Seed, Steps
from model.train.batch import BatchSettings
from model.train.config import Beta
from model.train.distributed.config import KernelSettings, ParallelSettings
from model.train.health import HealthSettings


@dataclass(frozen=True, kw_only=True)
class FinetuneSettings(BatchSettings):
    """Settings that SFT and DPO share."""

    RENAMED: ClassVar[Mapping[str, str]] = {
        "checkpoint_every": "checkpoint_interval",
        "clip": "max_grad_norm",
    }

    epochs: Annotated[float, Gt(0), Limit(10**6)] = 4.0
    """Passes over the data."""
    global_batch_size: Samples = 256
    """Samples in a step, all ranks together: conversations, or preference pairs."""
    micro_batch_size: Samples = field(default=8, metadata=NOT_IN_KEY)
    """Samples in one forward pass of one rank. The loss is one on any split, up to rounding."""
    learning_rate: Rate = 2e-5
    """Peak learning rate."""
    schedule: Literal["cosine", "linear", "constant"] = "cosine"
    """Shape after the warm-up, down to 0; section 6: cosine."""
    warmup_fraction: Annotated[float, Ge(0), Lt(1)] = 0.0
    """Share of the steps in which the learning rate rises linearly from 0; 0 to 1."""
    weight_decay: Annotated[float, Ge(0), Limit(100)] = 0.0
    """AdamW's decoupled weight decay (0 in the published script)."""
    betas: tuple[Beta, Beta] = (0.9, 0.999)
    """AdamW's decay rates of the two moments, each in [0, 1); short runs gain from a second of
    0.95, as in pretraining."""
    max_grad_norm: PositiveFloat = 1.0
    """Largest global gradient norm."""
    max_length: Annotated[int, Ge(8), Limit(10**8)] = 2048
    """Tokens of a sequence. A longer conversation ends behind its last answer that fits whole; a
    longer pair loses its oldest turns. What then does not fit is left out."""
    max_steps: Steps = 0
    """Stop after so many optimizer steps, whatever `epochs` says; 0 = as `epochs` says."""
    precision: Literal["auto", "fp32", "bf16"] = "auto"
    """Precision of the forward and backward pass; auto: bf16 on a GPU that has it, else fp32.
    Weights and optimizer are fp32 in either."""
    activation_checkpointing: bool = field(default=False, metadata=NOT_IN_KEY)
    """Recompute each layer's activations in the backward pass to save memory."""
    group_by_length: bool = False
    """Make each step of samples of similar length: less padding where rows are not packed, and a
    short answer counts for more, since a step's loss is the mean over its own targets."""
    validation_fraction: Annotated[float, Ge(0), Lt(1)] = 0.01
    """Share of each set that is held out, by the digest of the sample; 0 to 1. Sets of fewer than
    100 samples hold out none."""
    eval_interval: Steps = 0
    """Steps between validations on what is held out; 0 = ten times in a run. One more is at the
    end."""
    keep: Literal["last", "best"] = "last"
    """Model that is published: after the last step, or that of the validation with the lowest loss
    (a checkpoint is then written at each validation)."""
    checkpoint_interval: Annotated[int, Ge(1), Limit(10**10)] = field(
        default=500, metadata=NOT_IN_KEY
    )
    """Steps between checkpoints; one is also written at the end and on SIGTERM."""
    log_interval: Annotated[int, Ge(1), Limit(10**10)] = field(default=10, metadata=NOT_IN_KEY)
    """Steps between lines in metrics.jsonl."""
    seed: Seed = 7
    """Seed of the order of samples."""
    parallel: ParallelSettings = field(default_factory=ParallelSettings, metadata=NOT_IN_KEY)
    """Sharding of the model over ranks."""
    kernels: KernelSettings = field(default_factory=KernelSettings, metadata=NOT_IN_KEY)
    """Test of the fused operations that the model's config chooses."""
    health: HealthSettings = field(default_factory=lambda: HealthSettings(spike="off"))
    """Reaction to losses and gradients that go wrong, or to a training that hangs."""

    def num_steps(self, num_samples: int) -> int:
        """Optimizer steps of a whole run on so many samples; an epoch's last may be smaller."""
        if self.max_steps:
            return self.max_steps
        return math.ceil(self.epochs * math.ceil(num_samples / self.global_batch_size))


@dataclass(frozen=True, kw_only=True)
class SftSettings(FinetuneSettings):
    """Supervised fine-tuning; defaults are section 6 of the paper."""

    packing: bool | Literal["auto"] = field(default="auto", metadata=NOT_IN_KEY)
    """Put the conversations of a micro-batch into one row without padding, each a document of its
    own in attention, routing and positions. A step holds the same `global_batch_size` conversations
    either way, and gives the same loss and gradient. auto: where the attention needs no mask for
    it (on a GPU: flash, varlen or flex attention; on a CPU: one document after the other)."""


@dataclass(frozen=True, kw_only=True)
class DpoSettings(FinetuneSettings):
    """Direct preference optimization; defaults are section 6 of the paper."""

    epochs: Annotated[float, Gt(0), Limit(10**6)] = 3.0
    """Passes over the data; section 6: 3."""
    global_batch_size: Samples = 128
    """Pairs in a step, all ranks together; section 6: 128."""
    micro_batch_size: Samples = field(default=4, metadata=NOT_IN_KEY)
    """Pairs in one forward pass of one rank; a pair is two sequences."""
    learning_rate: Rate = 5e-6
    """Peak learning rate; section 6: 5e-6."""
    warmup_fraction: Annotated[float, Ge(0), Lt(1)] = 0.1
    """Share of the steps with a rising learning rate (0.1 in the published script)."""
    beta: Annotated[float, Gt(0), Limit(10**4)] = 0.1
    """Strength with which the policy is held to the reference; section 6: 0.1."""
    loss: Literal["sigmoid", "hinge", "ipo"] = "sigmoid"
    """Loss of a pair (model/train/finetune/preferences/objective.py); section 6: sigmoid."""


@dataclass(frozen=True, kw_only=True)
class FinetuneJob:
    """Settings and folders of a run; each method states its settings and its data."""

    method: ClassVar[str]
    """Name of the entry, `model.entry.<method>`."""

    settings: FinetuneSettings
    """Settings of the training."""
    model: str
    """Transformers folder with tokenizer to start from."""
    data: str
    """JSON lines: the samples in order, conversations (`messages`) or pairs (`prompt`, `chosen`,
    `rejected`) with their `set` and `language`; or `set` and `row`, a place in one of `sets`."""
    output: str
    """Receives metrics.jsonl and, at the end, model/."""
    scratch: str
    """Receives checkpoints; a run with complete ones is continued."""


@dataclass(frozen=True, kw_only=True)
class SftJob(FinetuneJob):
    """Supervised fine-tuning on conversations."""

    method = "sft"

    settings: SftSettings
    """Settings of the training."""
    sets: Mapping[str, str] = field(default_factory=dict)
    """Set -> folder in which it is encoded (model/train/finetune/encoded.py)."""


@dataclass(frozen=True, kw_only=True)
class DpoJob(FinetuneJob):
    """Direct preference optimization on pairs of answers to one prompt."""

    method = "dpo"

    settings: DpoSettings
    """Settings of the training."""
    chinese_per_english: int = 0
    """Chinese pairs for each English one, exactly; 0 takes pairs of all languages."""
    limit: int | None = None
    """At most so many pairs."""
    reference: str = ""
    """Folder in which the reference's log-probabilities are kept for other runs; empty: scratch."""
