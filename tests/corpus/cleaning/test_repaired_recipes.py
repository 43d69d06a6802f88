"""The repaired recipes: the differences from the paper's, and operators of our own in a recipe."""

from pathlib import Path
from typing import Any

import pytest
from datasets.utils.json import ujson_dumps, ujson_loads

from common.errors import ConfigError
from common.paths import RECIPES
from corpus.cleaning import recipe as recipes
from tests.corpus.cleaning.dj_process import dj_process

# The paper's operator -> what stands in its place, in one recipe.
TEXT_OPERATORS = {
    "clean_html_mapper": ["html_to_text_mapper"],
    "clean_copyright_mapper": [],
    "fix_unicode_mapper": ["mend_unicode_mapper"],
    "punctuation_normalization_mapper": [],
}


TEXT_BOUNDS = {
    "remove_repeat_sentences_mapper.min_repeat_sentence_length": 30,
    "remove_specific_chars_mapper.chars_to_remove": "◆●■►▼▲▴▻▷❖♡",
    "alphanumeric_filter.min_ratio": 0.25,
    "alphanumeric_filter.max_ratio": 1.0,
    "average_line_length_filter.min_len": 5,
    "average_line_length_filter.max_len": 100000,
    "maximum_line_length_filter.min_len": 5,
    "maximum_line_length_filter.max_len": 100000,
    "perplexity_filter.max_ppl": 5000,
    "special_characters_filter.max_ratio": 0.61,
    "word_repetition_filter.max_ratio": 0.71,
}


CODE_OPERATORS = {
    "clean_copyright_mapper": ["clean_licence_header_mapper"],
    "fix_unicode_mapper": ["mend_unicode_mapper"],
    "punctuation_normalization_mapper": [],
}


CODE_BOUNDS = {"alphanumeric_filter.max_ratio": 5.0}


NAMES = [f"{path.parent.name}/{path.stem}" for path in sorted((RECIPES / "clean").glob("*/*.yaml"))]


PATTERNS = {"clean_ip_mapper", "clean_links_mapper", "clean_email_mapper"}
"""Operators with a pattern of our own, tested by what they match."""


@pytest.mark.parametrize(
    ("paper", "operators", "bounds"),
    [("text", TEXT_OPERATORS, TEXT_BOUNDS), ("code", CODE_OPERATORS, CODE_BOUNDS)],
)
def test_repaired_recipe_differs_only_where_it_says(
    paper: str, operators: dict[str, list[str]], bounds: dict[str, Any]
) -> None:
    old, new = recipes.load(f"paper/{paper}").operators, recipes.load(f"repaired/{paper}").operators
    expected = [name for op in old for name in operators.get(op.name, [op.name])]
    assert [op.name for op in new] == expected
    arguments = {op.name: op.arguments for op in old}
    changed = {
        f"{op.name}.{key}": value
        for op in new
        if op.name in arguments and op.name not in PATTERNS and op.kind != "deduplicator"
        for key, value in op.arguments.items()
        if arguments[op.name].get(key) != value
    }
    assert changed == bounds


@pytest.mark.parametrize("name", NAMES)
def test_bounds_survive_the_librarys_tables(name: str) -> None:
    """dj-process keeps statistics as JSON of ten digits: 0.6 comes back as 0.6000000000000001, and
    a document exactly on that bound would be dropped there and kept here."""
    for op in recipes.load(name).operators:
        if op.kind != "filter":
            continue
        for bound in (v for v in op.arguments.values() if isinstance(v, float)):
            assert ujson_loads(ujson_dumps(bound)) == bound, f"{op.name}: {bound}"


def test_resolved_recipe_names_operators_by_absolute_path(tmp_path: Path, root: Path) -> None:
    recipe = recipes.load("repaired/text")
    recipe.write_resolved(tmp_path / "r.yaml", dataset=Path("in.jsonl"), export=Path("out.jsonl"))
    written = (tmp_path / "r.yaml").read_text(encoding="utf-8")
    for file in recipe.custom_operator_files:
        assert file.is_relative_to(root)
        assert f"- {file}\n" in written


@pytest.mark.parametrize(
    ("yaml", "words"),
    [
        ("custom_operator_paths: x.py", "must be a list of Python files"),
        ("custom_operator_paths: [nowhere_mapper.py]", "nowhere_mapper.py, which is not a Python"),
        ("custom_operator_paths: [{here}/odd.py]", "must be named after its operator"),
        ("custom_operator_paths: [{here}/clean_ip_mapper.py]", "there is another operator"),
        (
            "custom_operator_paths: [{here}/my_mapper.py]\nprocess: [my_mapper: {{deph: 1}}]",
            "did you mean 'depth'?",
        ),
        (
            "custom_operator_paths: [{here}/my_mapper.py]\nprocess: [{{my_maper: }}]",
            "did you mean 'my_mapper'?",
        ),
    ],
)
def test_wrong_custom_operator_is_refused_with_the_remedy(
    yaml: str, words: str, tmp_path: Path
) -> None:
    for name in ("odd", "clean_ip_mapper", "my_mapper"):
        source = "raise RuntimeError('must not be imported')\ndef __init__(self, depth): ...\n"
        (tmp_path / f"{name}.py").write_text(source)
    text = yaml.format(here=tmp_path)
    if "process:" not in text:
        text += "\nprocess: [clean_email_mapper]"
    (tmp_path / "wrong.yaml").write_text(text)
    with pytest.raises(ConfigError, match=r"wrong\.yaml") as caught:
        recipes.load_file(tmp_path / "wrong.yaml")
    assert words in str(caught.value)


def test_packages_of_custom_operators_are_required(monkeypatch: pytest.MonkeyPatch) -> None:
    import importlib.util

    find_spec = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name: None if name == "ftfy" else find_spec(name)
    )
    with pytest.raises(ConfigError, match=r"ftfy .for mend_unicode_mapper"):
        recipes.require_packages([recipes.load("repaired/code")])


@pytest.mark.slow
@pytest.mark.parametrize("name", ["repaired/text", "curated/web"])
def test_plain_dj_process_runs_our_operators(tmp_path: Path, name: str) -> None:
    """Data-Juicer's own command line, on the mappers of the resolved recipe."""
    recipe = recipes.load(name)
    rows = ["他说：“好！”<br>第２个", "# 标题\n正文，《书》。", "價格<b>３．５</b>元，歡迎光臨"]
    mappers = [op for op in recipe.operators if op.kind == "mapper"]
    cleaned = dj_process(recipe, mappers, [{"text": row} for row in rows], tmp_path)
    assert cleaned == ["他说：“好！”\n第2个", "# 标题\n正文，《书》。", "价格3.5元，欢迎光临"]
