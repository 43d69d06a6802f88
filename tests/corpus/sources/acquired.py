"""Acquisitions that stand finished in a store, one after the other."""

import gzip
from pathlib import Path
from typing import Any

from tasks.acquire import VERSION, AcquireConfig, acquire
from tasks.core.manifest import StageResult, publish
from tasks.core.stage import StageRun, plain
from tests.corpus.sources.archive_files import make_tar, make_zip
from tests.corpus.sources.fake_web import Web
from tests.tasks.running import stage_run

A, B, C = (b"".join(b'{"text": "%s %d"}\n' % (n, i) for i in range(60)) for n in (b"a", b"b", b"c"))


def place_of(store: Path, number: int) -> Path:
    """Folder of the acquisition of this number while it is made."""
    return store / "acquire" / f"{number:016x}.partial"


def run_in_store(store: Path, number: int, config: AcquireConfig) -> StageRun:
    """Run the stage's own function; what it leaves is not published yet."""
    run = stage_run(place_of(store, number))
    run.store = store
    acquire.__wrapped__(run, config)  # type: ignore[attr-defined]
    return run


def acquired(store: Path, number: int, config: AcquireConfig) -> StageResult:
    """Acquire once more, under a key of its own whatever the configuration is."""
    run = run_in_store(store, number, config)
    manifest = {
        "schema": 1,
        "stage": "acquire",
        "key": f"{number:016x}",
        "stage_version": VERSION,
        "config": plain(config),
        "counts": run.counts,
        "notes": run.notes,
        "finished": number,
    }
    folder = run.folder.with_suffix("")
    publish(run.folder, folder, manifest)
    return StageResult.read(folder)


def corpora(location: str, **sample: Any) -> AcquireConfig:
    return AcquireConfig(kind="corpora", datasets={"skypile": location}, **sample)


def files_of(result: StageResult) -> dict[str, bytes]:
    """Content by name of the files of the data set."""
    folder = result.folder / "skypile"
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def counts(result: StageResult) -> tuple[int, int]:
    """Files taken over, and fetched."""
    return result.manifest["counts"]["files_taken_over"], result.manifest["counts"]["files_fetched"]


def fetched(web: Web) -> set[str]:
    """Names of the files whose content was asked for; asked anew each time."""
    found = {path for method, path, _ in web.requests if method == "GET" and path[-1] != "/"}
    web.requests.clear()
    return {path.removeprefix("/d/") for path in found}


def next_commit(files: dict[str, bytes]) -> dict[str, bytes]:
    """Files of a repository's next commit: the first as it was, the second changed, a new one."""
    return {
        "data/a.jsonl": files["data/a.jsonl"],
        "data/b.jsonl": files["data/b.jsonl"][::-1],
        "data/new.jsonl": C,
    }


def packed_files() -> dict[str, bytes]:
    inside = {"x.jsonl": A, "y/z.jsonl.gz": gzip.compress(B, mtime=0)}
    return {
        "d/one.jsonl.gz": gzip.compress(A, mtime=0),
        "d/two.zip": make_zip(inside),
        "d/three.tar.zst": make_tar(inside, "zst"),
        "d/four.jsonl": C,
    }


UNPACKED = {
    "one.jsonl": A,
    "two/x.jsonl": A,
    "two/y/z.jsonl": B,
    "three/x.jsonl": A,
    "three/y/z.jsonl": B,
    "four.jsonl": C,
}
