"""Operators as Data-Juicer builds them from a recipe."""

from typing import Any

from corpus.cleaning import recipe as recipes


def operator(recipe: str, name: str) -> Any:
    """An operator of a recipe, as Data-Juicer builds it."""
    from data_juicer.ops import load_ops

    loaded = recipes.load(recipe)
    loaded.import_custom_operators()
    (entry,) = [op for op in loaded.operators if op.name == name]
    (built,) = load_ops([{entry.name: dict(entry.arguments)}])
    return built
