"""`steel check` refuses before the pretraining what a later stage would refuse after it."""

import json
import shutil
from pathlib import Path

import pytest
import yaml

from common.errors import ConfigError, DataError, SteelError
from flows.cli import main
from flows.commands import BAD_INPUT, DONE
from flows.config import PipelineConfig
from flows.graph import Pipeline, planned
from flows.preflight import bytes_needed, preflight
from model.train.run.folder import MODEL_FOLDER
from tasks.core.given_model import given_model
from tasks.core.plan import Plan, no_tracker
from tasks.core.stage import Context
from tests.tiny_benchmarks import write_ceval, write_model

SMOKE = "deployments/smoke.yaml"


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_model(tmp_path_factory.mktemp("models") / "tiny")


def refusal(store: Path, *overrides: str) -> str:
    with pytest.raises(SteelError) as error:
        preflight(SMOKE, overrides, store)
    return str(error.value)


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        (["evaluate.num_fewshot=9"], "has 5 worked examples a subject (split dev): lower it"),
        (["mixtures=[table3-3-chinese-english, real-sample-chinese]"], "not in `sft_sets`: add"),
        (["mixtures=[]"], "no `mixtures` whose model it could start from"),
        (["dpo.sets=[medicalgpt_dpo]"], "dpo.sets: 'medicalgpt_dpo' is none of `preference_sets`"),
        (["dpo.sets=[ultrafeedback_chinese]"], "none of the preference sets has English pairs"),
        (["dpo_policy=smoke-english"], "is not one of `mixtures`"),
        (["sft.max_length=2048"], "sft.max_length = 2,048, but the model has 1,024 positions"),
        (["dpo.max_length=1025"], "dpo.max_length = 1,025, but the model has 1,024 positions"),
        (
            ["benchmarks.humaneval=sample-data", "evaluate.allow_code_execution=true"],
            "benchmarks.humaneval: an answer may take 1,024 tokens, but the pretrained model has "
            "1,024 positions",
        ),
        (["sft.global_batch_size=10"], "sft.global_batch_size = 10 is not a multiple"),
        (["dpo.global_batch_size=10"], "dpo.global_batch_size = 10 is not a multiple"),
        (["evaluate.benchmarks=[ceval, mmlu]"], "benchmarks: {ceval: sample-data, mmlu: sample-da"),
        (["benchmarks.agieval=sample-data"], "evals/agieval.yaml does not exist"),
        (["decontaminate=null"], "write `decontaminate: {ceval: sample-data, cmmlu: sample-data,"),
        (["pack.vocabulary.sft_sets=[gsm8k]"], "'gsm8k' is none of `sft_sets`"),
        (["clean.contamination.benchmarks=[mmlo]"], "'mmlo' is none of `decontaminate` (did you"),
        (["sft.contamination.benchmarks=[mmlo]"], "'mmlo' is none of `benchmarks` (did you mean"),
        (["contamination.corpora=[skypil]"], "'skypil' is none of `corpora` (did you mean"),
        (["evaluate.models={base: x}"], "'base' is the name of a model that this pipeline makes"),
        (["sft.base_model=no/such"], "sft.base_model: no/such is no Transformers folder"),
        (["dpo.policy_model=no/such"], "dpo.policy_model: no/such is no Transformers folder"),
        (
            ["dpo.policy_model=no/such", "dpo_policy=smoke-chinese"],
            "dpo.policy_model = 'no/such' are both given: leave out one",
        ),
        (["benchmarks=null", "evaluate.models={mine: x}"], "no `benchmarks` to score them on"),
    ],
)
def test_refused_before_the_pretraining(tmp_path: Path, overrides: list[str], words: str) -> None:
    assert words in refusal(tmp_path / "store", *overrides)


def test_what_is_in_order_is_let_through(tmp_path: Path) -> None:
    store = tmp_path / "store"
    assert preflight(SMOKE, ["evaluate.num_fewshot=5"], store)
    assert preflight(SMOKE, ["sft.max_length=1024", "dpo.max_length=1024"], store)
    chinese = ["dpo.sets=[ultrafeedback_chinese]", "dpo.chinese_per_english=0"]
    assert preflight(SMOKE, chinese, store)
    off = ["decontaminate=null", "clean.contamination.action='off'"]
    assert preflight(SMOKE, off, store).decontaminate is None


def test_files_of_a_benchmark_are_no_training_data(tmp_path: Path) -> None:
    write_ceval(tmp_path / "ceval", {"law": 2})
    (tmp_path / "link").symlink_to(tmp_path / "ceval" / "val")
    locations = [
        f"benchmarks.ceval={tmp_path / 'ceval'}",
        f"sft_sets.ruozhiba={tmp_path / 'link' / '*.csv'}",
    ]
    message = refusal(tmp_path / "store", *locations)
    assert "sft_sets.ruozhiba" in message
    assert "is a file of the benchmark ceval" in message


def test_evaluated_benchmarks_that_stay_in_the_corpora_are_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "mine.yaml"
    text = {"base": str(Path(SMOKE).resolve()), "name": "mine", "decontaminate": None}
    path.write_text(yaml.safe_dump(text))
    only = "decontaminate={ceval: sample-data}"
    command = ["check", str(path), "--store", str(tmp_path / "store"), "--set", only]
    assert main(command) == DONE
    said = capsys.readouterr()
    assert said.err.startswith("note: cmmlu, mmlu are evaluated and not in `decontaminate`")
    assert said.err.count("\n") == 1
    assert main(["check", SMOKE, "--store", str(tmp_path / "store")]) == DONE
    assert capsys.readouterr().err == ""


def test_disk_of_later_models_is_asked_for_before(tmp_path: Path) -> None:
    config = preflight(SMOKE, [], tmp_path)
    alone = preflight(SMOKE, ["mixtures=[]", "dpo=null"], tmp_path)
    assert config.pretrain is not None
    weights = config.pretrain.weights_bytes()
    assert bytes_needed(config) - bytes_needed(alone) == (3 + 9) * weights


# ── models of a path ─────────────────────────────────────────────────────────────────────────────


def own(folder: Path, **changes: object) -> Path:
    """A configuration without corpora and pretraining."""
    path = folder / "own.yaml"
    config = {
        "base": str(Path("deployments/small.yaml").resolve()),
        "name": "own",
        "sample_data": {"scale": 0.05},
        **changes,
    }
    path.write_text(yaml.safe_dump(config))
    return path


CHATS = {"infinity_instruct": "sample-data", "self_awareness": "sample-data"}
CHATS |= {"wanjuan_mcq": "sample-data", "ruozhiba": "sample-data"}
PAIRS = {"ultrafeedback_chinese": "sample-data", "ultrafeedback_english": "sample-data"}


def stages(config: PipelineConfig, store: Path) -> dict[str, str]:
    return {row.stage: row.key for row in planned(config, store)}


def test_sft_dpo_and_evaluation_start_from_any_model(tmp_path: Path, model: Path) -> None:
    sft = own(
        tmp_path,
        sft_sets=CHATS,
        mixtures=["smoke-chinese"],
        sft={"base_model": str(model)},
        benchmarks={"ceval": "sample-data"},
        dpo=None,
    )
    config = preflight(sft, [], tmp_path / "store")
    found = stages(config, tmp_path / "store")
    assert [s for s in found if not s.startswith("acquire")] == [
        "sft smoke-chinese",
        "evaluate sft smoke-chinese",
        "adjusted_scores sft smoke-chinese",
        "report",
    ]
    dpo = own(tmp_path, preference_sets=PAIRS, dpo={"policy_model": str(model)})
    config = preflight(dpo, [], tmp_path / "store")
    assert [s for s in stages(config, tmp_path / "store") if "acquire" not in s] == [
        "dpo",
        "report",
    ]
    scores = own(
        tmp_path, benchmarks={"ceval": "sample-data"}, evaluate={"models": {"mine": str(model)}}
    )
    config = preflight(scores, [], tmp_path / "store")
    found = stages(config, tmp_path / "store")
    assert [*found] == ["acquire evals ceval", "evaluate mine", "adjusted_scores mine", "report"]


def test_nothing_to_make_is_said(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="there is nothing to make: give `corpora`; or"):
        preflight(own(tmp_path), [], tmp_path / "store")
    mixtures = own(tmp_path, sft_sets=CHATS, mixtures=["smoke-chinese"])
    with pytest.raises(ConfigError, match=r"no `corpora` to pretrain their base on; give them, or"):
        preflight(mixtures, [], tmp_path / "store")
    config = preflight(SMOKE, ["mixtures=[]", "dpo=null", "benchmarks=null"], tmp_path / "store")
    for target, words in (("sft", "no `mixtures`"), ("evaluate", "no `benchmarks`")):
        plan = Context(store=tmp_path, tracker=no_tracker(), plan=Plan())
        with pytest.raises(ConfigError, match=words):
            Pipeline(config, plan).prepare(target)  # type: ignore[arg-type]


def test_the_key_of_a_given_model_is_its_content(tmp_path: Path, model: Path) -> None:
    copied = tmp_path / "elsewhere"
    shutil.copytree(model, copied)
    first = given_model(str(model))
    assert given_model(str(copied)).key == first.key
    assert first.model_folder == model
    weights = copied / "model.safetensors"
    content = bytearray(weights.read_bytes())
    content[-1] ^= 1
    weights.write_bytes(content)
    assert given_model(str(copied)).key != first.key
    (copied / "notes.md").write_text("more")
    assert given_model(str(model)).key == first.key


def test_a_stage_is_itself_and_a_changed_one_is_refused(tmp_path: Path, model: Path) -> None:
    from common.files import md5_of_file

    stage = tmp_path / "pretrain" / "0123456789abcdef"
    shutil.copytree(model, stage / MODEL_FOLDER)
    files = [
        {"path": f"model/{p.name}", "bytes": p.stat().st_size, "md5": md5_of_file(p)}
        for p in sorted((stage / MODEL_FOLDER).iterdir())
    ]
    manifest = {"schema": 1, "stage": "pretrain", "key": stage.name, "files": files}
    (stage / "manifest.json").write_text(json.dumps(manifest))
    for path in (stage, stage / MODEL_FOLDER):
        found = given_model(str(path))
        assert (found.stage, found.key) == ("pretrain", stage.name)
        assert found.model_folder == stage / MODEL_FOLDER
    weights = stage / MODEL_FOLDER / "model.safetensors"
    content = bytearray(weights.read_bytes())
    content[-1] ^= 1
    weights.write_bytes(content)
    with pytest.raises(DataError, match="safetensors is not as the stage pretrain wrote it"):
        given_model(str(stage))


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (lambda f: (f / "config.json").unlink(), "it has no config.json"),
        (lambda f: (f / "model.safetensors").unlink(), "lacks weights: model.safetensors"),
        (lambda f: _cut(f / "model.safetensors"), "is damaged or cut off"),
        (lambda f: (f / "tokenizer.json").unlink(), "tokenizer"),
        (lambda f: f.rename(f.with_name("step.partial")), "no Transformers folder"),
    ],
)
def test_half_a_model_is_refused_by_check(
    tmp_path: Path, model: Path, damage: object, words: str
) -> None:
    folder = tmp_path / "half"
    shutil.copytree(model, folder)
    damage(folder)  # type: ignore[operator]
    message = refusal(tmp_path / "store", f"sft.base_model={folder}")
    assert "sft.base_model: " in message
    assert words in message


def _cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-8])


def test_a_folder_above_models_says_what_is_below(tmp_path: Path, model: Path) -> None:
    message = refusal(tmp_path / "store", f"evaluate.models.mine={model.parent}")
    assert "it has no config.json. Below it there are: tiny" in message


def test_check_ends_with_one_message(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    command = ["check", SMOKE, "--store", str(tmp_path / "s"), "--set", "evaluate.benchmarks=[x]"]
    assert main(command) == BAD_INPUT
    assert capsys.readouterr().err.count("error: ") == 1


@pytest.mark.parametrize(
    ("there", "said"),
    [
        (True, "no Transformers folder of a model: it has no config.json"),
        (False, "no-model', neither as a path nor in "),
    ],
)
def test_evaluate_looks_at_the_model_before_it_starts_a_server(
    there: bool, said: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    if there:
        (tmp_path / "no-model").mkdir()
    command = ["evaluate", str(tmp_path / "no-model"), "--store", str(tmp_path / "store")]
    assert main(command) == BAD_INPUT
    message = capsys.readouterr().err
    assert said in message
    assert message.count("error: ") == 1
    assert not (tmp_path / "store").exists()


@pytest.mark.parametrize("stage", ["pretrain", "sft", "dpo", "evaluate"])
def test_more_ranks_than_gpus(stage: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torch.cuda.device_count", lambda: 1)
    said = refusal(tmp_path, f"{stage}.num_processes=2")
    assert f"{stage}.num_processes asks for 2 ranks on this machine, which has 1 GPU(s)" in said
