"""Rows of every length are never given to cuDNN, which plans anew for each of them."""

import json
import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from model import attention
from model.load import load_causal_lm
from model.train.finetune.build import choose_packing
from model.train.finetune.config import DpoJob, DpoSettings, FinetuneJob, SftJob, SftSettings

HOPPER = (9, 0)


def jobs(model: Path) -> list[FinetuneJob]:
    places = {"model": str(model), "data": "", "output": "", "scratch": ""}
    return [
        *(
            SftJob(settings=SftSettings(packing=packing, precision="bf16"), **places)
            for packing in (True, False, "auto")
        ),
        DpoJob(settings=DpoSettings(precision="bf16"), **places),
    ]


@pytest.mark.parametrize("installed", [(), (2,)])
@pytest.mark.parametrize("has_varlen", [True, False])
def test_fine_tuning_takes_another_attention(
    base: Path, monkeypatch: pytest.MonkeyPatch, installed: tuple[int, ...], has_varlen: bool
) -> None:
    names: dict[str, Any] = {
        f"is_flash_attn_{n}_available": lambda n=n: n in installed for n in (2, 3, 4)
    }
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _: HOPPER)
    monkeypatch.setattr(torch.backends.cudnn, "is_available", lambda: True)
    monkeypatch.setattr(attention, "import_utils", SimpleNamespace(**names))
    monkeypatch.setattr(attention, "varlen_attn", object() if has_varlen else None)
    packed, padded, auto, dpo = (choose_packing(job, torch.device("cuda")) for job in jobs(base))
    for_documents = "varlen" if has_varlen else "flex_attention"
    assert {one.name for one in (packed, auto, dpo)} == {
        "flash_attention_2" if installed else for_documents
    }
    assert (padded.name, padded.packed) == ("flash_attention_2" if installed else "sdpa", False)


def test_what_is_evaluated_or_talked_to_is_not_given_it(base: Path, tmp_path: Path) -> None:
    """Not even where the model's own folder asks for it."""
    folder = shutil.copytree(base, tmp_path / "model")
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"attn_implementation": "sdpa_cudnn"}))
    loaded = load_causal_lm(folder, torch.float32, torch.device("cpu"))
    assert loaded.config._attn_implementation == "sdpa"
