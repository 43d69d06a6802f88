"""The commit that the branch of a data set's repository points at now."""

import tempfile
from pathlib import Path

from corpus.sample_data import DatasetKind
from corpus.sources import hub, modelscope
from corpus.sources.datasets import HUB, MODELSCOPE


def newest_commit(kind: DatasetKind, name: str, location: str) -> str:
    """Ask a hub for the commit of a recipe's branch; empty where there is nothing to ask: another
    location, a recipe that pins a commit, or an environment that forbids it.

    Raises DataError where the hub does not answer, or has no such branch.
    """
    if location == HUB and not hub.is_offline():
        recipe = hub.check_hub(kind, name)
        if hub.COMMIT.fullmatch(recipe.revision):
            return ""
        with tempfile.TemporaryDirectory() as scratch:  # where nothing is remembered
            return hub.resolve_commit("dataset", recipe.repository, recipe.revision, Path(scratch))
    if location == MODELSCOPE:
        source = modelscope.check_modelscope(kind, name)
        if modelscope.COMMIT.fullmatch(source.revision):
            return ""
        with tempfile.TemporaryDirectory() as scratch:
            return modelscope.ModelScopeRepository(source, Path(scratch), {}).commit
    return ""
