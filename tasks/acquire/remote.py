"""Files behind a URL, through fsspec: s3://, gs://, hf://, https://, memory://, …

    file, folder or glob ──list──▶ files ──fetch──▶ half/<name> ──verified──▶ fetched/<name>
                                     └─────open───▶ ranges of a file, for a sample

A half file is continued where it ends, if the server says by an ETag or a time that the file is
still the same; otherwise it begins again.
"""

import base64
import binascii
import contextlib
import errno
import io
import json
import posixpath
import re
import threading
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import IO, Any
from urllib.parse import unquote, urlsplit

import fsspec
from fsspec.core import url_to_fs

from model.errors import ConfigError, DataError
from tasks._manifest import write_json
from tasks._urls import redact
from tasks.acquire.source import StoredFile, fsync, is_hidden, safe_name, verify

ATTEMPTS = 5
"""How often a transfer is tried before it is given up."""

PAUSE = 1.0
"""Seconds before the second attempt; doubled for each further one."""

BLOCK = 8 * 1024**2
"""Bytes asked for at a time while a whole file is fetched."""

READ_AHEAD = 1024**2
"""Bytes asked for at a time while the front of a file is read."""

WORKERS = 8
"""Files fetched, or asked about, at a time."""

_PACKAGES = {
    "s3": "s3fs", "s3a": "s3fs", "gs": "gcsfs", "gcs": "gcsfs", "az": "adlfs", "abfs": "adlfs",
    "abfss": "adlfs", "oss": "ossfs", "sftp": "paramiko", "ssh": "paramiko", "http": "aiohttp",
    "https": "aiohttp", "hf": "huggingface_hub", "smb": "smbprotocol", "gdrive": "gdrivefs",
    "dropbox": "dropboxdrivefs", "hdfs": "pyarrow", "webhdfs": "requests", "oci": "ocifs",
}  # fmt: skip

_VERSIONS = (
    "ETag", "etag", "md5Hash", "xet_hash", "blob_id", "content_md5", "LastModified",
    "Last-Modified", "last_modified", "mtime", "updated", "created",
)  # fmt: skip
"""What file systems call the value that changes with a file's content."""

_PERMANENT = (400, 401, 403, 404, 410)
"""HTTP answers that another attempt does not change."""


class NoRanges(Exception):
    """The server gives a file only as a whole."""


def scheme(url: str) -> str:
    """The protocol of a URL, in small letters."""
    return url.partition("://")[0].lower()


def check_url(name: str, location: str) -> None:
    """Raise ConfigError unless this machine can read such URLs at all. Asks no network."""
    protocol, shown = scheme(location), redact(location)
    if "::" in location:
        raise ConfigError(
            f"Data set {name!r}: {shown} chains file systems with `::`, which is not supported. "
            "Give the archive's own URL: archives are unpacked."
        )
    if protocol in ("file", "local"):
        raise ConfigError(
            f"Data set {name!r}: write {shown} as a path, without {protocol}:// in front"
        )
    try:
        fsspec.get_filesystem_class(protocol)
    except ImportError:
        package = _PACKAGES.get(protocol)
        missing = f"the package {package}" if package else "a package of fsspec's"
        extra = f", or `pip install 'steel-lm[{protocol}]'`" if protocol in ("s3", "gs") else ""
        remedy = f"`pip install {package or 'it'}`{extra}"
        raise ConfigError(
            f"Data set {name!r}: {shown} needs {missing}, which is not installed. Install it with "
            f"{remedy}, or copy the data to a folder and give that."
        ) from None
    except ValueError:
        raise ConfigError(
            f"Data set {name!r}: {shown} has the unknown protocol {protocol!r}. Known: a path, "
            "https://, s3://, gs://, hf:// and what else fsspec knows."
        ) from None


class UrlSource:
    """A file, folder or glob behind a URL."""

    owned = True

    def __init__(
        self, location: str, scratch: Path, pins: Mapping[str, str], endpoint: str | None = None
    ) -> None:
        """
        Args:
            location: the URL.
            scratch: folder that is kept across interruptions.
            pins: `sha256:…` by file name, from the recipe.
            endpoint: of the hub, for hf://.
        """
        self.location = location
        self.origin = redact(location)
        self.scratch = scratch
        self.pins = pins
        self._stop = threading.Event()
        options: dict[str, Any] = {}
        if scheme(location) in ("http", "https"):
            import aiohttp

            # Compressed on the way, sizes and ranges would not be the file's.
            options["headers"] = {"Accept-Encoding": "identity"}
            timeout = aiohttp.ClientTimeout(total=None, sock_connect=30, sock_read=60)
            options["client_kwargs"] = {"timeout": timeout, "trust_env": True}
        elif scheme(location) == "hf":
            options["endpoint"] = endpoint
        with self._clear("cannot be opened"):
            self._fs, self._root = url_to_fs(location, **options)

    def files(self) -> list[StoredFile]:
        """All files that are not hidden, sorted by name."""
        with self._clear("cannot be listed"):
            listed = self._patiently(self._list)
        found = {name: (at, info) for name, at, info in listed if not is_hidden(name)}
        if not found:
            raise DataError(f"{self.origin}: there is no file")
        if len(found) < sum(not is_hidden(name) for name, _, _ in listed):
            raise DataError(f"{self.origin}: two files have the same name")
        return [self._stored(safe_name(name, self.origin), *found[name]) for name in sorted(found)]

    def open(self, file: StoredFile) -> IO[bytes]:
        """Read parts of a file; each miss of the read-ahead is one request for a range."""
        return io.BufferedReader(_Ranged(self, file), READ_AHEAD)

    def fetch(self, file: StoredFile) -> Path:
        """Download a file, continuing what an interruption has left; verified."""
        done = self.scratch / "fetched" / file.name
        if done.exists():
            return done
        done.parent.mkdir(parents=True, exist_ok=True)
        half = self.scratch / "half" / file.name
        half.parent.mkdir(parents=True, exist_ok=True)
        with self._clear(f"{file.name} cannot be fetched"):
            self._patiently(lambda: self._download(file, half))
            try:
                self._check(file, half)
            except DataError:  # what an earlier attempt has left may be to blame: once more
                half.unlink()
                self._patiently(lambda: self._download(file, half))
                try:
                    self._check(file, half)
                except DataError:
                    half.unlink()
                    raise
        fsync(half)
        half.replace(done)
        return done

    def cancel(self) -> None:
        """End all downloads that are under way."""
        self._stop.set()

    def _list(self) -> list[tuple[str, str, Mapping[str, Any]]]:
        """(name, path in the file system, what it says of the file) of everything there."""
        web = scheme(self.location) in ("http", "https")
        path = self._root
        bare = path.partition("?")[0] if web else path
        magic = re.search(r"[*\[]" if web else r"[*?\[]", bare)
        found: dict[str, Any]
        if magic:
            base = path[: path.rindex("/", 0, magic.start()) + 1]
            found = self._fs.glob(path, detail=True)
        elif self.location.endswith("/") or (not web and self._fs.isdir(path)):
            base = path.rstrip("/") + "/"
            found = self._fs.find(path, detail=True)
        else:
            name = posixpath.basename(unquote(urlsplit(path).path) if web else path)
            return [(name, path, self._fs.info(path))]
        rows = []
        for at, info in found.items():
            name = at.removeprefix(base)
            if info["type"] != "file" or name.endswith("/") or (web and re.search("[?#]", name)):
                continue
            rows.append((unquote(name) if web else name.lstrip("/"), at, info))
        if web:  # a listing of links knows no sizes
            with ThreadPoolExecutor(WORKERS) as pool:
                infos = list(pool.map(lambda row: self._fs.info(row[1]), rows))
            rows = [(name, at, info) for (name, at, _), info in zip(rows, infos, strict=True)]
        return rows

    def _stored(self, name: str, at: str, info: Mapping[str, Any]) -> StoredFile:
        return StoredFile(
            name=name,
            size=info.get("size"),
            checksum=stated_checksum(self.location, info),
            version=_version(info),
            handle=at,
        )

    def _download(self, file: StoredFile, half: Path) -> None:
        """Bring `half` to its full size."""
        notes = self.scratch / "versions" / f"{file.name}.json"
        notes.parent.mkdir(parents=True, exist_ok=True)
        have = half.stat().st_size if half.exists() else 0
        same = notes.exists() and json.loads(notes.read_text()) == file.version
        if file.size is None or have > file.size or not (file.version and same):
            have = 0
        write_json(notes, file.version)
        with half.open("r+b" if have else "wb") as target:
            target.seek(have)
            try:
                if file.size is None:
                    raise NoRanges
                with _Ranged(self, file) as remote:
                    remote.seek(have)
                    self._copy(remote, target, file.size - have)
            except NoRanges:
                target.seek(0)
                target.truncate()
                with self._fs.open(file.handle, "rb", block_size=0) as remote:
                    self._copy(remote, target, None)

    def _copy(self, remote: Any, target: IO[bytes], missing: int | None) -> None:
        while missing is None or missing > 0:
            if self._stop.is_set():
                raise DataError(f"{self.origin}: stopped, because another file failed")
            data = remote.read(BLOCK if missing is None else min(BLOCK, missing))
            if not data:
                return
            target.write(data)
            target.flush()
            missing = None if missing is None else missing - len(data)

    def _check(self, file: StoredFile, half: Path) -> None:
        verify(half, file, self.pins.get(file.name, ""), self.origin)
        if not file.checksum and file.version:
            now = _version(self._fs.info(file.handle))
            if now != file.version:
                raise DataError(f"{self.origin}: {file.name} has changed meanwhile. Run again.")

    def _patiently(self, work: Any) -> Any:
        """Do what may fail for a while, several times."""
        for attempt in range(ATTEMPTS):
            try:
                return work()
            except Exception as error:
                last = attempt == ATTEMPTS - 1
                if last or _lasting(error) or self._stop.wait(PAUSE * 2**attempt):
                    raise
        raise AssertionError

    @contextlib.contextmanager
    def _clear(self, what: str) -> Iterator[None]:
        """Turn whatever a file system raises into one message without secrets."""
        try:
            yield
        except DataError:
            raise
        # Of any kind: what a lost connection raises depends on the file system.
        except Exception as error:
            if disk_full(error):
                raise
            # Without the cause: its traceback would show the URL as it is.
            raise DataError(
                f"{self.origin}: {what}: {explained(error, self.location)}. Check the "
                "address, the network and your credentials; what is finished is kept."
            ) from None


class _Ranged(io.RawIOBase):
    """A remote file, read by requests for ranges."""

    def __init__(self, source: UrlSource, file: StoredFile) -> None:
        super().__init__()
        self._source, self._file, self._at = source, file, 0
        fs = source._fs
        # Their own read-ahead would fetch more than is asked for.
        self._raw = fs.open(file.handle, "rb", block_size=READ_AHEAD, cache_type="none")

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = 0, /) -> int:
        size = self._file.size or 0
        self._at = offset + (0, self._at, size)[whence]
        return self._at

    def tell(self) -> int:
        return self._at

    def readinto(self, buffer: Any) -> int:
        size = self._file.size
        assert size is not None, "files of unknown size are fetched whole"
        count = min(len(buffer), size - self._at)
        if count <= 0:
            return 0
        try:
            self._raw.seek(self._at)
            data = self._raw.read(count)
        except ValueError as error:
            if "range" in str(error).lower() or "seek" in str(error).lower():
                raise NoRanges from None
            raise
        buffer[: len(data)] = data
        self._at += len(data)
        return len(data)

    def close(self) -> None:
        if not self.closed:
            self._raw.close()
        super().close()


def stated_checksum(url: str, info: Mapping[str, Any]) -> str:
    """The checksum of a file's content that its place states, if it truly is one."""
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


def _version(info: Mapping[str, Any]) -> str:
    value = next((info[key] for key in _VERSIONS if info.get(key)), None)
    return "" if value is None else f"{info.get('size')} {value}"


def _chain(error: BaseException) -> Iterator[BaseException]:
    seen: BaseException | None = error
    while seen is not None:
        yield seen
        seen = seen.__cause__ or seen.__context__


def disk_full(error: BaseException) -> bool:
    """Whether an error, or what caused it, is a full disk or quota."""
    full = (errno.ENOSPC, errno.EDQUOT)
    return any(isinstance(e, OSError) and e.errno in full for e in _chain(error))


def _lasting(error: BaseException) -> bool:
    """Whether trying again is useless."""
    if isinstance(error, DataError | NoRanges | PermissionError | NotImplementedError):
        return True
    if disk_full(error):
        return True
    for cause in _chain(error):
        response = getattr(cause, "response", None)
        status = getattr(cause, "status", None) or getattr(response, "status_code", None)
        if status is not None:
            return status in _PERMANENT
    # fsspec calls every failure of a server a missing file, but then gives the cause.
    return isinstance(error, FileNotFoundError) and error.__cause__ is None


def explained(error: BaseException, *locations: str) -> str:
    """An exception and what caused it in one line, without the secrets of URLs."""
    causes = [f"{type(e).__name__}: {e}".rstrip(": ") for e in _chain(error)]
    return redact(" <- ".join(dict.fromkeys(causes[:3])), *locations)
