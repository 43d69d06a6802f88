"""The deduplicators of all recipes, and what each needs to know of a document.

Families whose recipes have a deduplicator with equal parameters share it.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from graphlib import CycleError, TopologicalSorter
from typing import Any

import pyarrow as pa
from data_juicer.ops.base_op import Deduplicator

from common.errors import ConfigError
from corpus.cleaning.deduplication.band_buckets import KEYS
from corpus.cleaning.deduplication.repeated_lines import LINES
from corpus.cleaning.fast.minhash import MinHash
from corpus.cleaning.fast.operators import fast_simhash
from corpus.cleaning.recipe import MINHASH, REPEATED_LINES, Operator, Recipe

SIMHASH = "document_simhash_deduplicator"
EXACT = "document_deduplicator"


@dataclass(frozen=True, kw_only=True)
class RecipeDeduplicator:
    """One deduplicator, of all recipes that have it with equal parameters."""

    position: int
    """Its place among the deduplicators of all recipes, from 1."""
    operator: Operator
    """Its entry in the recipe."""
    built: Deduplicator
    """The library's object."""

    @property
    def clusters(self) -> bool:
        """True if its clusters are found here, from 64-bit hashes, in bounded memory."""
        return self.operator.name in (SIMHASH, EXACT)

    @property
    def takes_lines_out(self) -> bool:
        """True if it changes documents instead of dropping copies."""
        return self.operator.name == REPEATED_LINES

    @cached_property
    def minhash(self) -> MinHash | None:
        """Its hashes, if its copies are found by MinHash and verified."""
        return MinHash(self.built) if self.operator.name == MINHASH else None

    def hashes(self, texts: Sequence[str]) -> list[dict[str, Any]]:
        """Compute the columns that its `process` needs, for each text."""
        if self.minhash is not None:
            keys = self.minhash.band_keys(texts).astype("<u8")
            return [{KEYS: row.tobytes()} for row in keys]
        if self.takes_lines_out:
            return [{LINES: self.built.line_hashes(text)} for text in texts]
        if self.operator.name == SIMHASH and (fast := fast_simhash(self.built)):
            return [{"hash": value} for value in fast(texts)]
        return [self._hash(text) for text in texts]

    def _hash(self, text: str) -> dict[str, Any]:
        key = self.built.text_key
        sample = self.built.compute_hash({key: text})
        columns = {name: value for name, value in sample.items() if name != key}
        if not self.clusters:
            return columns
        (value,) = columns.values()
        # A decimal number; or an MD5, of which 64 bits distinguish 10^9 documents.
        return {"hash": int(value) if self.operator.name == SIMHASH else int(value[:16], 16)}


def shared_deduplicators(
    recipes: Mapping[Any, Recipe], built: Mapping[str, Any]
) -> list[RecipeDeduplicator]:
    """The different deduplicators of all recipes, in an order that is every recipe's.

    Args:
        recipes: family -> recipe.
        built: the library's objects, by `Operator.key`.

    Raises:
        ConfigError: two recipes have them in opposite orders.
    """
    order: TopologicalSorter[str] = TopologicalSorter()
    different: dict[str, Operator] = {}
    for recipe in recipes.values():
        before: list[str] = []
        for operator in recipe.deduplicators:
            order.add(operator.key, *before)
            different.setdefault(operator.key, operator)
            before = [operator.key]
    try:
        keys = list(order.static_order())
    except CycleError as error:
        names = " and ".join(dict.fromkeys(different[key].name for key in error.args[1]))
        raise ConfigError(
            f"Recipes of different families have {names} in opposite orders; give all the same"
        ) from error
    return [
        RecipeDeduplicator(position=position, operator=different[key], built=built[key])
        for position, key in enumerate(keys, start=1)
    ]


def positions_of(recipe: Recipe, shared: Sequence[RecipeDeduplicator]) -> dict[int, int]:
    """Place of a shared deduplicator -> its place in the ledger of a recipe that has it."""
    first = len(recipe.by_document) + 1
    places = {op.key: place for place, op in enumerate(recipe.deduplicators, start=first)}
    return {one.position: places[one.operator.key] for one in shared if one.operator.key in places}


def hash_table(rows: Sequence[dict[str, Any]], deduplicator: RecipeDeduplicator) -> pa.Table:
    """Hashes of a partition's documents as a table."""
    if deduplicator.minhash is not None:
        kind = pa.binary(8 * deduplicator.minhash.bands)
        return pa.table({KEYS: pa.array([row[KEYS] for row in rows], kind)})
    if deduplicator.takes_lines_out:
        return pa.table({LINES: pa.array([row[LINES] for row in rows], pa.list_(pa.int64()))})
    if deduplicator.clusters:
        return pa.table({"hash": pa.array([row["hash"] for row in rows], pa.uint64())})
    return pa.Table.from_pylist(list(rows))
