"""steel/kernel-ablation from the command line to the store, on whatever device there is."""

import json
from pathlib import Path

import pytest
import torch
from mlflow.tracking import MlflowClient

from flows.ablations.variants import kernel_configs
from flows.cli import main
from flows.commands import BAD_INPUT, DONE
from model import SteelConfig
from model.train.throughput.measure import Result
from tasks.core.paper.tables import load_table2
from tasks.core.tracking import SPEED, default_uri


def test_on_a_gpu_the_papers_model_and_sizes_are_measured() -> None:
    configs = kernel_configs(load_table2(), None, 8, 10, tiny=False)
    assert list(configs) == [*(f"exp{n}" for n in range(1, 9)), "ours", "ours compiled"]
    for config in configs.values():
        settings = config.settings
        assert (settings.sequence_length, settings.micro_batch_size) == (2048, 8)
        assert settings.global_batch_size == 64
        assert isinstance(settings.model, dict)
        shape = SteelConfig(**settings.model)
        assert shape.dense_intermediate_size == 5504
        assert round(shape.num_parameters() / 1e9, 2) == 1.84
    assert configs["exp7"].settings.parallel.reshard_after_forward is False
    assert configs["exp8"].settings.parallel.reshard_after_forward is True


def test_an_unknown_experiment_is_refused_before_work(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    store = tmp_path / "store"
    assert main(["kernel-ablation", "--experiments", "1,9", "--store", str(store)]) == BAD_INPUT
    assert "no experiment 9" in capsys.readouterr().err
    assert main(["kernel-ablation", "--experiments", "one", "--store", str(store)]) == BAD_INPUT
    assert "must look like 1,8" in capsys.readouterr().err
    assert not store.exists()


@pytest.mark.slow
def test_the_table_is_in_the_store_and_flat_in_mlflow(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    store = tmp_path / "store"
    command = ["kernel-ablation", "--experiments", "8", "--processes", "1", "--steps", "2"]
    assert main([*command, "--store", str(store), "--json"]) == DONE
    table = json.loads(capsys.readouterr().out)
    assert [row["status"] for row in table["rows"]] == ["done"] * 3
    assert table["tiny"] == (not torch.cuda.is_available())
    for folder in store.glob("throughput/*"):
        assert Result.read(folder).tokens_per_second_per_device > 0
    client = MlflowClient(default_uri(store))
    experiment = client.get_experiment_by_name(SPEED)
    runs = client.search_runs([experiment.experiment_id])
    assert len(runs) == 3
    assert all("speed/tokens_per_second_per_device" in run.data.metrics for run in runs)
    # What was measured on this machine with this code is not measured again.
    before = sorted(store.glob("throughput/*"))
    assert main([*command, "--store", str(store), "--json"]) == DONE
    assert sorted(store.glob("throughput/*")) == before
