"""State of a data set at its source now: the commit of a branch, the files behind a URL."""

import tempfile
from pathlib import Path

from common.urls import is_url, scheme
from corpus.recipes import pinned_checksums
from corpus.sample_data import DatasetKind
from corpus.sources import hub, modelscope
from corpus.sources.datasets import HUB, MODELSCOPE
from corpus.sources.remote import UrlSource


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


def newest_files(kind: DatasetKind, name: str, location: str) -> dict[str, str]:
    """List what lies behind a URL: name -> identity of each file that has one (`Source.identity`),
    as sources.json of an acquisition has them; empty for other locations, which are not asked.

    Raises DataError where it cannot be listed.
    """
    if not is_url(location):
        return {}
    open_source = hub.HubRepository if scheme(location) == "hf" else UrlSource
    with tempfile.TemporaryDirectory() as scratch:
        source = open_source(location, Path(scratch), pinned_checksums(kind, name))
        return {file.name: found for file in source.files() if (found := source.identity(file))}
