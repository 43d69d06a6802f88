"""Samples: the same records every time, the right number, in the native format, cheaply."""

import gzip
import io
import json
import random
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import fsspec
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import zstandard
from hypothesis import given
from hypothesis import strategies as st

from common.config import validate
from common.errors import ConfigError, DataError
from common.paths import resolve
from common.recipes import load_config
from corpus.sample_data import SampleDataConfig
from corpus.sources import sampling
from corpus.sources.sampling import evenly_spaced
from corpus.sources.source import StoredFile
from flows.cli import main, parser
from flows.commands import overrides_of
from flows.config import PipelineConfig
from tasks.acquire import AcquireConfig, acquire
from tests.corpus.sources.archive_files import make_zip
from tests.corpus.sources.fake_web import Web, serving
from tests.tasks.running import run_stage


def rows(count: int, start: int = 0) -> list[dict[str, Any]]:
    return [{"id": start + i, "text": f'第{i}篇 "{{[\\ \n' * 3} for i in range(count)]


def jsonl(records: list[dict[str, Any]]) -> bytes:
    return b"".join(json.dumps(r, ensure_ascii=False).encode() + b"\n" for r in records)


def array(records: list[dict[str, Any]]) -> bytes:
    return json.dumps(records, ensure_ascii=False, indent=1).encode()


def parquet(records: list[dict[str, Any]], group: int = 40) -> bytes:
    out = io.BytesIO()
    pq.write_table(pa.Table.from_pylist(records), out, row_group_size=group, compression="zstd")
    return out.getvalue()


NATIVE: dict[str, tuple[str, Callable[[list[dict[str, Any]]], bytes]]] = {
    "jsonl": ("x.jsonl", jsonl),
    "lines in .json": ("x.json", jsonl),
    "array": ("x.json", array),
    "parquet": ("x.parquet", parquet),
    "gz": ("x.jsonl.gz", lambda r: gzip.compress(jsonl(r))),
    "zst": ("x.json.zst", lambda r: zstandard.compress(array(r))),
    "zip": ("x.zip", lambda r: make_zip({"y.jsonl": jsonl(r)})),
}


def read(path: Path) -> list[dict[str, Any]]:
    """The records of a file, by readers of others."""
    if path.suffix == ".parquet":
        found: list[dict[str, Any]] = pq.read_table(path).to_pylist()
        return found
    data = path.read_bytes()
    if data.startswith(b"["):
        return list(json.loads(data))
    return [json.loads(line) for line in data.splitlines()]


def num_records(path: Path) -> int:
    """Records of a file that may hold damaged ones."""
    if path.suffix == ".parquet":
        return int(pq.read_metadata(path).num_rows)
    return sum(bool(line.strip()) for line in path.read_bytes().split(b"\n"))


def take(
    out: Path, location: str, fraction: float = 1.0, limit: int = 0, name: str = "skypile"
) -> dict[str, list[dict[str, Any]]]:
    config = AcquireConfig(
        kind="corpora", datasets={name: location}, fraction=fraction, limit=limit
    )
    run_stage(acquire, out, config)
    top = out / name
    return {str(p.relative_to(top)): read(p) for p in sorted(top.rglob("*")) if p.is_file()}


def write(folder: Path, files: dict[str, bytes]) -> str:
    for name, data in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(data)
    return str(folder)


@pytest.fixture
def web(monkeypatch: pytest.MonkeyPatch) -> Iterator[Web]:
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    with serving(Web()) as server:
        yield server


@pytest.mark.parametrize("native", NATIVE)
def test_limit_takes_the_first_records(tmp_path: Path, native: str) -> None:
    name, make = NATIVE[native]
    location = write(tmp_path / "raw", {name: make(rows(100))})
    for limit in (1, 7, 99, 100, 1000):
        (got,) = take(tmp_path / f"out{limit}", location, limit=limit).values()
        assert got == rows(100)[:limit]


@pytest.mark.parametrize("native", NATIVE)
@pytest.mark.parametrize("fraction", [0.001, 0.1, 0.5, 1.0])
def test_fraction_takes_that_share_from_the_front(
    tmp_path: Path, native: str, fraction: float
) -> None:
    name, make = NATIVE[native]
    location = write(tmp_path / "raw", {name: make(rows(1000))})
    (got,) = take(tmp_path / "out", location, fraction=fraction).values()
    assert got == rows(1000)[: len(got)]
    # Early records have shorter numbers; compressed bytes grow less evenly.
    slack = 25 if native in ("gz", "zst") else 8
    assert abs(len(got) - max(1, fraction * 1000)) <= slack


def test_sample_of_lines_is_byte_for_byte_the_front(tmp_path: Path) -> None:
    data = b'\xef\xbb\xbf{"a":  1}\r\n\n  \n{"b": "\xff not utf-8"}\n{broken\n{"c": 3}'
    location = write(tmp_path / "raw", {"x.jsonl": data})
    run_stage(
        acquire,
        tmp_path / "out",
        AcquireConfig(kind="corpora", datasets={"skypile": location}, limit=3),
    )
    assert (tmp_path / "out" / "skypile" / "x.jsonl").read_bytes() == data[: -len(b'{"c": 3}')]


def test_whole_files_are_single_records(tmp_path: Path) -> None:
    pretty = json.dumps({"data": [1, 2]}, indent=1).encode()
    files = {f"{i:02}.txt": b"[1] line\nline\n" * 10 for i in range(40)}
    location = write(tmp_path / "raw", {**files, "40.json": pretty})
    config = AcquireConfig(kind="corpora", datasets={"skypile": location}, limit=10)
    run_stage(acquire, tmp_path / "ten", config)
    got = list((tmp_path / "ten" / "skypile").iterdir())
    assert len(got) == 10
    for path in got:
        assert path.read_bytes() == {**files, "40.json": pretty}[path.name]
    config = AcquireConfig(kind="corpora", datasets={"skypile": location}, fraction=0.25)
    run_stage(acquire, tmp_path / "quarter", config)
    assert 9 <= len(list((tmp_path / "quarter" / "skypile").iterdir())) <= 12


def test_limit_is_spread_over_evenly_spaced_files(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sampling, "SPREAD", 4)
    files = {f"{i:02}.jsonl": jsonl(rows(50, start=100 * i)) for i in range(16)}
    location = write(tmp_path / "raw", {**files, "README.md": b"# about", "empty.jsonl": b""})
    got = take(tmp_path / "out", location, limit=42)
    assert {name: len(found) for name, found in got.items()} == {
        "00.jsonl": 11,
        "04.jsonl": 10,
        "08.jsonl": 11,
        "12.jsonl": 10,
    }
    assert got["04.jsonl"] == rows(50, start=400)[:10]


def test_short_files_are_made_up_for_by_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sampling, "SPREAD", 2)
    short = {
        "a.jsonl": jsonl(rows(60)),
        "b.jsonl": jsonl(rows(1)),
        "c.jsonl": jsonl(rows(2)),
        "d.jsonl": jsonl(rows(3)),
    }
    location = write(tmp_path / "raw", short)
    assert sum(map(len, take(tmp_path / "out", location, limit=40).values())) == 40
    assert sum(map(len, take(tmp_path / "all", location, limit=1000).values())) == 66


def test_fraction_uses_at_least_spread_files_and_is_about_right(tmp_path: Path) -> None:
    files = {f"{i:02}.jsonl": jsonl(rows(200)) for i in range(64)}
    got = take(tmp_path / "out", write(tmp_path / "raw", files), fraction=0.01)
    assert len(got) == sampling.SPREAD
    assert {int(name[:2]) % 4 for name in got} == {0}, "evenly evenly_spaced"
    assert 128 <= sum(map(len, got.values())) <= 128 + 2 * len(got)


def test_fraction_and_limit_together(tmp_path: Path) -> None:
    location = write(tmp_path / "raw", {"a.jsonl": jsonl(rows(100)), "b.jsonl": jsonl(rows(100))})
    assert sum(map(len, take(tmp_path / "1", location, fraction=0.1, limit=4).values())) == 4
    by_fraction = sum(map(len, take(tmp_path / "2", location, fraction=0.1, limit=1000).values()))
    assert 18 <= by_fraction <= 24


@given(st.integers(0, 300))
def test_every_beginning_of_the_order_is_spread(count: int) -> None:
    files = [StoredFile(name=f"{i:03}", size=1) for i in range(count)]
    ordered = evenly_spaced(files)
    assert sorted(ordered, key=lambda f: f.name) == files
    for size in (2, 4, 8, 16):
        if size <= count:
            taken = sorted(int(f.name) for f in ordered[:size])
            gaps = [b - a for a, b in zip(taken, [*taken[1:], count], strict=True)]
            assert max(gaps) <= 2 * count / size + 1


def test_parquet_keeps_schema_compression_and_odd_bytes(tmp_path: Path) -> None:
    table = pa.table(
        {
            "text": pa.array([b"\xff\xfe", b"ok"] * 300),
            "n": pa.array(range(600), pa.int16()),
            "tags": pa.array([["a", None]] * 600, pa.list_(pa.string())),
        }
    ).replace_schema_metadata({"made": "by us"})
    pq.write_table(table, tmp_path / "x.parquet", compression="gzip", row_group_size=100)
    run_stage(
        acquire,
        tmp_path / "out",
        AcquireConfig(kind="corpora", datasets={"skypile": str(tmp_path / "x.parquet")}, limit=250),
    )
    path = tmp_path / "out" / "skypile" / "x.parquet"
    whole = pq.read_table(tmp_path / "x.parquet")
    assert pq.read_table(path).equals(whole.slice(0, 250), check_metadata=True)
    assert whole.schema.metadata == {b"made": b"by us"}
    assert pq.ParquetFile(path).metadata.row_group(0).column(0).compression == "GZIP"


@pytest.mark.parametrize(
    ("native", "where"),
    [
        *((native, "web") for native in NATIVE),
        ("jsonl", "local"),
        ("zst", "memory"),
        ("parquet", "memory"),
        ("parquet", "web without ranges"),
        ("zip", "web without ranges"),
        ("gz", "web without ranges"),
        ("array", "web without sizes"),
    ],
)
def test_sample_is_the_same_from_every_place(
    tmp_path: Path, web: Web, where: str, native: str
) -> None:
    name, make = NATIVE[native]
    files = {f"{i}-{name}": make(rows(100 + i, start=1000 * i)) for i in range(5)}
    expected = take(tmp_path / "expected", write(tmp_path / "raw", files), 0.3, 61)
    memory = fsspec.filesystem("memory")
    memory.pipe({f"/sampled/{name}": data for name, data in files.items()})
    web.files = {f"d/{name}": data for name, data in files.items()}
    web.ranges = where != "web without ranges"
    web.sizes = where != "web without sizes"
    location = {"local": str(tmp_path / "raw"), "memory": "memory://sampled"}.get(
        where, f"{web.url}/d/"
    )
    assert take(tmp_path / "got", location, 0.3, 61) == expected
    assert sum(map(len, expected.values())) == 61
    memory.rm("/sampled", recursive=True)


def many() -> dict[str, bytes]:
    """Large files, hard to compress."""
    draw = random.Random(0)
    numbers = [{"r": draw.random()} for _ in range(160_000)]
    out = io.BytesIO()
    table = pa.Table.from_pylist(numbers * 4)
    pq.write_table(table, out, row_group_size=5000, use_dictionary=False)
    return {
        "x.jsonl": jsonl(numbers),
        "x.json": array(numbers),
        "x.parquet": out.getvalue(),
        "x.jsonl.gz": gzip.compress(jsonl(numbers * 2), 1),
    }


def test_only_what_is_needed_is_fetched(web: Web, tmp_path: Path) -> None:
    web.files = dict(many())
    for name, data in web.files.items():
        web.sent = 0
        (got,) = take(tmp_path / name, f"{web.url}/{name}", limit=10).values()
        assert len(got) == 10
        assert len(data) > 3e6, "too small to tell"
        assert 0 < web.sent < min(len(data) / 2, 2.5e6), name


def test_interrupted_sample_ends_the_same(
    tmp_path: Path, web: Web, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("corpus.sources.retry.PAUSE", 0.0)
    web.files = {f"d/{i}.jsonl": jsonl(rows(100, start=1000 * i)) for i in range(6)}
    expected = take(tmp_path / "whole", f"{web.url}/d/", 0.5, 100)
    web.spoil = lambda path, start, data: None if path == "d/4.jsonl" else data
    with pytest.raises(DataError, match=r"4\.jsonl"):
        take(tmp_path / "out", f"{web.url}/d/", 0.5, 100)
    finished = {p.name: p.stat().st_mtime_ns for p in (tmp_path / "out" / "skypile").iterdir()}
    assert finished
    web.spoil = lambda path, start, data: data
    web.requests.clear()
    assert take(tmp_path / "out", f"{web.url}/d/", 0.5, 100) == expected
    for name, stamp in finished.items():
        assert (tmp_path / "out" / "skypile" / name).stat().st_mtime_ns == stamp
        assert ("GET", f"/d/{name}", "") not in [(m, p, "") for m, p, _ in web.requests]


def test_sample_of_the_generated_world(tmp_path: Path) -> None:
    def make(out: str, **sample: Any) -> dict[str, int]:
        config = AcquireConfig(
            kind="corpora",
            sample_data=SampleDataConfig(scale=0.1),
            datasets={"zhihu": "sample-data", "firefly": "sample-data"},
            **sample,
        )
        run = run_stage(acquire, tmp_path / out, config)
        if sample:
            assert "5 records from" in run.notes["sample"]["zhihu"]
        return {
            p.relative_to(tmp_path / out).parts[0]: num_records(p)
            for p in (tmp_path / out).rglob("*")
            if p.is_file() and ".scratch" not in p.parts
        }

    assert make("sampled", limit=5) == {"zhihu": 5, "firefly": 5}
    assert min(make("whole").values()) > 5


@pytest.mark.parametrize(
    ("sample", "words"),
    [
        ({"fraction": 0.0}, "fraction"),
        ({"fraction": 1.5}, "fraction"),
        ({"limit": -1}, "limit"),
        ({"fraction": float("nan")}, "fraction"),
    ],
)
def test_impossible_samples_are_refused(sample: dict[str, Any], words: str) -> None:
    config = AcquireConfig(kind="corpora", datasets={}, **sample)
    with pytest.raises(ConfigError, match=words):
        validate(config, "acquire")


def test_preflight_expects_less_of_a_sample(tmp_path: Path) -> None:
    location = write(tmp_path, {"a.jsonl": bytes(10_000)})
    config = AcquireConfig(kind="corpora", datasets={"skypile": location}, fraction=0.1)
    assert config.bytes_needed() == 1000


def test_command_line_and_configuration_reach_the_corpora_only() -> None:
    arguments = parser().parse_args(
        ["run", "deployments/smoke.yaml", "--fraction", "0.25", "--limit", "9", "--set", "name=x"]
    )
    config = load_config(resolve(arguments.config), PipelineConfig, overrides_of(arguments))
    assert config.name == "x"
    assert (config.acquire("corpora").fraction, config.acquire("corpora").limit) == (0.25, 9)
    for kind in ("sft", "preferences", "evals"):
        assert not config.acquire(kind).samples  # type: ignore[arg-type]
    assert (
        load_config(resolve("deployments/smoke.yaml"), PipelineConfig).acquire("corpora").samples
        is False
    )


def test_bad_sample_on_the_command_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for option, value in (("--fraction", "2"), ("--limit", "many")):
        assert (
            main(["run", "deployments/smoke.yaml", "--store", str(tmp_path / "s"), option, value])
            == 2
        )
        assert "sample." + option[2:] in capsys.readouterr().err
