"""The recipe's deduplicators over filtered partitions."""

from pathlib import Path

import pyarrow as pa
import pytest
from data_juicer.ops.deduplicator.document_deduplicator import DocumentDeduplicator as Exact
from data_juicer.ops.deduplicator.document_minhash_deduplicator import (
    DocumentMinhashDeduplicator as Minhash,
)
from data_juicer.ops.deduplicator.document_simhash_deduplicator import (
    DocumentSimhashDeduplicator as Simhash,
)

from common.errors import ConfigError
from common.files import json_line, write_json
from corpus.cleaning import document_trace
from corpus.cleaning.deduplication.duplicates import UNKNOWN, find_duplicates
from corpus.cleaning.deduplication.recipe_deduplicators import (
    RecipeDeduplicator,
    hash_table,
    positions_of,
    shared_deduplicators,
)
from corpus.cleaning.deduplication.repeated_lines import lines_among
from corpus.cleaning.deduplication.survivor_texts import write_ends
from corpus.cleaning.recipe import Operator, Recipe
from tests.corpus.cleaning.operators.pages import repeated_lines


def filtered(folder: Path, rows: list[tuple[str, int]], step: RecipeDeduplicator) -> Path:
    """A partition as the workers leave it: every document survived, with these hashes."""
    folder.mkdir(parents=True)
    trace = {"source": "s", "bytes_in": 1, "bytes_out": 1, "dropped_by": 0, "failed": False}
    table = document_trace.table_of([trace | {"id": i, "edits": [], "stats": {}} for i, _ in rows])
    document_trace.write(table, folder / "document_trace.parquet")
    hashes = hash_table([{"hash": h} for _, h in rows], step)
    pa.parquet.write_table(hashes, folder / f"hashes-{step.position:02d}.parquet")
    (folder / "counts.json").write_text(f'{{"survivors": {len(rows)}}}')
    return folder


def test_duplicates_name_the_document_that_is_kept_instead(tmp_path: Path) -> None:
    operator = Operator(name="document_simhash_deduplicator", arguments={})
    step = RecipeDeduplicator(position=3, operator=operator, built=Simhash())
    far = 0xFFFF_0000_FFFF_0000
    parts = [
        filtered(tmp_path / "p0", [("s/a#1", 0), ("s/a#2", far)], step),
        filtered(tmp_path / "p1", [], step),
        filtered(tmp_path / "p2", [("s/a#3", 7), ("s/a#4", far), ("s/a#5", 0x7F)], step),
    ]
    duplicates = find_duplicates([step], parts, tmp_path / "duplicates")
    # #5 is 7 bits from #1, but 4 from #3, which is 3 from #1: one cluster.
    assert duplicates.dropped_by.tolist() == [0, 0, 3, 3, 3]
    assert [duplicates.ids[i] for i in duplicates.representative.tolist()] == [
        "s/a#1",
        "s/a#2",
        "s/a#1",
        "s/a#2",
        "s/a#1",
    ]
    assert duplicates.distance.tolist() == [0, 0, 3, 0, 7]
    again = find_duplicates([step], parts, tmp_path / "duplicates")
    assert again.dropped_by.tolist() == duplicates.dropped_by.tolist()


def test_a_deduplicator_is_shared_by_the_families_that_have_it(tmp_path: Path) -> None:
    """Partitions without its hashes take no part, and numbers stay those of all survivors."""
    exact, near = (
        RecipeDeduplicator(position=position, operator=operator, built=built)
        for position, operator, built in (
            (1, Operator(name="document_deduplicator", arguments={}), None),
            (2, Operator(name="document_simhash_deduplicator", arguments={}), Simhash()),
        )
    )
    parts = [
        filtered(tmp_path / "article", [("w/a#1", 5), ("w/a#2", 0xFF00)], near),
        filtered(tmp_path / "file", [("c/a#1", 5), ("c/a#2", 5)], exact),
        filtered(tmp_path / "page", [("s/a#1", 0xFF01), ("s/a#2", 5), ("s/a#3", 5)], near),
    ]
    pa.parquet.write_table(
        hash_table([{"hash": h} for h in (1, 5, 5)], exact), parts[2] / "hashes-01.parquet"
    )
    found = find_duplicates([exact, near], parts, tmp_path / "duplicates")
    # Both files and the second page have 5 for `exact`; the first page is near the second article.
    assert found.dropped_by.tolist() == [0, 0, 0, 1, 2, 1, 1]
    assert found.representative.tolist() == [0, 1, 2, 2, 1, 2, 2]
    assert found.distance.tolist() == [0, 0, 0, 0, 1, 0, 0]


def recipe(*names: str) -> Recipe:
    operators = tuple(Operator(name=name, arguments={}) for name in names)
    return Recipe(path=Path("r.yaml"), data={}, operators=operators)


def test_shared_deduplicators_run_in_every_recipes_order() -> None:
    a, b, c = (f"{name}_deduplicator" for name in "abc")
    mapper = "x_mapper"
    families = {"web": recipe(mapper, b, c), "qa": recipe(a, c), "book": recipe(mapper, a, b)}
    built = {op.key: object() for one in families.values() for op in one.operators}
    shared = shared_deduplicators(families, built)
    assert [one.operator.name for one in shared] == [a, b, c]
    assert [one.position for one in shared] == [1, 2, 3]
    assert all(one.built is built[one.operator.key] for one in shared)
    assert positions_of(families["web"], shared) == {2: 2, 3: 3}
    assert positions_of(families["qa"], shared) == {1: 1, 3: 2}
    with pytest.raises(ConfigError, match="opposite orders"):
        shared_deduplicators(families | {"code": recipe(c, a)}, built)


LONG = "山高水长,风和日丽,春暖花开,鸟语花香,清风徐来,水波不兴.落霞孤鹜,秋水长天,渔舟唱晚,雁阵惊寒。"
LONG += "层峦耸翠,上出重霄,飞阁流丹,下临无地。潦水尽而寒潭清,烟光凝而暮山紫。"


def survivors(folder: Path, texts: list[str], steps: list[RecipeDeduplicator]) -> Path:
    """A partition as the workers leave it, with its texts."""
    folder.mkdir(parents=True)
    trace = {"source": "s", "bytes_in": 1, "bytes_out": 1, "dropped_by": 0, "failed": False}
    rows = [trace | {"id": f"{folder.name}#{i}", "edits": [], "stats": {}} for i, _ in zip_(texts)]
    document_trace.write(document_trace.table_of(rows), folder / "document_trace.parquet")
    lines = [json_line({"id": str(i), "text": text}) for i, text in zip_(texts)]
    (folder / "kept.jsonl").write_bytes(b"".join(lines))
    write_ends(folder, [len(line) for line in lines])
    write_json(folder / "counts.json", {"survivors": len(texts)})
    for step in steps:
        table = hash_table(step.hashes(texts), step)
        pa.parquet.write_table(table, folder / f"hashes-{step.position:02d}.parquet")
    return folder


def zip_(texts: list[str]) -> list[tuple[int, str]]:
    return list(enumerate(texts))


def exact(position: int) -> RecipeDeduplicator:
    operator = Operator(name="document_deduplicator", arguments={})
    return RecipeDeduplicator(position=position, operator=operator, built=Exact())


def minhash(position: int, name: str = "document_minhash_deduplicator") -> RecipeDeduplicator:
    built = Minhash(
        tokenization="character", num_permutations=64, num_bands=32, num_rows_per_band=2
    )
    operator = Operator(name=name, arguments={})
    return RecipeDeduplicator(position=position, operator=operator, built=built)


def test_exact_copies_and_then_verified_ones(tmp_path: Path) -> None:
    steps = [exact(1), minhash(2)]
    texts = ["甲乙丙丁子丑寅卯", LONG, "甲乙丙丁子丑寅卯", LONG + "完", "戊己庚辛午未申酉"]
    parts = [
        survivors(tmp_path / "p0", texts[:3], steps),
        survivors(tmp_path / "p1", [], steps),
        survivors(tmp_path / "p2", texts[3:], steps),
    ]
    duplicates = find_duplicates(steps, parts, tmp_path / "duplicates", workers=2)
    assert duplicates.dropped_by.tolist() == [0, 0, 1, 2, 0]
    assert duplicates.representative.tolist() == [0, 1, 0, 1, 4]
    shingles = len({LONG[i : i + 5] for i in range(len(LONG) - 4)})
    assert duplicates.similarity.tolist() == [0, 0, 0, shingles / (shingles + 1), 0]
    assert duplicates.ids[3] == "p2#0"
    assert not list((tmp_path / "duplicates").glob("search-*"))  # what it took is given back
    # In another order of partitions another document is preferred.
    parts.reverse()
    reverse = find_duplicates(steps, parts, tmp_path / "reverse")
    assert reverse.dropped_by.tolist() == [0, 0, 0, 2, 1]
    assert reverse.representative.tolist() == [0, 1, 2, 0, 2]


def test_verified_copies_are_looked_for_among_the_families_that_have_the_deduplicator(
    tmp_path: Path,
) -> None:
    one, other = exact(1), minhash(2)
    parts = [
        survivors(tmp_path / "p0", [LONG], [one]),
        survivors(
            tmp_path / "p1", ["别的文字，写在这里，与众不同。", LONG + "始", LONG], [one, other]
        ),
        survivors(tmp_path / "p2", [LONG + "终"], [other]),
    ]
    duplicates = find_duplicates([one, other], parts, tmp_path / "duplicates")
    assert duplicates.dropped_by.tolist() == [0, 0, 0, 1, 2]
    assert duplicates.representative.tolist() == [0, 1, 2, 0, 2]


def test_any_other_deduplicator_is_the_librarys(tmp_path: Path) -> None:
    steps = [exact(1), minhash(2, name="another_deduplicator")]
    texts = ["甲乙丙丁子丑寅卯", LONG, "甲乙丙丁子丑寅卯", LONG + "完", "戊己庚辛午未申酉"]
    parts = [survivors(tmp_path / "p", texts, steps)]
    duplicates = find_duplicates(steps, parts, tmp_path / "duplicates")
    assert duplicates.dropped_by.tolist() == [0, 0, 1, 2, 0]
    assert duplicates.representative.tolist() == [0, 1, 0, UNKNOWN, 4]


def test_lines_are_counted_among_the_documents_that_are_kept(tmp_path: Path) -> None:
    lines = RecipeDeduplicator(
        position=2,
        operator=Operator(name="repeated_lines_deduplicator", arguments={}),
        built=repeated_lines(min_documents=3),
    )
    steps = [exact(1), lines]
    copied = "抄来的一页\n这一行在所有的抄本里都有"
    notice = "版权所有 某某网"
    texts = [copied] * 3 + [f"{name}\n{notice}" for name in "甲乙丙"]
    parts = [survivors(tmp_path / "p0", texts[:4], steps), survivors(tmp_path / "p1", [], steps)]
    parts.append(survivors(tmp_path / "p2", texts[4:], steps))
    duplicates = find_duplicates(steps, parts, tmp_path / "duplicates")
    assert duplicates.dropped_by.tolist() == [0, 1, 1, 0, 0, 0]
    (repeated,) = duplicates.repeated.values()
    assert repeated.tolist() == lines.built.line_hashes(notice)
    found = list(lines_among(parts[0] / "hashes-02.parquet", repeated))
    assert found == [frozenset()] * 3 + [frozenset(repeated.tolist())]
    assert list(lines_among(parts[1] / "hashes-02.parquet", repeated)) == []
