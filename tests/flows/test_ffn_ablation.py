"""steel/ffn-ablation: wrong requests refused before work; a comparison that is taken up again."""

import json
from pathlib import Path

import pytest
import yaml

from common.errors import ConfigError
from common.recipes import load_config
from flows.ablations.pretrainings import variants
from flows.cli import main
from flows.commands import DONE
from flows.config import PipelineConfig
from tests.flows.refused import assert_refused
from tests.flows.test_data_ablation import SMOKE

TINY = {key: value for key, value in SMOKE.items() if key != "held_out"} | {
    "name": "tiny-routings",
    "pretrain": {
        "model": {"hidden_size": 32, "expert_intermediate_size": 16, "num_experts": 2},
        "steps": 12,
        "warmup_steps": 2,
        "eval_interval": 0,
        "sequence_length": 64,
    },
}


@pytest.fixture
def config(tmp_path: Path) -> Path:
    path = tmp_path / "tiny.yaml"
    path.write_text(yaml.safe_dump(TINY))
    return path


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--routings", "token,tokens"], "tokens"),
        (["--routings", "token,token"], "each once"),
        (["--seeds", "1,1"], "each once"),
        (["--seeds", ""], "one or more seeds"),
        (["--seeds", "one"], "must look like 1,8"),
        (["--set", "pack.validation_fraction=0"], "set it (0.02, say)"),
        (["--set", "pretrain=null"], "give `pretrain`"),
        (["--set", "pretrain.model.hidden_size=33"], "hidden_size 33"),
    ],
)
def test_wrong_requests_are_refused_before_work(
    config: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    arguments: list[str],
    message: str,
) -> None:
    command = ["ffn-ablation", str(config), *arguments]
    assert_refused(capsys, tmp_path / "store", command, message)


def test_variants_differ_in_routing_and_seed_alone(config: Path) -> None:
    loaded = load_config(config, PipelineConfig, [])
    found = variants(loaded, ["token", "uniform"], [1, 2])
    assert list(found) == ["token/1", "uniform/1", "token/2", "uniform/2"]
    for name, one in found.items():
        assert one.pretrain is not None and isinstance(one.pretrain.model, dict)
        assert (one.pretrain.model["routing"], one.pretrain.seed) == (
            name.partition("/")[0],
            int(name.partition("/")[2]),
        )
    with pytest.raises(ConfigError, match="trained model"):
        variants(
            load_config(config, PipelineConfig, ["pretrain.model=some/folder"]), ["token"], [1]
        )


@pytest.mark.slow
def test_a_comparison_is_made_and_taken_up_again(
    config: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    store = tmp_path / "store"
    command = ["ffn-ablation", str(config), "--store", str(store), "--json"]
    assert main([*command, "--routings", "token,dense", "--seeds", "1"]) == DONE
    first = json.loads(capsys.readouterr().out)
    made = {path: path.stat().st_mtime_ns for path in store.glob("pretrain/*/manifest.json")}
    assert len(made) == 2
    assert main([*command, "--routings", "token,dense,uniform", "--seeds", "1,2"]) == DONE
    table = json.loads(capsys.readouterr().out)
    assert {path: path.stat().st_mtime_ns for path in made} == made, "what is finished stays"
    assert len(list(store.glob("pretrain/*/manifest.json"))) == 6
    assert table["baseline"] == "token"
    assert {name: table["runs"][name] for name in first["runs"]} == first["runs"]
    rows = {row["routing"]: row for row in table["rows"]}
    assert set(rows) == {"token", "dense", "uniform"}
    assert rows["token"]["mean routing"] is not None and rows["dense"]["mean routing"] is None
    for row in rows.values():
        assert row["seeds"] == 2 and row["loss ±"] > 0 and 0 < row["loss"] < 12
        assert row["low"] <= row["difference"] <= row["high"]
