"""Bad rows of benchmark files: each is named, no other is lost, and texts stay as they stand."""

import csv
import io
import re
import zipfile
from functools import partial
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from lm_eval.tasks import TaskManager

from common.errors import DataError
from common.recipes import load_recipe
from corpus.benchmarks.lm_eval_tasks import write_tasks
from corpus.benchmarks.questions import (
    BadRow,
    BenchmarkRecipe,
    check_examples,
    parse_questions,
    read_benchmark,
)
from tests.tiny_benchmarks import write_ceval

CEVAL = load_recipe(BenchmarkRecipe, "evals", "ceval")
MMLU = load_recipe(BenchmarkRecipe, "evals", "mmlu")
HEADER = "id,question,A,B,C,D,answer\n"
GOOD = ["0,first,1,2,3,4,A\n", "1,second,1,2,3,4,B\n", "2,third,1,2,3,4,C\n"]

BAD_LINES = [
    ("9,q,1,2,3,4\n", "6 fields instead of 7"),
    ("9,q,1,2,3,4,A,\n", "8 fields instead of 7"),
    ("9,q,1,2,3,4,E\n", "the answer is 'E', not A to D"),
    ("9,q,1,2,3,4,a\n", "the answer is 'a'"),
    ("9,q,1,2,3,4,Ａ\n", "the answer is 'Ａ'"),
    ("9,q,1,2,3,4,0\n", "the answer is '0'"),
    ("9,q,1,2,3,4,AB\n", "the answer is 'AB'"),
    ("9,q,1,2,3,4,nan\n", "the answer is 'nan'"),
    ("9,q,1,,3,4,A\n", "the option B is empty"),
    ("9,q,1,2,　, ,A\n", "the option C, D is empty"),
    ("9,,1,2,3,4,A\n", "the question is empty"),
    ("9,q,1,2,3,\u200b,A\n", "the option D is empty"),
    ("9,\ufeff ,1,2,3,4,A\n", "the question is empty"),
    (",,,,,,\n", "the answer is ''"),
    ("0,again,1,2,3,4,A\n", "the number '0' stands in line 2, too"),
    ("9,a\0b,1,2,3,4,A\n", "question holds a NUL"),
    ("9,q,1,2,\udcff,4,A\n", "C holds a NUL, or bytes that are not UTF-8"),
    ('9,"open,1,2,3,4,A\n', "not valid CSV"),
]


def parsed(text: str, recipe: BenchmarkRecipe = CEVAL) -> tuple[list[str], list[tuple[int, str]]]:
    """Questions' texts, and (line, reason) of bad rows."""
    rows = list(parse_questions(recipe, "x.csv", text))
    return (
        [row.text for row in rows if not isinstance(row, BadRow)],
        [(row.line, row.reason) for row in rows if isinstance(row, BadRow)],
    )


@pytest.mark.parametrize(("line", "reason"), BAD_LINES)
@pytest.mark.parametrize("place", [1, 2, 3])
def test_a_bad_row_costs_no_other(line: str, reason: str, place: int) -> None:
    lines = [*GOOD[:place], line, *GOOD[place:]]
    texts, bad = parsed(HEADER + "".join(lines))
    assert texts == ["first", "second", "third"]
    ((number, found),) = bad
    assert number == place + 2
    assert reason in found


@pytest.mark.parametrize(
    "following",
    [
        '3,"quoted",1,2,3,4,D\n',  # the next quote closes the open one, in the next row
        '3,b",1,2,3,4,D\n',  # both together are one row, to the letter of CSV
        '3,plain,1,2,3,4,D\n4,"b",1,2,3,4,D\n',
        '3,plain,1,2,3,4,D\n4,b",1,2,3,4,D\n',
    ],
)
def test_an_open_quote_takes_in_no_rows(following: str) -> None:
    texts, bad = parsed(HEADER + GOOD[0] + '9,"open,1,2,3,4,A\n' + following + GOOD[1])
    assert [line for line, _ in bad] == [3]
    assert re.search("is a quote not closed|a quote is not closed", bad[0][1])
    assert texts[0] == "first"
    assert texts[-1] == "second"
    assert len(texts) == 2 + following.count("\n")


@pytest.mark.parametrize(
    "question",
    [
        "Rows of a file:\n1,x,1,2,3,4,A\nHow many columns?",
        "Rows of a file:\n1,x,1,2,3,4,A",
        "name,b,c,d,A\n1,x,1,2,3,4,A\nHow many columns?",
        "They stand in a row: C, D, E, F, G, A\nB, C, D, E, F, G, A\nWho is first?",
        "B, C, D, E, F, A\nnext, to, whom, is, it, B",
    ],
)
@pytest.mark.parametrize("recipe", [CEVAL, MMLU])
def test_lines_like_rows_inside_a_quoted_cell_are_no_rows(
    question: str, recipe: BenchmarkRecipe
) -> None:
    cells = [question, "1", "2", "3", "4", "C"]
    out = io.StringIO()
    number = ["7"] if recipe.header else []
    csv.writer(out).writerow([*number, *cells])
    csv.writer(out).writerow([*(["8"] if number else []), "second", *cells[1:]])
    texts, bad = parsed((HEADER if recipe.header else "") + out.getvalue(), recipe)
    assert (texts, bad) == ([question, "second"], [])


def test_lines_of_spaces_are_blank() -> None:
    assert parsed(HEADER + "  \n" + GOOD[0] + "\t\r\n\n" + GOOD[1] + " ") == (
        ["first", "second"],
        [],
    )


CELL = st.text(st.sampled_from('甲a1 ,"\n\r.'), min_size=1, max_size=6).filter(
    lambda text: text.strip() and not text.count(",")
)


@given(rows=st.lists(st.tuples(*[CELL] * 5, st.sampled_from("ABCD")), min_size=1, max_size=5))
def test_what_a_csv_writer_wrote_is_read_back(rows: list[tuple[str, ...]]) -> None:
    out = io.StringIO()
    csv.writer(out, quoting=csv.QUOTE_ALL).writerows(rows)
    read = list(parse_questions(MMLU, "x.csv", out.getvalue()))
    assert not [row for row in read if isinstance(row, BadRow)]
    found = [(row.text, *row.options, row.answer) for row in read if not isinstance(row, BadRow)]
    assert found == rows


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "is empty"),
        (b"\n\n", "is empty"),
        (HEADER.replace(",", ";").encode(), "must be separated by `,`, not by ';'"),
        (b'"id";"question"\n', r"line 1: not valid CSV.*this must be the header row"),
        ((HEADER + "0;q;1;2;3;4;A\n").encode(), r"only bad rows: .*line 2: 1 field .* by ';'"),
        (b"0,first,1,2,3,4,A\n", "line 1: no column question, B, C, D, answer"),
        (HEADER.replace("B", "A").encode(), "no column B"),
        (HEADER.replace("\n", ",A\n").encode(), "the header row has A twice"),
        ((HEADER + "0,问题问题问题,甲,乙,丙,丁,A\n" * 20).encode("gb18030"), "looks like GB18030"),
        ((HEADER + "0,问题,甲,乙,丙,丁,A\n").encode("utf-16"), "looks like UTF-16"),
        ((HEADER + "0,q,a,b,c,d,A\n").encode("utf-16-le"), "UTF-16"),
        (HEADER.encode(), "has no question"),
    ],
)
def test_a_file_that_cannot_be_read_is_refused_also_where_rows_are_skipped(
    tmp_path: Path, content: bytes, reason: str
) -> None:
    write_ceval(tmp_path, {"law": 2, "physics": 1})
    (tmp_path / "val" / "law_val.csv").write_bytes(content)
    with pytest.raises(DataError, match=reason) as error:
        read_benchmark("ceval", CEVAL, tmp_path, on_bad_row="skip")
    assert "law" in str(error.value)


def test_a_byte_order_mark_is_no_part_of_the_header(tmp_path: Path) -> None:
    write_ceval(tmp_path, {"law": 2})
    text = "question,A,B,C,D,answer\nq,1,2,3,4,A\nr,1,2,3,4,B\n"
    (tmp_path / "val" / "law_val.csv").write_text(text, encoding="utf-8-sig")
    assert read_benchmark("ceval", CEVAL, tmp_path).num_questions(None) == 2


def test_skipped_rows_are_counted_with_their_places(tmp_path: Path) -> None:
    write_ceval(tmp_path, {"law": 3, "physics": 2})
    for split, line in (("val", "9,q,1,2,3,4,E\n"), ("dev", "9,q,1,2,3,,A\n")):
        with (tmp_path / split / f"law_{split}.csv").open("a") as file:
            file.write(line)
    with pytest.raises(DataError) as error:
        read_benchmark("ceval", CEVAL, tmp_path)
    for part in ("law_val.csv, line 5: the answer is 'E'", "law_dev.csv, line 7: the option D"):
        assert part in str(error.value)
    benchmark = read_benchmark("ceval", CEVAL, tmp_path, on_bad_row="skip")
    assert benchmark.num_questions(None) == 5
    assert benchmark.num_bad_rows() == 1  # of the split that is scored
    assert len(benchmark.bad_rows) == 2
    check_examples(benchmark, 5)
    with pytest.raises(DataError, match=r"law has 5 worked examples.*num_fewshot is 9"):
        check_examples(benchmark, 9)


WORDS = ("None", "NA", "null", "nan", "3.10", "007", "1e5", "TRUE", "2020-01-01", "1,000", "N/A")


def test_words_that_look_like_values_reach_lm_eval_as_they_stand(tmp_path: Path) -> None:
    for name, recipe in (("ceval", CEVAL), ("mmlu", MMLU)):
        folder = tmp_path / name
        header = [["id", "question", "A", "B", "C", "D", "answer"]] if recipe.header else []
        for split in (recipe.fewshot_split, recipe.scored_split):
            path = folder / split / f"law_{split}.csv"
            path.parent.mkdir(parents=True)
            rows = [[word, word, "x", "y", f"{word} ", "A"] for word in WORDS]
            if recipe.header:
                rows = [[str(n), *row] for n, row in enumerate(rows)]
            with path.open("w", newline="") as file:
                csv.writer(file).writerows([*header, *rows])
        benchmark = read_benchmark(name, recipe, folder)
        tasks = write_tasks(benchmark, tmp_path / f"{name}-tasks", num_fewshot=5)
        manager = TaskManager(include_path=str(tmp_path / f"{name}-tasks"), include_defaults=False)
        (task,) = manager.load(list(tasks))["tasks"].values()
        for documents in (task.eval_docs, task.fewshot_docs()):
            found = [
                (d["question"], *(d["choices"] if name == "mmlu" else (d[x] for x in "ABCD")))
                for d in documents
            ]
            assert found == [(word, word, "x", "y", f"{word} ") for word in WORDS]


@pytest.mark.parametrize("subject", ["a\nb", "-x", "a\u202eb", "x" * 120, "a*"])
def test_a_subject_in_an_archive_is_a_name(tmp_path: Path, subject: str) -> None:
    with zipfile.ZipFile(tmp_path / "x.zip", "w") as archive:
        archive.writestr(f"val/{subject}_val.csv", HEADER + GOOD[0])
    with pytest.raises(DataError, match="must be a name"):
        read_benchmark("ceval", CEVAL, tmp_path)


def test_subjects_that_a_disk_takes_for_one_and_files_of_one_subject(tmp_path: Path) -> None:
    write_ceval(tmp_path / "a", {"law": 1, "Law": 1})
    with pytest.raises(DataError, match="differ only in case"):
        read_benchmark("ceval", CEVAL, tmp_path / "a")
    write_ceval(tmp_path / "b" / "one", {"law": 1})
    write_ceval(tmp_path / "b" / "two", {"law": 2})
    with pytest.raises(DataError, match=r"are both dev of law|are both val of law"):
        read_benchmark("ceval", CEVAL, tmp_path / "b")


def test_a_subject_that_bad_rows_leave_without_examples_costs_no_other(tmp_path: Path) -> None:
    write_ceval(tmp_path, {"law": 3, "art_studies": 2})
    dev = tmp_path / "dev" / "law_dev.csv"
    dev.write_text(dev.read_text().replace('"1.50","D"', '"1.50","E"'))
    read = partial(read_benchmark, "ceval", CEVAL, tmp_path)
    benchmark = read(on_bad_row="skip", num_fewshot=5)
    assert list(benchmark.subjects) == ["art_studies"]
    assert benchmark.left_out.keys() == {"law"}
    assert benchmark.left_out["law"].startswith(
        "4 worked examples are left of law, fewer than num_fewshot = 5: "
    )
    assert "law_dev.csv, line 5: the answer is 'E', not A to D" in benchmark.left_out["law"]
    assert list(read(on_bad_row="skip", num_fewshot=4).subjects) == ["art_studies", "law"]
    with pytest.raises(DataError, match=r"law_dev\.csv, line 5"):
        read(num_fewshot=5)
    (tmp_path / "val" / "art_studies_val.csv").unlink()
    with pytest.raises(DataError, match="worked examples are left of law"):
        read(on_bad_row="skip", num_fewshot=5)
