"""Test splits are told from other names, wherever they are written, and refused."""

import json
import zipfile
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from common.errors import ConfigError
from common.paths import ROOT
from corpus.benchmarks.evaluation_splits import refuse_test_split, split_named_at, split_named_in
from corpus.chats import load_set
from corpus.chats.rows import matching_files
from corpus.sources.datasets import acquire_dataset, check_location
from corpus.sources.transfer import Destination

TEST_SPLITS = [
    "test.json",
    "test.json.gz",
    "test.jsonl.zst",
    "test/part-0.jsonl",
    "data/test/anatomy.csv",
    "test-00000-of-00001.parquet",
    "gsm8k_test.jsonl",
    "ARC-Challenge-Test.csv",
    "ARC-Challenge/ARC-Challenge-Test.jsonl",
    "testset.jsonl",
    "tests.jsonl",
    "TestData.jsonl",
    "TESTSET.JSONL",
    "MMLUTest.csv",
    "test_data/a.jsonl",
    "my.test.split.parquet",
    "zh_test.txt",
    "Test.txt",
    "heldout.jsonl",
    "held-out/a.jsonl",
    "hold_out.jsonl",
    "holdout.parquet",
    "测试集.jsonl",
    "数据_测试.json",
    "archive.zip/test/a.jsonl",
    "test2019.jsonl",
    "windows\\test\\a.jsonl",
    "test*.jsonl",
    "gsm8ktest.jsonl",
    "MMLUtest.csv",
    "devtest.jsonl",
    "testmini.parquet",
    "ｔｅｓｔ.jsonl",
    "測試集.jsonl",
    "考试测试题.jsonl",
    "评测集/a.jsonl",
    "ceval/val/law_val.csv",
    "C-Eval_val.csv",
    "cmmlu/dev/law.csv",
    "mmlu_dev.jsonl",
]
OTHER_NAMES = [
    "train.jsonl",
    "latest.jsonl",
    "latest/part-0.jsonl",
    "contest.jsonl",
    "contests/2020.jsonl",
    "attestation.json",
    "testimonials.jsonl",
    "testament.txt",
    "protest.jsonl",
    "fastest_sorts.json",
    "Greatest.jsonl",
    "unit_tests.jsonl",
    "code_with_tests.jsonl",
    "test_cases.jsonl",
    "软件测试方法.jsonl",
    "心理测试.jsonl",
    "产品评测数据.jsonl",
    "penetration_testing.jsonl",
    "medical_test_results.jsonl",
    "test-taking-tips.jsonl",
    "C-Eval_train.jsonl",
    "HumanEval/solutions.jsonl",
    "gsm8k/train.jsonl",
    "mmlu/auxiliary_train/a.csv",
    "dev.jsonl",
    "validation.parquet",
    "Eval.txt",
    "**/*.jsonl",
    "part-00000-of-00010.parquet",
]


@pytest.mark.parametrize("name", TEST_SPLITS)
def test_names_of_test_splits_are_recognised(name: str) -> None:
    assert split_named_in(name) is not None
    assert split_named_in(f"folder/{name}") is not None
    with pytest.raises(ConfigError, match="a test split"):
        refuse_test_split(["train.json", name], "the recipe")


@pytest.mark.parametrize("name", OTHER_NAMES)
def test_other_names_are_let_through(name: str) -> None:
    assert split_named_in(name) is None
    refuse_test_split([name], "the recipe")


@pytest.mark.parametrize(
    ("location", "named"),
    [
        ("/x/test/part-0.jsonl", "test"),
        ("/x/test/zh/part-0.jsonl", "test"),
        ("x/test", "test"),
        ("/x/Test-Set/*.jsonl", "Test-Set"),
        ("/x/gsm8k_test/part-0.jsonl", "gsm8k_test"),
        ("data/{train,test}/*.jsonl", None),  # the files that it finds are looked at
        ("/x/*/test.jsonl", "test.jsonl"),
        ("https://example.com/data/test/a.jsonl?x=1", "test"),
        ("https://example.com/data/gsm8k_test.jsonl", "gsm8k_test.jsonl"),
        ("https://test.example.com/data/train.jsonl", None),
        ("s3://bucket/heldout/a.parquet", "heldout"),
        ("hf://datasets/owner/test/train.parquet", None),
        ("hf://datasets/owner/name/test-00000-of-00001.parquet", "test-00000-of-00001.parquet"),
        ("/home/me/test-project/data/train.jsonl", None),
        ("/mnt/latest/train.jsonl", None),
        ("/mnt/test_run_3/train.jsonl", None),
        ("/data/ceval/val", "val"),
        ("/data/CMMLU/dev/*.csv", "dev"),
        ("/data/dev/*.csv", None),
        ("/data/gsm8k_test_v2/x.jsonl", "gsm8k_test_v2"),
        ("https://example.com/rows.jsonl?split=test&x=1", "test"),
        ("https://example.com/rows.jsonl?name=latest", None),
        (f"{ROOT}/data/train.jsonl", None),
        (f"{ROOT}/data/test/part.jsonl", "test"),
    ],
)
def test_locations(location: str, named: str | None) -> None:
    assert split_named_at(location) == named


def test_a_folder_above_the_project_says_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = tmp_path / "test" / "steel"
    monkeypatch.setattr("corpus.benchmarks.evaluation_splits.ROOT", root)
    assert split_named_at(str(root / "data" / "train.jsonl")) is None
    assert split_named_at(str(root / "data" / "test" / "a.jsonl")) == "test"


@given(st.text("abcdefghijklmnopqrstuvw", max_size=8), st.text("abcdefghijklmnop", max_size=8))
def test_a_longer_word_around_it_is_no_split(before: str, after: str) -> None:
    word = f"{before}test{after}"
    expected = word in ("test", "tests", "testing", "subtest", "minitest", "testfile", "testmini")
    assert (split_named_in(f"{word}.jsonl") is not None) == expected


def write_rows(path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps([{"instruction": "a", "output": "b"}]))


@pytest.mark.parametrize(
    "name", ["test/ruozhiba.json", "ruozhiba_test.json", "x/heldout/ruozhiba.json"]
)
def test_a_file_that_the_recipe_takes_is_refused_before_it_is_read(
    tmp_path: Path, name: str
) -> None:
    write_rows(tmp_path / "set" / name)
    write_rows(tmp_path / "set" / "ruozhiba.json")
    for location in (tmp_path / "set", tmp_path / "set" / "**" / "*.json"):
        with pytest.raises(ConfigError, match=r"ruozhiba.*a test split"):
            check_location("sft", "ruozhiba", str(location), None)
    with pytest.raises(ConfigError, match="a test split"):
        check_location("sft", "ruozhiba", str(tmp_path / "set" / name), None)
    with pytest.raises(ConfigError, match="a test split"):
        matching_files(tmp_path / "set", ("**/ruozhiba*.json",), where="recipe")


@pytest.mark.parametrize("name", ["gsm8k_test.json", "test/part-0.json", "ceval/val/law.json"])
def test_a_link_to_a_test_split_is_refused(tmp_path: Path, name: str) -> None:
    write_rows(tmp_path / name)
    (tmp_path / "set").mkdir()
    (tmp_path / "set" / "ruozhiba.json").symlink_to(tmp_path / name)
    with pytest.raises(ConfigError, match="a test split"):
        check_location("sft", "ruozhiba", str(tmp_path / "set"), None)


def test_splits_of_a_benchmark_below_its_folder_are_refused(tmp_path: Path) -> None:
    for split in ("val", "dev"):
        write_rows(tmp_path / "cmmlu" / split / "ruozhiba.json")
        with pytest.raises(ConfigError, match=f"{split}.*of a benchmark counts as a test split"):
            check_location("sft", "ruozhiba", str(tmp_path / "cmmlu"), None)
        write_rows(tmp_path / "set" / split / "ruozhiba.json")
    check_location("sft", "ruozhiba", str(tmp_path / "set"), None)


def test_a_file_that_the_recipe_does_not_take_may_lie_there(tmp_path: Path) -> None:
    write_rows(tmp_path / "set" / "test.json")
    write_rows(tmp_path / "set" / "ruozhiba.json")
    check_location("sft", "ruozhiba", str(tmp_path / "set"), None)


@pytest.mark.parametrize("member", ["test/ruozhiba.json", "ruozhiba-test.json"])
def test_members_of_archives_are_looked_at(tmp_path: Path, member: str) -> None:
    (tmp_path / "set").mkdir()
    with zipfile.ZipFile(tmp_path / "set" / "data.zip", "w") as archive:
        archive.writestr(member, "[]")
    with pytest.raises(ConfigError, match="a test split"):
        check_location("sft", "ruozhiba", str(tmp_path / "set"), None)
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    destination = Destination(
        name="ruozhiba",
        folder=tmp_path / "out",
        scratch=scratch,
        decompress=False,
        progress=lambda *_: None,
        warn=print,
    )
    with pytest.raises(ConfigError, match="a test split"):
        acquire_dataset(destination, "sft", str(tmp_path / "set"))


@pytest.mark.parametrize(
    "text",
    [
        "files: ['**/test.json*']",
        "files: ['**/*.json'], hub: {repository: o/n, files: ['data/test-*.parquet']}",
        "files: ['**/*.json'], modelscope: {repository: o/n, files: [TestData.jsonl]}",
        "files: ['**/*.csv'], hub: {repository: cais/mmlu, files: ['all/validation-*.parquet']}",
        "files: ['**/*.csv'], hub: {repository: CEVAL/ceval-exam, files: ['val/*.csv']}",
    ],
)
def test_recipes_that_name_one_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str
) -> None:
    recipes = tmp_path / "recipes" / "sft"
    recipes.mkdir(parents=True)
    (recipes / "x.yaml").write_text(
        f"{{title: X, licence: none, language: zh, format: alpaca, {text}}}"
    )
    monkeypatch.setattr("common.recipes.RECIPES", tmp_path / "recipes")
    with pytest.raises(ConfigError, match=r"x\.yaml.*a test split"):
        load_set("sft", "x")
