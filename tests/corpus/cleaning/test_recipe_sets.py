"""Sets of cleaning recipes: one for each family, and changes to inherited operators."""

from pathlib import Path
from typing import Any

import pytest

from common.errors import ConfigError
from common.paths import RECIPES
from corpus.cleaning import recipe as recipes
from corpus.cleaning.recipe_sets import recipe_file, recipe_of
from corpus.recipes import FAMILIES, corpus

BASE = """
process:
  - clean_email_mapper:
  - text_length_filter: {min_len: 10, max_len: 100}
  - average_line_length_filter: {min_len: 5}
  - document_deduplicator:
"""


def load(tmp_path: Path, changes: str) -> list[tuple[str, dict[str, Any]]]:
    (tmp_path / "base.yaml").write_text(BASE)
    (tmp_path / "mine.yaml").write_text(f"base: base.yaml\nchanges: {changes}\n")
    loaded = recipes.load_file(tmp_path / "mine.yaml")
    assert "changes" not in loaded.data  # what dj-process reads has none
    assert [next(iter(entry)) for entry in loaded.data["process"]] == [
        op.name for op in loaded.operators
    ]
    return [(op.name, op.arguments) for op in loaded.operators]


def test_every_family_has_a_recipe_in_every_set() -> None:
    assert {corpus(path.stem).family for path in (RECIPES / "corpora").glob("*.yaml")} == set(
        FAMILIES
    )
    for name in ("paper", "repaired", "curated"):
        for family in FAMILIES:
            assert recipes.load(recipe_of(name, family)).operators
    assert recipe_of("paper", "web") == "paper/text"
    assert recipe_of("curated", "web") == "curated/web"
    assert recipe_of("paper", "code") == "paper/code"


def test_code_never_gets_the_recipe_for_text(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("corpus.cleaning.recipe_sets.RECIPES", tmp_path)
    (tmp_path / "clean" / "mine").mkdir(parents=True)
    (tmp_path / "clean" / "mine" / "text.yaml").write_text(BASE)
    assert recipe_of("mine", "book") == "mine/text"
    with pytest.raises(ConfigError, match=r"no code\.yaml.*clean\.family_recipes\.code"):
        recipe_of("mine", "code")
    with pytest.raises(ConfigError, match="There are: mine"):
        recipe_of("yours", "web")


@pytest.mark.parametrize("name", ["text", "../x/text", "a/b/c", "/etc/passwd", "a/", ".hidden/x"])
def test_what_is_no_recipe_name_is_no_file(name: str) -> None:
    with pytest.raises(ConfigError, match="no cleaning recipe"):
        recipe_file(name)


def test_changes_state_the_difference(tmp_path: Path) -> None:
    found = load(
        tmp_path,
        """
  average_line_length_filter: false
  text_length_filter: {min_len: 3}
  clean_ip_mapper: {after: clean_email_mapper}
  clean_links_mapper: {after: clean_email_mapper, repl: x}
  html_to_text_mapper: {before: clean_email_mapper}
  clean_email_mapper: {}
""",
    )
    assert found == [
        ("html_to_text_mapper", {}),
        ("clean_email_mapper", {}),
        ("clean_ip_mapper", {}),
        ("clean_links_mapper", {"repl": "x"}),
        ("text_length_filter", {"min_len": 3, "max_len": 100}),
        ("document_deduplicator", {}),
    ]


def test_an_inherited_operator_moves_with_its_parameters(tmp_path: Path) -> None:
    found = load(tmp_path, "{text_length_filter: {before: clean_email_mapper}}")
    assert found[0] == ("text_length_filter", {"min_len": 10, "max_len": 100})
    assert [name for name, _ in found].count("text_length_filter") == 1


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ("[clean_ip_mapper]", "must map operators"),
        ("{clean_ip_mapper: {}}", "say `before` or `after`"),
        ("{clean_ip_mapper: {after: text_length_filter, before: clean_email_mapper}}", "one of"),
        ("{clean_ip_mapper: {after: clean_html_mapper}}", "no 'clean_html_mapper'"),
        ("{text_lenght_filter: false}", "did you mean 'text_length_filter'"),
        ("{text_length_filter: true}", "`false` or a mapping"),
        ("{text_length_filter: {minlen: 3}}", "did you mean 'min_len'"),
        ("{clean_ip_mapper: {after: document_deduplicator}}", "deduplicators must come last"),
    ],
)
def test_changes_that_cannot_be_made(changes: str, words: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"mine\.yaml") as caught:
        load(tmp_path, changes)
    assert words in str(caught.value)


def test_our_operators_need_no_path_and_the_resolved_copy_has_it(tmp_path: Path) -> None:
    (tmp_path / "mine.yaml").write_text("process: [html_to_text_mapper: ]")
    loaded = recipes.load_file(tmp_path / "mine.yaml")
    assert loaded.custom_operator_files == (recipes.OWN_OPERATORS / "html_to_text_mapper.py",)
    loaded.write_resolved(tmp_path / "r.yaml", dataset=Path("in"), export=Path("out"))
    assert str(loaded.custom_operator_files[0]) in (tmp_path / "r.yaml").read_text()
