"""A recipe's plan on Ray."""

from pathlib import Path

import pytest

from common.errors import ConfigError
from corpus.cleaning import recipe as recipes
from corpus.cleaning.ray.plan import operator_groups, replacements


def test_recipe_is_cut_at_deduplicators_and_only_those_are_replaced(tmp_path: Path) -> None:
    recipe = recipes.load("paper/text")
    operators, duplicates = operator_groups(recipe)
    assert operators.operators == recipe.operators[:-1]
    assert operators.positions == tuple(range(1, 21))
    assert duplicates.positions == (21,)
    arguments = duplicates.operators[0].arguments
    assert arguments["ignore_pattern"] == recipe.operators[-1].arguments["ignore_pattern"]
    assert arguments["tokenization"] == "character"
    exact = tmp_path / "exact.yaml"
    exact.write_text("process: [document_deduplicator: null]", encoding="utf-8")
    with pytest.raises(ConfigError, match="one machine"):
        operator_groups(recipes.load_file(exact))


def test_the_recipes_own_minhash_keeps_its_parameters_and_lines_are_not_taken_out() -> None:
    recipe = recipes.load("curated/web")
    groups = operator_groups(recipe)
    assert groups[-1].operators[0].name == "ray_bts_minhash_deduplicator"
    assert groups[-1].operators[0].arguments == recipe.operators[-2].arguments
    assert groups[-1].positions == (len(recipe.operators) - 1,)
    assert [(one["operator"], one["replaced_by"]) for one in replacements(recipe)] == [
        ("document_minhash_deduplicator", "ray_bts_minhash_deduplicator"),
        ("repeated_lines_deduplicator", ""),
    ]


def test_texts_shorter_than_a_window_are_no_copies_of_each_other() -> None:
    from data_juicer.ops.deduplicator.ray_bts_minhash_deduplicator import (
        RayBTSMinhashDeduplicatorWithUid,
    )

    from corpus.cleaning.ray.plan import MINHASH_ARGUMENTS
    from corpus.cleaning.ray.recorded_operators import RecordedMinhash

    library = RayBTSMinhashDeduplicatorWithUid(**MINHASH_ARGUMENTS)
    ours = RecordedMinhash(**MINHASH_ARGUMENTS, duplicates="")
    for text in ("山高", "水长", "一二三四"):
        assert not library.tokenization_func(text)  # the library counts all of these as one
        assert ours.tokenization_func(text) == {text.encode()}
    long = "山高水长风景好"
    assert ours.tokenization_func(long) == library.tokenization_func(long)
