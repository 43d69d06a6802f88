"""The report: each number in its place, no claim at chance level, one file without requests."""

import json
import math
import struct
import time
from html.parser import HTMLParser
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from common.config import validate
from common.errors import DataError
from common.recipes import read_yaml, recipe_path
from model import SteelConfig, SteelForCausalLM
from model.data import PackedManifest, ShardWriter
from model.train.run.folder import METRICS_FILE, MODEL_FOLDER
from model.train.throughput.measure import Result
from tasks.core.markdown import markdown_table
from tasks.core.paper import load_paper
from tasks.core.stage import Context, StageResult
from tasks.core.table2 import measured_table
from tasks.report import ReportConfig, report, result_table
from tasks.report.data import ReportData, count_parameters, gather
from tasks.report.figures import draw, running_mean
from tasks.report.format import format_report
from tasks.report.page import html_page
from tasks.report.results import compare_with_chance

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
            kind = "code" if name.startswith("starcoder") else "text"
            left = documents
            for position, operator in enumerate(("fix_unicode_mapper", "text_length_filter"), 1):
                dropped = left // 7 if operator.endswith("filter") else 0
                rows.append(
                    {
                        "kind": kind,
                        "position": position,
                        "operator": operator,
                        "source": name,
                        "documents_in": left,
                        "documents_kept": left - dropped,
                        "documents_changed": left // 3 if not dropped else 0,
                        "documents_dropped": dropped,
                    }
                )
                left -= dropped
            totals.append({"source": name, "documents_in": documents, "documents_kept": left})
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
        (result.folder / "recipe-text.yaml").write_text(
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
                writer.add_document([self.rng.randrange(999) for _ in range(tokens)])
            shards += writer.shards
        PackedManifest(
            vocab_size=1000, end_of_document=0, tokenizer_md5="0" * 32, shards=tuple(shards)
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


@pytest.fixture
def pipeline(tmp_path: Path) -> Pipeline:
    """A small run whose SFT models are above chance on two of three benchmarks."""
    return Pipeline(tmp_path)


class Links(HTMLParser):
    """Everything in a page that a browser could fetch or run."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.links: list[str] = []
        self.tags: set[str] = set()
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        for name, value in attrs:
            if name in ("src", "href", "srcset", "data", "poster", "action"):
                self.links.append(value or "")


def text_of(data: ReportData) -> str:
    return format_report(data, load_paper(), [])


# --- the whole


def test_the_stage_writes_one_page_that_needs_nothing_else(
    context: Context, pipeline: Pipeline
) -> None:
    done = report(ReportConfig(), context=context, **pipeline.inputs())
    page = (done.folder / "report.html").read_text()
    found = Links(page)
    assert len(found.links) == 14  # seven pictures, light and dark
    assert all(link.startswith("data:image/png;base64,") for link in found.links)
    assert not found.tags & {"script", "link", "iframe", "object", "base"}
    assert "@import" not in page
    assert "url(" not in page
    assert done.manifest["notes"]["pipeline"] == "valley"
    pictures = sorted((done.folder / "figures").glob("*.png"))
    assert len(pictures) == 14
    for path in pictures:
        with Image.open(path) as picture:
            assert picture.width >= 1200
            ground = picture.convert("RGB").getpixel((2, 2))
            assert (sum(ground) < 200) == path.stem.endswith("-dark")
            colours = picture.convert("RGB").getcolors(maxcolors=10**6)
            assert colours is not None
            assert len(colours) > 50  # something is drawn on it
    text = (done.folder / "report.md").read_text()
    for name in ("data", "attrition", "perplexity", "pretraining", "sft", "dpo", "accuracy"):
        assert f"](figures/{name}.png)" in text


def test_numbers_are_those_of_the_stages(pipeline: Pipeline) -> None:
    text = text_of(gather(**pipeline.inputs()))
    total = sum(tokens for tokens, _ in SOURCES.values())
    assert f"**{total:,} tokens** from 6 sources" in text
    assert "**1,600,000 parameters**" in text
    assert "| SkyPile-150B | Chinese | 900 | 18 | 772 | 85.8 | 2,400 | 38.1 |" in text
    texts = [documents for name, (_, documents) in SOURCES.items() if "starcoder" not in name]
    dropped = sum(documents // 7 for documents in texts)
    share = f"{100 * dropped / sum(texts):.1f}"
    assert f"| text | 2 | `text_length_filter` | {sum(texts):,} | 0 | {dropped} | {share} |" in text
    assert "| sft table3-2-chinese | 60.0 (54.0 to 66.0) |" in text
    assert "42.5" in text  # seconds
    assert "**7 documents** in 4 clusters" in text
    assert "| skypile | zhihu | 7 |" in text
    assert "Looked for 498 of 500 questions" in text
    assert "**3 documents** contain one and were left out of the corpus (ceval 2, mmlu 2)" in text
    assert "`0123456789ab` with changes" in text


def test_a_report_of_nothing_says_not_run(tmp_path: Path) -> None:
    data = gather(
        normalized=None, cleaned=None, packed=None, pretrain=None, sft={}, dpo=None, evaluations={}
    )
    assert draw(data, tmp_path / "figures") == []
    text = text_of(data)
    for section in text.split("\n## ")[1:]:
        assert "not run" in section, section.splitlines()[0]
    page = html_page(text, title="x", folder=tmp_path)
    assert Links(page).links == []


def test_every_single_stage_may_be_missing(pipeline: Pipeline, tmp_path: Path) -> None:
    for name, absent in (
        ("normalized", None),
        ("cleaned", None),
        ("packed", None),
        ("pretrain", None),
        ("sft", {}),
        ("dpo", None),
        ("evaluations", {}),
    ):
        data = gather(**{**pipeline.inputs(), name: absent})
        assert "not run" in text_of(data)


def test_the_same_stages_give_the_same_bytes(pipeline: Pipeline, tmp_path: Path) -> None:
    data = gather(**pipeline.inputs())
    for name in ("one", "two"):
        draw(data, tmp_path / name)
    for path in sorted((tmp_path / "one").iterdir()):
        assert path.read_bytes() == (tmp_path / "two" / path.name).read_bytes()


def test_a_damaged_stage_is_named(pipeline: Pipeline) -> None:
    (pipeline.evaluations["dpo"].folder / "results.json").unlink()
    with pytest.raises(DataError, match=r"results\.json"):
        gather(**pipeline.inputs())


# --- chance


@given(st.floats(0, 1), st.floats(0, 1))
def test_only_an_interval_on_one_side_of_chance_says_anything(one: float, other: float) -> None:
    low, high = sorted((one, other))
    result = {"interval_95": [low, high], "chance": 0.25}
    assert (compare_with_chance(result) == "at") == (low <= 0.25 <= high)
    assert (compare_with_chance(result) == "above") == (low > 0.25)


def test_above_chance_is_said_of_those_that_are(pipeline: Pipeline) -> None:
    rows = result_table(pipeline.evaluations)
    assert [row["model"] for row in rows] == list(pipeline.evaluations)
    assert [row["above chance"] for row in rows] == ["no"] + ["C-Eval, CMMLU"] * 3
    results = text_of(gather(**pipeline.inputs())).split("## Results")[1].split("## Data")[0]
    assert "**Above chance**" in results
    assert "- dpo: C-Eval 60.0 %, at least 54.0 %; CMMLU 60.0 %, at least 54.0 %\n" in results
    assert "- base" not in results
    assert "**At chance** (the interval holds 25 %): 6 of 12 scores" in results
    assert "come from the generated sample data" in results
    assert "lost their beginning: base 3, " in results


def test_a_run_at_chance_says_so(tmp_path: Path) -> None:
    text = text_of(gather(**Pipeline(tmp_path, skill=0.27).inputs()))
    assert "**No model is above chance on any benchmark**" in text
    assert "Above chance**" not in text


def test_the_papers_numbers_stand_beside_ours_only_at_its_scale(tmp_path: Path) -> None:
    small = text_of(gather(**Pipeline(tmp_path / "small").inputs()))
    full = text_of(gather(**Pipeline(tmp_path / "full", parameters=FULL).inputs()))
    for name in ("table3", "table4"):
        recipe = read_yaml(recipe_path("paper", name))
        for entry in recipe.get("experiments") or recipe["models"]:
            assert all(f"{share:.2f}" in small for share in entry["accuracy"].values())
    for text, ours in ((small, False), (full, True)):
        table3 = text.split("### Table 3")[1].split("### Table 4")[0].splitlines()
        line = next(line for line in table3 if line.startswith("| 5 |"))
        assert ("60.0 (54.0 to 66.0)" in line) == ours
        assert ("not run at this scale" in line) == (not ours)
        assert "not run at this scale" in next(line for line in table3 if line.startswith("| 1 |"))
        table4 = text.split("### Table 4")[1]
        line = next(line for line in table4.splitlines() if "Steel-LLM-1B-Chat-DPO" in line)
        assert ("60.0 (54.0 to 66.0)" in line) == ours
        assert "not run" not in next(line for line in table4.splitlines() if "Gemma-7B" in line)
    validate(ReportConfig(), "report")


# --- parts


def test_text_of_the_run_cannot_become_html(pipeline: Pipeline) -> None:
    name = "<script>alert(1)</script>|x"
    inputs = pipeline.inputs()
    inputs["evaluations"] = {name: pipeline.evaluations["base"]}
    page = html_page(text_of(gather(**inputs)), title=name, folder=pipeline.folder)
    assert "script" not in Links(page).tags
    assert "&lt;script&gt;alert(1)&lt;/script&gt;|x" in page


def test_a_table_has_as_many_cells_as_columns() -> None:
    lines = markdown_table(
        [{"a": "1|2", "b": "x\ny"}, {"a": "3", "b": ""}], right=["b"]
    ).splitlines()
    assert lines[:3] == ["| a | b |", "| --- | ---: |", "| 1\\|2 | x y |"]
    page = html_page("\n".join(lines), title="t", folder=Path())
    assert page.count("<td") == 4
    assert page.count('style="text-align:right"') == 3


def test_parameters_are_counted_from_headers(tmp_path: Path) -> None:
    config = SteelConfig(
        vocab_size=64,
        hidden_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        expert_intermediate_size=8,
        num_experts=2,
    )
    network = SteelForCausalLM(config)
    network.save_pretrained(tmp_path, max_shard_size="4KB")
    assert len(list(tmp_path.glob("*.safetensors"))) > 1
    assert count_parameters(tmp_path) == sum(p.numel() for p in network.parameters())
    with pytest.raises(DataError, match="no safetensors"):
        count_parameters(tmp_path / "nowhere")


@given(st.lists(st.floats(-100, 100), min_size=1, max_size=60), st.integers(1, 10))
def test_the_running_mean_is_numpys(values: list[float], window: int) -> None:
    means = running_mean(values, window)
    assert means[0] == values[0]
    assert means[-1] == pytest.approx(np.mean(values[-window - 1 :]), abs=1e-9)
    width = 2 * window + 1
    if len(values) >= width:
        reference = np.convolve(values, np.ones(width) / width, mode="valid")
        assert means[window : len(values) - window] == pytest.approx(reference, abs=1e-9)


def test_table_2_shows_what_was_measured_in_this_store(tmp_path: Path) -> None:
    paper = load_paper()
    alone = format_report(gather(**Pipeline(tmp_path / "alone").inputs()), paper, [])
    assert "Not measured in this store" in alone and "15,000" in alone
    result = Result(
        status="done",
        device="GPU X",
        num_devices=1,
        tokens_per_second_per_device=31_234,
        memory_gb=41.5,
        mfu_datasheet=0.5,
    )
    rows = measured_table({"exp7": result, "exp8": result}, paper.table2, tiny=False)
    folder = tmp_path / "kernel_table" / "k"
    folder.mkdir(parents=True)
    (folder / "table.json").write_text(json.dumps(rows))
    manifest = Pipeline(tmp_path / "beside").pretrain.manifest | {"stage": "kernel_table"}
    table2 = StageResult(stage="kernel_table", key="k", folder=folder, manifest=manifest)
    beside = format_report(gather(**Pipeline(tmp_path / "p").inputs(), kernels=table2), paper, [])
    assert "31,234" in beside and "41.5" in beside and "GPU X" in beside
    assert "Not measured in this store" not in beside
