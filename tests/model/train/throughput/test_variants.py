"""The paper's words for configurations, in ours."""

import pytest
import torch

from common.config import validate
from common.errors import ConfigError
from model import SteelConfig
from model.kernels import IMPLEMENTATIONS, check_choice
from model.train.throughput import variants


def test_exp8_of_table_2_is_the_plain_configuration() -> None:
    exp8 = variants.from_paper(
        attention="torch", rope="torch", rms_norm="torch", loss="torch", shard_parameters=True
    )
    assert exp8.kernels == dict.fromkeys(IMPLEMENTATIONS, "eager")
    assert (exp8.attention, exp8.reshard_after_forward) == ("other", True)
    assert (variants.PLAIN.attention, variants.PLAIN.reshard_after_forward) == ("other", True)


def test_exp7_is_fused_where_the_paper_says_so_and_keeps_weights_whole() -> None:
    exp7 = variants.from_paper(
        attention="flash", rope="fused", rms_norm="fused", loss="triton", shard_parameters=False
    )
    assert isinstance(exp7.kernels, dict)
    assert exp7.kernels["swiglu"] == "eager", "the paper does not fuse it"
    assert "eager" not in {exp7.kernels[op] for op in ("rope", "rms_norm", "cross_entropy")}
    assert (exp7.attention, exp7.reshard_after_forward) == ("flash", False)
    check_choice(exp7.kernels)


def test_fused_is_triton_on_a_gpu_where_there_is_such_a_kernel(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(IMPLEMENTATIONS, "rope", {"eager": (), "triton": ()})
    monkeypatch.setitem(IMPLEMENTATIONS, "swiglu", {"eager": (), "torch": ()})
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert variants.fused("rope") == "auto"
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert variants.fused("rope") == "triton"
    assert variants.fused("swiglu") == "auto"


def test_liger_says_which_of_its_kernels_are_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in variants.LIGER:
        monkeypatch.setitem(IMPLEMENTATIONS, name, {"eager": (), "liger": ()})
    assert variants.liger().kernels == "liger"
    monkeypatch.setitem(IMPLEMENTATIONS, "swiglu", {"eager": ()})
    with pytest.raises(ConfigError, match="of swiglu"):
        variants.liger()


def test_settings_split_the_batch_over_processes() -> None:
    settings = variants.OURS.settings(
        variants.STEEL_1B, num_processes=4, micro_batch_size=8, accumulation=2
    )
    validate(settings)
    settings.check_ranks(4)
    assert (settings.micro_batch_size, settings.global_batch_size) == (8, 64)
    assert isinstance(settings.model, dict)
    assert round(SteelConfig(**settings.model).num_parameters() / 1e9, 2) == 1.12
