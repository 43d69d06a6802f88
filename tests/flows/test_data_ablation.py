"""steel/data-ablation: wrong requests refused before work; a comparison from end to end."""

import json
from pathlib import Path

import pytest
import yaml

from common.errors import ConfigError
from common.paths import resolve
from common.recipes import load_config
from flows.ablations.corpora import variants
from flows.cli import main
from flows.commands import DONE
from flows.config import PipelineConfig
from tests.flows.refused import assert_refused

SMOKE = {
    "base": str(resolve("deployments/smoke.yaml")),
    "name": "tiny-ablation",
    "sample_data": {"seed": 7, "scale": 0.15},
    "pack": {"vocabulary": None},
    "sft_sets": None,
    "preference_sets": None,
    "benchmarks": None,
    "mixtures": None,
    "sft": None,
    "dpo": None,
    "held_out": {
        "encyclopedia": {"corpora": ["baidu_baike", "wikipedia_cn"], "fraction": 0.3},
        "qa": {"corpora": ["baidu_qa", "zhihu"], "fraction": 0.3},
    },
}


@pytest.fixture
def config(tmp_path: Path) -> Path:
    path = tmp_path / "tiny.yaml"
    path.write_text(yaml.safe_dump(SMOKE))
    return path


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--recipes", "paper,nosuch", "--steps", "9"], "no such set of recipes"),
        (["--recipes", "paper,paper"], "each once"),
        (["--seeds", "1,1"], "each once"),
        (["--seeds", "one"], "must look like 1,8"),
        ([], "set pretrain.steps"),
        (["--steps", "9", "--set", "held_out=null"], "needs texts to score models on"),
        (["--steps", "9", "--set", "held_out.qa.corpora=[nosuch]"], "none of `corpora`"),
    ],
)
def test_wrong_requests_are_refused_before_work(
    config: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    arguments: list[str],
    message: str,
) -> None:
    command = ["data-ablation", str(config), *arguments]
    assert_refused(capsys, tmp_path / "store", command, message)


def test_variants_differ_in_their_recipes_alone(config: Path) -> None:
    loaded = load_config(config, PipelineConfig, ["clean.family_recipes={web: repaired/text}"])
    found = variants(loaded, ["paper", "curated"], [1], 50)
    assert {name: one.clean.recipes for name, one in found.items()} == {
        "paper": "paper",
        "curated": "curated",
    }
    assert all(one.clean.family_recipes == {} for one in found.values())
    assert {one.pretrain.steps for one in found.values()} == {50}
    with pytest.raises(ConfigError, match="recipes nosuch"):
        variants(loaded, ["nosuch"], [1], 50)


@pytest.mark.slow
def test_a_comparison_from_corpora_to_its_table(
    config: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    store = tmp_path / "store"
    command = ["data-ablation", str(config), "--store", str(store), "--json", "--steps", "24"]
    command += ["--recipes", "repaired,curated", "--seeds", "1,2"]
    assert main(command) == DONE
    table = json.loads(capsys.readouterr().out)
    assert table["kinds"] == ["encyclopedia", "qa"]
    assert {row["recipes"] for row in table["rows"]} == {"repaired", "curated"}
    assert {row["tokens trained on"] for row in table["rows"]} == {24 * 8 * 256}
    assert len(table["runs"]) == 4
    for row in table["rows"]:
        assert 0 < row["qa"] < 8 and 0 < row["encyclopedia"] < 8
    # One vocabulary: the models differ in what they have read, not in size.
    sizes = {
        json.loads(path.read_text())["vocab_size"]
        for path in store.glob("pretrain/*/model/config.json")
    }
    assert len(list(store.glob("pretrain/*/model/config.json"))) == 4
    assert len(sizes) == 1
    # No text that is scored stands in what was trained on.
    held = {
        json.loads(line)["text"]
        for path in store.glob("hold_out/*/held_out/*.jsonl")
        for line in path.read_text().splitlines()
    }
    trained = {
        json.loads(line)["text"]
        for path in store.glob("clean/*/*/0*.jsonl")
        for line in path.read_text().splitlines()
    }
    assert held and trained and not held & trained
