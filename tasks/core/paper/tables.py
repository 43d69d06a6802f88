"""The paper's Tables 2, 3 and 4, as data_recipes/paper/ holds them."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from common.errors import ConfigError
from common.recipes import load_recipe, recipe_path

KIND = "paper"
TABLES = ("table2", "table3", "table4")


@dataclass(frozen=True, kw_only=True)
class KernelExperiment:
    """A row of Table 2."""

    number: int
    """Exp1 to Exp8."""
    attention: Literal["flash", "torch"]
    rope: Literal["fused", "torch"]
    rms_norm: Literal["fused", "torch"]
    loss: Literal["triton", "torch"]
    shard_parameters: bool
    """If true, FSDP shards the parameters."""
    tokens_per_second_per_gpu: int
    memory_gb: int


@dataclass(frozen=True, kw_only=True)
class Table2:
    """Speed and memory by kernel."""

    title: str
    source: str
    """Place in the paper."""
    model: dict[str, Any]
    """The measured model, as fields of SteelConfig."""
    sequence_length: int
    """Tokens of a sample."""
    micro_batch_size: int
    """Samples a GPU."""
    device: str
    baseline: int
    """The experiment that ratios are to: nothing fused."""
    experiments: list[KernelExperiment]

    def experiment(self, number: int) -> KernelExperiment:
        """One row. Raises ConfigError for a number that the table does not have."""
        known = {e.number: e for e in self.experiments}
        if number not in known:
            raise ConfigError(f"Table 2 has no experiment {number}; it has {sorted(known)}")
        return known[number]


@dataclass(frozen=True, kw_only=True)
class MixtureExperiment:
    """A row of Table 3."""

    number: int
    """1 to 5."""
    mixture: str
    """Name of the recipe in data_recipes/mixtures/."""
    title: str
    """The paper's name for it."""
    accuracy: dict[str, float]
    """Benchmark -> per cent."""


@dataclass(frozen=True, kw_only=True)
class Table3:
    """SFT mixtures."""

    title: str
    source: str
    """Place in the paper."""
    benchmarks: list[str]
    experiments: list[MixtureExperiment]


@dataclass(frozen=True, kw_only=True)
class OtherModel:
    """A row of Table 4."""

    name: str
    accuracy: dict[str, float]
    """Benchmark -> per cent."""


@dataclass(frozen=True, kw_only=True)
class Table4:
    """Steel-LLM beside other models."""

    title: str
    source: str
    """Place in the paper."""
    benchmarks: list[str]
    ours: dict[Literal["sft", "dpo"], str]
    """Stage -> the row that a run of Steel fills."""
    models: list[OtherModel]


@dataclass(frozen=True, kw_only=True)
class Paper:
    """The three tables."""

    table2: Table2
    table3: Table3
    table4: Table4


def paper_files() -> list[Path]:
    """The recipe files."""
    return [recipe_path(KIND, name) for name in TABLES]


def load_table2() -> Table2:
    """Table 2 alone. Raises ConfigError."""
    return load_recipe(Table2, KIND, "table2")


def load_paper() -> Paper:
    """Read the three recipes. Raises ConfigError."""
    return Paper(
        table2=load_table2(),
        table3=load_recipe(Table3, KIND, "table3"),
        table4=load_recipe(Table4, KIND, "table4"),
    )
