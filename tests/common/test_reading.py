"""Files and YAML that people write: bounded, of the right kind, and never read as a surprise."""

import os
import socket
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from common.config import from_plain, refusal
from common.errors import ConfigError, DataError, shown
from common.paths import checked
from common.ranges import PositiveInt, Steps, fits
from common.reading.files import parse_json, read_json, read_json_object, read_text
from common.reading.yaml_text import MAX_DEPTH, MAX_NODES, parse_yaml
from common.recipes import parse, read_yaml
from flows.config import PipelineConfig
from model.train.finetune.config import FinetuneSettings
from model.train.model_sizes import check_sizes

LAUGHS = "a0: &a0 [x,x,x,x,x,x,x,x,x]\n" + "".join(
    f"a{n}: &a{n} [{','.join([f'*a{n - 1}'] * 9)}]\n" for n in range(1, 10)
)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (LAUGHS, f"more than {MAX_NODES:,} keys and values"),
        ("a: [&x [*x]]", "within or before its anchor"),
        ("a: " + "[" * (MAX_DEPTH + 1), f"nested more than {MAX_DEPTH} deep"),
        ("[" * 100_000, "deep"),
        ("[" + "1," * MAX_NODES + "]", "keys and values"),
        ("? [a]\n: b", "must be text, not a list"),
        ("1: b", "key 1 is no text"),
        ("a: 1\na: 2", "given twice"),
        ("a: yes", "'yes' is true or false in YAML 1.1"),
        ("a: Off", "true or false"),
        ("a: 0o17", "a number in one version of YAML"),
        ("a: 017", "an octal number"),
        ("a: 12:30", "to the base 60"),
        ("a: 2024-01-01", "a date"),
        ("<<: {a: 1}", "base:"),
        ("a: !!binary aGk=", "the tag !!binary is not read"),
        ("a: !!python/object/apply:os.system [x]", "the tag !!python/object/apply:os.system"),
        ("--- 1\n--- 2\n", "more than one document"),
        ("a: " + "9" * 301, "301 digits"),
        ("? " + "k" * 1025 + "\n: 1", "a key has 1,025 characters"),
        ("\ta: 1", "cannot start any token"),
        ("a: \0", "control characters"),
        ("a: '\ud800'", "half of a character"),
    ],
)
def test_what_yaml_hides_is_refused_by_name(text: str, message: str) -> None:
    with pytest.raises(yaml.YAMLError) as error:
        parse_yaml(text)
    assert message in str(error.value)
    assert len(str(error.value)) < 1000


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("1_000", 1000),
        ("1e-3", 0.001),
        ("1.5", 1.5),
        ("-.inf", float("-inf")),
        ("no one", "no one"),
        ("y", "y"),
        ("'no'", "no"),
        ("'017'", "017"),
        ("v1:30x", "v1:30x"),
        ("[&x {a: 1}, *x]", [{"a": 1}, {"a": 1}]),
        ("", None),
        ("TRUE", True),
    ],
)
def test_plain_yaml_is_what_it_looks_like(text: str, value: Any) -> None:
    found = parse_yaml(text)
    assert found == value and type(found) is type(value)


def test_aliases_count_as_what_they_stand_for() -> None:
    lines = ["a: &a [" + ", ".join("x" * 99) + "]", *(f"b{n}: *a" for n in range(500))]
    assert len(parse_yaml("\n".join(lines))["b499"]) == 99
    with pytest.raises(yaml.YAMLError, match="keys and values"):
        parse_yaml("\n".join([*lines, *(f"c{n}: *a" for n in range(600))]))


@pytest.mark.parametrize("encoding", ["utf-16", "latin-1"])
def test_other_encodings_are_named(encoding: str, tmp_path: Path) -> None:
    (tmp_path / "x.yaml").write_bytes("a: é\n".encode(encoding))
    with pytest.raises(ConfigError, match="UTF-8"):
        read_yaml(tmp_path / "x.yaml")


def test_a_byte_order_mark_and_windows_line_ends_are_read(tmp_path: Path) -> None:
    (tmp_path / "x.yaml").write_bytes(b"\xef\xbb\xbfa: 1\r\nb:\r\n  c: d\r\n")
    assert read_yaml(tmp_path / "x.yaml") == {"a": 1, "b": {"c": "d"}}


def test_only_regular_files_of_a_sane_size_are_opened(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    (tmp_path / "file").write_text("x" * 2000)
    endpoint = socket.socket(socket.AF_UNIX)
    monkeypatch.chdir(tmp_path)
    endpoint.bind("socket")
    with endpoint:
        for name, message in {
            "pipe": "a pipe, a socket or a device",
            "socket": "a pipe, a socket or a device",
            "/dev/zero": "a pipe, a socket or a device",
            ".": "is a folder and no file",
            "loop": "a link that leads back to itself",
            "file/x": "a part of its path is a file",
            "n" * 300: "a name that is too long",
            "absent": "does not exist",
            "file": "has 2,000 bytes; a file of its kind has at most 1,000",
            "a\0b": "cannot be a file",
        }.items():
            with pytest.raises(DataError) as error:
                read_text(tmp_path / name, limit=1000)
            assert message in str(error.value), name


@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("", "is empty"),
        ("a\0b", "holds a NUL"),
        ("n" * 300, "too long"),
        ("/".join(["n" * 200] * 30), "too long"),
        ("~nobody-of-this-name/x", "write the folder itself"),
    ],
)
def test_what_can_be_no_path_is_refused(path: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        checked(path)


@pytest.mark.parametrize("text", ["", "{", "[" * 200_000, '{"a": 1, "a": 2}', "nul", "1" * 5000])
def test_damaged_json_is_named(text: str, tmp_path: Path) -> None:
    (tmp_path / "x.json").write_text(text)
    with pytest.raises(DataError, match=r"x\.json is damaged"):
        read_json(tmp_path / "x.json")


def test_json_that_is_no_object_is_named(tmp_path: Path) -> None:
    (tmp_path / "x.json").write_text("[1]")
    with pytest.raises(DataError, match="must hold a JSON object, not list"):
        read_json_object(tmp_path / "x.json")


@given(st.binary(max_size=60))
def test_any_bytes_are_a_json_value_or_a_data_error(content: bytes) -> None:
    try:
        parse_json(content, "x.json")
    except DataError as error:
        assert str(error).startswith("x.json is damaged")


@given(st.recursive(st.text() | st.integers() | st.binary(), st.lists, max_leaves=300))
def test_values_in_messages_are_short_and_printable(value: Any) -> None:
    for text in (shown(value), shown("x" * 100_000 + str(value)), shown([value] * 1000)):
        assert len(text) <= 700
        assert text.isprintable()


def test_a_password_in_a_long_value_is_hidden() -> None:
    assert "geheim-0815" not in shown("https://me:geheim-0815@host/" + "x" * 10_000)
    assert "geheim-0815" not in shown("x" * 140 + "https://me:geheim-0815@host/" + "x" * 10_000)


def test_a_bound_beyond_sense_is_named_where_it_is_exceeded() -> None:
    assert fits(10**8, Steps) and not fits(10**30, Steps) and not fits(10**400, float)
    assert "at most" not in refusal("steps", -1, Steps)
    assert refusal("steps", 10**11, Steps).endswith("and at most 10,000,000,000")
    assert fits(10**13, PositiveInt) and not fits(10**16, PositiveInt)


@pytest.mark.parametrize(
    ("key", "value", "wanted"),
    [
        ("steps", "3", None),
        ("steps", True, None),
        ("steps", 3.5, None),
        ("steps", 1e4, 10_000),
        ("learning_rate", "1e-3", None),
        ("learning_rate", True, None),
        ("learning_rate", 1, 1),
        ("compile", 1, None),
        ("compile", "true", None),
        ("schedule", 1, None),
        ("epochs", float("nan"), None),
    ],
)
def test_values_are_never_turned_into_another_kind(key: str, value: Any, wanted: Any) -> None:
    data = read_yaml(Path("deployments/smoke.yaml").resolve())
    data["pretrain"][key] = value
    parsed = parse(PipelineConfig, data)
    if wanted is None:
        assert [str(p).partition(" ")[0] for p in parsed.problems] == [f"pretrain.{key}"]
    else:
        assert not parsed.problems and parsed.value is not None
        found = getattr(parsed.value.pretrain, key)
        assert found == wanted and not isinstance(found, bool)


@pytest.mark.parametrize(
    "model",
    [
        {"num_hidden_layers": 10**9},
        {"text_config": {"n_layer": 10**6}},
        {"hidden_size": 10**9},
        {"num_experts": 10**9},
        {"hidden_size": 10**6, "num_hidden_layers": 1000},
        {"vocab_size": 10**9, "n_embd": 10**6},
        {"layer_types": ["x"] * 200_000},
    ],
)
def test_a_model_that_no_machine_holds_is_refused_unbuilt(model: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match="model"):
        check_sizes(model)


def test_models_that_exist_pass() -> None:
    check_sizes({"hidden_size": 16_384, "num_hidden_layers": 126, "intermediate_size": 53_248})
    check_sizes({"hidden_size": 7168, "num_hidden_layers": 61, "n_routed_experts": 256})
    check_sizes({"hidden_size": 18_432, "num_hidden_layers": 160, "num_experts": 2048})


def test_a_damaged_job_names_the_file_and_field() -> None:
    with pytest.raises(ConfigError, match=r"job: max_length = 10{30}; .* at most 100,000,000"):
        from_plain(FinetuneSettings, {"max_length": 10**30}, "job")
