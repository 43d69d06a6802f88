"""Names of test splits, which nothing is fine-tuned on.

    data/train-00000-of-00010.parquet     none           latest.jsonl   contest.json   attestation/
    test.json.gz   TestData.jsonl         a test split   testset/part-0.jsonl   gsm8k_test.jsonl

A name is read as words, parted by anything but letters, and where upper case begins: `test` in one
of them counts, and in a longer word only where this is `testset` and its like. Below what the user
names (a data set's folder, a repository, an archive), every part counts. Of the path that leads
there, only folders that are called as a split is and nothing more, and the last one's end:
`x/test/part-0.jsonl` and `gsm8k_test/part-0.jsonl` are one, `test-project/data/part-0.jsonl` is
not; and not what the project, this user's home and the current folder lie in. In what is called
after a benchmark (`ceval/val/law.csv`), its other scored splits count, too.
"""

import functools
import re
import unicodedata
from collections.abc import Iterable
from itertools import pairwise
from pathlib import Path, PurePosixPath
from urllib.parse import parse_qsl, unquote, urlsplit

from common.errors import ConfigError
from common.paths import RECIPES, ROOT
from common.urls import is_url, scheme

_WORDS = {
    "test", "tests", "testing", "testset", "testsets", "testdata", "testsplit", "testfile",
    "testfiles", "heldout", "holdout", "devtest", "testdev", "minitest", "testmini", "subtest",
    "testcsv", "testjson", "testparquet",
}  # fmt: skip
_PAIRS = {("held", "out"), ("hold", "out")}
_NO_SPLIT_AFTER = {
    "unit", "with", "without", "no", "not", "non", "ab", "stress", "load", "penetration",
    "software", "regression", "integration", "api",
}  # fmt: skip
"""`unit_tests.jsonl` is about tests of programs."""
_NO_SPLIT_BEFORE = {"case", "cases", "driven", "prep", "time", "taking", "results"}
_CHINESE = re.compile(
    r"(?:测试|測試)(?:集|数据|數據|資料|拆分|文件|題|题(?!型|库?解))"
    r"|(?:评测|評測)集"
    r"|(?<![\u4e00-\u9fff])(?:测试|測試)(?![\u4e00-\u9fff])"
)
_WORD = re.compile(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+|[\u4e00-\u9fff]+")
_FOLDER = re.compile(
    r"(?:tests?|testing|held[-_. ]?out|hold[-_. ]?out)(?:[-_. ]?(?:set|split|data|files?))?s?"
    r"|测试集?",
    re.IGNORECASE,
)
_FOLDER_END = re.compile(
    r"[a-z0-9][-_.](?:tests?|testset|held[-_.]?out)(?:[-_.]?v?\d+)?$", re.IGNORECASE
)
"""Of the folder that holds the files: `gsm8k_test/part-0.jsonl`."""
_EVALUATED = {
    "val",
    "valid",
    "validation",
    "dev",
    "eval",
    "evaluation",
    "验证集",
    "開發集",
    "开发集",
}
"""Splits that are scored, or stand in prompts, of a benchmark."""
_TOKEN = re.compile(r"[a-z0-9]+")


def split_named_in(name: str, *, benchmark: bool = False) -> str | None:
    """The part of a path that names a test split, if one does: below what the user names.

    benchmark: of a data set that is a benchmark's own, validation splits count as well.
    """
    for part in re.split(r"[/\\]", unicodedata.normalize("NFKC", name)):
        named = _benchmark_in(part)
        benchmark = benchmark or bool(named)
        if named and f"{named}test" in _compact(part):  # gsm8ktest.jsonl
            return part
        words = [word.lower() for word in _WORD.findall(part)]
        for number, word in enumerate(words):
            before = words[number - 1] if number else ""
            after = words[number + 1] if number + 1 < len(words) else ""
            if word in _WORDS and before not in _NO_SPLIT_AFTER and after not in _NO_SPLIT_BEFORE:
                return part
            if (word, after) in _PAIRS:
                return part
            if benchmark and word in _EVALUATED and f"{before}{word}" != named:  # of C-Eval
                return part
        if _CHINESE.search(part):
            return part
    return None


def _compact(part: str) -> str:
    return "".join(_TOKEN.findall(part.lower()))


def _benchmark_in(part: str) -> str:
    """The benchmark of data_recipes/evals that a part of a path is called after: `c-eval_val.csv`;
    "" for none."""
    tokens = _TOKEN.findall(part.lower())
    joined = {*tokens, *map("".join, pairwise(tokens))}
    found = [n for n in _benchmarks() if n in joined or any(t == f"{n}test" for t in tokens)]
    return found[0] if found else ""


@functools.cache
def _benchmarks() -> tuple[str, ...]:
    return tuple(sorted(path.stem for path in (RECIPES / "evals").glob("*.yaml")))


def is_named_after_benchmark(location: str) -> bool:
    """True if a folder of a location is called as a benchmark is: `data/cmmlu/*.csv`."""
    return any(_benchmark_in(part) for part in re.split(r"[/\\]", location))


def split_named_at(location: str) -> str | None:
    """The part of a location (path, glob, URL) that names a test split, if one does."""
    if is_url(location):
        address = urlsplit(location)
        for value in (value for _, value in parse_qsl(address.query)):
            if _FOLDER.fullmatch(value):  # ?split=test
                return value
        parts = PurePosixPath(unquote(address.path)).parts
        if scheme(location) == "hf":
            parts = parts[3:]  # behind the owner and the name of a repository
    else:
        path = Path(location)
        for known in (ROOT, Path.cwd(), Path.home()):
            # Where the project and its data happen to lie says nothing about them.
            if path.is_absolute() and known != Path("/") and path.is_relative_to(known):
                path = path.relative_to(known)
                break
        parts = path.parts
    if not parts:
        return None
    *folders, last = parts
    if not is_url(location) and Path(location).is_dir():
        folders, last = [*parts], ""
    for number, folder in enumerate(folders):
        if any(map(_benchmark_in, folders[:number])) and folder.lower() in _EVALUATED:
            return folder
        if _FOLDER.fullmatch(folder) or _CHINESE.search(folder):
            return folder
    if folders and _FOLDER_END.search(folders[-1]):
        return folders[-1]
    return split_named_in(last, benchmark=any(map(_benchmark_in, folders)))


def refuse_test_split(
    names: Iterable[str], where: str, *, location: bool = False, benchmark: bool = False
) -> None:
    """Raise ConfigError for the first name that is one of a test split.

    Args:
        where: what names them, for the message.
        location: they are places that a configuration gives, not names below one.
        benchmark: they are files of a benchmark.
    """
    for name in names:
        part = split_named_at(name) if location else split_named_in(name, benchmark=benchmark)
        if part is not None:
            of = "" if part == name else f" ({part!r})"
            why = "" if split_named_in(part) else "which of a benchmark counts as "
            raise ConfigError(
                f"{where} names {name!r}{of}, {why}a test split: train on train files only, and "
                "let `files` of the recipe or the location name them. If it is none, rename it"
            )
