"""The recipe's deduplicators over filtered partitions."""

from pathlib import Path

import pyarrow as pa
import pytest
from data_juicer.ops.deduplicator.document_simhash_deduplicator import (
    DocumentSimhashDeduplicator as Simhash,
)

from common.errors import ConfigError
from corpus.cleaning import document_trace
from corpus.cleaning.deduplication.duplicates import UNKNOWN, find_duplicates
from corpus.cleaning.deduplication.recipe_deduplicators import (
    RecipeDeduplicator,
    hash_table,
    positions_of,
    shared_deduplicators,
)
from corpus.cleaning.recipe import Operator, Recipe


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


def test_two_deduplicators_and_one_the_library_runs_itself(tmp_path: Path) -> None:
    from data_juicer.ops.deduplicator.document_deduplicator import DocumentDeduplicator
    from data_juicer.ops.deduplicator.document_minhash_deduplicator import (
        DocumentMinhashDeduplicator,
    )

    steps = [
        RecipeDeduplicator(
            position=1,
            operator=Operator(name="document_deduplicator", arguments={}),
            built=DocumentDeduplicator(),
        ),
        RecipeDeduplicator(
            position=2,
            operator=Operator(name="document_minhash_deduplicator", arguments={}),
            built=DocumentMinhashDeduplicator(tokenization="character"),
        ),
    ]
    long = "山高水长,风和日丽,春暖花开,鸟语花香,清风徐来,水波不兴." * 8
    texts = ["甲乙丙丁子丑寅卯", long, "甲乙丙丁子丑寅卯", long + "完", "戊己庚辛午未申酉"]
    folder = tmp_path / "p"
    folder.mkdir()
    trace = {"source": "s", "bytes_in": 1, "bytes_out": 1, "dropped_by": 0, "failed": False}
    rows = [trace | {"id": f"s/a#{i}", "edits": [], "stats": {}} for i in range(len(texts))]
    document_trace.write(document_trace.table_of(rows), folder / "document_trace.parquet")
    for step in steps:
        table = hash_table(step.hashes(texts), step)
        pa.parquet.write_table(table, folder / f"hashes-{step.position:02d}.parquet")
    duplicates = find_duplicates(steps, [folder], tmp_path / "duplicates")
    assert duplicates.dropped_by.tolist() == [0, 0, 1, 2, 0]
    assert duplicates.representative.tolist() == [0, 1, 0, UNKNOWN, 4]
