"""Settings of SFT and DPO, and jobs: settings, folders, and the columns that are trained on.

A job travels as JSON from the stage to the ranks, so every field is a plain value. Imports neither
torch nor TRL: stages read it to check configs before anything starts.
"""

import dataclasses
import math
from dataclasses import dataclass
from typing import ClassVar, Literal

from common.errors import ConfigError


@dataclass(frozen=True, kw_only=True)
class FinetuneSettings:
    """Settings that SFT and DPO share."""

    epochs: float = 4.0
    """Passes over the data."""
    global_batch_size: int = 256
    """Samples in a step, all ranks together: conversations, packed rows, or preference pairs."""
    micro_batch_size: int = 8
    """Samples in one forward pass of one rank."""
    learning_rate: float = 2e-5
    """Peak learning rate."""
    schedule: Literal["cosine", "linear", "constant"] = "cosine"
    """Shape after the warm-up, down to 0; section 6: cosine."""
    warmup_fraction: float = 0.0
    """Share of the steps in which the learning rate rises linearly from 0; 0 to 1."""
    weight_decay: float = 0.0
    """AdamW's decoupled weight decay (0 in the published script)."""
    betas: tuple[float, float] = (0.9, 0.999)
    """AdamW's decay rates of the two moments, each in [0, 1); short runs gain from a second of
    0.95, as in pretraining."""
    max_grad_norm: float = 1.0
    """Largest global gradient norm."""
    max_length: int = 2048
    """Tokens of a sample; a longer one loses its end, and is left out when no answer remains."""
    max_steps: int = 0
    """Stop after so many optimizer steps, whatever `epochs` says; 0 = as `epochs` says."""
    precision: Literal["auto", "fp32", "bf16"] = "auto"
    """Precision of the forward and backward pass; auto: bf16 on a GPU that has it, else fp32.
    Weights and optimizer are fp32 in either."""
    activation_checkpointing: bool = False
    """Recompute each layer's activations in the backward pass to save memory."""
    group_by_length: bool = False
    """Batch samples of similar length: less padding, slightly less random batches."""
    checkpoint_interval: int = 500
    """Steps between checkpoints; one is also written at the end and on SIGTERM."""
    log_interval: int = 10
    """Steps between lines in metrics.jsonl."""
    seed: int = 7
    """Seed of the order of samples."""

    def check(self, stage: str) -> None:
        """Refuse values that no machine could run. Raises ConfigError."""
        for name in (
            "global_batch_size",
            "micro_batch_size",
            "checkpoint_interval",
            "log_interval",
        ):
            self._require(stage, name, getattr(self, name) >= 1, "at least 1")
        for name in ("max_steps", "seed", "weight_decay"):
            self._require(stage, name, getattr(self, name) >= 0, "0 or more")
        for name in ("epochs", "learning_rate", "max_grad_norm"):
            value = getattr(self, name)
            self._require(stage, name, value > 0 and math.isfinite(value), "a positive number")
        self._require(stage, "betas", all(0 <= b < 1 for b in self.betas), "two values in [0, 1)")
        self._require(stage, "warmup_fraction", 0 <= self.warmup_fraction < 1, "in [0, 1)")
        self._require(stage, "max_length", self.max_length >= 8, "at least 8 tokens")

    def check_ranks(self, stage: str, num_processes: int) -> None:
        """Refuse a batch that the ranks cannot split evenly. Raises ConfigError."""
        together = self.micro_batch_size * num_processes
        if num_processes < 1 or self.global_batch_size % together:
            raise ConfigError(
                f"{stage}: global_batch_size = {self.global_batch_size} is not a multiple of "
                f"micro_batch_size x processes = {self.micro_batch_size} x {num_processes} = "
                f"{together}; "
                "change one"
            )

    def fitting_ranks(self, available: int) -> int:
        """Largest number of ranks, up to `available`, that splits global_batch_size evenly."""
        ranks = range(max(1, available), 0, -1)
        return next(
            (n for n in ranks if self.global_batch_size % (self.micro_batch_size * n) == 0), 1
        )

    def accumulation(self, num_processes: int) -> int:
        """Micro-batches of one rank in a step."""
        return self.global_batch_size // (self.micro_batch_size * num_processes)

    def num_steps(self, num_samples: int, num_processes: int) -> int:
        """Optimizer steps of a whole run, counted as Transformers' trainer does."""
        if self.max_steps:
            return self.max_steps
        batches = math.ceil(num_samples / (self.micro_batch_size * num_processes))
        in_epoch = max(1, math.ceil(batches / self.accumulation(num_processes)))
        return math.ceil(self.epochs * in_epoch)

    def _require(self, stage: str, name: str, holds: bool, expected: str) -> None:
        if not holds:
            raise ConfigError(f"{stage}: {name} = {getattr(self, name)!r}; it must be {expected}")


@dataclass(frozen=True, kw_only=True)
class SftSettings(FinetuneSettings):
    """Supervised fine-tuning; defaults are section 6 of the paper."""

    packing: bool = False
    """Put several conversations into one row of `max_length` tokens (best fit, decreasing), kept
    apart by position ids. A step then holds `global_batch_size` rows, so more conversations."""


@dataclass(frozen=True, kw_only=True)
class DpoSettings(FinetuneSettings):
    """Direct preference optimization; defaults are section 6 of the paper."""

    epochs: float = 3.0
    """Passes over the data; section 6: 3."""
    global_batch_size: int = 128
    """Pairs in a step, all ranks together; section 6: 128."""
    micro_batch_size: int = 4
    """Pairs in one forward pass of one rank; a pair is two sequences."""
    learning_rate: float = 5e-6
    """Peak learning rate; section 6: 5e-6."""
    warmup_fraction: float = 0.1
    """Share of the steps with a rising learning rate (0.1 in the published script)."""
    beta: float = 0.1
    """Strength with which the policy is held to the reference; section 6: 0.1."""
    loss: Literal["sigmoid", "hinge", "ipo"] = "sigmoid"
    """TRL's name of the loss; section 6: sigmoid."""

    def check(self, stage: str) -> None:
        super().check(stage)
        self._require(stage, "beta", self.beta > 0 and math.isfinite(self.beta), "positive")


@dataclass(frozen=True, kw_only=True)
class FinetuneJob:
    """Settings and folders of a run; each method states its settings and its data."""

    method: ClassVar[str]
    """Name of the entry, `model.entry.<method>`."""
    sample: ClassVar[str]
    """One row of the data, for messages."""
    columns: ClassVar[tuple[str, ...]]
    """Columns that are trained on, each a list of chat messages."""
    notes: ClassVar[tuple[str, ...]] = ("set", "language")
    """Columns that say where a row is from."""

    settings: FinetuneSettings
    """Settings of the training."""
    model: str
    """Transformers folder with tokenizer to start from."""
    data: str
    """JSON lines with the job's columns and notes."""
    output: str
    """Receives metrics.jsonl and, at the end, model/."""
    scratch: str
    """Receives checkpoints; a run with complete ones is continued."""

    def plain(self) -> dict[str, object]:
        """As JSON values."""
        return dataclasses.asdict(self)


@dataclass(frozen=True, kw_only=True)
class SftJob(FinetuneJob):
    """Supervised fine-tuning on conversations."""

    method = "sft"
    sample = "conversation"
    columns = ("messages",)
    notes = ("set", "language", "style")

    settings: SftSettings
    """Settings of the training."""


@dataclass(frozen=True, kw_only=True)
class DpoJob(FinetuneJob):
    """Direct preference optimization on pairs of answers to one prompt."""

    method = "dpo"
    sample = "pair"
    columns = ("prompt", "chosen", "rejected")

    settings: DpoSettings
    """Settings of the training."""
