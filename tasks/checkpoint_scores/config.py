"""Settings of the evaluation of checkpoints."""

from dataclasses import dataclass, field
from typing import Annotated

from common.config import NOT_IN_KEY, StageConfig
from common.names import Distinct, Name
from common.ranges import Ge, Limit, PositiveInt
from model.evaluate.job import Precision


@dataclass(frozen=True, kw_only=True)
class CheckpointScoresConfig(StageConfig):
    """Measurements of each checkpoint, and their share of the machine."""

    benchmarks: Annotated[list[Name], Distinct] = field(default_factory=list)
    """Those of `benchmarks` that checkpoints are asked; empty: all with four options."""
    num_fewshot: Annotated[int, Ge(0), Limit(1000)] = 0
    """Worked examples before a question that is answered by letters. The cloze form has none."""
    limit: PositiveInt | None = 50
    """At most so many questions a subject; None takes all."""
    cloze: bool = True
    """If true, the options' texts are scored, too, without letters."""
    bytes_per_source: Annotated[int, Ge(0), Limit(10**12)] = 200_000
    """UTF-8 bytes of held-out documents of each source that bits per byte are measured on, at the
    most; 0 measures none. Always the same documents."""
    dtype: Precision = "auto"
    """Number format of the model; auto is float32."""
    gpu: Annotated[int, Ge(0), Limit(10**4)] | None = field(default=None, metadata=NOT_IN_KEY)
    """Number of the GPU that evaluations run on, one that the training does not use; None: the
    CPU."""
    threads: Annotated[int, Ge(1), Limit(10**4)] = field(default=1, metadata=NOT_IN_KEY)
    """Threads that compute where there is no GPU, at the lowest priority."""
    batch_size: Annotated[int, Ge(1), Limit(10**6)] = field(default=16, metadata=NOT_IN_KEY)
    """Questions a forward pass. Changes speed and memory, not results."""
    stopped_minutes: Annotated[float, Ge(0), Limit(10**6)] = field(
        default=10.0, metadata=NOT_IN_KEY
    )
    """Minutes that watching goes on while the training does not run: it may be started again."""
