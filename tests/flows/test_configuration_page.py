"""docs/configuration.md says of each key what the code says."""

import re

import pytest

from common.config import field_types
from common.paths import ROOT
from common.recipes import read_yaml
from flows.configuration_page import PAGE, anchor, field_docs, groups, page

ROWS = dict[tuple[str, str], list[str]]


@pytest.fixture(scope="module")
def rows() -> ROWS:
    """(group, key) -> the cells of its row, read from the page as a reader would."""
    found, group = ROWS(), ""
    for line in PAGE.read_text(encoding="utf-8").splitlines():
        if line.startswith("## "):
            group = line.removeprefix("## ").strip("`").replace("The file", "")
        elif line.startswith("| `"):
            cells = [cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]]
            found[group, cells[0].split("`")[1]] = cells
    return found


def test_the_page_is_what_the_code_says() -> None:
    assert PAGE.read_text(encoding="utf-8") == page(), "write it anew with `make docs`"


def test_every_key_is_there_and_explained(rows: ROWS) -> None:
    keys = {(group.place, name) for group in groups() for name in field_types(group.kind)}
    assert keys == rows.keys()
    assert not [key for key, cells in rows.items() if len(cells) != 5 or len(cells[4]) < 15]
    assert not [g.place for g in groups() if field_types(g.kind).keys() - field_docs(g.kind).keys()]


@pytest.mark.parametrize(
    ("key", "accepts", "default", "papers"),
    [
        (
            "pretrain.steps",
            "a whole number of at least 0, at most 10,000,000,000",
            "0",
            "1_070_000",
        ),
        ("pretrain.learning_rate", "a number above 0, at most 100", "3e-4", "3e-4"),
        (
            "pretrain.model.routing",
            "token, sequence, reference_norm, uniform or dense",
            "token",
            "token",
        ),
        ("pretrain.checkpoints.interval", "steps", "1000", "250"),
        ("sft.identity.name", "text", "", ""),
        ("dpo.beta", "a number above 0", "0.1", "0.1"),
    ],
)
def test_rows_that_were_read_by_hand(
    key: str, accepts: str, default: str, papers: str, rows: ROWS
) -> None:
    group, _, name = key.rpartition(".")
    row = rows[group, name]
    assert accepts in row[1]
    assert default in row[2]
    assert row[3].strip("`") == papers


def test_the_papers_values_are_those_of_its_configuration(rows: ROWS) -> None:
    stated = read_yaml(ROOT / "deployments" / "steel-1b.yaml")
    shown = {name for (group, name), cells in rows.items() if group == "pretrain" and cells[3]}
    groups_inside = {"model", "checkpoints", "health", "parallel", "profile"}
    assert shown == stated["pretrain"].keys() - groups_inside


def test_anchors_are_unique() -> None:
    anchors = [anchor(group.place) for group in groups()]
    assert len(anchors) == len(set(anchors))
