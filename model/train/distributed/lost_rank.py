"""Errors of a collective whose partner is gone."""

import torch.distributed as dist

from common.errors import StageError


class RankLostError(StageError):
    """Another rank is gone: a collective failed."""


def is_lost_rank(error: BaseException) -> bool:
    """Return True for the error of a collective that lost a rank: gloo's, NCCL's or the store's."""
    if isinstance(error, dist.DistError):
        return True
    return isinstance(error, RuntimeError) and "gloo" in str(error).lower()
