"""An installed flash-attn is chosen where it is the best, and given documents' bounds."""

import json
import os
import subprocess
import sys
from pathlib import Path

from common.paths import ROOT
from tests.model.flash_package import write_package

FLASH = "flash_attention_2"
EXPECTED = [
    # documents, rows of one length, rows of many
    *(FLASH, FLASH, FLASH),  # compute capability 8.0
    *(FLASH, "sdpa_cudnn", FLASH),  # 9.0
]


def test_the_package_is_chosen_and_told_where_documents_begin(tmp_path: Path) -> None:
    """Steel and two other architectures, against torch's attention with a mask; in a process of its
    own, since Transformers looks for the package once."""
    done = subprocess.run(
        [sys.executable, "-m", "tests.model.flash_package"],
        capture_output=True,
        text=True,
        cwd=ROOT,
        env=os.environ | {"PYTHONPATH": str(write_package(tmp_path)), "CUDA_VISIBLE_DEVICES": ""},
        timeout=200,
    )
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout.splitlines()[-1])
    assert found["chosen"] == dict.fromkeys(("steel", "qwen2", "llama"), EXPECTED)
    assert found["steps"].keys() == found["chosen"].keys()
    for kind, (apart, joined) in found["steps"].items():
        call = {"entry": "documents", "bounds": [0, 5, 16, 17, 20, 32], "longest": 12}
        assert apart["calls"] == [call] * 2, (kind, "once a layer")
        assert joined["calls"] == [{"entry": "whole", "rows": 2, "longest": 16}] * 2, kind
        assert max(apart["differences"] + joined["differences"]) < 2e-4, kind
    race = found["race"]
    assert [call["bounds"] for call in race["calls"]] == [race["bounds"]] * 2
    assert max(race["differences"]) < 4e-2, "bf16"
