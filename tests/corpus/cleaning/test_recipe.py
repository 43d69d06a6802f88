"""Cleaning recipes: the paper's tables, and errors in a recipe."""

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from common.errors import ConfigError
from corpus.cleaning import recipe as recipes

SIMHASH = {
    "tokenization": "space",
    "window_size": 6,
    "num_blocks": 6,
    "hamming_distance": 4,
    "lowercase": True,
}


TABLE_7: list[tuple[str, dict[str, Any]]] = [
    ("chinese_convert_mapper", {"mode": "t2s"}),
    ("clean_email_mapper", {}),
    ("clean_html_mapper", {}),
    ("clean_ip_mapper", {}),
    ("clean_links_mapper", {}),
    ("clean_copyright_mapper", {}),
    ("expand_macro_mapper", {}),
    ("fix_unicode_mapper", {}),
    ("punctuation_normalization_mapper", {}),
    (
        "remove_repeat_sentences_mapper",
        {"ignore_special_character": True, "min_repeat_sentence_length": 2},
    ),
    ("remove_specific_chars_mapper", {"chars_to_remove": "◆●■►▼▲▴∆▻▷❖♡□"}),
    ("whitespace_normalization_mapper", {}),
    ("alphanumeric_filter", {"tokenization": False, "min_ratio": 0.0, "max_ratio": 0.9}),
    ("average_line_length_filter", {"min_len": 10, "max_len": 150}),
    ("character_repetition_filter", {"min_ratio": 0.0, "max_ratio": 0.4}),
    ("maximum_line_length_filter", {"max_len": 1000}),
    ("perplexity_filter", {"lang": "zh", "max_ppl": 1500}),
    ("special_characters_filter", {"min_ratio": 0.0, "max_ratio": 0.25}),
    ("text_length_filter", {"min_len": 10, "max_len": 100000}),
    ("word_repetition_filter", {"min_ratio": 0.0, "max_ratio": 0.5}),
    ("document_simhash_deduplicator", SIMHASH),
]


TABLE_8: list[tuple[str, dict[str, Any]]] = [
    ("clean_copyright_mapper", {}),
    ("clean_email_mapper", {}),
    ("clean_links_mapper", {}),
    ("fix_unicode_mapper", {}),
    ("punctuation_normalization_mapper", {}),
    ("alphanumeric_filter", {"tokenization": True, "min_ratio": 0.546, "max_ratio": 3.65}),
    ("average_line_length_filter", {"min_len": 10, "max_len": 150}),
    ("character_repetition_filter", {"max_ratio": 0.36}),
    ("maximum_line_length_filter", {"max_len": 1000}),
    ("text_length_filter", {"max_len": 96714}),
    ("words_num_filter", {"min_num": 20, "max_num": 6640}),
    ("word_repetition_filter", {"rep_len": 10, "max_ratio": 0.357}),
    ("document_simhash_deduplicator", SIMHASH),
]


@pytest.mark.parametrize(("name", "table"), [("paper/text", TABLE_7), ("paper/code", TABLE_8)])
def test_recipe_is_the_papers(name: str, table: list[tuple[str, dict[str, Any]]]) -> None:
    operators = recipes.load(name).operators
    assert [op.name for op in operators] == [operator for operator, _ in table]
    for operator, (_, bounds) in zip(operators, table, strict=True):
        assert bounds.items() <= operator.arguments.items(), operator


@pytest.mark.parametrize(
    ("yaml", "words"),
    [
        ("process: [clean_emial_mapper]", "clean_email_mapper"),
        ("process: [text_length_filter: {min_length: 3}]", "min_len"),
        ("process: [random_selector]", "mappers, filters and deduplicators"),
        ("process: [text_length_filter: 3]", "must be a mapping"),
        ("process: []", "must be a list of operators"),
        ("process: {text_length_filter: {}}", "must be a list of operators"),
        ("process: [", "not valid YAML"),
        ("process: [perplexity_filter: {lang: zh}, perplexity_filter: {lang: en}]", "en, zh"),
    ],
)
def test_wrong_recipe_is_refused_with_the_remedy(yaml: str, words: str, tmp_path: Path) -> None:
    (tmp_path / "wrong.yaml").write_text(yaml)
    with pytest.raises(ConfigError, match=r"wrong\.yaml") as caught:
        recipes.load_file(tmp_path / "wrong.yaml")
    assert words in str(caught.value)


def test_data_juicer_cannot_install_anything() -> None:
    script = (
        "from corpus.cleaning.offline import refuse_installs\n"
        "refuse_installs()\n"
        "from data_juicer.utils.lazy_loader import LazyLoader\n"
        "LazyLoader('no_such_module_of_steel').anything\n"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert "nothing is installed at run time" in done.stderr
