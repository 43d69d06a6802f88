"""Source: files behind a URL, through fsspec: s3://, gs://, hf://, https://, memory://, …

    file, folder or glob ──list──▶ files ──fetch──▶ half/<name> ──verified──▶ fetched/<name>
                                     └─────open───▶ ranges of a file, for a sample

A half file is continued where it ends, if the server says by an ETag or a time that the file is
still the same; otherwise it begins again.
"""

import contextlib
import hashlib
import io
import json
import posixpath
import re
import threading
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import IO, Any
from urllib.parse import unquote, urlsplit

import fsspec
from fsspec.core import url_to_fs
from fsspec.utils import glob_translate

from common.errors import ConfigError, DataError
from common.files import sync, write_json
from common.urls import identity, is_url, redact, scheme
from corpus.sources.remote_checksums import checksum_from_info, is_strong, version_from_info
from corpus.sources.retry import ATTEMPTS, RangesNotSupported, T, as_data_error, retry
from corpus.sources.source import StoredFile, is_hidden, safe_name, verify_file

BLOCK = 8 * 1024**2
"""Bytes asked for at a time while a whole file is fetched."""

READ_AHEAD = 1024**2
"""Bytes asked for at a time while the front of a file is read."""

ANSWER_SECONDS = 60.0
"""Longest wait for the next bytes of a web server."""

FIRST_SILENCES = 2
"""Times that a server may be silent for so long before it is given up as one that is not there."""

WORKERS = 8
"""Files fetched, or asked about, at a time."""


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
    except ImportError as error:
        extra = f"`pip install 'steel-lm[{protocol}]'`" if protocol in ("s3", "gs") else "pip"
        raise ConfigError(
            f"Data set {name!r}: {shown} needs a package that is not installed ({error}). Install "
            f"it with {extra}, or copy the data to a folder and give that."
        ) from None
    except ValueError:
        raise ConfigError(
            f"Data set {name!r}: {shown} has the unknown protocol {protocol!r}. Known: a path, "
            "https://, s3://, gs://, hf:// and what else fsspec knows."
        ) from None


class UrlSource:
    """A file, folder or glob behind a URL."""

    downloads = True
    remedy = "Check the address, the network and your credentials; what is finished is kept."

    def __init__(
        self, location: str, scratch: Path, pins: Mapping[str, str], **options: Any
    ) -> None:
        """
        Args:
            location: the URL.
            scratch: folder that is kept across interruptions.
            pins: `sha256:…` by file name, from the recipe.
            options: for the file system.
        """
        self.location = location
        self.origin = redact(location)
        self.scratch = scratch
        self.pins = pins
        self._stop = threading.Event()
        if scheme(location) in ("http", "https"):
            import aiohttp

            # Compressed on the way, sizes and ranges would not be the file's.
            options["headers"] = {**options.get("headers", {}), "Accept-Encoding": "identity"}
            timeout = aiohttp.ClientTimeout(total=None, sock_connect=30, sock_read=ANSWER_SECONDS)
            options["client_kwargs"] = {"timeout": timeout, "trust_env": True}
        with self._clear_errors("cannot be opened"):
            self._fs, self._root = url_to_fs(location, **options)

    def files(self) -> list[StoredFile]:
        """All files that are not hidden, sorted by name."""
        with self._clear_errors("cannot be listed"):
            listed = self._retry(self._list, FIRST_SILENCES)
        found: dict[str, StoredFile] = {}
        for given, at, info in listed:
            name = safe_name(given, self.origin)
            if name in found:
                raise DataError(f"{self.origin}: two files have the name {name}")
            if not is_hidden(name):
                found[name] = StoredFile(
                    name=name,
                    size=info.get("size"),
                    checksum=checksum_from_info(self.location, info),
                    version=version_from_info(info),
                    handle=at,
                )
        if not found:
            raise DataError(f"{self.origin}: there is no file")
        return [found[name] for name in sorted(found)]

    def open(self, file: StoredFile) -> IO[bytes]:
        """Read parts of a file; each miss of the read-ahead is one request for a range."""
        with self._clear_errors(f"{file.name} cannot be read"):
            return io.BufferedReader(self._retry(lambda: _RangeReader(self, file)), READ_AHEAD)

    def fetch(self, file: StoredFile) -> Path:
        """Download a file, continuing what an interruption has left; verified."""
        done = self.scratch / "fetched" / file.name
        if done.exists():
            return done
        half = self.scratch / "half" / file.name
        done.parent.mkdir(parents=True, exist_ok=True)
        half.parent.mkdir(parents=True, exist_ok=True)
        with self._clear_errors(f"{file.name} cannot be fetched"):
            for last in (False, True):
                self._retry(lambda: self._download(file, half))
                try:
                    self._verify(file, half)
                    break
                except DataError:  # what an earlier attempt has left may be to blame: once more
                    half.unlink()
                    if last:
                        raise
        sync(half)
        half.replace(done)
        return done

    def identity(self, file: StoredFile) -> str:
        """Size, checksum (else address and version), and what the recipe pins; empty where the
        server says too little, and for a file that was not the listed one when it was fetched."""
        proof = file.checksum
        if not proof and is_strong(file.version) and self._began(file) in ("", file.version):
            at = file.handle if is_url(file.handle) else f"{scheme(self.location)}://{file.handle}"
            address = hashlib.sha256(identity(at).encode()).hexdigest()  # it may hold secrets
            proof = f"{address} {file.version}"
        if file.size is None or not proof:
            return ""
        return f"{file.size} {proof} {self.pins.get(file.name, '')}".rstrip()

    def cancel(self) -> None:
        """End all downloads that are under way."""
        self._stop.set()

    def _list(self) -> list[tuple[str, str, Mapping[str, Any]]]:
        """(name, path in the file system, fsspec's info) of every file."""
        if scheme(self.location) in ("http", "https"):
            return self._list_web()
        path, found = self._root, {}
        if magic := re.search(r"[*?\[]", path):
            base = path[: path.rindex("/", 0, magic.start()) + 1]
            found = self._fs.glob(path, detail=True)
        elif self._fs.isdir(path):
            base = path.rstrip("/") + "/"
            found = self._fs.find(path, detail=True)
        else:
            return [(posixpath.basename(path), path, self._fs.info(path))]
        return [
            (at.removeprefix(base).lstrip("/"), at, info)
            for at, info in found.items()
            if info["type"] == "file" and not at.endswith("/")
        ]

    def _list_web(self) -> list[tuple[str, str, Mapping[str, Any]]]:
        """The same on a web server, whose pages of links stand for folders."""
        path = urlsplit(self._root).path
        start = len(self._root.partition("?")[0].partition("#")[0]) - len(path)
        magic = re.search(r"[*\[]", path)
        if not magic and not path.endswith("/"):
            return [(posixpath.basename(unquote(path)), self._root, self._fs.info(self._root))]
        base = self._root[: start + path.rindex("/", 0, magic.start() if magic else None) + 1]
        pattern, depth = None, None
        if magic:
            wanted = self._root[len(base) :]
            pattern = re.compile(glob_translate(unquote(wanted)))
            depth = None if "**" in wanted else wanted.count("/")
        names = {
            name: at
            for name, at in self._crawl(base, base, depth)
            if pattern is None or pattern.match(name)
        }
        with ThreadPoolExecutor(WORKERS) as pool:  # pages of links tell no sizes
            infos = list(pool.map(self._fs.info, names.values()))
        return [(name, at, info) for (name, at), info in zip(names.items(), infos, strict=True)]

    def _crawl(self, base: str, folder: str, depth: int | None) -> Iterator[tuple[str, str]]:
        """(name, URL) of the files in a folder and below. fsspec's own walk skips what fails."""
        for entry in sorted(self._fs.ls(folder, detail=True), key=lambda entry: entry["name"]):
            at = entry["name"]
            tail = at.removeprefix(folder)
            if at == tail or not tail.strip("/.") or re.search("[?#]", tail):
                continue  # to sort the page, to its parent, to elsewhere
            name = safe_name(unquote(at.removeprefix(base)), self.origin)
            if not at.endswith("/"):
                yield name, at
            elif depth != 0:
                yield from self._crawl(base, at, None if depth is None else depth - 1)

    def _download(self, file: StoredFile, half: Path) -> None:
        """Bring `half` to its full size."""
        have = half.stat().st_size if half.exists() else 0
        version = version_from_info(self._fs.info(file.handle))
        same = self._began(file) == version
        if file.size is None or have > file.size or not (version and same):
            have = 0
        notes = self._notes(file)
        notes.parent.mkdir(parents=True, exist_ok=True)
        write_json(notes, version)
        with half.open("r+b" if have else "wb") as target:
            target.seek(have)
            try:
                if file.size is None:
                    raise RangesNotSupported
                with _ranges(), self._open_ranges(file) as remote:
                    remote.seek(have)
                    self._copy(remote, target, file.size - have)
            except RangesNotSupported:
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

    def _verify(self, file: StoredFile, half: Path) -> None:
        verify_file(half, file, self.pins.get(file.name, ""), self.origin)
        if file.checksum:
            return
        if version_from_info(self._fs.info(file.handle)) != self._began(file):
            raise DataError(f"{self.origin}: {file.name} has changed meanwhile. Run again.")

    def _notes(self, file: StoredFile) -> Path:
        return self.scratch / "versions" / f"{file.name}.json"

    def _began(self, file: StoredFile) -> str:
        """Version of a file when its download began; empty where none did, or has none."""
        notes = self._notes(file)
        return str(json.loads(notes.read_text(encoding="utf-8"))) if notes.exists() else ""

    def _retry(self, work: Callable[[], T], silences: int = ATTEMPTS) -> T:
        return retry(work, self._stop, silences=silences)

    def _clear_errors(self, what: str) -> contextlib.AbstractContextManager[None]:
        return as_data_error(f"{self.origin}: {what}", self.remedy, self.location)

    def _open_ranges(self, file: StoredFile) -> Any:
        # The file system's own read-ahead would fetch more than is asked for.
        return self._fs.open(file.handle, "rb", block_size=READ_AHEAD, cache_type="none")


@contextlib.contextmanager
def _ranges() -> Iterator[None]:
    """Raise RangesNotSupported for the errors by which fsspec says so."""
    try:
        yield
    except ValueError as error:
        if "range" in str(error).lower() or "seek" in str(error).lower():
            raise RangesNotSupported from None
        raise


class _RangeReader(io.RawIOBase):
    """A remote file of known size, read by requests for ranges; each is tried several times."""

    def __init__(self, source: UrlSource, file: StoredFile) -> None:
        super().__init__()
        assert file.size is not None, "files of unknown size are fetched whole"
        self._source, self._file, self._size = source, file, file.size
        self._at = 0
        self._raw = source._open_ranges(file)

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = 0, /) -> int:
        self._at = offset + (0, self._at, self._size)[whence]
        return self._at

    def tell(self) -> int:
        return self._at

    def readinto(self, buffer: Any) -> int:
        count = min(len(buffer), self._size - self._at)
        if count <= 0:
            return 0
        with self._source._clear_errors(f"{self._file.name} cannot be read"):
            data = self._source._retry(lambda: self._read(count))
        buffer[: len(data)] = data
        self._at += len(data)
        return len(data)

    def _read(self, count: int) -> bytes:
        with _ranges():
            self._raw.seek(self._at)
            data: bytes = self._raw.read(count)
            return data

    def close(self) -> None:
        if not self.closed:
            self._raw.close()
        super().close()
