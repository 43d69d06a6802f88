"""Settings of optimizers beyond AdamW's own.

Does not import torch: stages read it to check configs before anything starts.
"""

from dataclasses import dataclass
from typing import Annotated

from common.config import Config
from common.ranges import Ge, Gt, Le, Limit, Lt


@dataclass(frozen=True, kw_only=True)
class MuonSettings(Config):
    """Settings of Muon (`optimizer: muon`); AdamW's hold for what Muon leaves to it."""

    learning_rate_factor: Annotated[float, Gt(0), Limit(10**4)] = 1.0
    """Learning rate of Muon's matrices as a multiple of `learning_rate`, along the whole schedule.
    At 1 an update has the root mean square of a typical one of AdamW (0.2 of the rate)."""
    momentum: Annotated[float, Ge(0), Lt(1)] = 0.95
    """Decay rate of the mean gradient, which is taken as Nesterov's."""
    newton_schulz_steps: Annotated[int, Ge(1), Le(20)] = 5
    """Steps of the iteration that orthogonalises an update: each multiplies small singular values
    by 3.4; 5 bring those above 1/600 of the norm between 0.68 and 1.21."""
