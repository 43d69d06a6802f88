"""The two passes over a partition."""

import json
from pathlib import Path

from corpus.cleaning.engine.partition_cleaner import FamilyOperators, PartitionCleaner
from corpus.partitions import cut


def test_finished_partition_is_not_done_again(tmp_path: Path) -> None:
    source = tmp_path / "a.jsonl"
    lines = [{"id": f"a/f#{n}", "source": "a", "text": f"text {n}", "meta": {}} for n in range(9)]
    source.write_text("".join(json.dumps(line) + "\n" for line in lines))
    cleaner = PartitionCleaner(
        families={"web": FamilyOperators(operators=[], names=[], deduplicators={})},
        family_of={"a": "web"},
        deduplicators=[],
        filtered=tmp_path / "filtered",
        output=tmp_path / "out",
        reports=tmp_path / "reports",
        examples=1,
    )
    parts = cut([("a", source)], 200)
    for partition in parts:
        cleaner.apply_operators(partition)
    # A partition that is filtered again would have `text 0` again; one written again, `marked`.
    spooled = tmp_path / "filtered" / parts[0].name / "kept.jsonl"
    spooled.write_text(spooled.read_text().replace("text 0", "marked"))
    for partition in parts:
        cleaner.apply_operators(partition)
        cleaner.write_kept((partition, 0))
    first = tmp_path / "out" / "a" / "00000.jsonl"
    assert json.loads(first.read_text().splitlines()[0])["text"] == "marked"
    first.write_text("kept as it is")
    cleaner.write_kept((parts[0], 0))
    assert first.read_text() == "kept as it is"
