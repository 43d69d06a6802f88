"""Unpacking of archives that may be malicious or damaged.

    archive ── member by member: name, type, size checked, then written ──▶ a fresh folder

The folder is the caller's, outside of where results are seen: a refused archive leaves nothing. One
member that is refused (docs/acquire.md lists why) refuses the archive. Files are only ever created,
never opened again, and no link is ever made, so a name that passes cannot lead elsewhere.
"""

import contextlib
import errno
import io
import stat
import tarfile
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, NoReturn, cast

from common.disk import format_bytes
from common.errors import DataError
from common.names import UnsafeName, safe_parts
from corpus.sources.compression import (
    DECOMPRESSION_ERRORS,
    ArchiveType,
    DecompressingReader,
    archive_type,
)

MAX_UNPACKED = 4 * 1024**4
"""Bytes that one archive may unpack to, with all archives inside it (4 TiB)."""

MAX_RATIO = 250
"""Bytes unpacked per byte of the archive, at most. Text reaches 4 to 20, repetitive logs 100."""

RATIO_FREE = 64 * 1024**2
"""Below this many bytes the ratio does not matter."""

MAX_MEMBERS = 5_000_000
"""Files and folders in one archive, at most, with all archives inside it."""

MAX_NESTING = 2
"""Archives inside archives: 1 means that an archive may hold none, 2 that it may hold some."""

MAX_HEADER = 1024**2
"""Bytes of a tar header (a long name, extended attributes), which is read into memory."""

CHUNK = 1 << 20

_DAMAGE = (tarfile.TarError, zipfile.BadZipFile, NotImplementedError, RuntimeError)


class ArchiveRefused(DataError):
    """An archive that is not unpacked; the message names it, the member and the reason."""


@dataclass
class UnpackLimits:
    """Counts of what one archive has unpacked to, checked against the limits above."""

    archive: str
    """Its name, for messages."""
    packed: int
    """Its size, bytes."""
    unpacked: int = 0
    members: int = 0

    def add_bytes(self, member: str, size: int) -> None:
        """Count bytes that a member has unpacked to. Raises ArchiveRefused beyond a limit."""
        self.unpacked += size
        if self.unpacked > MAX_UNPACKED:
            self.refuse(member, f"takes the archive beyond {format_bytes(MAX_UNPACKED)} unpacked")
        if self.unpacked > RATIO_FREE and self.unpacked > MAX_RATIO * self.packed:
            self.refuse(
                member,
                f"is a bomb: {format_bytes(self.packed)} have unpacked to more than {MAX_RATIO} "
                "times as much",
            )

    def add_member(self, member: str) -> None:
        """Count one more member. Raises ArchiveRefused beyond the limit."""
        self.members += 1
        if self.members > MAX_MEMBERS:
            self.refuse(member, f"is one of more than {MAX_MEMBERS} members")

    def refuse(self, member: str, why: str) -> NoReturn:
        """Raise ArchiveRefused."""
        what = f"its member {_quoted(member)}" if member else "it"
        raise ArchiveRefused(
            f"{self.archive} is refused: {what} {why}. Nothing of it was kept. If you trust it, "
            "unpack it by hand and give the folder."
        )

    def damaged(self, member: str, error: BaseException) -> ArchiveRefused:
        """Error for an archive that cannot be read on."""
        place = f" at its member {_quoted(member)}" if member else ""
        return ArchiveRefused(
            f"{self.archive} is damaged{place}: {type(error).__name__}: {error}. Nothing of it "
            "was kept. Get it again."
        )


def unpack_archive(
    path: Path, folder: Path, packed: ArchiveType, name: str, *, streams: bool
) -> None:
    """Unpack a container (zip, tar) into `folder`, which must not exist yet.

    Args:
        path: the archive.
        folder: made here; holds a part when an error is raised.
        packed: its type.
        name: its name in messages.
        streams: if true, `.gz` and `.zst` files inside are decompressed too.

    Raises:
        ArchiveRefused: the archive is unsafe or damaged; names it and the member.
    """
    assert packed.is_container
    unpacker = _Unpacker(
        limits=UnpackLimits(name, path.stat().st_size),
        streams=streams,
        scratch=folder.with_name(f"{folder.name}.inner"),
    )
    with refuse_if_damaged(unpacker.limits, lambda: unpacker.member):
        unpacker.container(path, folder, packed, 1)


def decompress_file(path: Path, target: IO[bytes], packed: ArchiveType, name: str) -> None:
    """Unpack a single `.gz` or `.zst` stream. Raises ArchiveRefused."""
    limits = UnpackLimits(name, path.stat().st_size)
    with path.open("rb") as raw, refuse_if_damaged(limits):
        stream = DecompressingReader(
            raw, packed.codec, on_output=lambda size: limits.add_bytes("", size)
        )
        while data := stream.read(CHUNK):
            target.write(data)


@dataclass(kw_only=True)
class _Unpacker:
    """One archive with everything inside it."""

    limits: UnpackLimits
    streams: bool
    scratch: Path
    """Beginning of the paths of archives inside the archive while they are unpacked."""
    member: str = ""
    """Name of the member that is being unpacked."""

    def container(self, path: Path, folder: Path, packed: ArchiveType, depth: int) -> None:
        folder.mkdir(parents=True)
        if packed.suffix == ".zip":
            self._zip(path, folder, depth)
        else:
            self._tar(path, folder, packed.codec, depth)

    def _zip(self, path: Path, folder: Path, depth: int) -> None:
        with zipfile.ZipFile(path) as archive:
            members = archive.infolist()
            for info, name in zip(members, _zip_names(members), strict=True):
                self._next(name)
                # Unix file types; zero for archives made elsewhere.
                kind = stat.S_IFMT(info.external_attr >> 16)
                if kind == stat.S_IFLNK:
                    self.limits.refuse(name, "is a symbolic link")
                if kind not in (0, stat.S_IFREG, stat.S_IFDIR):
                    self.limits.refuse(name, "is a device, a pipe or a socket")
                if info.flag_bits & 1:
                    self.limits.refuse(name, "is encrypted")
                if name.endswith(("/", "\\")) or kind == stat.S_IFDIR:
                    self._folder(name, folder)
                else:
                    with archive.open(info) as data:
                        self._file(name, data, folder, depth)

    def _tar(self, path: Path, folder: Path, codec: str, depth: int) -> None:
        # Headers and padding may be a bomb too: the whole stream has limits of its own.
        whole = UnpackLimits(self.limits.archive, path.stat().st_size)
        with path.open("rb") as raw:
            stream = _ForwardReader(
                DecompressingReader(raw, codec, on_output=lambda n: whole.add_bytes(self.member, n))
                if codec
                else raw
            )
            with tarfile.open(
                fileobj=cast("IO[bytes]", stream),
                mode="r:",
                encoding="utf-8",
                errors="surrogateescape",
            ) as archive:
                while (member := archive.next()) is not None:
                    vars(archive)["members"] = []  # else every header stays in memory
                    raw_name = member.name.encode("utf-8", "surrogateescape")
                    name = _decode_names([raw_name], "latin-1")[0]
                    self._next(name)
                    self._check_tar_member(member, name, folder)
                    if member.isdir():
                        self._folder(name, folder)
                        continue
                    data = archive.extractfile(member)
                    assert data is not None
                    self._file(name, data, folder, depth)
            if stream.last.strip(b"\0"):  # tarfile takes any other bytes for the end
                raise EOFError("no header where one should be")
            while stream.read(CHUNK):  # a compressed stream's checksum stands at its end
                pass

    def _next(self, name: str) -> None:
        self.member = name
        self.limits.add_member(name)

    def _check_tar_member(self, member: tarfile.TarInfo, name: str, folder: Path) -> None:
        if member.issym():
            self.limits.refuse(name, "is a symbolic link")
        if member.islnk():
            self.limits.refuse(name, "is a hard link")
        if not (member.isreg() or member.isdir()):
            self.limits.refuse(name, "is a device, a pipe or of an unknown type")
        if not (member.isdir() and _is_top(name)):
            self._target(name, folder)
        try:
            tarfile.data_filter(member, str(folder))
        except tarfile.FilterError as error:
            self.limits.refuse(name, f"is unsafe: {error}")

    def _target(self, name: str, folder: Path) -> Path:
        try:
            return folder.joinpath(*safe_parts(name))
        except UnsafeName as why:
            self.limits.refuse(name, str(why))

    def _folder(self, name: str, folder: Path) -> None:
        if _is_top(name):
            return
        self._create(name, lambda: self._target(name, folder).mkdir(parents=True, exist_ok=True))

    def _file(self, name: str, data: IO[bytes], folder: Path, depth: int) -> None:
        """Write one member; one that is itself packed is unpacked in its place."""
        target = self._target(name, folder)
        packed = archive_type(name, streams=self.streams)
        if packed and depth >= MAX_NESTING:
            self.limits.refuse(
                name, f"is an archive in an archive, more than {MAX_NESTING} levels deep"
            )
        self._create(name, lambda: target.parent.mkdir(parents=True, exist_ok=True))
        if packed is None:
            self._write(name, data, target)
        elif packed.is_container:
            inner = self.scratch.with_name(f"{self.scratch.name}.{depth}")
            inner.unlink(missing_ok=True)
            self._write(name, data, inner)
            plain = target.with_name(target.name[: -len(packed.suffix)])
            self._create(name, lambda: self.container(inner, plain, packed, depth + 1))
            inner.unlink()
        else:
            plain = target.with_name(target.name[: -len(packed.suffix)])
            self._write(name, io.BufferedReader(DecompressingReader(data, packed.codec)), plain)

    def _write(self, name: str, data: IO[bytes], target: Path) -> None:
        with self._create(name, lambda: target.open("xb")) as file:
            while block := data.read(CHUNK):
                self.limits.add_bytes(name, len(block))
                file.write(block)

    def _create(self, name: str, make: Callable[[], Any]) -> Any:
        """Create something. Raises ArchiveRefused when there is something of that name."""
        try:
            return make()
        except (FileExistsError, NotADirectoryError, IsADirectoryError):
            self.limits.refuse(name, "has the name of another member, or of a folder of one")
        except OSError as error:
            if error.errno != errno.ENAMETOOLONG:
                raise
            self.limits.refuse(name, "has a name that is too long")


class _ForwardReader:
    """A stream that tarfile can read and skip in. Nothing large is read into memory at once."""

    def __init__(self, raw: Any) -> None:
        self._raw, self._at = raw, 0
        self.last = b""
        """Header that was read last; empty after other reads."""

    def read(self, size: int = -1, /) -> bytes:
        if not 0 <= size <= MAX_HEADER:
            raise EOFError(f"a header of {size} bytes")
        parts, missing = [], size
        while missing and (data := self._raw.read(missing)):
            parts.append(data)
            missing -= len(data)
        block = b"".join(parts)
        self._at += len(block)
        self.last = block if size == tarfile.BLOCKSIZE else b""
        return block

    def seek(self, offset: int, whence: int = 0, /) -> int:
        assert whence == 0 and offset >= self._at, "only tarfile reads this, and forwards"
        while self._at < offset and self.read(min(CHUNK, offset - self._at)):
            pass
        return self._at

    def tell(self) -> int:
        return self._at


@contextlib.contextmanager
def refuse_if_damaged(limits: UnpackLimits, member: Callable[[], str] = str) -> Iterator[None]:
    """Raise ArchiveRefused for what reading a damaged archive raises."""
    try:
        yield
    except DataError:
        raise
    except (*_DAMAGE, *DECOMPRESSION_ERRORS) as error:
        if isinstance(error, OSError) and error.errno:  # the disk's fault, not the archive's
            raise
        raise limits.damaged(member(), error) from error


def _is_top(name: str) -> bool:
    """True for the archive's own top folder (`./`), with which many tar files begin."""
    return all(part in ("", ".") for part in name.split("/")) and not name.startswith("/")


def _zip_names(members: list[zipfile.ZipInfo]) -> list[str]:
    """Names of a zip's members; those not flagged as UTF-8 may be in any encoding, all alike."""
    # Without the flag zipfile reads every byte as a character of code page 437.
    raw = [m.orig_filename.encode("cp437") for m in members if not m.flag_bits & 0x800]
    decoded = iter(_decode_names(raw, "cp437"))
    return [m.orig_filename if m.flag_bits & 0x800 else next(decoded) for m in members]


def _decode_names(names: list[bytes], fallback: str) -> list[str]:
    """Names as UTF-8, or else as GBK, or else in the fallback encoding."""
    for encoding in ("utf-8", "gb18030"):
        with contextlib.suppress(UnicodeDecodeError):
            return [name.decode(encoding) for name in names]
    return [name.decode(fallback) for name in names]


def _quoted(name: str) -> str:
    return repr(name if len(name) <= 200 else f"{name[:200]}…")
