"""Every shipped configuration and deployment is sound."""

import ast
import importlib
import inspect
from importlib import metadata
from pathlib import Path

import pytest
import torch
import yaml
from prefect import Flow
from transformers import AutoModelForCausalLM

from common.config import validate
from common.paths import resolve
from common.recipes import load_config, recipe_path
from flows.cli import main
from flows.commands import BAD_INPUT
from flows.config import KINDS, PipelineConfig
from model.train.model_settings import model_config
from model.train.optim.schedule import learning_rate
from model.train.run.length import TrainingLength

CONFIGS = ("smoke", "smoke-mixtures", "real-sample", "data-ablation", "steel-1b")
DEPLOYMENTS = {
    "pipeline",
    "data",
    "pretrain",
    "sft",
    "mixture-ablation",
    "dpo",
    "evaluate",
    "evaluate-checkpoints",
    "refresh",
    "kernel-ablation",
    "ffn-ablation",
    "data-ablation",
    "report",
}


@pytest.mark.parametrize("name", CONFIGS)
def test_shipped_configuration_loads_and_names_existing_recipes(name: str) -> None:
    config = load_config(resolve(f"deployments/{name}.yaml"), PipelineConfig)
    assert config.name == name
    for kind in KINDS:
        for dataset in config.acquire(kind).datasets:
            assert recipe_path(kind, dataset).is_file(), f"{kind}/{dataset}"
    for mixture in config.mixtures:
        assert recipe_path("mixtures", mixture).is_file()


def test_steel_1b_is_table_1_and_section_5(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 8)
    whole = load_config(resolve("deployments/steel-1b.yaml"), PipelineConfig).pretrain
    validate(whole, "pretrain")
    assert whole.ranks_per_node() == 8
    settings = whole.settings
    assert settings.global_batch_size == 8 * settings.micro_batch_size * 8, (
        "GPUs x 8 x accumulation 8"
    )
    assert settings.global_batch_size * settings.sequence_length == 1_048_576
    assert (settings.sequence_length, settings.micro_batch_size, settings.steps) == (
        2048,
        8,
        1_070_000,
    )
    assert (settings.betas, settings.weight_decay, settings.max_grad_norm) == (
        (0.9, 0.95),
        0.05,
        1.0,
    )
    length = TrainingLength(initial_steps=settings.steps)
    rates = [learning_rate(settings, step, length) for step in (0, 1999, 2000, 1_069_999)]
    assert rates[0] == pytest.approx(3e-4 / 2000)
    assert rates[1] == rates[2] == 3e-4
    assert rates[3] < 1e-14, "cosine to 0"
    with torch.device("meta"):
        language_model = AutoModelForCausalLM.from_config(model_config(settings, {}))
    parameters = sum(p.numel() for p in language_model.parameters())
    assert round(parameters / 1e9, 2) == 1.12
    assert all(p.is_meta for p in language_model.parameters())
    config = language_model.config
    assert (config.num_experts, config.slots_per_expert, config.routing) == (6, 1, "token")
    assert (config.head_dim, config.rope_theta, config.rms_norm_eps) == (56, 1e6, 1e-6)


def test_steel_1b_keeps_what_a_month_needs() -> None:
    settings = load_config(resolve("deployments/steel-1b.yaml"), PipelineConfig).pretrain
    steps_in_ten_minutes = 600 * 1.07e6 / (30 * 86_400)  # the paper's thirty days
    assert settings.checkpoints.interval == pytest.approx(steps_in_ten_minutes, rel=0.1)
    assert settings.checkpoints.keep_every and settings.checkpoints.export
    assert settings.eval_interval % settings.checkpoints.interval == 0, "or none is the best"
    assert (settings.health.non_finite, settings.health.spike) == ("skip", "rollback")
    assert settings.separate_documents
    assert settings.validation_samples % (settings.micro_batch_size * 8) == 0


def test_check_names_what_is_missing_of_the_real_data(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    absent = tmp_path / "nowhere" / "*.jsonl"
    arguments = ["check", "deployments/steel-1b.yaml", "--set", f"corpora.wanjuan={absent}"]
    assert main([*arguments, "--store", str(tmp_path / "store")]) == BAD_INPUT
    message = capsys.readouterr().err
    assert message.startswith("error: ") and "Traceback" not in message
    assert "wanjuan" in message and str(absent) in message


def test_deployments_have_dotted_entrypoints_and_valid_parameters(root: Path) -> None:
    specification = yaml.safe_load((root / "prefect.yaml").read_text())
    assert {d["name"] for d in specification["deployments"]} == DEPLOYMENTS
    for deployment in specification["deployments"]:
        module, _, name = deployment["entrypoint"].rpartition(".")
        flow = getattr(importlib.import_module(module), name)
        assert isinstance(flow, Flow)
        assert flow.name == "steel"
        assert set(deployment["parameters"]) <= set(inspect.signature(flow.fn).parameters)
        flow.validate_parameters(deployment["parameters"])
        for schedule in deployment.get("schedules", []):
            assert schedule["active"] is False
            assert "parameters" not in schedule, "Prefect drops them when it is switched on"


def test_no_installed_distribution_claims_our_packages() -> None:
    owners = metadata.packages_distributions()
    for package in ("flows", "tasks", "model"):
        assert set(owners.get(package, [])) <= {"steel-lm"}, package


def test_commands_give_flows_parameters_that_they_have(root: Path) -> None:
    calls = [
        call
        for path in sorted((root / "flows" / "commands").glob("*.py"))
        for call in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(call, ast.Call) and getattr(call.func, "id", "") == "run_steel"
    ]
    assert len(calls) == 8
    for call in calls:
        name = ast.literal_eval(call.args[0])
        flow = getattr(importlib.import_module("flows.steel"), name)
        given = {keyword.arg for keyword in call.keywords}
        assert given <= inspect.signature(flow.fn).parameters.keys(), name
