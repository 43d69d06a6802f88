"""Every shipped configuration and deployment is sound."""

import importlib
import inspect
from importlib import metadata
from pathlib import Path

import pytest
import torch
import yaml
from prefect import Flow
from transformers import AutoModelForCausalLM

from flows.config import load_pipeline
from flows.preflight import KINDS
from model import SteelConfig
from tasks._recipes import recipe_path

CONFIGS = ("smoke", "real-sample", "steel-1b")
DEPLOYMENTS = {
    "pipeline", "data", "pretrain", "sft", "mixture-ablation", "dpo", "evaluate",
    "kernel-ablation", "ffn-ablation", "report",
}  # fmt: skip


@pytest.mark.parametrize("name", CONFIGS)
def test_shipped_configuration_loads_and_names_existing_recipes(name: str) -> None:
    config = load_pipeline(f"deployments/{name}.yaml")
    assert config.name == name
    for kind in KINDS:
        for dataset in config.acquire(kind).datasets:
            assert recipe_path(kind, dataset).is_file(), f"{kind}/{dataset}"
    for mixture in config.mixtures:
        assert recipe_path("mixtures", mixture).is_file()


def test_steel_1b_is_table_1() -> None:
    settings = load_pipeline("deployments/steel-1b.yaml").pretrain.settings
    assert isinstance(settings.model, dict)
    config = SteelConfig(**settings.model)
    with torch.device("meta"):
        network = AutoModelForCausalLM.from_config(config)
    parameters = sum(p.numel() for p in network.parameters())
    assert round(parameters / 1e9, 2) == 1.12
    tokens_a_step = settings.global_batch * settings.sequence_length
    assert tokens_a_step == 1_048_576
    assert settings.betas == (0.9, 0.95)
    assert (settings.weight_decay, settings.clip) == (0.05, 1.0)


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


def test_no_installed_distribution_claims_our_packages() -> None:
    owners = metadata.packages_distributions()
    for package in ("flows", "tasks", "model"):
        assert set(owners.get(package, [])) <= {"steel-lm"}, package
