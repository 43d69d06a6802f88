"""Checksums that file systems state: those of the content are verified, others are no checksums."""

import base64
import hashlib
from pathlib import Path
from typing import Any, ClassVar

import pytest
from fsspec.implementations.memory import MemoryFileSystem

from common.errors import DataError
from corpus.sources import remote
from corpus.sources.remote_checksums import checksum_from_info
from tasks.acquire import AcquireConfig, acquire
from tests.tasks.running import run_stage

LINES = b"".join(b'{"text": "%d"}\n' % i for i in range(50))
MD5 = hashlib.md5(LINES).hexdigest()


@pytest.mark.parametrize(
    ("url", "info", "stated"),
    [
        ("s3://b/a", {"ETag": f'"{MD5}"'}, f"md5:{MD5}"),
        ("s3://b/a", {"ETag": f'"{MD5}-12"'}, ""),
        ("s3://b/a", {"ETag": f'"{MD5}"', "ServerSideEncryption": "aws:kms"}, ""),
        ("https://b.s3.amazonaws.com/a", {"ETag": f'"{MD5}"'}, f"md5:{MD5}"),
        ("https://example.org/a", {"ETag": f'"{MD5}"'}, ""),
        ("gs://b/a", {"md5Hash": base64.b64encode(bytes.fromhex(MD5)).decode()}, f"md5:{MD5}"),
        (
            "hf://datasets/o/n/a",
            {"lfs": {"sha256": "ab" * 32}, "blob_id": "c" * 40},
            "sha256:" + "ab" * 32,
        ),
        ("hf://datasets/o/n/a", {"lfs": None, "blob_id": "c" * 40}, "git:" + "c" * 40),
        ("https://example.org/a", {"Digest": "crc32=1, md5=!!!"}, ""),
    ],
)
def test_which_checksums_are_believed(url: str, info: dict[str, object], stated: str) -> None:
    assert checksum_from_info(url, info) == stated


class Bucket(MemoryFileSystem):
    """Looks like S3: its ETag is the MD5 of what was stored, not of what it gives."""

    protocol = "s3"
    store: ClassVar[dict[str, Any]] = {}
    pseudo_dirs: ClassVar[list[str]] = [""]

    @classmethod
    def _strip_protocol(cls, path: str) -> str:
        return "/" + path.removeprefix("s3://").strip("/")

    def info(self, path: str, **kwargs: Any) -> dict[str, Any]:
        found: dict[str, Any] = super().info(path, **kwargs)
        return found | {"ETag": f'"{MD5}"'}


def test_etag_of_a_bucket(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        remote, "url_to_fs", lambda url, **_: (Bucket(), Bucket._strip_protocol(url))
    )
    monkeypatch.setattr("corpus.sources.datasets.check_url", lambda *_: None)
    Bucket().pipe({"/bucket/a.jsonl": LINES})
    config = AcquireConfig(kind="corpora", datasets={"skypile": "s3://bucket/a.jsonl"})
    run_stage(acquire, tmp_path / "good", config)
    (got,) = (tmp_path / "good" / "skypile").rglob("*")
    assert (got.name, got.read_bytes()) == ("a.jsonl", LINES)
    Bucket().pipe({"/bucket/a.jsonl": bytes([LINES[0] ^ 1]) + LINES[1:]})
    with pytest.raises(DataError, match=r"a\.jsonl.*MD5.*sha256 in the recipe"):
        run_stage(acquire, tmp_path / "bad", config)
