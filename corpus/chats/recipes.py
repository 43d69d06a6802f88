"""The recipes of chat data: data_recipes/sft, data_recipes/preferences, data_recipes/mixtures."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal, TypeAlias

from common.config import NOT_IN_KEY
from common.errors import ConfigError
from common.names import NamesOf, RelativePath
from common.paths import display
from common.recipes import load_recipe, recipe_path
from corpus.chats.formats import CHAT_FORMATS, PAIR_FORMATS
from corpus.recipes import HubSource, ModelScopeSource

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
    """Of all rows; `mixed` looks at `language_field`, or else at each row's text."""
    format: str
    """Its native shape: a name in corpus/chats/formats.py."""
    files: tuple[RelativePath, ...]
    """Patterns of its training files inside its folder; never a test split."""
    language_field: str = ""
    """Column that holds a language code such as `zh-cn` or `en`, for mixed sets."""
    fields: Mapping[str, str] = field(default_factory=dict)
    """Other names of the format's columns: {name in the format: name in the files}."""
    replace: Mapping[str, str] = field(default_factory=dict)
    """Texts to replace in every turn, such as the placeholders of self-awareness templates."""
    note: str = field(default="", metadata=NOT_IN_KEY)
    """Anything else worth knowing: where in the paper, how it was chosen."""


@dataclass(frozen=True, kw_only=True)
class MixtureSet:
    """Part of one set that goes into a mixture."""

    language: Literal["any", "zh", "en"] = "any"
    """Take only conversations in this language."""
    styles: tuple[str, ...] = ()
    """Take only these answer styles (`letter`, `explained`); empty takes all."""
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
    """The recipe of a set. Raises ConfigError, also for a format that doesn't exist."""
    recipe = load_recipe(ChatSetRecipe, kind, name)
    formats = CHAT_FORMATS if kind == "sft" else PAIR_FORMATS
    if recipe.format not in formats:
        raise ConfigError(
            f"{display(recipe_path(kind, name))}: 'format' {recipe.format!r} is unknown; "
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
