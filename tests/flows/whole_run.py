"""A whole `steel run` of tiny sizes, with every option of the shipped deployments, and its result.

    start(config, store) ──▶ steel run, in processes of its own ──▶ result(store): name -> SHA-256

A fault may be set at a named place of it (tests/faults).
"""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import yaml

from common.files import sha256_of_file
from common.paths import ROOT
from corpus.sample_data import SampleDataConfig, write_dataset
from model.train.run.folder import METRICS_FILE, SESSIONS_FILE
from tests.faults.places import Fault, place, with_fault
from tests.tasks.test_evaluate_open import write_gsm8k, write_humaneval

MARK = "TEST_WHOLE_RUN"
"""Environment variable by which all processes of a run are found."""
MIXTURE = "smoke-chinese-20-english-mcq"
TRAINING = {
    "validation_fraction": 0.1,
    "keep": "best",
    "eval_interval": 4,
    "checkpoint_interval": 3,
    "max_steps": 14,
    "global_batch_size": 4,
    "micro_batch_size": 2,
    "log_interval": 1,
}
SFT_SETS = (
    *("wanjuan_mcq", "ruozhiba", "self_awareness", "infinity_instruct", "code_feedback"),
    *("web_instruct_sub", "openhermes", "openbookqa", "arc", "logiqa"),
)
PREFERENCE_SETS = ("ultrafeedback_chinese", "ultrafeedback_english")
SCALE = {"scale": 0.45}
CONFIG: dict[str, Any] = {
    "base": str(ROOT / "deployments" / "small.yaml"),
    "name": "interrupted",
    "sample_data": {"seed": 7, "scale": 0.05},
    "corpora": {"wanjuan": "sample-data", "wikipedia_cn": "sample-data"},
    "sft_sets": dict.fromkeys(SFT_SETS, "sample-data"),
    "decontaminate": {"ceval": "sample-data"},
    "pack": {"validation_fraction": 0.1},
    "pretrain": {
        "num_processes": 1,
        "model": {
            "hidden_size": 32,
            "num_attention_heads": 2,
            "expert_intermediate_size": 16,
            "num_experts": 2,
            "max_position_embeddings": 2048,
        },
        "sequence_length": 64,
        "steps": 4,
        "warmup_steps": 2,
        "eval_interval": 2,
        "validation_samples": 4,
    },
    "mixtures": [MIXTURE],
    "sft": {**TRAINING, "packing": True},
    "dpo": TRAINING,
    "evaluate": {
        "limit": 1,
        "num_fewshot": 1,
        "modes": ["likelihood", "answer_first", "chain_of_thought"],
        "answer_tokens": 4,
        "reasoning_tokens": 8,
        "allow_code_execution": True,
    },
}


def write_config(folder: Path) -> Path:
    """The configuration, and beside it GSM8K and HumanEval, of which there is no sample, and
    preference pairs: sets of a hundred, since smaller ones hold none out."""
    found = {
        "benchmarks": {
            "ceval": "sample-data",
            "gsm8k": str(write_gsm8k(folder / "gsm8k", [1, 2])),
            "humaneval": str(write_humaneval(folder / "humaneval", count=2)),
        },
        "preference_sets": {name: str(folder / name) for name in PREFERENCE_SETS},
    }
    for name in PREFERENCE_SETS:
        write_dataset(
            "preferences", name, folder / name, SampleDataConfig(**CONFIG["sample_data"] | SCALE)
        )
    path = folder / "interrupted.yaml"
    path.write_text(yaml.safe_dump({**CONFIG, **found}))
    return path


class SteelRun:
    """`steel run` in a process group of its own.

    home: folder of Prefect's database; fault: None for a run that is left alone.
    """

    def __init__(self, config: Path, store: Path, home: Path, fault: Fault | None = None) -> None:
        self.store, self.output = store, store.with_name(f"{store.name}.txt")
        store.mkdir(exist_ok=True)
        with self.output.open("w") as output:
            self.process = subprocess.Popen(
                command(config, store),
                stdout=output,
                stderr=output,
                stdin=subprocess.DEVNULL,
                env={**environment(store, home), **(with_fault(store, fault) if fault else {})},
                start_new_session=True,
                cwd=ROOT,
            )
        (place(store) / "steel").write_text(str(self.process.pid))

    @property
    def text(self) -> str:
        """All that was printed."""
        return self.output.read_text()

    def wait(self, seconds: float = 1200.0) -> int:
        """Exit code; negative for a signal."""
        return self.process.wait(seconds)


def command(config: Path, store: Path) -> list[str]:
    """The command line of a run."""
    return [
        *(sys.executable, "-m", "flows.cli", "run", str(config)),
        *("--store", str(store), "--json"),
    ]


def environment(store: Path, home: Path) -> dict[str, str]:
    """Environment of a run that uses no server of the user's."""
    return {
        **{name: value for name, value in os.environ.items() if name != "PREFECT_API_URL"},
        "PREFECT_HOME": str(home),
        "STEEL_PREFECT_PORT": "9",
        # Of this run alone: it waits for no training of others on this machine.
        "STEEL_DEVICES_FOLDER": str(place(store) / "devices"),
        MARK: str(store),
    }


RESULTS = (
    *("pretrain/*/model/*", "sft/*/model/*", "dpo/*/model/*"),
    *("sft/*/*.jsonl", "dpo/*/*.jsonl"),
    *("cache/answers/*.jsonl", "cache/reference/*/*.npy", "cache/sft/*/*.np?"),
    *("evaluate/*/results.json", "evaluate/*/samples/*", "adjusted_scores/*/*.json*"),
)
"""Files of a store whose bytes an interruption must not change."""
NOT_COMPARED = (SESSIONS_FILE, METRICS_FILE, "manifest.json")
"""Files with times in them, by name; `result` compares the measurements of training apart."""


def result(store: Path) -> dict[str, Any]:
    """Content of a store: file -> its SHA-256, and losses of each training by step."""
    found: dict[str, Any] = {
        str(path.relative_to(store)): sha256_of_file(path)
        for pattern in RESULTS
        for path in sorted(store.glob(pattern))
        if path.is_file() and path.name not in NOT_COMPARED
    }
    for path in sorted(store.glob("*/*/metrics.jsonl")):
        if path.parent.parent.name in ("sft", "dpo"):
            lines = [json.loads(line) for line in path.read_text().splitlines()]
            found[f"{path.parent.parent.name} losses"] = [
                (line["step"], name, value)
                for line in lines
                for name, value in sorted(line["metrics"].items())
                if not name.startswith(("perf/", "gpu/", "system/"))
            ]
    return found


def unfinished(store: Path) -> list[str]:
    """Files and folders of a store under a partial name."""
    return sorted(str(path.relative_to(store)) for path in store.rglob("*.partial"))
