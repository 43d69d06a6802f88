"""Recipes of corpora (data_recipes/corpora/<name>.yaml), and what recipes of any kind may say about
where their data come from: the hub, pinned checksums, how to obtain them by hand."""

import functools
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import ClassVar, Literal, TypeVar, get_args

from common.config import NOT_IN_KEY
from common.errors import ConfigError
from common.names import Name, RelativePath
from common.paths import RECIPES, display
from common.recipes import build, load_recipe, read_yaml, recipe_path

Family = Literal["encyclopedia", "qa", "book", "dialogue", "code", "web"]
"""Families of sources, which are cleaned alike. Of equal documents in two families, the one of the
family that comes first here is kept."""

FAMILIES: tuple[Family, ...] = get_args(Family)

T = TypeVar("T")


@dataclass(frozen=True, kw_only=True)
class HubSource:
    """A data set on the Hugging Face hub."""

    repository: str
    """`owner/name` of the data set."""
    files: tuple[RelativePath, ...]
    """Patterns of the files to take, as in `huggingface_hub`'s allow_patterns."""
    revision: str = "main"
    """Branch, tag or commit."""


@dataclass(frozen=True, kw_only=True)
class ModelScopeSource:
    """A data set on ModelScope."""

    repository: str
    """`owner/name` of the data set."""
    files: tuple[RelativePath, ...]
    """Patterns of the files to take, as of `HubSource`."""
    revision: str = "master"
    """Branch, tag or commit."""


@dataclass(frozen=True, kw_only=True)
class CorpusRecipe:
    """One source of pretraining text (the paper's Table 5)."""

    RENAMED: ClassVar[Mapping[str, str]] = {"kind": "family"}

    name: Name
    """Name of the corpus: the file's own name, and the name of its output files."""
    title: str = field(metadata=NOT_IN_KEY)
    """Name as its makers write it."""
    family: Family
    """Family of its documents, which decides the cleaning recipe: web pages, encyclopedia articles,
    questions with answers (qa), books and other long texts, dialogues with a model, source files
    (code)."""
    language: str
    """Language, or languages joined by `-`; for code the programming language."""
    format: str
    """Native format: a function of this name in corpus/formats/record_formats.py."""
    reading: Literal["records", "files", "lines"] = "records"
    """`records`: JSON lines, JSON arrays or parquet; `files`: each text file is a document, or each
    chapter of a novel; `lines`: each line of a text file is one. With `format: plain` the rows of
    CSV and TSV files in all three; in `files` and `lines` also rows of JSON and parquet, and Word
    and EPUB files (corpus/formats/readers.py)."""
    text_key: str | tuple[str, ...] = ""
    """Field of a row that holds the text, with `format: plain`: a name, a dotted path
    (`data.text`), or a list of them, joined by line ends; empty: guessed by name."""
    optional: bool = field(default=False, metadata=NOT_IN_KEY)
    """True for a corpus that may be empty: then it is reported, not refused."""
    hub: HubSource | None = field(default=None, metadata=NOT_IN_KEY)
    """Its repository on the Hugging Face hub (location `hub`)."""
    modelscope: ModelScopeSource | None = field(default=None, metadata=NOT_IN_KEY)
    """Its repository on ModelScope (location `modelscope`)."""
    obtain: str = field(default="", metadata=NOT_IN_KEY)
    """Directions for getting it by hand, where the hub does not have it."""
    sha256: Mapping[str, str] = field(default_factory=dict, metadata=NOT_IN_KEY)
    """Checksums that files must have, by name; checked before they are unpacked. A recipe of any
    kind may give them."""
    min_upvotes: int = 0
    """Answers with fewer up-votes are left out (Zhihu)."""
    licence: str = field(metadata=NOT_IN_KEY)
    """Licence its makers state."""
    paper_size: str = field(metadata=NOT_IN_KEY)
    """Size in the paper."""


def corpus(name: str) -> CorpusRecipe:
    """The recipe of a corpus. Raises ConfigError when there is none or it is wrong."""
    recipe = load_recipe(CorpusRecipe, "corpora", name)
    if recipe.name != name:
        place = display(recipe_path("corpora", name))
        raise ConfigError(f"{place} says name {recipe.name!r}; it must be {name!r}, like the file")
    return recipe


def hub_source(kind: str, name: str) -> HubSource | None:
    """The `hub` part of a recipe of any kind; None where the recipe has none."""
    return _repository(HubSource, kind, name, "hub")


def modelscope_source(kind: str, name: str) -> ModelScopeSource | None:
    """The `modelscope` part of a recipe of any kind; None where the recipe has none."""
    return _repository(ModelScopeSource, kind, name, "modelscope")


def _repository(cls: type[T], kind: str, name: str, key: str) -> T | None:
    path = recipe_path(kind, name)
    part = read_yaml(path).get(key)
    if part is None:
        return None
    if not isinstance(part, dict):
        raise ConfigError(f"{display(path)}: {key!r} must be a mapping (got {part!r})")
    return build(cls, part, where=f"{display(path)}: {key}")


def is_benchmark(repository: str) -> bool:
    """True for a repository of the hub that holds a benchmark of data_recipes/evals."""
    return repository.lower() in _benchmarks()


@functools.cache
def _benchmarks() -> frozenset[str]:
    recipes = [read_yaml(path) for path in sorted((RECIPES / "evals").glob("*.yaml"))]
    hubs = [recipe.get(key) for recipe in recipes for key in ("hub", "modelscope")]
    return frozenset(str(hub["repository"]).lower() for hub in hubs if isinstance(hub, Mapping))


def how_to_obtain(kind: str, name: str) -> str:
    """A recipe's own words on getting the data by hand; empty where it has none."""
    return str(read_yaml(recipe_path(kind, name)).get("obtain", "")).strip()


def pinned_checksums(kind: str, name: str) -> dict[str, str]:
    """`sha256:…` by file name, as the recipe pins them. Raises ConfigError for anything else."""
    path = recipe_path(kind, name)
    pinned = read_yaml(path).get("sha256") or {}
    if not isinstance(pinned, dict):
        raise ConfigError(
            f"{display(path)}: 'sha256' must map file names to checksums (got {pinned!r})"
        )
    for file, digest in pinned.items():
        if not re.fullmatch("[0-9a-fA-F]{64}", str(digest)):
            raise ConfigError(
                f"{display(path)}: the sha256 of {file} must be 64 hexadecimal digits "
                f"(got {digest!r})"
            )
    return {str(file): f"sha256:{digest}" for file, digest in pinned.items()}
