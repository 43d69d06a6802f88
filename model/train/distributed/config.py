"""Sharding over ranks and the test of kernels, the settings' groups `parallel` and `kernels`.

They decide about speed, memory and safety, not about samples.
"""

from dataclasses import dataclass
from typing import Annotated, Literal

from common.config import Config
from common.errors import ConfigError
from common.ranges import Ge, Limit


@dataclass(frozen=True, kw_only=True)
class ParallelSettings(Config):
    """Parts of the weights that ranks hold."""

    shard: Literal["all", "node"] | Annotated[int, Ge(1), Limit(10**6)] = "all"
    """Ranks that share one copy of weights, gradients and AdamW state (FSDP2). all: every rank,
    one copy. node: each node holds a copy, so that only gradients cross the network between nodes,
    once a step (HSDP). A number: groups of so many ranks; it divides the number of ranks, and 1
    gives each rank a whole copy."""
    reshard_after_forward: bool = True
    """Gathered weights are freed between a layer's forward and its backward pass and gathered again
    (FULL_SHARD of FSDP1, ZeRO-3; Table 2: "shard"). False keeps them to the end of the backward
    pass: less communication, more memory (SHARD_GRAD_OP, ZeRO-2; Table 2: "no param sharding")."""

    def width(self, num_ranks: int, ranks_per_node: int) -> int:
        """Ranks that share one copy. Raises ConfigError when they do not split `num_ranks`."""
        width = self.shard
        if isinstance(width, str):
            width = {"all": num_ranks, "node": ranks_per_node}.get(width, 0)
        if width < 1 or num_ranks % width:
            meaning = f" = {width} ranks" if self.shard == "node" else ""
            raise ConfigError(
                f"parallel.shard = {self.shard!r}{meaning} does not divide the "
                f"{num_ranks} rank(s) into equal groups; give all, node, or a divisor of them"
            )
        return width


@dataclass(frozen=True, kw_only=True)
class KernelSettings(Config):
    """Use of fused operations; the choice among them is the model's (`model.kernels`)."""

    self_test: bool = True
    """At each start compare the chosen kernels (Triton's, Liger's) with the eager reference on the
    devices of the run, forward and backward, in a process of their own; one that fails is replaced
    by the reference, on all ranks, and named in the log, the manifest and MLflow. Takes seconds,
    and none where `auto` chooses no kernel, as on a CPU."""
