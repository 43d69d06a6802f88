"""Names in a configuration: each becomes part of a path, so each is a name (common/names.py)."""

import json
import typing
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from common.config import dataclass_in, field_types
from common.names import Name
from common.ranges import members, unwrapped
from flows.cli import main
from flows.commands import BAD_INPUT
from flows.config import PipelineConfig

SMOKE = "deployments/smoke.yaml"

OTHER_TEXTS = {
    # Locations: paths, URLs, repositories of the hub.
    "corpora.*",
    "sft_sets.*",
    "preference_sets.*",
    "benchmarks.*",
    "decontaminate.*",
    "dpo.policy_model",
    "evaluate.models.*",
    "sft.base_model",
    "clean.language_model.folder",
    "clean.language_model.hub",
    "clean.language_model.revision",
    "clean.language_model.texts",
    "clean.quality.good_label",
    "clean.quality.hub",
    "clean.quality.hub_file",
    "clean.quality.model",
    "clean.quality.negatives[]",
    "clean.quality.positives[]",
    "clean.quality.revision",
    "clean.quality.labels[]",
    "clean.tokenizer",
    "held_out.*.verdicts",
    "pack.tokenizer",
    "pretrain.append[].packed",
    "pretrain.model",
    # Keys that something of that name is looked up by.
    "clean.max_drop.{key}",
    "clean.quality.drop_shares.{key}",
    "normalize.longest.{key}",
    "clean.max_drop.*.{key}",
    "clean.max_drop_bytes.{key}",
    "clean.max_drop_bytes.*.{key}",
    "pretrain.model.{key}",
    "pretrain.weights.{key}",
    "pretrain.append[].weights.{key}",
    # Paths to a text in a row.
    "normalize.text_keys.*",
    "normalize.text_keys.*[]",
    # A set of recipes and a file of it.
    "clean.family_recipes.*",
    # Addresses and titles.
    "clean.ray.address",
    "pretrain.rendezvous",
    "report.title",
    # Written into conversations.
    "sft.identity.author",
    "sft.identity.author_zh",
    "sft.identity.name",
    "sft.identity.name_zh",
    # Replaced by each of `mixtures`.
    "sft.mixture",
}
"""Texts of a configuration that are no names. A new one must be entered here, or be a name."""

BAD_NAMES = ("", "..", "../corpora/skypile", "/etc", "-rf", "a\0b", "a\u202eb", "x.partial", "a ")


def texts(hint: Any, place: str = "") -> Iterator[tuple[str, Any]]:
    """(place, type) of every text in a type: `[]` for a list's entries, `{key}` for keys."""
    for member in members(hint):
        kind, _ = unwrapped(member)
        group, origin, arguments = (
            dataclass_in(member),
            typing.get_origin(kind),
            typing.get_args(kind),
        )
        if kind is str:
            yield place, member
        elif group is not None and isinstance(kind, type):
            for name, inner in field_types(group).items():
                yield from texts(inner, f"{place}.{name}".strip("."))
        elif isinstance(origin, type) and issubclass(origin, Mapping):
            yield from texts(arguments[0], f"{place}.{{key}}")
            yield from texts(arguments[1], f"{place}.*")
        elif isinstance(origin, type) and issubclass(origin, Sequence):
            yield from texts(arguments[0], f"{place}[]")


PLACES = dict(texts(PipelineConfig))


def test_every_text_of_a_configuration_is_a_name_or_known_to_be_none() -> None:
    assert {place for place, hint in PLACES.items() if hint != Name} == OTHER_TEXTS
    assert len(PLACES) > 30


def override(place: str, bad: str) -> str:
    """`--set` argument that writes a bad name to a place."""
    if place.endswith(".{key}"):
        return f"{place.removesuffix('.{key}')}={json.dumps({bad: 'sample-data'})}"
    value = [bad] if place.endswith("[]") else bad
    return f"{place.removesuffix('[]')}={json.dumps(value)}"


def checked(capsys: pytest.CaptureFixture[str], store: Path, *overrides: str) -> str:
    """The message of `steel check`, which must refuse."""
    command = ["check", SMOKE, "--store", str(store)]
    command += [word for text in overrides for word in ("--set", text)]
    assert main(command) == BAD_INPUT
    message = capsys.readouterr().err
    assert message.startswith("error: ")
    assert message.count("error: ") == 1
    assert "Traceback" not in message
    assert not store.exists()
    return message


@pytest.mark.parametrize("bad", BAD_NAMES)
def test_bad_names_are_refused_at_every_place(
    bad: str, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    places = [place for place, hint in PLACES.items() if hint == Name]
    message = checked(capsys, tmp_path / "store", *(override(place, bad) for place in places))
    for place in places:
        shown = place.removesuffix(".{key}").replace("[]", ".0")
        lines = [line for line in message.splitlines() if shown in line]
        assert any("must be a name: letters" in line and repr(bad) in line for line in lines), place


def test_names_that_differ_only_in_case_are_refused(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    message = checked(
        capsys,
        tmp_path / "store",
        "corpora.SkyPile=sample-data",
        "mixtures=[smoke-chinese, Smoke-Chinese]",
    )
    assert message.count("names that differ in more than upper and lower case") == 2


def test_a_name_in_chinese_is_looked_for_as_a_recipe(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    message = checked(capsys, tmp_path / "store", "corpora.维基百科=sample-data")
    assert "维基百科.yaml does not exist" in message
