"""YAML into typed config: inheritance, overrides, and errors that say where and what."""

from dataclasses import dataclass, field
from pathlib import Path

import pytest

from common.errors import ConfigError
from common.recipes import DEFAULT_MODEL_TYPE, apply_overrides, build, load_config, merge, read_yaml
from model.architecture import SteelArchitecture


@dataclass(frozen=True, kw_only=True)
class Inner:
    steps: int = 3
    rate: float = 0.5


@dataclass(frozen=True, kw_only=True)
class Outer:
    name: str
    inner: Inner = field(default_factory=Inner)
    maybe: Inner | None = None
    many: dict[str, Inner] = field(default_factory=dict)


def test_base_is_inherited_key_by_key(tmp_path: Path) -> None:
    (tmp_path / "base.yaml").write_text("name: base\ninner: {steps: 5, rate: 0.25}\n")
    (tmp_path / "own.yaml").write_text("base: base.yaml\nname: own\ninner: {steps: 7}\n")
    config = load_config(tmp_path / "own.yaml", Outer)
    assert config == Outer(name="own", inner=Inner(steps=7, rate=0.25))


def test_overrides_win_and_keep_their_types(tmp_path: Path) -> None:
    path = tmp_path / "a.yaml"
    path.write_text("name: a\n")
    config = load_config(path, Outer, ["inner.steps=9", "many.x.rate=1e-3", 'name="b=c"'])
    assert config == Outer(name="b=c", inner=Inner(steps=9), many={"x": Inner(rate=1e-3)})


@pytest.mark.parametrize(
    ("data", "parts"),
    [
        ({"name": "a", "inner": {"stepz": 1}}, ["'inner.stepz'", "did you mean 'steps'"]),
        ({"name": "a", "maybe": {"stepz": 1}}, ["'maybe.stepz'", "did you mean 'steps'"]),
        ({"name": "a", "many": {"x": {"zz": 1}}}, ["many.x.zz"]),
        ({}, ["'name' is required"]),
        ({"name": "a", "inner": {"steps": "many"}}, ["inner.steps = 'many'", "a whole number"]),
        ({"name": "a", "what": 1, "inner": {"rate": []}}, ["'what'", "inner.rate"]),
    ],
)
def test_every_wrong_key_is_named_with_its_place(data: dict[str, object], parts: list[str]) -> None:
    with pytest.raises(ConfigError) as error:
        build(Outer, data, where="x.yaml")
    assert str(error.value).startswith("x.yaml: ")
    assert all(part in str(error.value) for part in parts)


@pytest.mark.parametrize(
    ("text", "part"),
    [
        ("a: [1", "not valid YAML"),
        ("- 1\n", "must hold a mapping"),
        ("a: 1\na: 2\n", "given twice"),
        ("base: x.yaml\n", "goes in a circle"),
        ("a: !!python/object/apply:os.system [true]\n", "not valid YAML"),
    ],
)
def test_unreadable_files_are_refused_by_name(tmp_path: Path, text: str, part: str) -> None:
    (tmp_path / "x.yaml").write_text(text)
    with pytest.raises(ConfigError, match=part):
        read_yaml(tmp_path / "x.yaml")


def test_missing_file_names_its_neighbours(tmp_path: Path) -> None:
    (tmp_path / "smoke.yaml").write_text("a: 1")
    with pytest.raises(ConfigError, match="There are: smoke"):
        read_yaml(tmp_path / "smok.yaml")


@pytest.mark.parametrize("override", ["steps", "=3", "a..b=1", "a=[1"])
def test_malformed_override_is_refused(override: str) -> None:
    with pytest.raises(ConfigError, match="--set"):
        apply_overrides({}, [override])


def test_null_takes_an_inherited_mapping_or_list_away() -> None:
    base = {"sets": {"a": 1}, "names": ["x"], "steps": 5, "nested": {"inner": {"b": 2}, "c": 3}}
    difference = {"sets": None, "names": None, "steps": None, "nested": {"inner": None}}
    # A number has no default to fall back on that a reader could guess: null stays and is judged.
    assert merge(base, difference) == {"steps": None, "nested": {"c": 3}}
    assert apply_overrides(base, ["sets=null"]).keys() == {"names", "steps", "nested"}


def test_merge_leaves_its_arguments_alone() -> None:
    base = {"a": {"b": 1, "c": 2}}
    assert merge(base, {"a": {"b": 3}}) == {"a": {"b": 3, "c": 2}}
    assert base == {"a": {"b": 1, "c": 2}}


def test_a_model_of_another_architecture_replaces_the_inherited_one() -> None:
    ours = {"model": {"hidden_size": 8, "num_experts": 4}, "steps": 3}
    llama = {"model": {"model_type": "llama", "hidden_size": 16}}
    assert merge(ours, llama) == {**llama, "steps": 3}
    assert merge(merge(ours, llama), ours) == {
        "model": {"model_type": "llama", "hidden_size": 8, "num_experts": 4},
        "steps": 3,
    }
    for same in ("steel", "llama"):
        model = {"model_type": same, "head_dim": 4}
        base = ours if same == "steel" else llama
        assert merge(base, {"model": model}) == {**base, "model": {**base["model"], **model}}
    assert merge(llama, {"model": {"model_type": "steel"}}) == {"model": {"model_type": "steel"}}
    nested = {"model": {"text_config": {"a": 1}}}
    other = {"model": {"text_config": {"model_type": "x"}}}
    assert merge(nested, other) == {"model": {"text_config": {"a": 1, "model_type": "x"}}}


def test_overrides_of_another_architecture_are_kept_in_any_order() -> None:
    data = {"pretrain": {"model": {"hidden_size": 8, "num_experts": 4}}}
    overrides = ["pretrain.model.head_dim=4", "pretrain.model={model_type: llama, hidden_size: 16}"]
    expected = {"pretrain": {"model": {"model_type": "llama", "hidden_size": 16, "head_dim": 4}}}
    for given in (overrides, overrides[::-1]):
        assert apply_overrides(data, given) == expected


def test_the_architecture_of_a_model_that_names_none() -> None:
    assert SteelArchitecture.model_type == DEFAULT_MODEL_TYPE
