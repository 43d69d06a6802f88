"""Table 3's five mixtures: the paper's own, and their stand-ins on sample data and real rows."""

from collections import Counter

import pytest

from common.paths import resolve
from common.recipes import load_config, load_recipe, read_yaml, recipe_path
from corpus.chats import Pool, load_mixture
from corpus.chats.mixing import draw_mixture
from corpus.chats.recipes import ChatSetRecipe
from flows.config import PipelineConfig

STAND_INS = {
    "smoke": [
        "smoke-full-infinity",
        "smoke-chinese",
        "smoke-chinese-english",
        "smoke-chinese-20-english",
        "smoke-chinese-20-english-mcq",
    ],
    "real-sample": [
        "real-sample-full",
        "real-sample-chinese",
        "real-sample-chinese-english",
        "real-sample-chinese-20-english",
        "real-sample-chinese-20-english-mcq",
    ],
}
"""The five of Table 3 on the sample data and on real rows, in its order."""


def counted(name: str) -> dict[str, Counter[str]]:
    """Languages of what a mixture draws, by set, from a thousand rows and more of each.

    A set of several languages is in both by halves.
    """
    mixture = load_mixture(name)
    letters = {}
    for number, set_name in enumerate(mixture.sets):
        language = load_recipe(ChatSetRecipe, "sft", set_name).language
        both = {"zh": "z", "en": "e"}.get(language, "ze") * (1000 + 37 * number)
        wanted = mixture.sets[set_name].language  # others are left out before the draw
        letters[set_name] = both if wanted == "any" else wanted[0] * both.count(wanted[0])
    drawn = draw_mixture(mixture, letters, 7)
    return {n: Counter(letters[n][i] for i in rows) for n, rows in drawn.items()}


def pools_of(name: str) -> set[str]:
    """Sets of a mixture that belong to a pool."""
    return {n for n, share in load_mixture(name).sets.items() if share.pool}


@pytest.mark.parametrize("world", STAND_INS)
def test_the_stand_ins_of_table_3_differ_as_its_experiments_do(world: str) -> None:
    drawn = [counted(name) for name in STAND_INS[world]]
    *_, four, five = drawn
    pooled = pools_of(STAND_INS[world][3])
    chinese = [sum(row["z"] for row in found.values()) for found in drawn]
    general = [sum(found[n]["e"] for n in pooled if n in found) for found in drawn]
    other = [sum(row["e"] for n, row in found.items() if n not in pooled) for found in drawn]
    assert other[1] == general[1] == 0 < other[0], "2 is 1 without its English conversations"
    assert chinese[0] == chinese[1] > 0
    assert general[2] > 2 * general[3], "3 is 4 with all of its English"
    assert general[3:] == [int(n / 4 + 0.5) for n in chinese[3:]], "English to Chinese 1:4"
    assert other[4] > other[3], "the questions of 5 come on top"
    new = set(five) - set(four)
    assert new and {n.partition("_")[0] for n in new} <= {"openbookqa", "arc", "logiqa"}


def test_titles_of_stand_ins_promise_no_share_that_the_questions_change() -> None:
    for five in STAND_INS.values():
        last = load_mixture(five[-1]).title
        assert "4:1" in last and "MCQ" in last and "%" not in last
        assert len({load_mixture(name).title for name in five}) == 5


@pytest.mark.parametrize("world", STAND_INS)
def test_stand_ins_are_the_mixtures_that_a_deployment_compares(world: str) -> None:
    name = {"smoke": "smoke-mixtures"}.get(world, world)
    config = load_config(resolve(f"deployments/{name}.yaml"), PipelineConfig)
    assert config.mixtures == STAND_INS[world]


def test_the_papers_experiments_inherit_and_differ_as_table_3_says() -> None:
    names = [entry["mixture"] for entry in read_yaml(recipe_path("paper", "table3"))["experiments"]]
    one, two, three, four, five = (load_mixture(name) for name in names)
    assert one.sets["infinity_instruct"].language == "any"
    assert two.sets["infinity_instruct"].language == "zh"
    assert set(one.sets) == set(two.sets) == {"infinity_instruct", "wanjuan_mcq"}
    english = {"code_feedback", "web_instruct_sub", "openhermes"}
    assert english < set(three.sets)
    assert not three.pools
    assert {name for name, share in four.sets.items() if share.pool} == english
    assert four.pools == five.pools == {"english": Pool(ratio=0.25, to="zh")}
    assert set(five.sets) - set(four.sets) == {"openbookqa", "arc", "logiqa"}
