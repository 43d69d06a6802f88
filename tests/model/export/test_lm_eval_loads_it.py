"""lm-eval's command line on an exported folder, without the project on its path."""

import json
import subprocess
import sys
import sysconfig
from pathlib import Path
from typing import Any

import pytest
from transformers import PreTrainedTokenizerBase

from model.export.folder import export_model
from tests.tiny_chat import save_tiny_model

TASK = """
task: letters
dataset_path: json
dataset_kwargs: {{data_files: {{test: {rows}}}}}
test_split: test
output_type: multiple_choice
doc_to_text: "{{{{question}}}}\\nAnswer:"
doc_to_choice: ["A", "B", "C", "D"]
doc_to_target: answer
metric_list: [{{metric: acc}}]
"""

PROGRAM = """
import importlib.util, sys
sys.path.append({site!r})
assert importlib.util.find_spec("model") is None
from lm_eval.__main__ import cli_evaluate
cli_evaluate()
"""


@pytest.mark.slow
@pytest.mark.parametrize("routing", ["token", "dense"])
def test_lm_eval(tmp_path: Path, few_tokens: PreTrainedTokenizerBase, routing: Any) -> None:
    shape = {"hidden_size": 16, "expert_intermediate_size": 9, "max_position_embeddings": 256}
    source = save_tiny_model(
        tmp_path / "source",
        few_tokens,  # type: ignore[arg-type]
        seed=0,
        vocab_size=len(few_tokens),
        routing=routing,
        **shape,
    )
    code = export_model(source, tmp_path / "out").code
    assert code == (routing == "token")
    rows = tmp_path / "rows.jsonl"
    rows.write_text("".join(f'{{"question": "q {n}", "answer": {n % 4}}}\n' for n in range(12)))
    (tmp_path / "tasks").mkdir()
    (tmp_path / "tasks" / "letters.yaml").write_text(TASK.format(rows=rows))
    model = f"pretrained={tmp_path / 'out'},dtype=float32" + ",trust_remote_code=True" * code
    options = ["--model", "hf", "--model_args", model, "--tasks", "letters", "--device", "cpu"]
    places = ["--include_path", str(tmp_path / "tasks"), "--output_path", str(tmp_path / "results")]
    program = PROGRAM.format(site=sysconfig.get_paths()["purelib"])
    done = subprocess.run(
        [sys.executable, "-I", "-S", "-c", program, *options, *places],
        cwd=tmp_path,
        env={"HF_HOME": str(tmp_path / "hf"), "HF_HUB_OFFLINE": "1", "PATH": "/usr/bin:/bin"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    (results,) = (tmp_path / "results").rglob("results_*.json")
    assert 0 <= json.loads(results.read_text())["results"]["letters"]["acc,none"] <= 1
