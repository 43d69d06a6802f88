"""Declared ranges, contradictions, renamed keys: everything that is wrong, in words."""

import dataclasses
import subprocess
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

import pytest

from common.config import INCOMPLETE, Config, StageConfig, from_plain, narrowed, problems, validate
from common.errors import ConfigError, DataError, SteelError
from common.ranges import (
    Ge,
    Gt,
    Le,
    Lt,
    MinLen,
    NonNegativeInt,
    PositiveFloat,
    PositiveInt,
    expected,
    fits,
)
from common.recipes import build, parse


@dataclass(frozen=True, kw_only=True)
class Saving(Config):
    RENAMED: ClassVar[Mapping[str, str]] = {"every": "interval"}

    interval: PositiveInt = 10
    keep: NonNegativeInt = 0

    def check(self) -> Iterator[SteelError]:
        if self.keep % self.interval:
            yield ConfigError(f"keep = {self.keep} is no multiple of {self.interval}")


@dataclass(frozen=True, kw_only=True)
class Training(Config):
    RENAMED: ClassVar[Mapping[str, str]] = {"clip": "max_norm"}

    rate: PositiveFloat = 0.1
    max_norm: PositiveFloat = 1.0
    precision: Literal["auto", "bf16"] = "auto"
    betas: tuple[Annotated[float, Ge(0), Lt(1)], Annotated[float, Ge(0), Lt(1)]] = (0.9, 0.95)
    weights: dict[str, Annotated[float, Ge(0)]] = field(default_factory=dict)
    ranks: PositiveInt | Literal["auto"] = "auto"
    saving: Saving = field(default_factory=Saving)


@dataclass(frozen=True, kw_only=True)
class Stage(Training, StageConfig):
    RENAMED: ClassVar[Mapping[str, str]] = {"settings": "", "save_every": "saving.interval"}

    title: str = ""
    append: list[Saving] = field(default_factory=list)

    def check(self) -> Iterator[SteelError]:
        if self.title == "none":
            yield DataError("there is no such title")


@dataclass(frozen=True, kw_only=True)
class Whole(Config):
    names: Annotated[list[str], MinLen(1)] = field(default_factory=lambda: ["a"])
    stage: Stage = field(default_factory=Stage)
    later: Stage = field(default_factory=lambda: Stage(title="none"), metadata=INCOMPLETE)

    def check(self) -> Iterator[SteelError]:
        if len(set(self.names)) < len(self.names):
            yield ConfigError("names has one twice")


NAN, INFINITY = float("nan"), float("inf")


@pytest.mark.parametrize(
    ("value", "hint", "good"),
    [
        (1, PositiveInt, True),
        (0, PositiveInt, False),
        (True, int, False),
        (1.0, int, False),
        (1, float, True),
        (NAN, float, False),
        (INFINITY, PositiveFloat, False),
        (INFINITY, Any, False),
        ("x", float, False),
        (None, PositiveInt | None, True),
        (0, PositiveInt | None, False),
        ("auto", PositiveInt | Literal["auto"], True),
        ("most", PositiveInt | Literal["auto"], False),
        (1, Literal[True], False),
        ((0.1, 0.2), tuple[float, float], True),
        ((0.1,), tuple[float, float], False),
        ((0.1, 1.0), tuple[Annotated[float, Lt(1)], Annotated[float, Lt(1)]], False),
        (("a", "b", "c"), tuple[str, ...], True),
        ([1, "b"], list[int], False),
        ({"a": {"b": 2.0}}, Mapping[str, Mapping[str, Annotated[float, Le(1)]]], False),
        ([], Annotated[list[int], MinLen(1)], False),
        (0.5, Annotated[float, Gt(0), Le(0.5)], True),
        (0.0, Annotated[float, Gt(0), Le(0.5)], False),
    ],
)
def test_a_value_fits_its_type_and_range_or_not(value: object, hint: Any, good: bool) -> None:
    assert fits(value, hint) is good


@pytest.mark.parametrize(
    ("hint", "words"),
    [
        (PositiveInt, "a whole number of at least 1"),
        (PositiveFloat, "a number above 0"),
        (Annotated[float, Ge(0), Le(0.5)], "a number in [0, 0.5]"),
        (Annotated[float, Gt(0), Lt(1)], "a number in (0, 1)"),
        (Annotated[float, Lt(1)], "a number below 1"),
        (PositiveInt | Literal["auto"], "a whole number of at least 1 or auto"),
        (Literal["auto", "fp32", "bf16"], "auto, fp32 or bf16"),
        (Literal["auto", True, False], "auto, true or false"),
        (str | None, "text or null"),
        (Annotated[list[str], MinLen(1)], "a list, at least 1 long"),
        (tuple[float, float], "a list of 2, each a number"),
    ],
)
def test_what_a_type_accepts_in_words(hint: Any, words: str) -> None:
    assert expected(hint) == words


def test_all_that_is_wrong_is_found_and_placed() -> None:
    wrong = Whole(
        names=["a", "a"],
        stage=Stage(rate=NAN, betas=(0.9, 1.0), weights={"zhihu": -1.0}, saving=Saving(keep=3)),
        later=Stage(title="none", ranks=0),
    )
    assert [str(error) for error in problems(wrong)] == [
        "stage.rate = nan; it must be a number above 0",
        "stage.betas = (0.9, 1.0); it must be a list of 2, each a number in [0, 1)",
        "stage.weights.zhihu = -1.0; it must be a number of at least 0",
        "stage.saving.keep = 3 is no multiple of 10",
        "later.ranks = 0; it must be a whole number of at least 1 or auto",
        "names has one twice",
    ]
    with pytest.raises(ConfigError, match=r"^6 problems\n  1\. stage.rate = nan"):
        validate(wrong)


def test_a_group_with_a_wrong_value_is_not_checked_for_contradictions() -> None:
    assert len(problems(Saving(interval=0, keep=3))) == 1
    assert len(problems(Stage(title="none", saving=Saving(interval=0)))) == 1


def test_a_single_problem_keeps_its_class() -> None:
    with pytest.raises(DataError, match=r"^stage: there is no such title$"):
        validate(Stage(title="none"), "stage")


def test_what_is_refused_hides_nothing_else() -> None:
    data = {
        "names": ["a", "a"],
        "stage": {"ratee": 3, "precision": "fb16", "ranks": 0, "saving": {"keep": 3}},
        "later": {"rate": INFINITY},
    }
    parsed = parse(Whole, data)
    assert parsed.value is not None
    found = [*parsed.problems, *problems(parsed.value, known_wrong=parsed.wrong)]
    assert [str(error) for error in found] == [
        "stage.precision = 'fb16'; it must be auto or bf16 (did you mean 'bf16'?)",
        "stage.ranks = 0; it must be a whole number of at least 1 or auto",
        "unknown key 'stage.ratee' (did you mean 'rate'?)",
        "later.rate = inf; it must be a number above 0",
        "stage.saving.keep = 3 is no multiple of 10",
        "names has one twice",
    ]


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ({"stage": {"clip": 2}}, "'stage.clip' is now 'stage.max_norm': write `max_norm: 2`"),
        (
            {"stage": {"settings": {"rate": 0.5}}},
            "'stage.settings.rate' is now 'stage.rate': write `rate: 0.5` under `stage`, or --set "
            "stage.rate=0.5",
        ),
        ({"stage": {"settings": {"clip": 2}}}, "'stage.settings.clip' is now 'stage.max_norm'"),
        (
            {"stage": {"settings": {"saving": {"keep": 20}}}},
            "'stage.settings.saving.keep' is now 'stage.saving.keep': write `keep: 20`",
        ),
        ({"stage": {"save_every": 5}}, "'stage.save_every' is now 'stage.saving.interval'"),
        ({"stage": {"saving": {"every": 5}}}, "is now 'stage.saving.interval'"),
        ({"stage": {"append": [{"every": 5}]}}, "is now 'stage.append.0.interval'"),
    ],
)
def test_a_former_key_is_refused_with_the_line_to_write(data: dict[str, Any], message: str) -> None:
    parsed = parse(Whole, data)
    assert len(parsed.problems) == 1
    assert message in str(parsed.problems[0])
    with pytest.raises(ConfigError, match="is now"):
        build(Whole, data, where="x.yaml")


def test_json_is_checked_without_pydantic(tmp_path: Path) -> None:
    assert from_plain(Training, {"betas": [0.8, 0.9], "saving": {"keep": 20}}, "job") == Training(
        betas=(0.8, 0.9), saving=Saving(keep=20)
    )
    with pytest.raises(ConfigError, match=r"^job: saving: interval = 0; it must be a whole"):
        from_plain(Training, {"saving": {"interval": 0}}, "job")
    with pytest.raises(ConfigError, match="job: rate = nan"):
        from_plain(Training, {"rate": NAN}, "job")
    with pytest.raises(ConfigError, match="job: unknown key 'rat'"):
        from_plain(Training, {"rat": 1}, "job")


def test_a_base_is_cut_out_of_a_config() -> None:
    whole = Stage(rate=0.5, title="t")
    assert narrowed(whole, Training) == Training(rate=0.5)


BARE = """
import sys
class Missing:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in ("annotated_types", "pydantic", "yaml"):
            raise ModuleNotFoundError(name)
sys.meta_path.insert(0, Missing())
from common.config import problems
from model.train.config import PretrainSettings
print(*problems(PretrainSettings(micro_batch_size=0, decay_fraction=1.5), "pretrain"), sep="|")
"""


def test_ranges_hold_on_a_machine_without_pydantic(root: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", BARE], cwd=root, capture_output=True, text=True, check=True
    )
    assert done.stdout.strip().split("|") == [
        "pretrain.micro_batch_size = 0; it must be a whole number of at least 1",
        "pretrain.decay_fraction = 1.5; it must be a number in (0, 1]",
    ]


def test_fields_of_a_bare_dataclass_are_found_in_its_base() -> None:
    assert {f.name for f in dataclasses.fields(Stage)} >= {"rate", "saving", "title"}
