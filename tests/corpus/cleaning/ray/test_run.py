"""Cleaning on Ray: the same documents with the same traces as the operators give one by one."""

import contextlib
import itertools
import json
import os
import random
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
import yaml

from common.errors import ConfigError
from corpus.cleaning import document_trace
from corpus.cleaning import recipe as recipes
from corpus.cleaning.ray.plan import RayConfig, replacements
from corpus.sample_data.code import code_file
from corpus.sample_data.corpora import web_pages
from corpus.sample_data.facts import draw_facts
from corpus.sample_data.noise import add_code_noise, add_noise
from tests.corpus.cleaning.ray.documents import read_documents, write_documents

PROGRAM = Path(__file__).with_name("ray_program.py")


FRAGILE = """
import time
from pathlib import Path
import ray
from data_juicer.ops.base_op import OPERATORS, Mapper

@OPERATORS.register_module("fragile_mapper")
class FragileMapper(Mapper):
    _batched_op = True

    def __init__(self, meeting: str = "", *args, **kwargs):
        super().__init__(*args, **kwargs)
        self.meeting = Path(meeting)

    def process_batched(self, samples):
        if ray.is_initialized():  # On small inputs one node would be done before the other starts.
            (self.meeting / ray.get_runtime_context().get_node_id()).touch()
            deadline = time.monotonic() + 40
            while len(list(self.meeting.iterdir())) < 2 and time.monotonic() < deadline:
                time.sleep(0.1)
            (self.meeting / "over").touch()
        for text in samples["text"]:
            if "FRAGILE" in text:
                raise ValueError("cannot bear this")
        return samples
"""


def edited(text: str, share: float, rng: random.Random) -> str:
    """A copy with a share of its characters replaced."""
    characters = list(text)
    for i in rng.sample(range(len(text)), max(1, round(share * len(text)))):
        characters[i] = rng.choice("天地玄黄宇宙洪荒")
    return "".join(characters)


def run_program(mode: str, job: dict[str, Any], tmp: Path, **variables: str) -> Any:
    """One of the programs; its result, or its error."""
    tmp.mkdir(parents=True, exist_ok=True)
    file, result = tmp / f"{mode}.json", tmp / f"{mode}-result.json"
    file.write_text(json.dumps(job | {"result": str(result)}), encoding="utf-8")
    root = Path(__file__).parents[4]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(root)} | variables
    done = subprocess.run(
        [sys.executable, str(PROGRAM), mode, str(file)],
        cwd=root,
        env=environment,
        capture_output=True,
        text=True,
        timeout=280,
    )
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    return json.loads(result.read_text("utf-8"))


@pytest.fixture(scope="module")
def cluster() -> Iterator[tuple[str, dict[str, str]]]:
    """Two nodes of one core each on this machine: (address, environment)."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    address = f"127.0.0.1:{port}"
    token = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": secrets.token_hex(32)}
    environment = os.environ | token | {"RAY_USAGE_STATS_ENABLED": "0", "OMP_NUM_THREADS": "1"}
    ray = Path(sys.executable).with_name("ray")
    common = [
        "--node-ip-address=127.0.0.1",
        "--num-cpus=1",
        "--object-store-memory=1500000000",
        "--min-worker-port=0",
        "--max-worker-port=0",
        "--disable-usage-stats",
        "--block",
    ]
    with contextlib.ExitStack() as stack:
        nodes = []
        for extra in (
            ["--head", f"--port={port}", "--include-dashboard=false"],
            [f"--address={address}"],
        ):
            # Ray's sockets lie there, and their paths must be short.
            folder = Path(tempfile.mkdtemp(prefix="ray-", dir="/tmp"))
            stack.callback(shutil.rmtree, folder, ignore_errors=True)
            log = stack.enter_context((folder / "log").open("wb"))
            node = subprocess.Popen(
                [str(ray), "start", *extra, *common, f"--temp-dir={folder}"],
                env=environment,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
            stack.callback(_end, node)
            nodes.append((node, folder))
            _wait_for(b"Ray runtime started", node, folder / "log")
        yield address, token


def _wait_for(words: bytes, node: "subprocess.Popen[bytes]", log: Path) -> None:
    deadline = time.monotonic() + 120
    while words not in log.read_bytes():
        assert node.poll() is None, log.read_text()
        assert time.monotonic() < deadline, log.read_text()
        time.sleep(0.3)


def _end(node: "subprocess.Popen[bytes]") -> None:
    node.send_signal(signal.SIGTERM)
    with contextlib.suppress(subprocess.TimeoutExpired):
        node.wait(5)
    with contextlib.suppress(ProcessLookupError):
        os.killpg(node.pid, signal.SIGKILL)
    node.wait()


def write_recipe(path: Path, name: str, without: Sequence[str] = (), **more: Any) -> Path:
    """A shipped recipe without some operators."""
    data = recipes.load(name).data
    process = [
        entry
        for entry in data["process"]
        if (entry if isinstance(entry, str) else next(iter(entry))) not in without
    ]
    path.write_text(yaml.safe_dump(data | {"process": process} | more), encoding="utf-8")
    return path


def planted(texts: Sequence[str]) -> tuple[list[str], dict[int, list[int]]]:
    """Texts with copies behind them, and original -> places of its copies."""
    rng = random.Random(5)
    all_texts, copies = list(texts), {}
    long = [i for i, text in enumerate(texts) if len(text) > 300][:24]
    for n, i in enumerate(long):
        share = (0.0, 0.005, 0.01, 0.02)[n % 4]
        all_texts.append(edited(texts[i], share, rng) if share else texts[i])
        copies[i] = [len(all_texts) - 1]
    return all_texts, copies


@pytest.fixture(scope="module")
def page_texts() -> list[str]:
    rng = random.Random(3)
    return list(add_noise(rng, web_pages(rng, draw_facts(7), "zh", 150)))


def assert_same_traces(
    outcome: dict[str, Any], expected: dict[str, Any], inputs: list[Any]
) -> None:
    """All traces up to the deduplicator, and the kept texts, equal the reference's."""
    kept = read_documents(outcome["cleaned"])
    tables = [pq.read_table(path) for path in outcome["document_traces"]]
    rows = {row["id"]: row for table in tables for row in table.to_pylist()}
    given = {d["id"]: d for d in inputs}
    assert list(rows) == list(given)
    left = set(expected["left"]["minhash"])
    for id_, want in expected["traces"].items():
        row = rows[id_]
        assert row["edits"] == want["edits"], id_
        assert row["bytes_in"] == len(given[id_]["text"].encode())
        assert row["bytes_out"] == len(want["text"].encode())
        stats = {
            n: row[n] for n in row.keys() - set(document_trace.SCHEMA.names) if row[n] is not None
        }
        assert stats == want["stats"], id_
        if want["dropped_by"] or id_ in left:
            assert (row["dropped_by"], row["failed"]) == (want["dropped_by"], want["failed"]), id_
            assert row["duplicate_of"] is None
        else:
            assert row["duplicate_of"] in left
            assert not row["failed"]
    assert [d["id"] for d in kept] == [i for i in given if i in left]
    for document in kept:
        id_ = document["id"]
        assert document == given[id_] | {"text": expected["traces"][id_]["text"]}
    assert sum(table.num_rows for table in tables) == len(given)
    assert sum(not row["dropped_by"] for row in rows.values()) == len(left)


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_text_on_two_nodes(
    cluster: tuple[str, dict[str, str]], tmp_path: Path, page_texts: list[str]
) -> None:
    address, token = cluster
    texts, copies = planted(page_texts)
    texts += [
        "短文一则，讲的是山里的事。",
        "另一则短文，讲的是海边的人。",
        "",
        "FRAGILE 的一篇，" * 9,
    ]
    # Ray hands out a thousand rows at a time, so that less would be work for one node.
    sentences = {
        s for text in page_texts for s in text.replace("\n", "。").split("。") if len(s) > 9
    }
    numbered = (f"{s}，第{n}次。" for n in range(9) for s in sorted(sentences))
    texts += itertools.islice(numbered, 2200)
    half = len(texts) // 2
    inputs = {
        "alpha": str(write_documents(tmp_path / "alpha.jsonl", texts[:half])),
        "beta": str(write_documents(tmp_path / "beta.jsonl", texts[half:])),
    }
    meeting = tmp_path / "meeting"
    meeting.mkdir()
    fragile = tmp_path / "fragile_mapper.py"
    fragile.write_text(FRAGILE, encoding="utf-8")
    data = recipes.load("repaired/text").data
    custom = [*data.get("custom_operator_paths", []), str(fragile)]
    process = [
        *data["process"][:3],
        {"fragile_mapper": {"meeting": str(meeting)}},
        *data["process"][3:],
    ]
    recipe = tmp_path / "whole.yaml"
    recipe.write_text(
        yaml.safe_dump(data | {"process": process, "custom_operator_paths": custom}), "utf-8"
    )
    loaded = recipes.load_file(recipe)
    (replacement,) = replacements(loaded)
    assert replacement["replaced_by"] == "ray_bts_minhash_deduplicator"
    minhash = {k: v for k, v in replacement["with"].items() if k != "num_permutations"}
    job = {
        "recipe": str(recipe),
        "inputs": inputs,
        "models": str(tmp_path / "models"),
        "output": str(tmp_path / "output"),
        "scratch": str(tmp_path / "scratch"),
        "ray": {"address": address, "partition_bytes": 40_000},
        "deduplicators": {
            "minhash": ["document_minhash_deduplicator", minhash | {"num_permutations": 256}],
            "simhash": [replacement["operator"], replacement["arguments"]],
        },
    }
    (tmp_path / "models").mkdir()
    run_program("models", job, tmp_path)
    model = {"DATA_JUICER_EXTERNAL_MODELS_HOME": job["models"], "HF_HUB_OFFLINE": "1"}
    expected = run_program("reference", job, tmp_path, **model)
    outcome = run_program("ray", job, tmp_path, **token)
    documents = read_documents(list(inputs.values()))
    assert_same_traces(outcome, expected, documents)

    assert len(outcome["notes"]["nodes"]) == 2
    written = list((tmp_path / "scratch" / "group-0" / "records").glob("*/*.parquet"))
    workers = Counter(pq.read_schema(path).metadata[b"node"] for path in written)
    assert len(workers) == 2, workers
    traces = [pq.read_table(path) for path in outcome["document_traces"]]
    failed = sum(sum(trace["failed"].to_pylist()) for trace in traces)
    assert failed == 1  # and its batch went on without it
    assert len(outcome["cleaned"]) > 4

    operators = [op.name for op in loaded.operators]
    for source in inputs:
        for before, after in itertools.pairwise(_entries(tmp_path / "output", source, operators)):
            assert before.documents_in == before.documents_kept + before.documents_dropped
            assert (after.documents_in, after.bytes_in) == (
                before.documents_kept,
                before.bytes_kept,
            )

    ids = [d["id"] for d in documents]
    caught = {
        name: sum(ids[c] not in left for places in copies.values() for c in places)
        for name, left in expected["left"].items()
    }
    print(f"\n{sum(map(len, copies.values()))} planted copies; dropped as such: {caught}")
    made = {
        path: Path(path).read_bytes() for path in outcome["cleaned"] + outcome["document_traces"]
    }
    for path in (
        outcome["cleaned"][2],
        outcome["document_traces"][2],
        outcome["document_traces"][-1],
    ):
        Path(path).unlink()
    again = run_program("ray", job, tmp_path, **token)
    assert {path: Path(path).read_bytes() for path in made} == made
    assert len(read_documents(again["cleaned"])) == len(read_documents(outcome["cleaned"]))
    assert not any("mapper" in what for what in again["said"])  # no operator ran twice


def _entries(folder: Path, source: str, operators: list[str]) -> list[Any]:
    import pyarrow as pa

    tables = [pq.read_table(path) for path in document_trace.files(folder, source)]
    return document_trace.ledger_entries(
        pa.concat_tables(tables, promote_options="default"), operators
    )


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_code_here_and_only_on_loopback(tmp_path: Path) -> None:
    rng = random.Random(4)
    base = draw_facts(7)
    files = [code_file(rng, base, language) for language in ("python", "java") for _ in range(30)]
    files = list(add_code_noise(rng, "python", files))
    source = write_documents(tmp_path / "code.jsonl", [*files, files[3], files[40]])
    recipe = write_recipe(tmp_path / "code.yaml", "repaired/code")
    (replacement,) = replacements(recipes.load_file(recipe))
    minhash = dict(replacement["with"])
    job = {
        "recipe": str(recipe),
        "inputs": {"code": str(source)},
        "models": str(tmp_path / "models"),
        "output": str(tmp_path / "output"),
        "scratch": str(tmp_path / "scratch"),
        "ray": {
            "address": "local",
            "num_cpus": 1,
            "round_bytes": 70_000,
            "partition_bytes": 30_000,
        },
        "deduplicators": {"minhash": ["document_minhash_deduplicator", minhash]},
    }
    (tmp_path / "models").mkdir()
    run_program("models", job, tmp_path)
    model = {"DATA_JUICER_EXTERNAL_MODELS_HOME": job["models"], "HF_HUB_OFFLINE": "1"}
    expected = run_program("reference", job, tmp_path, **model)
    outcome = run_program("ray", job, tmp_path)
    assert_same_traces(outcome, expected, read_documents([source]))
    assert set(outcome["listening"]) <= {"127.0.0.1", "::1", "::ffff:127.0.0.1"}
    resolved = yaml.safe_load(Path(outcome["recipe"]).read_text("utf-8"))
    assert resolved["executor_type"] == "ray"
    assert resolved["process"][-1] == {replacement["replaced_by"]: replacement["with"]}
    assert resolved["process"][:-1] == [
        {op.name: op.arguments or None} for op in recipes.load("repaired/code").operators[:-1]
    ]


def test_no_cluster_is_one_clear_error(tmp_path: Path) -> None:
    from corpus.cleaning.ray.run import run

    source = write_documents(tmp_path / "a.jsonl", ["一"])
    for address, words in (
        ("127.0.0.1:1", "ray start --head"),
        ("ray://127.0.0.1:1", "client"),
        ("here", "local, auto"),
    ):
        with pytest.raises(ConfigError, match=words):
            run(
                recipes.load("paper/text"),
                {"a": source},
                tmp_path,
                tmp_path / "o",
                tmp_path / "s",
                RayConfig(address=address),
                lambda done, total, what: None,
                "text",
            )
    assert not (tmp_path / "o").exists()
    assert not (tmp_path / "s").exists()
