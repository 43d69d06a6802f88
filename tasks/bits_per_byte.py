"""Stage `bits_per_byte`: how well a model predicts texts that it was not trained on, by kind.

    hold_out/held_out/<kind>.jsonl ──model.entry.bits_per_byte──▶ results.json

Lower is better. The unit does not depend on the tokenizer: models with other vocabularies compare.
"""

from dataclasses import dataclass
from typing import Literal

from common.config import StageConfig
from common.errors import DataError
from common.files import write_json
from common.reading.files import read_json_object
from model.evaluate.job import BitsPerByteJob
from model.train.run.folder import METRICS_FILE
from tasks.core.stage import StageResult, StageRun, stage
from tasks.core.torchrun import torchrun
from tasks.hold_out import FOLDER

WINDOW = 1024
"""Tokens that a prediction sees, for a model whose training does not say."""


@dataclass(frozen=True, kw_only=True)
class BitsPerByteConfig(StageConfig):
    """Form of the measurement."""

    dtype: Literal["auto", "float32", "bfloat16"] = "auto"
    """Number format of the model; auto is bfloat16 on a GPU and float32 on the CPU."""


@stage(version=1)
def bits_per_byte(
    run: StageRun, config: BitsPerByteConfig, *, model: StageResult, held_out: StageResult
) -> None:
    """Score `model.folder/model` on every kind of text that was held out. Raises DataError."""
    files = sorted((held_out.folder / FOLDER).glob("*.jsonl"))
    if not files:
        raise DataError("no texts are held out to measure bits per byte on: set `held_out`")
    results = run.scratch / "results"
    job = BitsPerByteJob(
        model=str(model.model_folder.resolve()),
        texts={path.stem: str(path.resolve()) for path in files},
        window=model.manifest.get("config", {}).get("sequence_length", WINDOW),
        results=str(results.resolve()),
        metrics=str((run.folder / METRICS_FILE).resolve()),
        dtype=config.dtype,
    )
    torchrun(run, "model.entry.bits_per_byte", job, num_processes=1, total_steps=len(files))
    measured = {path.stem: read_json_object(results / f"{path.stem}.json") for path in files}
    write_json(run.folder / "results.json", measured)
    rows = [
        {
            "kind": kind,
            "bits per byte": round(result["bits_per_byte"], 4),
            "texts": result["texts"],
            "bytes": result["bytes"],
        }
        for kind, result in measured.items()
    ]
    run.table(f"{run.stage}", rows, "Bits per byte of texts that were held out; lower is better.")
    run.count(
        **{f"bits_per_byte/{row['kind']}": measured[row["kind"]]["bits_per_byte"] for row in rows}
    )
