"""The recipes of chat data: data_recipes/sft, data_recipes/preferences, data_recipes/mixtures."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from typing import Any, Literal, TypeAlias

from common.config import NOT_IN_KEY
from common.errors import ConfigError
from common.names import NamesOf, RelativePath
from common.paths import display
from common.recipes import load_recipe, recipe_path
from corpus.benchmarks.evaluation_splits import refuse_test_split
from corpus.chats.choices import STYLES
from corpus.chats.formats import CHAT_FORMATS, PAIR_FORMATS
from corpus.chats.identity import OtherIdentity
from corpus.recipes import HubSource, ModelScopeSource, is_benchmark

SetKind: TypeAlias = Literal["sft", "preferences"]


@dataclass(frozen=True, kw_only=True)
class ChatSetRecipe:
    """One set of conversations or preference pairs: where it comes from and how to read it."""

    title: str = field(metadata=NOT_IN_KEY)
    """Its full name, for reports."""
    hub: HubSource | None = field(default=None, metadata=NOT_IN_KEY)
    """Its training files on the Hugging Face hub, where it is there."""
    modelscope: ModelScopeSource | None = field(default=None, metadata=NOT_IN_KEY)
    """The same on ModelScope."""
    obtain: str = field(default="", metadata=NOT_IN_KEY)
    """Instructions to get it by hand, where the hub does not have it."""
    sha256: Mapping[str, str] = field(default_factory=dict, metadata=NOT_IN_KEY)
    """Checksums that acquired files must have, by name."""
    licence: str = field(metadata=NOT_IN_KEY)
    """Licence that its publishers state; `none stated` if they state none."""
    language: Literal["zh", "en", "mixed"]
    """Languages that its publishers state. Each row's own is found by its text; this is that of a
    row without words, such as "1 + 1 ="."""
    format: str
    """Its native shape: a name in corpus/chats/formats.py."""
    files: tuple[RelativePath, ...]
    """Patterns of its training files inside its folder; never a test split."""
    fields: Mapping[str, str] = field(default_factory=dict)
    """Other names of the format's columns: {name in the format: name in the files}."""
    identity: OtherIdentity | None = None
    """Names of the model and its makers in its rows, where our own belong."""
    other_assistants: Literal["leave_out", "keep"] = "leave_out"
    """Action on rows whose answer says that it is a known other assistant (ChatGPT, MOSS, …); those
    that are left out are counted."""
    note: str = field(default="", metadata=NOT_IN_KEY)
    """Anything else worth knowing: where in the paper, how it was chosen."""

    def reading(self) -> dict[str, Any]:
        """All that decides about the rows that are read: no titles, places and notes."""
        values = asdict(self)
        return {f.name: values[f.name] for f in fields(self) if f.metadata.get("in_key", True)}


@dataclass(frozen=True, kw_only=True)
class MixtureSet:
    """Part of one set that goes into a mixture."""

    language: Literal["any", "zh", "en"] = "any"
    """Take only conversations in this language; `any`: also those in neither."""
    styles: tuple[str, ...] = ()
    """Take only these forms of an answer to a multiple-choice question (`letter`, `explained`,
    `answer_first`); empty takes all."""
    fraction: float = 1.0
    """Share of what is usable, 0 to 1; 0 drops an inherited set."""
    limit: int | None = None
    """At most this many conversations, after `fraction`."""
    pool: str = ""
    """Name of the pool it belongs to, whose size is set by a ratio; empty for none."""


@dataclass(frozen=True, kw_only=True)
class Pool:
    """Sets that are sampled together, down to a ratio to what is outside of pools."""

    ratio: float
    """Conversations in the pool for each conversation of `to` outside of pools."""
    to: Literal["zh", "en"]
    """The language that is counted."""


@dataclass(frozen=True, kw_only=True)
class Mixture:
    """Data of one SFT run (Table 3)."""

    title: str = field(metadata=NOT_IN_KEY)
    """Name for tables and plots."""
    sets: NamesOf[MixtureSet]
    """{set: the part of it}; sets are recipes in data_recipes/sft."""
    pools: NamesOf[Pool] = field(default_factory=dict)
    """{pool: its ratio}."""
    note: str = field(default="", metadata=NOT_IN_KEY)
    """Place in the paper, and decisions where it is silent."""


def load_set(kind: SetKind, name: str) -> ChatSetRecipe:
    """The recipe of a set.

    Raises ConfigError, also for a format that doesn't exist and for files of a test split.
    """
    recipe = load_recipe(ChatSetRecipe, kind, name)
    where = display(recipe_path(kind, name))
    refuse_test_split(recipe.files, f"{where}: 'files'")
    for key, hub in (("hub", recipe.hub), ("modelscope", recipe.modelscope)):
        if hub is not None:
            refuse_test_split(
                hub.files, f"{where}: '{key}.files'", benchmark=is_benchmark(hub.repository)
            )
    formats = CHAT_FORMATS if kind == "sft" else PAIR_FORMATS
    if recipe.format not in formats:
        raise ConfigError(
            f"{where}: 'format' {recipe.format!r} is unknown; "
            f"there are: {', '.join(sorted(formats))}"
        )
    return recipe


def load_mixture(name: str) -> Mixture:
    """The recipe of a mixture, proved consistent. Raises ConfigError."""
    mixture = load_recipe(Mixture, "mixtures", name)
    where = display(recipe_path("mixtures", name))
    for set_name, share in mixture.sets.items():
        if not 0 <= share.fraction <= 1:
            raise ConfigError(
                f"{where}: 'sets.{set_name}.fraction' is {share.fraction}; it must be 0 to 1"
            )
        if share.limit is not None and share.limit < 0:
            raise ConfigError(f"{where}: 'sets.{set_name}.limit' is {share.limit}; it can't be < 0")
        if unknown := [style for style in share.styles if style not in STYLES]:
            raise ConfigError(
                f"{where}: 'sets.{set_name}.styles' has {unknown[0]!r}; there are: "
                f"{', '.join(STYLES)}"
            )
        if share.pool and share.pool not in mixture.pools:
            raise ConfigError(
                f"{where}: 'sets.{set_name}.pool' is {share.pool!r}, which 'pools' doesn't define"
            )
        load_set("sft", set_name)
    for pool_name, pool in mixture.pools.items():
        if pool.ratio < 0:
            raise ConfigError(
                f"{where}: 'pools.{pool_name}.ratio' is {pool.ratio}; it can't be < 0"
            )
        if not any(share.pool == pool_name for share in mixture.sets.values()):
            raise ConfigError(f"{where}: no set belongs to the pool {pool_name!r}")
    if not any(share.fraction > 0 for share in mixture.sets.values()):
        raise ConfigError(f"{where}: every set has fraction 0, so there is nothing to train on")
    return mixture
