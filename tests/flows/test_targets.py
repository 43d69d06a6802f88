"""Names that a run can be asked for."""

import typing
from functools import cached_property

from flows.graph import TARGETS, Pipeline
from flows.targets import Target


def test_every_target_is_a_property_of_the_graph() -> None:
    assert tuple(TARGETS) == typing.get_args(Target)
    for name, made_by in TARGETS.items():
        assert isinstance(vars(Pipeline)[made_by], cached_property), name
