"""Folders as the stages of a pipeline leave them, without the work."""

import json
import math
import struct
import time
from pathlib import Path
from random import Random
from typing import Any

from model.data import PackedManifest, ShardWriter
from model.train.run.folder import METRICS_FILE, MODEL_FOLDER
from tasks.core.stage import StageResult
from tests.model.data.blocks import add_document

SOURCES = {
    "skypile": (2400, 900),
    "wanjuan": (1500, 620),
    "baidu_baike": (900, 300),
    "zhihu": (700, 410),
    "belle_2m": (500, 260),
    "starcoder_python": (300, 120),
}
"""Source -> (tokens, documents)."""
SMALL, FULL = 1_600_000, 1_117_000_000


class Pipeline:
    """Folders as the stages leave them, without the work."""

    def __init__(self, folder: Path, *, parameters: int = SMALL, skill: float = 0.6) -> None:
        self.folder, self.rng = folder, Random(5)
        self.skill = skill
        self.normalized = self._stage(
            "normalize",
            notes={
                "sources": {
                    name: {"source": name, "documents": documents, "quarantined": documents // 50}
                    for name, (_, documents) in SOURCES.items()
                }
            },
        )
        self.cleaned = self._clean()
        self.packed = self._pack()
        self.pretrain = self._train("pretrain", "valley", 9.1, 3.2, parameters=parameters)
        self.sft = {
            name: self._train(
                "sft",
                name,
                3.0,
                low,
                mixture=[
                    {"set": "wanjuan_mcq", "usable": 4000, "taken": 1200},
                    {"set": "ruozhiba", "usable": 240, "taken": 240},
                ],
            )
            for name, low in (("table3-2-chinese", 1.1), ("table3-5-chinese-20-english-mcq", 0.9))
        }
        policy = self.sft["table3-5-chinese-20-english-mcq"].key
        self.dpo = self._train("dpo", "", math.log(2), 0.41, inputs={"policy": policy})
        models = ["base", *(f"sft {name}" for name in self.sft), "dpo"]
        self.evaluations = {name: self._evaluate(name) for name in models}

    def inputs(self) -> dict[str, Any]:
        """Inputs of the stage `report`."""
        names = ("normalized", "cleaned", "packed", "pretrain", "sft", "dpo", "evaluations")
        return {name: getattr(self, name) for name in names}

    def _stage(self, stage: str, label: str = "", **more: Any) -> StageResult:
        key = f"{stage}-{label or 'x'}".ljust(16, "0")[:40]
        folder = self.folder / stage / key
        folder.mkdir(parents=True, exist_ok=True)
        manifest = {
            "schema": 1,
            "stage": stage,
            "label": label,
            "key": key,
            "counts": {},
            "notes": {},
            "inputs": {},
            "config": {},
            "started": 1_760_000_000.0,
            "finished": 1_760_000_042.5,
            "git_commit": "0123456789abcdef+",
            "software": {"torch": "2.13.0", "lm-eval": "0.4.13"},
            **more,
        }
        return StageResult(stage=stage, key=key, folder=folder, manifest=manifest)

    def _clean(self) -> StageResult:
        result = self._stage(
            "clean",
            counts={"contaminated_documents": 3},
            notes={
                "contamination": {"ceval": 2, "mmlu": 2},
                "contamination_index": {"questions": 500, "checkable": 498},
            },
        )
        rows, totals = [], []
        for name, (_, documents) in SOURCES.items():
            family = "code" if name.startswith("starcoder") else "web"
            left, size = documents, 20 * documents
            for position, operator in enumerate(("fix_unicode_mapper", "text_length_filter"), 1):
                dropped = left // 7 if operator.endswith("filter") else 0
                rows.append(
                    {
                        "family": family,
                        "position": position,
                        "operator": operator,
                        "source": name,
                        "documents_in": left,
                        "documents_kept": left - dropped,
                        "documents_changed": left // 3 if not dropped else 0,
                        "documents_dropped": dropped,
                        "bytes_in": size,
                        "bytes_kept": size - 10 * dropped - position,
                        "bytes_dropped": 10 * dropped,
                        "bytes_edited": position,
                    }
                )
                left -= dropped
                size -= 10 * dropped + position
            totals.append(
                {
                    "source": name,
                    "documents_in": documents,
                    "documents_kept": left,
                    "bytes_in": 20 * documents,
                    "bytes_kept": size,
                }
            )
        statistics = [
            {
                "statistic": "perplexity",
                "operator": "perplexity_filter",
                "source": name,
                "percentiles": [50.0 * 1.04**p for p in range(101)],
            }
            for name in SOURCES
            if not name.startswith("starcoder")
        ]
        ledger = {"sources": totals, "rows": rows, "statistics": statistics}
        duplicates = {
            "clusters": 4,
            "duplicates": 7,
            "largest": [],
            "sources": [{"dropped_from": "skypile", "kept_in": "zhihu", "documents": 7}],
        }
        (result.folder / "duplicates.json").write_text(json.dumps(duplicates))
        (result.folder / "recipe-web.yaml").write_text(
            "process: [perplexity_filter: {lang: zh, max_ppl: 1234}]"
        )
        (result.folder / "ledger.json").write_text(json.dumps(ledger))
        return result

    def _pack(self) -> StageResult:
        result = self._stage("pack")
        folder = result.folder / "shards"
        folder.mkdir()
        shards = []
        for name, (tokens, _) in SOURCES.items():
            with ShardWriter(folder, source=name, dtype="uint16", shard_tokens=10**6) as writer:
                add_document(writer, [self.rng.randrange(999) for _ in range(tokens)])
            shards += writer.shards
        PackedManifest(
            vocab_size=1000, end_of_document=0, tokenizer_digest="0" * 32, shards=tuple(shards)
        ).write(folder)
        return result

    def _train(
        self,
        stage: str,
        label: str,
        first: float,
        last: float,
        *,
        parameters: int = 0,
        mixture: list[dict[str, Any]] | None = None,
        **more: Any,
    ) -> StageResult:
        counts = {"tokens": 1_228_800.0} if stage == "pretrain" else {}
        notes = {"mixture": mixture} if mixture else {}
        result = self._stage(stage, label, counts=counts, notes=notes, **more)
        lines = []
        for step in range(1, 301):
            fall = math.exp(-step / 60)
            loss = last + (first - last) * fall + self.rng.gauss(0, 0.05)
            metrics = {"train/loss": loss}
            if stage == "pretrain" and step % 50 == 0:
                metrics["validation/loss"] = loss + 0.1
            if stage == "dpo":
                metrics["train/preference_accuracy"] = 0.5 + 0.4 * (1 - fall)
            lines.append(json.dumps({"step": step, "time": time.time(), "metrics": metrics}))
        (result.folder / METRICS_FILE).write_text("\n".join(lines) + "\n")
        if parameters:
            write_header(
                result.folder / MODEL_FOLDER / "model.safetensors", {"weight": [parameters]}
            )
        return result

    def _evaluate(self, model: str) -> StageResult:
        result = self._stage("evaluate", model)
        scores = {}
        for name, title in (("ceval", "C-Eval"), ("cmmlu", "CMMLU"), ("mmlu", "MMLU")):
            share = 0.25 if model == "base" or name == "mmlu" else self.skill
            scores[name] = {
                "title": title,
                "accuracy_micro": share,
                "accuracy_macro": share - 0.01,
                "num_questions": 200,
                "interval_95": [share - 0.06, share + 0.06],
                "chance": 0.25,
                "num_truncated": 3 if name == "mmlu" else 0,
                "num_fewshot": 0,
                "limit": 10,
                "chat": model != "base",
                "num_subjects": 4,
                "num_subjects_known": 52,
                "split": "val",
                "origin": "sample-data",
                "subjects": {},
            }
        (result.folder / "results.json").write_text(json.dumps(scores))
        return result


def write_header(path: Path, shapes: dict[str, list[int]]) -> None:
    """A safetensors file that says what it holds, without the data."""
    tensors = {
        name: {"dtype": "F32", "shape": shape, "data_offsets": [0, 0]}
        for name, shape in shapes.items()
    }
    header = json.dumps({"__metadata__": {"format": "pt"}, **tensors}).encode()
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(struct.pack("<Q", len(header)) + header)
