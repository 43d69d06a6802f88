"""Archives: every kind is unpacked, every malicious one refused, and nothing lands outside."""

import gzip
import io
import random
import stat
import tarfile
import zipfile
from pathlib import Path

import pytest
import zstandard

from common.errors import DataError
from common.recipes import load_recipe
from corpus.benchmarks.questions import BenchmarkRecipe, benchmark_files
from corpus.sources import archives
from tasks.acquire import AcquireConfig, acquire
from tests.corpus.sources.archive_files import make_tar, make_zip
from tests.tasks.running import run_stage

LINES = b"".join(b'{"text": "%d"}\n' % i for i in range(50))
CONTENT = {"a.jsonl": LINES, "deep/b.jsonl": LINES * 2}


def files_of(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def take(tmp_path: Path, files: dict[str, bytes], kind: str = "corpora") -> dict[str, bytes]:
    """Acquire a folder with these files; returns what is in the store."""
    raw = tmp_path / "raw"
    for name, data in files.items():
        (raw / name).parent.mkdir(parents=True, exist_ok=True)
        (raw / name).write_bytes(data)
    name = {"corpora": "skypile", "evals": "ceval", "sft": "gsm8k"}[kind]
    config = AcquireConfig(kind=kind, datasets={name: str(raw)})  # type: ignore[arg-type]
    run_stage(acquire, tmp_path / "out", config)
    assert not list((tmp_path / "out" / ".scratch").rglob("unpacking*"))
    return files_of(tmp_path / "out" / name)


def refused(tmp_path: Path, name: str, data: bytes, words: str) -> None:
    """The archive is refused with these words, and leaves nothing anywhere."""
    good = {"aaa.jsonl": LINES}
    with pytest.raises(DataError, match=words) as caught:
        take(tmp_path, {**good, name: data})
    assert name in str(caught.value)
    assert set(files_of(tmp_path / "out" / "skypile")) <= set(good), "half an archive is seen"
    everywhere = {
        path.name
        for path in tmp_path.rglob("*")
        if ".scratch" not in path.parts and not path.is_dir()
    }
    assert everywhere <= {"aaa.jsonl", name}


@pytest.mark.parametrize(
    ("name", "data"),
    [
        ("x.zip", make_zip(CONTENT)),
        ("x.ZIP", make_zip(CONTENT)),
        ("x.tar", make_tar(CONTENT)),
        *[
            (f"x.{suffix}", make_tar(CONTENT, codec))
            for suffix, codec in [
                ("tar.gz", "gz"),
                ("tgz", "gz"),
                ("tar.zst", "zst"),
                ("tar.bz2", "bz2"),
                ("tar.xz", "xz"),
            ]
        ],
    ],
)
@pytest.mark.parametrize("kind", ["corpora", "sft"])
def test_containers_become_folders(tmp_path: Path, name: str, data: bytes, kind: str) -> None:
    assert take(tmp_path, {f"d/{name}": data}, kind) == {f"d/x/{n}": c for n, c in CONTENT.items()}


def test_single_streams_become_files_in_corpora_only(tmp_path: Path) -> None:
    joined = gzip.compress(LINES) + gzip.compress(LINES)
    files = {"a.jsonl.gz": joined, "b.json.zst": zstandard.compress(LINES)}
    assert take(tmp_path / "c", files) == {"a.jsonl": LINES * 2, "b.json": LINES}
    assert take(tmp_path / "s", files, "sft") == files


def test_archives_inside_archives_up_to_the_stated_depth(tmp_path: Path) -> None:
    inner = make_tar({"b.jsonl.gz": LINES}, "gz")
    refused(tmp_path / "1", "x.zip", make_zip({"i.tgz": inner}), r"b\.jsonl\.gz.*levels deep")
    inner = make_tar(CONTENT, "gz")
    got = take(tmp_path / "2", {"x.zip": make_zip({"i.tgz": inner, "c.gz": gzip.compress(LINES)})})
    assert got == {"x/i/a.jsonl": LINES, "x/i/deep/b.jsonl": LINES * 2, "x/c": LINES}
    deepest = make_zip({"x.zip": make_zip({"y.zip": make_zip(CONTENT)})})
    refused(tmp_path / "3", "x.zip", deepest, "levels deep")


def test_benchmarks_in_archives_are_still_found(tmp_path: Path) -> None:
    text = "id,question,A,B,C,D,answer\n0,q,a,b,c,d,A\n"
    take(tmp_path, {"ceval-exam.zip": make_zip({"val/law_val.csv": text.encode()})}, "evals")
    recipe = load_recipe(BenchmarkRecipe, "evals", "ceval")
    found = list(benchmark_files(recipe, tmp_path / "out" / "ceval", ["val"]))
    assert [(subject, split) for subject, split, *_ in found] == [("law", "val")]


def link(name: str, kind: bytes, target: str = "/etc/passwd") -> tarfile.TarInfo:
    member = tarfile.TarInfo(name)
    member.type, member.linkname = kind, target
    return member


def zip_of(name: str, mode: int) -> bytes:
    info = zipfile.ZipInfo(name)
    info.create_system, info.external_attr = 3, (mode | 0o644) << 16
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as archive:
        archive.writestr(info, b"/etc/passwd")
    return out.getvalue()


EVIL_NAMES = {
    "../evil": r"`\.\.`",
    "a/../../evil": r"`\.\.`",
    "..\\evil": r"`\.\.`",
    "/tmp/evil": "absolute",
    "\\evil": "absolute",
    "C:\\evil": "drive letter",
    "c:evil": "drive letter",
}


@pytest.mark.parametrize("kind", ["zip", "tar", "tgz"])
@pytest.mark.parametrize("name", EVIL_NAMES)
def test_names_that_lead_outside(tmp_path: Path, kind: str, name: str) -> None:
    files = {"fine.jsonl": LINES, name: b"evil"}
    data = make_zip(files) if kind == "zip" else make_tar(files, "gz" if kind == "tgz" else "")
    refused(tmp_path, f"x.{kind}", data, EVIL_NAMES[name])


@pytest.mark.parametrize(
    ("member", "words"),
    [
        (link("evil", tarfile.SYMTYPE), "'evil' is a symbolic link"),
        (link("evil", tarfile.SYMTYPE, "a.jsonl"), "symbolic link"),
        (link("evil", tarfile.LNKTYPE, "a.jsonl"), "'evil' is a hard link"),
        (link("evil", tarfile.CHRTYPE), "device"),
        (link("evil", tarfile.BLKTYPE), "device"),
        (link("evil", tarfile.FIFOTYPE), "pipe"),
    ],
)
@pytest.mark.parametrize("codec", ["", "gz", "zst"])
def test_tar_links_and_devices(
    tmp_path: Path, member: tarfile.TarInfo, words: str, codec: str
) -> None:
    name = "x.tar" + (f".{codec}" if codec else "")
    refused(tmp_path, name, make_tar(CONTENT, codec, member), words)


def test_writing_through_a_link_is_impossible(tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    members = [link("door", tarfile.SYMTYPE, str(outside)), tarfile.TarInfo("door/evil")]
    refused(tmp_path / "case", "x.tar", make_tar({}, "", *members), "'door' is a symbolic link")
    assert not list(outside.iterdir())


@pytest.mark.parametrize(
    ("mode", "words"),
    [(stat.S_IFLNK, "'evil' is a symbolic link"), (stat.S_IFCHR, "device"), (stat.S_IFIFO, "pipe")],
)
def test_zip_links_and_devices(tmp_path: Path, mode: int, words: str) -> None:
    refused(tmp_path, "x.zip", zip_of("evil", mode), words)


@pytest.mark.filterwarnings("ignore:Duplicate name:UserWarning")
@pytest.mark.parametrize(
    "names",
    [
        ["a", "a"],
        ["a", "./a"],
        ["a", "a/b"],
        ["a/b", "a"],
        ["a", "b/../a"],
        ["a\\b", "a/b"],
        ["c.gz", "c"],
    ],
)
@pytest.mark.parametrize("kind", ["zip", "tar"])
def test_names_that_collide(tmp_path: Path, names: list[str], kind: str) -> None:
    data = [gzip.compress(LINES) if n.endswith(".gz") else LINES for n in names]
    out = io.BytesIO()
    if kind == "zip":
        with zipfile.ZipFile(out, "w") as archive:
            for name, content in zip(names, data, strict=True):
                archive.writestr(name, content)
    else:
        with tarfile.open(fileobj=out, mode="w") as tar:
            for name, content in zip(names, data, strict=True):
                member = tarfile.TarInfo(name)
                member.size = len(content)
                tar.addfile(member, io.BytesIO(content))
    refused(tmp_path, f"x.{kind}", out.getvalue(), r"another member|`\.\.`")


def test_files_that_would_become_one(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"a\.jsonl and a\.jsonl\.gz would both become a\.jsonl"):
        take(tmp_path, {"a.jsonl": LINES, "a.jsonl.gz": gzip.compress(LINES)})
    with pytest.raises(DataError, match=r"x\.zip would become x, but x/b\.jsonl"):
        take(tmp_path / "2", {"x.zip": make_zip(CONTENT), "x/b.jsonl": LINES})


ZEROS = bytes(80 * 1024**2)


@pytest.fixture(scope="module")
def bombs() -> dict[str, bytes]:
    return {
        "x.zip": make_zip({"bomb": ZEROS}),
        "x.tar.gz": make_tar({"bomb": ZEROS}, "gz"),
        "x.tar.zst": make_tar({"bomb": ZEROS}, "zst"),
        "x.tar.bz2": make_tar({"bomb": ZEROS}, "bz2"),
        "x.tar.xz": make_tar({"bomb": ZEROS}, "xz"),
        "bomb.gz": gzip.compress(ZEROS),
        "bomb.zst": zstandard.compress(ZEROS),
        "y.zip": make_zip({"bomb.zip": make_zip({"bomb": ZEROS})}),
        # Nothing but padding: no member is ever too large.
        "z.tar.gz": gzip.compress(make_tar({"bomb": b""}) + ZEROS),
    }


@pytest.mark.parametrize(
    "name",
    [
        "x.zip",
        "x.tar.gz",
        "x.tar.zst",
        "x.tar.bz2",
        "x.tar.xz",
        "bomb.gz",
        "bomb.zst",
        "y.zip",
        "z.tar.gz",
    ],
)
def test_bombs(tmp_path: Path, bombs: dict[str, bytes], name: str) -> None:
    refused(tmp_path, name, bombs[name], "is a bomb")


def test_absolute_limits(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(archives, "MAX_UNPACKED", 1500)
    refused(tmp_path / "1", "x.zip", make_zip(CONTENT), r"deep/b\.jsonl.*1\.5 kB")
    monkeypatch.undo()
    monkeypatch.setattr(archives, "MAX_MEMBERS", 1)
    refused(tmp_path / "2", "x.tar", make_tar(CONTENT), r"deep/b\.jsonl.*more than 1 members")


def test_tar_header_that_would_fill_the_memory(tmp_path: Path) -> None:
    header = tarfile.TarInfo("name")
    header.type, header.size = tarfile.XHDTYPE, 2**40
    data = header.tobuf(tarfile.GNU_FORMAT) + bytes(1024)
    refused(tmp_path, "x.tar", data, "damaged")


@pytest.mark.parametrize(
    ("name", "data"),
    [
        ("x.zip", make_zip(CONTENT)),
        ("x.tar", make_tar(CONTENT)),
        ("x.tar.gz", make_tar(CONTENT, "gz")),
        ("x.tar.zst", make_tar(CONTENT, "zst")),
        ("x.tar.xz", make_tar(CONTENT, "xz")),
        ("x.tar.bz2", make_tar(CONTENT, "bz2")),
        ("x.gz", gzip.compress(random.Random(0).randbytes(50_000))),
        (
            "x.zst",
            zstandard.ZstdCompressor(write_checksum=True).compress(
                random.Random(0).randbytes(50_000)
            ),
        ),
    ],
)
@pytest.mark.parametrize("how", ["cut", "flipped", "rubbish"])
def test_damaged_archives(tmp_path: Path, name: str, data: bytes, how: str) -> None:
    if name == "x.tar" and how == "flipped":
        data = data[:1536] + b"rubbish" * 100 + data[2236:]  # the second header
    else:
        middle = len(data) // 2
        data = {
            "cut": data[: 700 if name == "x.tar" else middle + 1],
            "flipped": data[:middle]
            + bytes(b ^ 0xFF for b in data[middle : middle + 8])
            + data[middle + 8 :],
            "rubbish": b"rubbish" * 100,
        }[how]
    refused(tmp_path, name, data, "is damaged")


def test_encrypted_zip(tmp_path: Path) -> None:
    data = bytearray(make_zip({"a": LINES}))
    data[6] |= 1  # the flag in the local header, and in the directory
    data[data.index(b"PK\1\2") + 8] |= 1
    refused(tmp_path, "x.zip", bytes(data), "encrypted")


def zip_with_raw_names(names: list[bytes]) -> bytes:
    """A zip whose names are these bytes, with no flag that says how they are encoded."""
    stand_ins = [f"{i}".rjust(len(name), "x") for i, name in enumerate(names)]
    data = make_zip(dict.fromkeys(stand_ins, LINES))
    for stand_in, name in zip(stand_ins, names, strict=True):
        data = data.replace(stand_in.encode(), name)
    return data


@pytest.mark.parametrize("encoding", ["gbk", "utf-8"])
def test_chinese_names_without_a_flag(tmp_path: Path, encoding: str) -> None:
    names = ["中文语料/百科.jsonl", "知乎问答.jsonl"]
    got = take(tmp_path, {"x.zip": zip_with_raw_names([name.encode(encoding) for name in names])})
    assert got == {f"x/{name}": LINES for name in names}


def test_western_and_flagged_names(tmp_path: Path) -> None:
    assert take(tmp_path / "1", {"x.zip": zip_with_raw_names(["café.txt".encode("cp437")])}) == {
        "x/café.txt": LINES
    }
    assert take(tmp_path / "2", {"x.zip": make_zip({"百科.txt": LINES})}) == {"x/百科.txt": LINES}


def test_chinese_names_in_a_gbk_tar(tmp_path: Path) -> None:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=tarfile.GNU_FORMAT, encoding="gbk") as archive:
        member = tarfile.TarInfo("百科.jsonl")
        member.size = len(LINES)
        archive.addfile(member, io.BytesIO(LINES))
    assert take(tmp_path, {"x.tar": out.getvalue()}) == {"x/百科.jsonl": LINES}


def test_tar_that_begins_with_its_own_folder(tmp_path: Path) -> None:
    top = tarfile.TarInfo("./")
    top.type = tarfile.DIRTYPE
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as archive:
        archive.addfile(top)
        member = tarfile.TarInfo("./a.jsonl")
        member.size = len(LINES)
        archive.addfile(member, io.BytesIO(LINES))
    assert take(tmp_path, {"x.tar": out.getvalue()}) == {"x/a.jsonl": LINES}


def test_finished_archive_is_not_unpacked_again(tmp_path: Path) -> None:
    take(tmp_path, {"x.zip": make_zip(CONTENT)})
    (tmp_path / "out" / "skypile" / "x" / "a.jsonl").write_bytes(b"kept")
    assert take(tmp_path, {})["x/a.jsonl"] == b"kept"


def test_leftovers_of_a_killed_unpacking_do_not_mix_in(tmp_path: Path) -> None:
    left = tmp_path / "out" / ".scratch" / "skypile" / "unpacking"
    left.mkdir(parents=True)
    (left / "half.jsonl").write_bytes(b"half")
    got = take(tmp_path, {"x.zip": make_zip(CONTENT)})
    assert got == {f"x/{n}": c for n, c in CONTENT.items()}


@pytest.mark.parametrize(
    ("name", "data", "needed"),
    [
        ("a.jsonl.gz", gzip.compress(LINES * 9), 9 * len(LINES)),
        ("a.jsonl.zst", zstandard.compress(LINES * 9), 9 * len(LINES)),
        ("a.zip", make_zip({"a": LINES, "b": LINES * 8}), 9 * len(LINES)),
        ("a.tar", make_tar({"a": LINES}), 10240),
        ("a.tar.gz", make_tar({"a": LINES}, "gz"), 10240),
        ("a.tar.xz", make_tar({"a": LINES}, "xz"), 6 * len(make_tar({"a": LINES}, "xz"))),
        ("a.zip", b"rubbish" * 9, 6 * 63),
    ],
)
def test_preflight_expects_what_archives_state(
    tmp_path: Path, name: str, data: bytes, needed: int
) -> None:
    (tmp_path / name).write_bytes(data)
    config = AcquireConfig(kind="corpora", datasets={"skypile": str(tmp_path)})
    assert config.bytes_needed() == needed
    config = AcquireConfig(kind="sft", datasets={"gsm8k": str(tmp_path)})
    kept = name in ("a.jsonl.gz", "a.jsonl.zst")
    assert config.bytes_needed() == (len(data) if kept else needed)
