"""The report: each number in its place, no claim at chance level, one file without requests."""

import json
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from common.config import validate
from common.errors import DataError
from common.recipes import read_yaml, recipe_path
from model import SteelConfig, SteelForCausalLM
from model.data import PackedManifest
from model.train.throughput.measure import Result
from tasks.core.markdown import markdown_table
from tasks.core.paper.table2 import measured_table
from tasks.core.paper.tables import load_paper
from tasks.core.stage import Context, StageResult
from tasks.core.theme import LIGHT
from tasks.report import ReportConfig, figures, report, result_table
from tasks.report.data import Curve, ReportData, count_parameters, gather
from tasks.report.figures import draw, running_mean, suffix_of
from tasks.report.format import format_report
from tasks.report.language import Writer
from tasks.report.page import html_page
from tasks.report.results import accuracy_cell, benchmark_titles, compare_with_chance, loss_text
from tasks.report.timeline_figure import pretraining
from tests.model.data.blocks import write_documents
from tests.tasks.pipeline_folders import FULL, SOURCES, Pipeline


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
    links = [link for link in found.links if not link.startswith("#n-")]
    assert links.pop(0) == "report.zh.html"
    assert len(links) == 14  # seven pictures, light and dark
    chinese = suffix_of("zh")
    text = (done.folder / "report.zh.md").read_text()
    assert f"](figures/accuracy{chinese}.png)" in text
    assert (Writer("zh")("page.pictures") in text) == (not chinese)
    assert all(link.startswith("data:image/png;base64,") for link in links)
    assert not found.tags & {"script", "link", "iframe", "object", "base"}
    assert "@import" not in page
    assert "url(" not in page
    assert done.manifest["notes"]["pipeline"] == "valley"
    pictures = sorted((done.folder / "figures").glob("*.png"))
    assert len(pictures) == (28 if chinese else 14)
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
    # 20 bytes a document, 10 for a dropped one, 3 taken out of others.
    row = "900 | 18 | 772 | 85.8 | 18.0 kB | 92.9 | 2,400 | 38.1 | 6.97 |"
    assert f"| SkyPile-150B | Chinese | {row}" in text
    texts = [documents for name, (_, documents) in SOURCES.items() if "starcoder" not in name]
    dropped = sum(documents // 7 for documents in texts)
    share = f"{100 * dropped / sum(texts):.1f}"
    sizes = [20 * documents - 10 * (documents // 7) - 3 for documents in texts]
    taken = 10 * dropped + 2 * len(texts)
    tokens = sum(
        (10 * (documents // 7) + 2) * num_tokens / (20 * documents - 10 * (documents // 7) - 3)
        for name, (num_tokens, documents) in SOURCES.items()
        if "starcoder" not in name
    )
    bytes_share = f"{100 * taken / (20 * sum(texts) - len(texts)):.1f}"
    assert sum(sizes) == 20 * sum(texts) - taken - len(texts)
    assert (
        f"| web | 2 | `text_length_filter` | {sum(texts):,} | 0 | {dropped} | {share} | "
        f"{10 * dropped:,} | {2 * len(texts)} | {bytes_share} | {tokens:,.0f} |"
    ) in text
    assert "clean-x000000000/review.html`" in text
    assert "| sft table3-2-chinese | 60.0 (54.0 to 66.0) |" in text
    assert "42.5" in text  # seconds
    assert "**7 documents** in 4 clusters" in text
    assert "| skypile | zhihu | 7 |" in text
    assert "Looked for 498 of 500 questions" in text
    assert "**3 documents** contain one and were left out of the corpus (ceval 2, mmlu 2)" in text
    assert "`0123456789ab` with changes" in text


def test_what_is_held_out_is_said_and_where_it_is_too_little(tmp_path: Path) -> None:
    pipeline = Pipeline(tmp_path)
    assert "Held out" not in text_of(gather(**pipeline.inputs()))
    folder = pipeline.packed.folder / "shards"
    shards = write_documents(
        folder, "other", [[7] * 99], shard_tokens=10**6, validation_fraction=0.5
    )
    old = PackedManifest.read(folder)
    held_out = [replace(s, source="skypile", split="validation") for s in shards]
    replace(old, validation_fraction=0.1, shards=(*old.shards, *held_out)).write(folder)
    pipeline.pretrain.manifest["notes"]["validation_samples_by_source"] = {
        "skypile": 3,
        "starcoder_python": 0,
    }
    text = text_of(gather(**pipeline.inputs()))
    share = 100 * 100 / (old.num_tokens + 100)
    assert f"in whole documents: {share:.1f} % of the tokens." in text
    assert "Too few for a validation loss of their own: StarCoder data, Python." in text


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
    results = text_of(gather(**pipeline.inputs())).split("## Results")[1].split("## Cost")[0]
    assert "Of 12 accuracies 6 are above chance and 6 are at chance" in results
    assert "come from the generated sample data" in results
    assert "lost their beginning: base 3, " in results


def test_a_run_at_chance_says_so(tmp_path: Path) -> None:
    text = text_of(gather(**Pipeline(tmp_path, skill=0.27).inputs()))
    assert "**No model is above chance on any benchmark**" in text
    assert "- **C-Eval**: no model is above chance" in text


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
        assert ("60.00 (54.00 to 66.00)" in line) == ours
        assert ("not run at this scale" in line) == (not ours)
        assert "not run at this scale" in next(line for line in table3 if line.startswith("| 1 |"))
        table4 = text.split("### Table 4")[1]
        line = next(line for line in table4.splitlines() if "Steel-LLM-1B-Chat-DPO" in line)
        assert ("60.00 (54.00 to 66.00)" in line) == ours
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


# --- one source of what pictures and tables say


def test_pictures_state_the_losses_of_the_table(pipeline: Pipeline) -> None:
    """A loss at the end is that of the running mean: single steps are up and down."""
    data = gather(**pipeline.inputs())
    for name, training in data.trainings.items():
        rng = np.random.default_rng(len(name))
        losses = list(3 - 2 * np.linspace(0, 1, 400) + rng.normal(0, 0.2, 400))
        training.curves["train/loss"] = Curve(steps=list(range(1, 401)), values=losses)
    text = text_of(data)
    drawn = {}
    for name, figure in (("sft", figures._sft), ("dpo", figures._dpo), ("base", pretraining)):
        picture = figure(data, LIGHT)
        assert picture is not None
        legends = [*picture.legends, *filter(None, [picture.axes[0].get_legend()])]
        labels = [text.get_text() for legend in legends for text in legend.get_texts()]
        for label in labels:
            series = label.partition(":")[0]
            key = f"sft {series}" if name == "sft" else name
            if key in data.trainings and (name == "sft" or series == "training"):
                drawn[key] = label.partition(": ")[2].removesuffix(" at the end")
    assert set(drawn) == set(data.trainings)
    for name, loss in drawn.items():
        row = next(line for line in text.splitlines() if line.startswith(f"| {name} | 400"))
        assert row.split(" | ")[3] == loss
        assert loss != loss_text(data.trainings[name].curves["train/loss"].values[-1])


def test_the_picture_of_accuracies_states_those_of_the_table(pipeline: Pipeline) -> None:
    data = gather(**pipeline.inputs())
    picture = figures._accuracy(data, LIGHT)
    assert picture is not None
    text = text_of(data)
    for axes, name in zip(picture.axes, benchmark_titles(data.results), strict=True):
        stated = [note.get_text() for note in axes.texts]
        scores = [of_model.get(name) for of_model in data.results.values()]
        cells = [accuracy_cell(score) for score in scores]
        assert [note.strip() for note in stated] == [cell.partition(" (")[0] for cell in cells]
        assert all(f"| {cell} |" in text for cell in cells)


def test_every_subject_stands_in_the_report(pipeline: Pipeline) -> None:
    data = gather(**pipeline.inputs())
    text = text_of(data)
    for benchmark, title in benchmark_titles(data.results).items():
        section = text.partition(f"<summary>{title} by subject")[2].partition("</details>")[0]
        scored = {m: r[benchmark] for m, r in data.results.items() if benchmark in r}
        for subject in next(iter(scored.values()))["subjects"]:
            (row,) = (line for line in section.splitlines() if line.startswith(f"| {subject} |"))
            cells = [f"{100 * s['subjects'][subject]['accuracy']:.1f}" for s in scored.values()]
            assert row.strip("| ").split(" | ")[2:] == cells


def test_kernels_that_failed_their_self_test_are_named(pipeline: Pipeline) -> None:
    assert "self-test" not in text_of(gather(**pipeline.inputs()))
    settled = pipeline.pretrain.manifest["notes"].setdefault("settled", {})
    settled["kernels_replaced"] = {"rope": "triton -> eager: result 1 has a NaN, on a GPU"}
    text = text_of(gather(**pipeline.inputs()))
    assert "base: kernels that failed their self-test were replaced" in text
    assert "rope (triton -> eager)" in text and "has a NaN" not in text
