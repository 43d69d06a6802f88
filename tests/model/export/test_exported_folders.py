"""Exported folders: loaded by Transformers alone, equal to the model, whole or absent."""

import json
import os
import shutil
import signal
import subprocess
import sys
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, PreTrainedTokenizerBase, Qwen2ForCausalLM

from common.errors import ConfigError, DataError
from model.export.folder import check_target, export_model
from model.export.remote_code import CONFIGURATION_FILE, MODELING_FILE
from model.load import load_causal_lm
from model.soft_moe import LeakWarning
from model.tokenizer.folder import PROBES, load_folder_tokenizer
from model.tokenizer.identity import PRUNED_FROM
from tests.model.export.clean_interpreter import run
from tests.tiny_chat import byte_tokenizer, save_tiny_model

CPU = torch.device("cpu")
SHAPE = {"hidden_size": 24, "expert_intermediate_size": 9, "max_position_embeddings": 256}
IDS = [[5, 60, 7, 7, 33, 2, 19, 40, 11], [1, 2, 3, 4, 5, 6, 7, 8, 9]]

LOAD = """
loaded = {}
for folder, code in given["folders"]:
    model = AutoModelForCausalLM.from_pretrained(folder, trust_remote_code=code).eval()
    tokenizer = AutoTokenizer.from_pretrained(folder, trust_remote_code=code)
    ids = torch.tensor(given["ids"])
    with torch.no_grad():
        logits = model(ids).logits
        hidden = AutoModel.from_pretrained(folder, trust_remote_code=code).eval()(ids)[0]
    torch.save(logits, given["to"] + "/" + folder.rsplit("/", 1)[1] + ".pt")
    loaded[folder] = {
        "class": type(model).__name__,
        "module": type(model).__module__,
        "dtype": str(model.dtype),
        "hidden": list(hidden.shape),
        "made": model.generate(ids[:1, :4], max_new_tokens=6, do_sample=False).tolist(),
        "chat": tokenizer.apply_chat_template(
            [{"role": "user", "content": "\\u4f60\\u597d"}], add_generation_prompt=True
        )["input_ids"],
        "probes": [tokenizer.encode(text) for text in given["probes"]],
        "ends": model.generation_config.eos_token_id,
    }
print(json.dumps(loaded))
"""


def tiny(folder: Path, tokenizer: Any, **changes: Any) -> Path:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", LeakWarning)
        return save_tiny_model(
            folder, tokenizer, seed=1, vocab_size=len(tokenizer) + 3, **{**SHAPE, **changes}
        )


@torch.no_grad()
def logits(folder: Path, dtype: torch.dtype | str = "auto") -> torch.Tensor:
    found: torch.Tensor = load_causal_lm(folder, dtype, CPU).eval()(torch.tensor(IDS)).logits
    return found


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny(tmp_path_factory.mktemp("model") / "model", byte_tokenizer())


@pytest.mark.filterwarnings("ignore:routing=:model.soft_moe.LeakWarning")
def test_others_load_it_without_the_project(
    tmp_path: Path, few_tokens: PreTrainedTokenizerBase
) -> None:
    """In an interpreter that has Transformers and torch, and not this project."""
    kinds: dict[str, tuple[Any, dict[str, Any]]] = {
        "token": (few_tokens, {"learn_gain": True, "gain": 1.3}),
        "sequence": (few_tokens, {"routing": "sequence", "slots_per_expert": 2}),
        "uniform": (few_tokens, {"routing": "uniform"}),
        "bytes": (byte_tokenizer(), {"tie_word_embeddings": True}),
        "dense": (few_tokens, {"routing": "dense", "tie_word_embeddings": True}),
        "dense-bytes": (byte_tokenizer(), {"routing": "dense"}),
        "dense-wide-heads": (few_tokens, {"routing": "dense", "head_dim": 8}),
    }
    plain = {"dense"}
    folders = []
    for name, (tokenizer, changes) in kinds.items():
        done = export_model(tiny(tmp_path / "models" / name, tokenizer, **changes), tmp_path / name)
        assert done.form == ("qwen2" if name in plain else "steel"), (name, done.remark)
        assert done.code == (name not in plain)
        assert ("see later tokens" in done.remark) == (name == "sequence")
        assert ("not exported as qwen2" in done.remark) == (name.startswith("dense-")), done.remark
        folders.append((str(tmp_path / name), done.code))
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    given = {"folders": folders, "ids": IDS, "to": str(elsewhere), "probes": PROBES}
    found = run(LOAD, given, elsewhere)
    for name, (tokenizer, _) in kinds.items():
        about, source = found[str(tmp_path / name)], tmp_path / "models" / name
        theirs = torch.load(elsewhere / f"{name}.pt", weights_only=True)
        if name in plain:
            assert (about["class"], about["module"].split(".")[0]) == (
                "Qwen2ForCausalLM",
                "transformers",
            )
            torch.testing.assert_close(theirs, logits(source), rtol=0, atol=1e-6)
        else:
            assert about["class"] == "SteelForCausalLM"
            assert torch.equal(theirs, logits(source)), name
        ours = load_causal_lm(source, "auto", CPU).eval()
        made = ours.generate(torch.tensor(IDS)[:1, :4], max_new_tokens=6, do_sample=False)
        assert about["made"] == made.tolist()
        assert about["probes"] == [tokenizer.encode(text) for text in PROBES]
        chat = [{"role": "user", "content": "你好"}]
        rendered = tokenizer.apply_chat_template(chat, add_generation_prompt=True)["input_ids"]
        assert about["chat"] == rendered
        assert about["ends"] == tokenizer.eos_token_id
        assert about["hidden"] == [2, 9, 24]


def test_the_project_loads_it_by_its_own_code(model: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    export_model(model, out)
    (out / MODELING_FILE).write_text("raise SystemExit('ran')\n")
    (out / CONFIGURATION_FILE).write_text("raise SystemExit('ran')\n")
    loaded = load_causal_lm(out, "auto", CPU)
    assert type(loaded).__module__ == "model.modeling_steel"
    assert torch.equal(logits(out), logits(model))
    loaded.save_pretrained(tmp_path / "tuned")  # as fine-tuning does, without the code
    load_folder_tokenizer(out).save_pretrained(tmp_path / "tuned")
    assert "auto_map" not in json.loads((tmp_path / "tuned" / "config.json").read_text())
    again = tmp_path / "again"
    export_model(tmp_path / "tuned", again)
    for name in ("model.safetensors", "config.json"):
        assert (again / name).read_bytes() == (out / name).read_bytes()


@pytest.mark.parametrize("dtype", ["bfloat16", "float16", "float32"])
def test_dtype_and_files_of_a_size(model: Path, tmp_path: Path, dtype: Any) -> None:
    out = tmp_path / "out"
    done = export_model(model, out, dtype=dtype, max_shard="20KB")
    assert done.files == len(list(out.glob("*.safetensors"))) > 1
    assert done.dtype == dtype
    index = json.loads((out / "model.safetensors.index.json").read_text())
    assert set(index["weight_map"].values()) == {path.name for path in out.glob("*.safetensors")}
    stored = [t for path in out.glob("*.safetensors") for t in load_file(path).values()]
    assert {str(tensor.dtype) for tensor in stored} == {f"torch.{dtype}"}
    assert torch.equal(logits(out), logits(model, getattr(torch, dtype)))
    config = json.loads((out / "config.json").read_text())
    assert config["dtype"] == config["torch_dtype"] == dtype


def test_files_may_be_read_by_whom_the_folder_may(model: Path, tmp_path: Path) -> None:
    for umask, folder, file in ((0o022, 0o755, 0o644), (0o027, 0o750, 0o640)):
        out = tmp_path / str(umask)
        before = os.umask(umask)
        try:
            export_model(model, out)
        finally:
            os.umask(before)
        assert out.stat().st_mode & 0o777 == folder
        assert {path.name: path.stat().st_mode & 0o777 for path in out.iterdir()} == dict.fromkeys(
            [path.name for path in out.iterdir()], file
        )


def test_what_holds_something_is_left_alone(model: Path, tmp_path: Path) -> None:
    full, file, link = tmp_path / "full", tmp_path / "file", tmp_path / "link"
    full.mkdir()
    (full / "thesis.tex").write_text("three years")
    file.write_text("x")
    link.symlink_to(tmp_path / "nowhere")
    for out, words in (
        (full, "is not empty"),
        (file, "is a file"),
        (link, "broken link"),
        (model / "out", "inside the model"),
        (model.parent, "is not empty"),
        (file / "out", "cannot be made"),
    ):
        with pytest.raises(ConfigError, match=words):
            export_model(model, out)
    assert (full / "thesis.tex").read_text() == "three years"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file", "full", "link"]
    assert not (model / "out").exists()
    empty = tmp_path / "empty"
    empty.mkdir()
    export_model(model, empty)
    assert (empty / "model.safetensors").is_file()
    check_target(tmp_path / "new" / "deep", model)


def test_a_folder_that_appears_meanwhile_is_left_alone(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "out"

    def meanwhile(folder: Path) -> None:
        out.mkdir()
        (out / "somebody's").touch()

    monkeypatch.setattr("model.export.folder.settle", meanwhile)
    with pytest.raises(ConfigError, match="made by somebody else"):
        export_model(model, out)
    assert [path.name for path in tmp_path.iterdir()] == ["out"]
    assert [path.name for path in out.iterdir()] == ["somebody's"]


def test_a_full_disk_is_said_before_anything_is_read(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = shutil.disk_usage(tmp_path)._replace(free=1000)
    monkeypatch.setattr("common.disk.shutil.disk_usage", lambda place: usage)
    monkeypatch.setattr("model.export.source.load_causal_lm", lambda *_: pytest.fail("read"))
    with pytest.raises(DataError, match=r"the export needs about .* give another folder to --to"):
        export_model(model, tmp_path / "out")
    assert not list(tmp_path.iterdir())


def damage(folder: Path, how: str) -> None:
    weights = folder / "model.safetensors"
    tensors = load_file(weights)
    if how == "cut":
        weights.write_bytes(weights.read_bytes()[:-50])
        return
    if how == "pickled":
        weights.rename(folder / "pytorch_model.bin")
        return
    if how == "absent":
        weights.unlink()
        return
    if how == "no tokenizer":
        (folder / "tokenizer.json").unlink()
        return
    if how == "no config":
        (folder / "config.json").unlink()
        return
    if how == "another code":
        config = json.loads((folder / "config.json").read_text())
        (folder / "config.json").write_text(json.dumps({**config, "model_type": "theirs"}))
        return
    name = "model.layers.1.mlp.experts.up_out"
    if how == "missing":
        del tensors[name]
    elif how == "more":
        tensors["model.layers.9.mlp.phi"] = torch.zeros(2)
    elif how == "shape":
        tensors[name] = tensors[name][:-1].contiguous()
    elif how == "nan":
        tensors[name][3, 4] = float("nan")
    from safetensors.torch import save_file

    save_file(tensors, weights, metadata={"format": "pt"})


@pytest.mark.parametrize(
    ("how", "words"),
    [
        ("cut", "cannot be read"),
        ("pickled", "only pickled weights .pytorch_model.bin"),
        ("absent", "has no weights"),
        ("no tokenizer", "holds no tokenizer"),
        ("no config", "is none that this version of Transformers can build"),
        ("another code", "without code from the folder"),
        ("missing", r"lacks model\.layers\.1\.mlp\.experts\.up_out"),
        ("more", r"has, but the model of its config.json has not, model\.layers\.9\.mlp\.phi"),
        ("shape", "in another shape than config.json says"),
        ("nan", r"experts\.up_out has values that are not finite"),
    ],
)
def test_a_damaged_model_is_refused_and_nothing_is_left(
    model: Path, tmp_path: Path, how: str, words: str
) -> None:
    source = shutil.copytree(model, tmp_path / "source")
    damage(source, how)
    with pytest.raises((DataError, ConfigError), match=words):
        export_model(source, tmp_path / "out")
    assert [path.name for path in tmp_path.iterdir()] == ["source"]


def test_values_that_a_dtype_does_not_hold_are_named(model: Path, tmp_path: Path) -> None:
    from safetensors.torch import save_file

    source = shutil.copytree(model, tmp_path / "source")
    tensors = load_file(source / "model.safetensors")
    tensors["model.norm.weight"][0] = 1e6
    save_file(tensors, source / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(DataError, match=r"model\.norm\.weight has values up to 1e\+06"):
        export_model(source, tmp_path / "out", dtype="float16")
    export_model(source, tmp_path / "out", dtype="bfloat16")


def test_a_form_that_a_model_cannot_have_is_refused(model: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"routing: token.*it can be as steel$"):
        export_model(model, tmp_path / "out", form="qwen2")
    with pytest.raises(ConfigError, match="published code computes reference_norm"):
        export_model(model, tmp_path / "out", form="published")
    with pytest.raises(ConfigError, match="Transformers has no code"):
        export_model(model, tmp_path / "out", form="transformers")
    dense = tiny(tmp_path / "dense", byte_tokenizer(), routing="dense")
    with pytest.raises(ConfigError, match="tokenizer is not of Qwen's kind"):
        export_model(dense, tmp_path / "out", form="qwen2")
    assert export_model(dense, tmp_path / "own", form="steel").code
    assert not (tmp_path / "out").exists()


def test_choices_of_the_machine_that_trained_it_stay_there(tmp_path: Path) -> None:
    source = tiny(tmp_path / "source", byte_tokenizer(), kernels={"rope": "eager"})
    config = json.loads((source / "config.json").read_text())
    written = {**config, "attn_implementation": "eager", "kernels": "triton"}
    (source / "config.json").write_text(json.dumps(written))
    with pytest.raises(ConfigError, match="triton"):
        load_causal_lm(source, "auto", CPU)
    (source / "config.json").write_text(json.dumps({**written, "kernels": {"rope": "eager"}}))
    export_model(source, tmp_path / "out")
    exported = json.loads((tmp_path / "out" / "config.json").read_text())
    assert exported["kernels"] == "auto" and "attn_implementation" not in exported


def test_a_pruned_vocabulary_keeps_its_map(
    tmp_path: Path, few_tokens: PreTrainedTokenizerBase
) -> None:
    source = tiny(tmp_path / "source", few_tokens, routing="dense")
    (source / PRUNED_FROM).write_text('{"old_ids": []}')
    export_model(source, tmp_path / "out")
    assert (tmp_path / "out" / PRUNED_FROM).read_text() == '{"old_ids": []}'
    assert isinstance(load_causal_lm(tmp_path / "out", "auto", CPU), Qwen2ForCausalLM)


@pytest.mark.parametrize("kind", ["LlamaForCausalLM", "GPT2LMHeadModel"])
def test_other_architectures_are_exported_as_they_are(tmp_path: Path, kind: str) -> None:
    import transformers

    tokenizer = byte_tokenizer()
    sizes = {
        "LlamaForCausalLM": {"hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2},
        "GPT2LMHeadModel": {"n_embd": 16, "n_layer": 2},
    }[kind]
    architecture = getattr(transformers, kind)
    heads = {"num_attention_heads": 2} if kind.startswith("Llama") else {"n_head": 2}
    ids = {f"{role}_token_id": tokenizer.eos_token_id for role in ("bos", "eos", "pad")}
    config = architecture.config_class(vocab_size=264, **sizes, **heads, **ids)
    torch.manual_seed(0)
    source = tmp_path / "source"
    architecture(config).save_pretrained(source)
    tokenizer.save_pretrained(source)
    done = export_model(source, tmp_path / "out")
    assert (done.form, done.code) == ("transformers", False)
    assert torch.equal(logits(tmp_path / "out"), logits(source))
    plain = AutoModelForCausalLM.from_pretrained(tmp_path / "out")
    assert type(plain) is architecture


@pytest.mark.slow
def test_killed_it_leaves_nothing_under_its_name_and_the_next_one_tidies_up(
    model: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    program = (
        "import sys, time; from pathlib import Path; import model.export.folder as f;"
        "f.settle = lambda folder: (print('written', flush=True), time.sleep(600));"
        "f.export_model(Path(sys.argv[1]), Path(sys.argv[2]))"
    )

    def written() -> "subprocess.Popen[str]":
        child = subprocess.Popen(
            [sys.executable, "-c", program, model, out],
            stdout=subprocess.PIPE,
            text=True,
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
        )
        assert child.stdout is not None
        with child.stdout as said:  # it says no more
            assert "written" in said.readline()
        return child

    for number, left in ((signal.SIGKILL, 1), (signal.SIGINT, 0)):
        child = written()
        child.send_signal(number)
        child.wait()
        assert not out.exists()
        assert len(list(tmp_path.iterdir())) == left, "of SIGKILL, until the next one"
    child = written()
    (going,) = tmp_path.iterdir()
    export_model(model, out)
    assert (out / "config.json").is_file()
    assert sorted(tmp_path.iterdir()) == sorted([out, going]), "that one is at work"
    child.kill()
    child.wait()
    shutil.rmtree(out)
    export_model(model, out)
    assert list(tmp_path.iterdir()) == [out]
