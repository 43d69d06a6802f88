"""Python's surroundings: compiler, disks, limits of the system, shared memory, fonts."""

import contextlib
import os
import resource
import shutil
import sysconfig
import tempfile
from collections.abc import Iterator
from pathlib import Path

from common.disk import format_bytes, free_bytes, nearest_existing
from common.paths import display
from flows.doctor.finding import Finding, note, ok, problem

GB = 10**9
LEAST_STORE = 5 * GB
"""Bytes of a store's disk below which the demonstration itself may not fit."""
LEAST_TEMPORARY = 1 * GB
LEAST_SHARED = 256 * 10**6
"""Bytes of /dev/shm: a container's default is 64 MB, with which NCCL and loaders die of SIGBUS."""
LEAST_FILES = 1024
"""Open files that a process needs: servers, shards, sockets of ranks."""
LEAST_INSTANCES = 128
"""Instances of inotify a user needs: servers, editors and notebooks share them."""

CHINESE_FONTS = (
    "notosanscjk",
    "notoserifcjk",
    "wqy",
    "sourcehansans",
    "droidsansfallback",
    "uming",
)
"""Beginnings of the file names of fonts with Chinese, in small letters."""
FONT_FOLDERS = ("/usr/share/fonts", "/usr/local/share/fonts", "~/.fonts", "~/.local/share/fonts")


def findings(store: Path) -> Iterator[Finding]:
    """Findings about this machine."""
    yield from disks(store)
    yield from compiler()
    yield from limits()
    yield from shared_memory()
    yield from fonts()


def disks(store: Path) -> Iterator[Finding]:
    """Free space, and right to write, where Steel writes."""
    cache = os.environ.get("HF_HUB_CACHE") or os.environ.get("HF_HOME") or "~/.cache/huggingface"
    places = (
        ("the store", store, LEAST_STORE, "choose another disk with --store"),
        ("the temporary folder", Path(tempfile.gettempdir()), LEAST_TEMPORARY, "set TMPDIR"),
        ("the hub's cache", Path(cache).expanduser(), LEAST_TEMPORARY, "set HF_HOME"),
    )
    for what, path, least, remedy in places:
        place, free = nearest_existing(path), free_bytes(path)
        where = f"{what} ({display(path)})"
        if not os.access(place, os.W_OK | os.X_OK) or not place.is_dir():
            yield problem("disk", f"{where}: this user may not write there", remedy)
        elif free < least:
            yield problem(
                "disk",
                f"{where}: {format_bytes(free)} free; {format_bytes(least)} are needed",
                f"steel gc --store {display(store)} --delete, or {remedy}",
            )
        else:
            yield ok("disk", f"{where}: {format_bytes(free)} free")
    with contextlib.suppress(OSError):
        inodes = os.statvfs(nearest_existing(store))
        if inodes.f_files and inodes.f_favail < 10_000:
            yield problem(
                "disk",
                f"the store's disk has {inodes.f_favail:,} free inodes of {inodes.f_files:,} "
                f"({format_bytes(free_bytes(store))} free)",
                "remove small files, or choose another disk with --store",
            )


def compiler() -> Iterator[Finding]:
    """Tools that build Triton's kernels, torch.compile's code and packages that come as source."""
    missing = [name for name in ("g++", "cmake") if shutil.which(name) is None]
    header = Path(sysconfig.get_paths()["include"]) / "Python.h"
    if not header.is_file():
        missing.append("python3-dev")
    if missing:
        yield note(
            "machine",
            f"not there: {', '.join(missing)}; needed to build packages without a wheel, and by "
            "torch.compile and Triton on a GPU",
            f"apt-get install {' '.join(missing)}",
        )
    else:
        yield ok("machine", "compiler, CMake and Python's headers are there")


def limits(instances: Path = Path("/proc/sys/fs/inotify/max_user_instances")) -> Iterator[Finding]:
    """Limits of the system that end servers and trainings."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if 0 <= soft < LEAST_FILES:
        most = "unlimited" if hard < 0 else f"{hard:,}"
        yield problem(
            "machine",
            f"a process may open {soft:,} files (at most {most}); {LEAST_FILES:,} are needed",
            f"ulimit -n {max(LEAST_FILES, min(hard, 65_536)) if hard > 0 else 65_536}",
        )
    else:
        yield ok("machine", f"open files of a process: {soft:,}")
    with contextlib.suppress(OSError, ValueError):
        number = int(instances.read_text())
        if number < LEAST_INSTANCES:
            yield note(
                "machine",
                f"{number} inotify instances a user; some servers need {LEAST_INSTANCES}",
                "sysctl fs.inotify.max_user_instances=512",
            )


def shared_memory(place: Path = Path("/dev/shm")) -> Iterator[Finding]:
    """Shared memory of processes, small in containers."""
    if not place.is_dir():
        return
    usage = shutil.disk_usage(place)
    if usage.free < LEAST_SHARED:
        yield problem(
            "machine",
            f"{place}: {format_bytes(usage.free)} free of {format_bytes(usage.total)}; ranks on "
            f"GPUs and loaders need {format_bytes(LEAST_SHARED)}",
            "docker run --shm-size 8g … (or --ipc=host)",
        )
    else:
        yield ok("machine", f"shared memory: {format_bytes(usage.free)} free")


def fonts(folders: tuple[str, ...] = FONT_FOLDERS) -> Iterator[Finding]:
    """A Chinese font for the browser that shows reports on this machine."""
    for folder in folders:
        for path in Path(folder).expanduser().rglob("*.[to]t[fc]"):
            if path.name.lower().startswith(CHINESE_FONTS):
                yield ok("machine", f"Chinese font: {path.name}")
                return
    yield note(
        "machine",
        "no Chinese font on this machine: a browser here shows boxes for Chinese in reports; "
        "elsewhere they are as they should be",
        "apt-get install fonts-noto-cjk",
    )
