"""Names of test splits, which nothing is fine-tuned on.

    data/train-00000-of-00010.parquet     none           latest.jsonl   contest.json   attestation/
    test.json.gz   TestData.jsonl         a test split   testset/part-0.jsonl   gsm8k_test.jsonl

A name is read as words, parted by anything but letters, and where upper case begins: `test` in one
of them counts, and in a longer word only where this is `testset` and its like. Below what the user
names (a data set's folder, a repository, an archive), every part counts. Of the path that leads
there, only folders that are called as a split is and nothing more, and the last one's end:
`x/test/part-0.jsonl` and `gsm8k_test/part-0.jsonl` are one, `test-project/data/part-0.jsonl` is
not; and not what the project, this user's home and the current folder lie in.
"""

import re
from collections.abc import Iterable
from pathlib import Path, PurePosixPath
from urllib.parse import unquote, urlsplit

from common.errors import ConfigError
from common.paths import ROOT
from common.urls import is_url, scheme

_WORDS = {
    "test", "tests", "testing", "testset", "testsets", "testdata", "testsplit", "testfile",
    "testfiles", "heldout", "holdout",
}  # fmt: skip
_PAIRS = {("held", "out"), ("hold", "out")}
_NO_SPLIT_AFTER = {"unit", "with", "without", "no", "not", "non", "ab", "stress", "load"}
"""`unit_tests.jsonl` is about tests of programs."""
_NO_SPLIT_BEFORE = {"case", "cases", "driven", "prep", "time"}
_CHINESE = re.compile(r"测试(?:集|数据|拆分|文件)|(?<![\u4e00-\u9fff])测试(?![\u4e00-\u9fff])")
_WORD = re.compile(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+|[\u4e00-\u9fff]+")
_FOLDER = re.compile(
    r"(?:tests?|testing|held[-_. ]?out|hold[-_. ]?out)(?:[-_. ]?(?:set|split|data|files?))?s?"
    r"|测试集?",
    re.IGNORECASE,
)
_FOLDER_END = re.compile(r"[a-z0-9][-_.](?:tests?|testset|held[-_.]?out)$", re.IGNORECASE)
"""Of the folder that holds the files: `gsm8k_test/part-0.jsonl`."""
_EVALUATED = {"val", "valid", "validation"}
"""Splits that are scored, too, of a benchmark."""


def split_named_in(name: str, *, benchmark: bool = False) -> str | None:
    """The part of a path that names a test split, if one does: below what the user names.

    benchmark: of a data set that is a benchmark's own, validation splits count as well.
    """
    for part in re.split(r"[/\\]", name):
        words = [word.lower() for word in _WORD.findall(part)]
        for number, word in enumerate(words):
            before = words[number - 1] if number else ""
            after = words[number + 1] if number + 1 < len(words) else ""
            if word in _WORDS and before not in _NO_SPLIT_AFTER and after not in _NO_SPLIT_BEFORE:
                return part
            if (word, after) in _PAIRS or (benchmark and word in _EVALUATED):
                return part
        if _CHINESE.search(part):
            return part
    return None


def split_named_at(location: str) -> str | None:
    """The part of a location (path, glob, URL) that names a test split, if one does."""
    if is_url(location):
        parts = PurePosixPath(unquote(urlsplit(location).path)).parts
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
    for folder in folders:
        if _FOLDER.fullmatch(folder) or _CHINESE.search(folder):
            return folder
    if folders and _FOLDER_END.search(folders[-1]):
        return folders[-1]
    return split_named_in(last)


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
            raise ConfigError(
                f"{where} names {name!r}{of}, a test split: train on train files only, and let "
                "`files` of the recipe or the location name them. If it is none, rename it"
            )
