"""Names: what can be one, which two are one on some disk, and paths that stay in their folder."""

import re
import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st
from mlflow.utils.validation import _validate_metric_name

from common.errors import ConfigError
from common.names import MAX_NAME_BYTES, is_name, is_relative_path, same_names
from common.recipes import recipe_path

GOOD = (
    "skypile",
    "维基百科",
    "C-Eval",
    "v1.5",
    "table3-5-chinese-20-english-mcq",
    "high school physics",
    "大学 物理_2",
    "café",
    "한국어",
    "x" * MAX_NAME_BYTES,
    "学" * (MAX_NAME_BYTES // 3),
)

BAD = (
    "",
    " ",
    ".",
    "..",
    "../corpora/skypile",
    "a/b",
    "/etc/passwd",
    "a\\b",
    "C:x",
    ".hidden",
    "-rf",
    "a ",
    " a",
    "a  b",
    "a\n",
    "a\tb",
    "a\0b",
    "\x7f",
    "a\u202eb",  # turns the direction of text
    "a\u200bb",  # takes no place
    "a\u2066b",
    "\ufeffa",
    "a\u3000b",
    "\ud800",
    "*",
    "a?",
    "[a]",
    "{x}",
    "a%b",
    "~",
    "a,b",
    "x.partial",
    "manifest.json",
    "law.yaml",
    "alpaca.counts",
    "a.",
    "cafe\u0301",
    unicodedata.normalize("NFD", "한국어"),
    "x" * (MAX_NAME_BYTES + 1),
    "学" * (MAX_NAME_BYTES // 3 + 1),
)


@pytest.mark.parametrize("name", GOOD)
def test_names(name: str) -> None:
    assert is_name(name)
    assert is_relative_path(name)


@pytest.mark.parametrize("name", BAD)
def test_no_names(name: str) -> None:
    assert not is_name(name)
    with pytest.raises(ConfigError, match="must be a name: letters"):
        recipe_path("corpora", name)


@given(st.one_of(st.text(max_size=12), st.from_regex(r"[\w.\- ]{1,12}", fullmatch=True)))
def test_a_name_is_one_part_of_a_path_and_mlflow_takes_it(name: str) -> None:
    if is_name(name):
        assert re.fullmatch(r"[^/\\\x00-\x1f.\- ][^/\\\x00-\x1f]*", name)
        assert name.encode().decode() == unicodedata.normalize("NFC", name)
        _validate_metric_name(f"taken.{name}")


@pytest.mark.parametrize(
    ("names", "pairs"),
    [
        (["web", "books"], []),
        (["web", "Web"], [("web", "Web")]),
        (["straße", "STRASSE"], [("straße", "STRASSE")]),
        (["Ａ", "a"], [("Ａ", "a")]),
        (["法律", "法学"], []),
    ],
)
def test_names_that_a_disk_may_take_for_one(names: list[str], pairs: list[tuple[str, str]]) -> None:
    assert same_names(names) == pairs


@pytest.mark.parametrize(
    ("path", "stays"),
    [
        ("{split}/{subject}_{split}.csv", True),
        ("**/*.jsonl", True),
        ("a/../b", False),
        ("../*", False),
        ("/etc/*", False),
        ("..\\x", False),
        ("a\nb", False),
        ("a\u202eb", False),
        ("", False),
        (".", False),
    ],
)
def test_relative_paths(path: str, stays: bool) -> None:
    assert is_relative_path(path) is stays
