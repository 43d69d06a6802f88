"""SFT and DPO train where torch, Transformers and what model/ imports are all there is."""

import json
import subprocess
import sys
from dataclasses import asdict
from pathlib import Path

import pytest

from model.train.run.folder import MODEL_FOLDER
from tests.model.train.finetune.recording import make_job
from tests.tiny_chat import write_model

ABSENT = (
    "flows",
    "tasks",
    "corpus",
    "prefect",
    "mlflow",
    "pydantic",
    "datasets",
    "trl",
    "accelerate",
    "peft",
    "lm_eval",
    "data_juicer",
    "ray",
)
"""Neither these, nor what only they need."""
PROGRAM = """
import sys
for name in {absent!r}: sys.modules[name] = None
from model.entry import {method}
sys.exit({method}.main([{job!r}]))
"""


@pytest.mark.slow
@pytest.mark.parametrize("method", ["sft", "dpo"])
def test_an_entry_trains_without_the_other_libraries(tmp_path: Path, method: str) -> None:
    output = tmp_path / "run"
    job = make_job(method, write_model(tmp_path / "model"), output, epochs=1)
    path = output / f"{method}.json"
    path.write_text(json.dumps(asdict(job)))
    program = PROGRAM.format(absent=ABSENT, method=method, job=str(path))
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert (output / MODEL_FOLDER / "model.safetensors").is_file()
