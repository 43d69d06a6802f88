"""Parts of the pipeline that a run can be asked for by name."""

from typing import Literal, get_args

Target = Literal["data", "pretrain", "sft", "dpo", "evaluate", "report"]
"""A part of the pipeline; flows/graph.py says which property makes it."""
TARGET_NAMES: tuple[Target, ...] = get_args(Target)
"""All of them, in the order in which they are made."""
