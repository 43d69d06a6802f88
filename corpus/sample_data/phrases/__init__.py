"""The words and sentences of the sample data, one YAML file per topic."""

import functools
from pathlib import Path
from typing import Any

from common.recipes import read_yaml


@functools.cache
def phrases(topic: str) -> dict[str, Any]:
    """Contents of `<topic>.yaml`."""
    return read_yaml(Path(__file__).parent / f"{topic}.yaml")
