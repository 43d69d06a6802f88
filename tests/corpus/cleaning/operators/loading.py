"""Operators as Data-Juicer builds them from a recipe."""

from pathlib import Path
from typing import Any

import corpus.cleaning.operators
from corpus.cleaning import recipe as recipes


def operator(recipe: str, name: str) -> Any:
    """An operator of a recipe, as Data-Juicer builds it."""
    from data_juicer.ops import load_ops

    loaded = recipes.load(recipe)
    loaded.import_custom_operators()
    (entry,) = [op for op in loaded.operators if op.name == name]
    (built,) = load_ops([{entry.name: dict(entry.arguments)}])
    return built


def own_operator(name: str, **arguments: Any) -> Any:
    """An operator of ours, as Data-Juicer builds it from a recipe that names its file."""
    from data_juicer.ops import load_ops

    file = Path(corpus.cleaning.operators.__file__).with_name(f"{name}.py")
    recipes.Recipe(
        path=file, data={}, operators=(), custom_operator_files=(file,)
    ).import_custom_operators()
    (built,) = load_ops([{name: arguments}])
    return built


def applied(operator: Any, text: str) -> str:
    """One text after an operator."""
    return str(operator.process({"text": [text]})["text"][0])
