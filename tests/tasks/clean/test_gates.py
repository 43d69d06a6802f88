"""Attrition gates: exceeded, kept, refused, and not in the key."""

import json
from typing import Any

import pytest

from common.config import validate
from common.errors import ConfigError, DataError
from tasks.clean import CleanConfig, enforce
from tasks.core.manifest import StageResult
from tasks.core.stage import stage_key


@pytest.mark.parametrize(
    ("gates", "words"),
    [
        (
            {"skypile": {"document_simhash_deduplicator": 0.2}},
            ["skypile: document_simhash_deduplicator dropped 28.6 %", "allows 20.0 %"],
        ),
        ({"*": {"total": 0.3}}, ["skypile: total dropped", "clean.max_drop.*.total"]),
        ({"*": {"*": 0.1}, "wikipedia_cn": {"*": 1}}, ["clean.max_drop.*.* allows 10.0 %"]),
    ],
)
def test_gate_stops_the_flow_with_the_table_that_shows_why(
    cleaned: StageResult, gates: dict[str, dict[str, float]], words: list[str]
) -> None:
    with pytest.raises(DataError) as caught:
        enforce(cleaned, CleanConfig(recipes="repaired", max_drop=gates))
    message = str(caught.value)
    assert all(word in message for word in words), message
    assert "4 of        14  document_simhash_deduplicator" in message
    assert "data_recipes/clean/repaired/text.yaml" in message


@pytest.mark.parametrize(
    ("gates", "words"),
    [
        # A mapper that drops no document takes out bytes.
        (
            {"skypile": {"html_to_text_mapper": 0.0}},
            ["skypile: html_to_text_mapper dropped", "of its bytes; clean.max_drop_bytes.skypile."],
        ),
        ({"*": {"total": 0.2}}, ["skypile: total dropped", "clean.max_drop_bytes.*.total allows"]),
    ],
)
def test_gate_on_bytes_counts_what_mappers_take_out(
    cleaned: StageResult, gates: dict[str, dict[str, float]], words: list[str]
) -> None:
    limits: dict[str, Any] = {"max_drop": gates, "max_drop_bytes": {}}
    if "skypile" in gates:
        enforce(cleaned, CleanConfig(**limits))  # no document was dropped
    with pytest.raises(DataError) as caught:
        enforce(cleaned, CleanConfig(recipes="repaired", max_drop={}, max_drop_bytes=gates))
    message = str(caught.value)
    assert all(word in message for word in words), message
    ledger = json.loads((cleaned.folder / "ledger.json").read_text())
    total = next(t for t in ledger["sources"] if t["source"] == "skypile")
    assert f"skypile, {total['bytes_in']} bytes:" in message


def test_gates_on_bytes_name_operators_that_run() -> None:
    with pytest.raises(ConfigError, match=r"max_drop_bytes\.skypile\.minhash"):
        validate(CleanConfig(max_drop_bytes={"skypile": {"minhash": 0.5}}), "clean")


@pytest.mark.parametrize(
    "gates",
    [
        {},
        {"*": {"total": 0.95}},
        {"skypile": {"*": 1}},
        # The narrowest gate counts.
        {
            "*": {"*": 0.0, "total": 0.0},
            "skypile": {"*": 1, "total": 1},
            "wikipedia_cn": {"*": 1, "total": 1},
        },
    ],
)
def test_gates_that_hold(cleaned: StageResult, gates: dict[str, dict[str, float]]) -> None:
    enforce(cleaned, CleanConfig(max_drop=gates))


@pytest.mark.parametrize(
    ("gates", "words"),
    [
        ({"skypiel": {"total": 0.5}}, "skypile"),
        ({"skypile": {"minhash": 0.5}}, "document_minhash_deduplicator"),
        ({"*": {"total": 95}}, r"number in \[0, 1\]"),
    ],
)
def test_gate_that_could_never_close_is_refused(
    gates: dict[str, dict[str, float]], words: str
) -> None:
    with pytest.raises(ConfigError, match=words):
        validate(CleanConfig(max_drop=gates), "clean")


def test_gates_and_workers_are_not_in_the_key() -> None:
    def key(**config: Any) -> str:
        return stage_key("clean", 1, CleanConfig(**config), {})

    assert key() == key(workers=7) == key(max_drop={}) == key(max_drop_bytes={"*": {"*": 0.1}})
    assert len({key(), key(recipes="paper"), key(partition_bytes=1 << 22)}) == 3
