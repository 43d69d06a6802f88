"""Sharding a model over ranks changes neither what it is nor what it learns."""

import json
import shutil
import signal
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor
from transformers import AutoConfig, AutoModelForCausalLM

from common.errors import ConfigError, DataError
from model.train.distributed.config import ParallelSettings
from model.train.run.folder import MODEL_FOLDER
from tests.model.train import programs, ranks

pytestmark = pytest.mark.usefixtures("fork_server")

ARCHITECTURES: dict[str, dict[str, Any]] = {
    "steel": ranks.TINY,
    "qwen2": {
        "model_type": "qwen2",
        "hidden_size": 32,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "num_key_value_heads": 1,
        "intermediate_size": 24,
        "tie_word_embeddings": True,
    },
    "llama": {
        "model_type": "llama",
        "hidden_size": 32,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "num_key_value_heads": 2,
        "intermediate_size": 24,
    },
    "gpt2": {  # its attention and FFN re-initialise a child
        "model_type": "gpt2",
        "n_embd": 32,
        "n_layer": 2,
        "n_head": 2,
        "resid_pdrop": 0,
        "embd_pdrop": 0,
        "attn_pdrop": 0,
    },
}


def initial_weights(
    tmp_path: Path, packed: Path, model: Any, world_size: int, shard: int | str = "all"
) -> dict[str, Tensor]:
    output = tmp_path / f"{world_size}-{shard}.safetensors"
    arguments = (output, packed, model, shard, world_size > 1)
    assert ranks.run_function(programs.write_initial_weights, world_size, *arguments) == (
        [0] * world_size
    )
    return load_file(output)


def assert_equal(found: dict[str, Tensor], expected: dict[str, Tensor]) -> None:
    assert found.keys() == expected.keys()
    for name, tensor in expected.items():
        assert torch.equal(found[name], tensor), name


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_first_weights_are_the_same_on_two_ranks(
    packed: Path, tmp_path: Path, architecture: str
) -> None:
    model = ARCHITECTURES[architecture]
    alone = initial_weights(tmp_path, packed, model, 1)
    assert_equal(initial_weights(tmp_path, packed, model, 2), alone)
    # And they are of the distribution that Transformers gives: constants equal, spreads alike.
    config = AutoConfig.for_model(**{"model_type": "steel", "vocab_size": 64, **model})
    usual = AutoModelForCausalLM.from_config(config)
    tensors = dict(usual.named_parameters()) | dict(usual.named_buffers())
    for name, tensor in tensors.items():
        found = alone[f"model.{name}"]
        if (tensor == tensor.flatten()[0]).all() or name in dict(usual.named_buffers()):
            assert torch.equal(found, tensor), name
        elif tensor.numel() >= 500:
            assert found.std() == pytest.approx(tensor.std().item(), rel=0.2), name
    matrices = [t for t in alone.values() if t.ndim == 2 and t.numel() >= 500]
    assert len({float(t.flatten()[0]) for t in matrices}) == len(matrices), "no two start alike"


@pytest.mark.slow
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_first_weights_are_the_same_on_four_ranks(
    packed: Path, tmp_path: Path, architecture: str
) -> None:
    model = ARCHITECTURES[architecture]
    alone = initial_weights(tmp_path, packed, model, 1)
    for shard in ("all", 2, 1):
        assert_equal(initial_weights(tmp_path, packed, model, 4, shard), alone)


def test_a_folder_is_read_tensor_by_tensor(packed: Path, tmp_path: Path) -> None:
    config = AutoConfig.for_model(**{"vocab_size": 64, **ARCHITECTURES["qwen2"]})
    saved = AutoModelForCausalLM.from_config(config)
    folder = tmp_path / "folder"
    saved.save_pretrained(folder, max_shard_size="10KB")
    assert len(list(folder.glob("*.safetensors"))) > 2
    found = initial_weights(tmp_path, packed, str(folder), 2)
    for name, tensor in saved.named_parameters():
        assert torch.equal(found[f"model.{name}"], tensor), name
    for name, tensor in saved.named_buffers():
        assert torch.equal(found[f"model.{name}"], tensor), name


def test_a_folder_whose_weights_do_not_fit_its_config_is_refused(
    packed: Path, tmp_path: Path
) -> None:
    config = AutoConfig.for_model(**{"vocab_size": 64, **ARCHITECTURES["qwen2"]})
    AutoModelForCausalLM.from_config(config).save_pretrained(tmp_path / "folder")
    described = json.loads((tmp_path / "folder" / "config.json").read_text())
    described["intermediate_size"] = 40
    (tmp_path / "folder" / "config.json").write_text(json.dumps(described))
    shutil.copytree(packed / "tokenizer", tmp_path / "folder", dirs_exist_ok=True)
    job = ranks.write_job(packed, tmp_path, ranks.settings(model=str(tmp_path / "folder")))
    assert ranks.run_ranks(job, 1) == [2]
    assert "mlp" in (tmp_path / "rank-0.log").read_text()
    assert "Traceback" not in (tmp_path / "rank-0.log").read_text()


@pytest.mark.slow
def test_no_rank_holds_the_whole_model(packed: Path, tmp_path: Path) -> None:
    model = {
        "model_type": "llama",
        "hidden_size": 1024,
        "num_hidden_layers": 16,
        "num_attention_heads": 8,
        "num_key_value_heads": 8,
        "intermediate_size": 512,
    }
    assert ranks.run_function(
        programs.write_peak_memory, 2, tmp_path / "memory", packed, model
    ) == [0, 0]
    for rank in range(2):
        record = json.loads((tmp_path / f"memory.{rank}.json").read_text())
        shards = record["everything"] / 2
        assert record["everything"] > 10 * record["unit"]
        # Its shards, one unit, and that unit's shards once more while it is cut.
        assert shards < record["peak"] < shards + 2 * record["unit"] < record["everything"], record


def test_copies_of_the_weights_learn_the_same(
    packed: Path, uninterrupted: Path, tmp_path: Path
) -> None:
    """Two copies over two ranks each (HSDP), against one copy over two ranks."""
    changes = ranks.settings(micro_batch_size=1, parallel={"shard": 2})
    job = ranks.write_job(packed, tmp_path, changes)
    assert ranks.run_ranks(job, 4) == [0] * 4, (tmp_path / "rank-0.log").read_text()
    expected, found = ranks.read_run(uninterrupted), ranks.read_run(tmp_path)
    assert found.keys() == expected.keys()
    for step, metrics in expected.items():
        assert found[step] == ranks.alike(metrics), step
    for step, samples in ranks.read_samples(uninterrupted).items():
        assert sorted(ranks.read_samples(tmp_path)[step]) == sorted(samples)
    # Two micro-batches a step, but the copies exchange gradients once, beside the agreement.
    counted = json.loads((tmp_path / "collectives-0.json").read_text())
    steps, validations = 12, 4
    assert counted["reduce_scatter"] == steps
    # A validation sums once as the model is, and once with mean routing.
    assert counted["all_reduce"] == 2 * steps + 2 * validations


@pytest.mark.slow
def test_copies_that_were_killed_and_moved_go_on(packed: Path, tmp_path: Path) -> None:
    """A run with two copies, killed twice, is bit for bit the one that was not; and its checkpoint
    loads where there is one copy."""
    values = ranks.settings(micro_batch_size=1, parallel={"shard": 2})
    whole, broken = (ranks.write_job(packed, tmp_path / n, values) for n in ("whole", "broken"))
    assert ranks.run_ranks(whole, 4) == [0] * 4
    for fault in (ranks.Fault(step=6, rank=3), ranks.Fault(step=8, at="before tensors", rank=2)):
        codes = ranks.run_ranks(broken, 4, fault)
        assert codes[fault.rank] == -signal.SIGKILL and 0 not in codes, codes
    assert ranks.run_ranks(broken, 4) == [0] * 4
    assert ranks.read_run(broken.parent) == ranks.read_run(whole.parent)
    exported = [path.parent / MODEL_FOLDER / "model.safetensors" for path in (whole, broken)]
    assert exported[0].read_bytes() == exported[1].read_bytes()

    moved = ranks.write_job(packed, tmp_path / "moved", values)
    assert ranks.run_ranks(moved, 4, ranks.Fault(step=6, number=signal.SIGTERM)) == [143] * 4
    one_copy = ranks.settings(micro_batch_size=1)
    assert ranks.run_ranks(ranks.write_job(packed, moved.parent, one_copy), 2) == [0, 0]
    expected = ranks.read_run(whole.parent)
    for step, metrics in ranks.read_run(moved.parent).items():
        assert metrics == ranks.alike(expected[step]), step


@pytest.mark.parametrize("architecture", ["qwen2", "gpt2"])
def test_other_architectures_and_tied_weights_train_alike(
    packed: Path, tmp_path: Path, architecture: str
) -> None:
    """Sharded layer by layer over two ranks, against one process that shards nothing."""
    values = ranks.settings(model=ARCHITECTURES[architecture], steps=4)
    runs = []
    for world_size in (1, 2):
        job = ranks.write_job(packed, tmp_path / str(world_size), values)
        codes = ranks.run_ranks(job, world_size, SMALL_MODEL_PARAMETERS=0)
        assert codes == [0] * world_size, (job.parent / "rank-0.log").read_text()
        runs.append(ranks.read_run(job.parent))
    for step, metrics in runs[0].items():
        assert runs[1][step] == ranks.alike(metrics), step


@pytest.mark.parametrize("changes", [{"reshard_after_forward": False}, {"shard": 1}])
def test_keeping_weights_changes_nothing(
    packed: Path, uninterrupted: Path, tmp_path: Path, changes: dict[str, Any]
) -> None:
    job = ranks.write_job(packed, tmp_path, ranks.settings(parallel=changes))
    assert ranks.run_ranks(job, 2, SMALL_MODEL_PARAMETERS=0) == [0, 0], (
        tmp_path / "rank-0.log"
    ).read_text()
    expected, found = ranks.read_run(uninterrupted), ranks.read_run(tmp_path)
    for step, metrics in expected.items():
        assert found[step] == ranks.alike(metrics), step


def test_gradients_are_added_up_in_fp32(packed: Path, tmp_path: Path) -> None:
    """64 equal micro-batches of 1/64 each are one: in bf16 the sum would be 1e-2 off."""
    found: list[dict[str, Tensor]] = []
    for repeats in (1, 64):
        path = tmp_path / f"{repeats}.safetensors"
        arguments = (path, packed, "bf16", repeats)
        assert ranks.run_function(programs.write_gradients, 2, *arguments) == [0, 0]
        found.append(load_file(path))
    for name, once in found[0].items():
        scale = float(once.norm())
        assert float((found[1][name] - once).norm()) <= 1e-5 * scale + 1e-9, name


@pytest.mark.parametrize(
    ("shard", "num_ranks", "ranks_per_node", "width"),
    [("all", 16, 8, 16), ("node", 16, 8, 8), (4, 16, 8, 4), (1, 3, 3, 1), ("node", 8, 8, 8)],
)
def test_width_of_a_copy(shard: Any, num_ranks: int, ranks_per_node: int, width: int) -> None:
    assert ParallelSettings(shard=shard).width(num_ranks, ranks_per_node) == width


@pytest.mark.parametrize("shard", [3, 0, -1, 32, "rack"])
def test_uneven_copies_are_refused(shard: Any) -> None:
    with pytest.raises(ConfigError, match=rf"parallel\.shard = {shard!r}.*does not divide the 16"):
        ParallelSettings(shard=shard).width(16, 8)


def test_a_folder_without_safetensors_is_refused(packed: Path, tmp_path: Path) -> None:
    from model.train.distributed.initialise import tensor_files

    with pytest.raises(DataError, match=r"holds no model\.safetensors"):
        tensor_files(tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("amount", ["selective", "full"])
def test_compiled_layers_learn_the_same(
    packed: Path, uninterrupted: Path, tmp_path: Path, amount: str
) -> None:
    """torch.compile of each layer, with FSDP2 around it and checkpointing inside."""
    changes = ranks.settings(steps=4, compile=True, activation_checkpointing=amount)
    job = ranks.write_job(packed, tmp_path, changes)
    codes = ranks.run_ranks(job, 2, SMALL_MODEL_PARAMETERS=0)
    assert codes == [0, 0], (tmp_path / "rank-0.log").read_text()
    expected, found = ranks.read_run(uninterrupted), ranks.read_run(tmp_path)
    for step in (1, 2):  # later ones have another learning rate
        assert found[step]["train/loss"] == pytest.approx(expected[step]["train/loss"], rel=1e-4)
        norms = found[step]["train/grad_norm"], expected[step]["train/grad_norm"]
        assert norms[0] == pytest.approx(norms[1], rel=1e-3)
