"""Disks, limits, shared memory, fonts, GPUs: with faults that are really there."""

import shutil
import subprocess
import sys
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import NamedTuple

import pytest

from flows.doctor import gpu, machine
from flows.doctor.finding import Finding


class Usage(NamedTuple):
    total: int
    used: int
    free: int


def levels(found: Iterable[Finding]) -> list[str]:
    return [one.level for one in found]


def test_a_full_disk(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda path: Usage(10**12, 10**12 - 9, 9))
    found = list(machine.disks(tmp_path / "store"))
    assert levels(found)[:3] == ["problem"] * 3
    assert "9 B free" in found[0].text and "steel gc" in found[0].mend


def test_a_store_that_cannot_be_one(tmp_path: Path) -> None:
    (tmp_path / "store").touch()
    found = next(iter(machine.disks(tmp_path / "store")))
    assert found.level == "problem" and "may not write" in found.text


def test_a_low_limit_of_open_files() -> None:
    program = (
        "import resource; resource.setrlimit(resource.RLIMIT_NOFILE, (256, 4096));"
        "from flows.doctor.machine import limits; f = next(limits());"
        "print(f.level, f.text, '|', f.mend)"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.stdout == (
        "problem a process may open 256 files (at most 4,096); 1,024 are needed | ulimit -n 4096\n"
    )


def test_few_instances_of_inotify(tmp_path: Path) -> None:
    (tmp_path / "number").write_text("8\n")
    assert levels(machine.limits(tmp_path / "number"))[1:] == ["note"]
    (tmp_path / "number").write_text("512\n")
    assert levels(machine.limits(tmp_path / "number"))[1:] == []


def test_little_shared_memory(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda path: Usage(64 * 10**6, 0, 64 * 10**6))
    (found,) = machine.shared_memory(tmp_path)
    assert found.level == "problem" and "--shm-size" in found.mend


def test_fonts_and_compilers(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (found,) = machine.fonts((str(tmp_path),))
    assert found.level == "note" and "fonts-noto-cjk" in found.mend
    (tmp_path / "deep").mkdir()
    (tmp_path / "deep" / "NotoSansCJK-Regular.ttc").touch()
    assert levels(machine.fonts((str(tmp_path),))) == ["ok"]
    monkeypatch.setenv("PATH", str(tmp_path))
    (found,) = machine.compiler()
    assert found.level == "note" and "g++ cmake" in found.mend


H200 = "NVIDIA H200, 580.82, 143771, 9.0, Disabled"
Smi = Callable[[str], str]


@pytest.fixture
def smi(tmp_path: Path) -> Smi:
    """Make a program that answers as nvidia-smi does."""

    def make(body: str) -> str:
        path = tmp_path / "nvidia-smi"
        path.write_text(f"#!/bin/sh\n{body}\n")
        path.chmod(0o755)
        return str(path)

    return make


def answer(rows: str, peers: str = "") -> str:
    return f'if [ "$1" = topo ]; then printf "{peers}"; else printf "{rows}"; fi'


def test_a_gpu_that_fits(smi: Smi, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gpu, "torch_cuda", lambda: "13.0")
    found = list(gpu.findings(smi(answer(f"{H200}\\n"))))
    assert not [one for one in found if one.level == "problem"]
    assert "1 × NVIDIA H200, 143771 MiB, driver 580.82; torch for CUDA 13.0" in found[0].text


@pytest.mark.parametrize(
    ("rows", "cuda", "text"),
    [
        (H200, None, "the installed torch is a CPU build"),
        (H200.replace("580.82", "550.54"), "13.0", "needs driver 580.65 or newer"),
        (H200.replace("580.82", "470.10"), "12.6", "needs driver 525.60 or newer"),
        ("Tesla P100, 580.82, 16384, 6.0, [N/A]", "13.0", "has no code below 7.5"),
    ],
)
def test_gpus_that_do_not_fit(
    rows: str, cuda: str | None, text: str, smi: Smi, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gpu, "torch_cuda", lambda: cuda)
    found = [one for one in gpu.findings(smi(answer(f"{rows}\\n"))) if one.level == "problem"]
    assert len(found) == 1 and text in found[0].text and found[0].mend


A100 = "NVIDIA A100, 580.82, 81920, 8.0, Disabled"
T4 = "Tesla T4, 580.82, 15360, 7.5, [N/A]"


@pytest.mark.parametrize(
    ("rows", "installed", "expected"),
    [
        ([H200], {}, [("note", "flash-attn-4 is not installed", "-e '.[flash-attn-4]'")]),
        ([A100], {}, [("note", "flash-attn is not", "--no-build-isolation")]),
        ([H200, A100], {}, [("note", "flash-attn is not", "--no-build-isolation")]),
        ([T4], {}, []),
        ([A100], {"flash-attn": "2.8.3"}, [("ok", "auto or flash_attention_2", "")]),
        ([H200], {"flash-attn": "2.8.3"}, [("ok", "flash-attn 2.8.3", "")]),
        ([H200], {"flash-attn-4": "4.0.0b36"}, [("ok", "auto or flash_attention_4", "")]),
        (
            [A100],
            {"flash-attn-4": "4.0.0b36"},
            [
                ("note", "it needs compute capability 9.0", "uninstall"),
                ("note", "flash-attn is", ""),
            ],
        ),
    ],
)
def test_flash_attention_is_named_where_it_fits(
    rows: list[str],
    installed: dict[str, str],
    expected: list[tuple[str, str, str]],
    smi: Smi,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    real = gpu.metadata.version

    def version(name: str) -> str:
        if not name.startswith("flash-attn"):
            return real(name)
        if name not in installed:
            raise gpu.metadata.PackageNotFoundError(name)
        return installed[name]

    monkeypatch.setattr(gpu, "torch_cuda", lambda: "13.0")
    monkeypatch.setattr(gpu.metadata, "version", version)
    found = gpu.findings(smi(answer("".join(f"{row}\\n" for row in rows))))
    about = [one for one in found if "flash-attn" in one.text]
    assert len(about) == len(expected)
    for one, (level, text, mend) in zip(about, expected, strict=True):
        assert one.level == level and text in one.text and mend in (one.mend or "")


def test_gpus_without_direct_access(smi: Smi, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gpu, "torch_cuda", lambda: "13.0")
    rows = f"{H200}\\n{H200}\\n"
    good = " \\tGPU0\\tGPU1\\nGPU0\\tX\\tOK\\nGPU1\\tOK\\tX\\n"
    texts = [one.text for one in gpu.findings(smi(answer(rows, good)))]
    assert any("read each other's memory directly (P2P)" in text for text in texts)
    bad = list(gpu.findings(smi(answer(rows, good.replace("OK", "CNS")))))
    assert any(one.level == "note" and "(CNS)" in one.text for one in bad)


def test_a_driver_that_fails_or_hangs(smi: Smi, monkeypatch: pytest.MonkeyPatch) -> None:
    (found,) = gpu.findings(smi('echo "NVIDIA-SMI has failed"; exit 9'))
    assert found.level == "problem" and "NVIDIA-SMI has failed" in found.text
    monkeypatch.setattr(gpu, "SECONDS", 0.2)
    (found,) = gpu.findings(smi("exec sleep 30"))
    assert "no answer within" in found.text


def test_the_cuda_build_is_read_from_torchs_own_file(monkeypatch: pytest.MonkeyPatch) -> None:
    import torch

    assert gpu.torch_cuda() == torch.version.cuda
