"""Checksums and versions of remote files, as fsspec's file systems state them."""

import base64
import binascii
import re
from collections.abc import Mapping
from typing import Any
from urllib.parse import urlsplit

from common.urls import scheme

_VERSIONS = (
    "ETag",
    "etag",
    "md5Hash",
    "xet_hash",
    "blob_id",
    "content_md5",
    "LastModified",
    "Last-Modified",
    "last_modified",
    "mtime",
    "updated",
    "created",
)
"""Keys under which file systems state a value that changes with a file's content."""


def checksum_from_info(url: str, info: Mapping[str, Any]) -> str:
    """Checksum of a file's content from fsspec's info; empty if it holds none of the content."""
    lfs = info.get("lfs")
    if isinstance(lfs, Mapping) and lfs.get("sha256"):
        return f"sha256:{lfs['sha256']}"
    if scheme(url) == "hf" and info.get("blob_id"):
        return f"git:{info['blob_id']}"
    for item in str(info.get("Digest", "")).split(","):
        kind, _, value = item.strip().partition("=")
        if kind.lower() in ("sha-256", "md5"):
            return _from_base64("sha256" if kind.lower() == "sha-256" else "md5", value)
    for key in ("md5Hash", "Content-MD5"):
        if info.get(key):
            return _from_base64("md5", str(info[key]))
    # Only S3 makes ETags of MD5s; of uploads in parts and of encrypted files they are none.
    tag = str(info.get("ETag", "")).strip('"').lower()
    host = urlsplit(url).hostname or ""
    is_s3 = scheme(url) in ("s3", "s3a") or host.endswith(".amazonaws.com")
    encrypted = "kms" in str(info.get("ServerSideEncryption", "")).lower()
    if is_s3 and not encrypted and re.fullmatch("[0-9a-f]{32}", tag):
        return f"md5:{tag}"
    return ""


def _from_base64(kind: str, value: str) -> str:
    try:
        return f"{kind}:{base64.b64decode(value, validate=True).hex()}"
    except binascii.Error:
        return ""


def version_from_info(info: Mapping[str, Any]) -> str:
    """Value that changes when a file changes; empty where the file system states none."""
    value = next((info[key] for key in _VERSIONS if info.get(key)), None)
    return "" if value is None else f"{info.get('size')} {value}"


def is_strong(version: str) -> bool:
    """True if a version stands for the very bytes: a weak ETag (RFC 9110, 8.8.1) does not."""
    return bool(version) and ' W/"' not in version
