"""Choices that are made after pretraining leave the keys of all stages up to it alone."""

import dataclasses
import shutil
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml

from common.config import StageConfig, field_types
from common.paths import RECIPES
from common.recipes import load_config
from corpus.decontaminate import ContaminationConfig
from flows.config import PipelineConfig
from flows.graph import Pipeline, planned
from flows.preflight import preflight
from model.train.optim.config import MuonSettings
from tasks.core.finetune import FinetuneConfig
from tasks.core.manifest import plain
from tasks.core.plan import Plan, PlannedStage, no_tracker
from tasks.core.stage import Context
from tasks.pack import VocabularyConfig
from tests.flows.fake_sources import write_fakes

DEPLOYMENTS = sorted(
    path
    for path in (RECIPES.parent / "deployments").glob("*.yaml")
    if "name" in yaml.safe_load(path.read_text("utf-8"))
)
"""Every shipped configuration that is a whole one."""
BASE_STAGES = ("normalize", "hold_out", "clean", "pack", "pretrain")


@pytest.fixture(params=DEPLOYMENTS, ids=lambda path: path.stem)
def deployment(
    request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Path:
    """A shipped configuration, with a fake of each file that it names."""
    write_fakes(request.param, tmp_path / "project", monkeypatch)
    return Path(request.param)


def keys(config: PipelineConfig, store: Path) -> dict[str, str]:
    """Keys of the stages up to the base model, by the name of the stage."""
    plan = Plan()
    pipeline = Pipeline(config, Context(store=store, tracker=no_tracker(), plan=plan))
    assert pipeline.base.key
    found = {row.stage.split(" ")[0]: row.key for row in plan.stages}
    return {name: found[name] for name in BASE_STAGES if name in found}


def names(kind: str) -> list[str]:
    return sorted(path.stem for path in (RECIPES / kind).glob("*.yaml"))


def one_less_and_one_more(known: Mapping[str, str], every: list[str]) -> Iterator[dict[str, str]]:
    for name in known:
        yield {n: at for n, at in known.items() if n != name}
    for name in [name for name in every if name not in known][::4]:
        yield {**known, name: "hub"}


def later_choices(config: PipelineConfig) -> Iterator[tuple[str, PipelineConfig]]:
    """The configuration with one thing changed that comes after pretraining."""
    for changed in one_less_and_one_more(config.benchmarks, names("evals")):
        yield f"benchmarks {[*changed]}", replace(config, benchmarks=changed)
    stated = config.pack.vocabulary
    for changed in one_less_and_one_more(config.sft_sets, names("sft")):
        if {*stated.sft_sets} <= changed.keys() or not config.pack.prune:
            yield f"sft_sets {[*changed]}", replace(config, sft_sets=changed)
    for changed in one_less_and_one_more(config.preference_sets, names("preferences")):
        if {*stated.preference_sets} <= changed.keys() or not config.pack.prune:
            yield f"preference_sets {[*changed]}", replace(config, preference_sets=changed)
    for mixtures in ([], names("mixtures"), config.mixtures[1:]):
        yield f"mixtures {mixtures}", replace(config, mixtures=mixtures)
    if config.sft is not None:
        yield "sft", replace(config, sft=replace(config.sft, epochs=9.0, learning_rate=1e-4))
        yield "no sft", replace(config, sft=None)
    if config.dpo is not None:
        yield "dpo", replace(config, dpo=replace(config.dpo, beta=0.7), dpo_policy="other")
        yield "no dpo", replace(config, dpo=None)
    yield "evaluate", replace(config, evaluate=replace(config.evaluate, num_fewshot=1, limit=2))
    yield "contamination", replace(config, contamination=replace(config.contamination, ngram=7))
    yield "report", replace(config, report=replace(config.report, title="another"))


def test_no_later_choice_asks_for_another_pretraining(deployment: Path, tmp_path: Path) -> None:
    config = load_config(deployment, PipelineConfig)
    before = keys(config, tmp_path)
    assert {"normalize", "clean", "pack", "pretrain"} <= before.keys()
    tried = 0
    for choice, changed in later_choices(config):
        assert keys(changed, tmp_path) == before, choice
        tried += 1
    assert tried > 10


def test_what_cleaning_removes_and_a_vocabulary_covers_is_in_the_keys(
    deployment: Path, tmp_path: Path
) -> None:
    """The opposite: keys do change with what decides about the base model, and only from there."""
    config = load_config(deployment, PipelineConfig)
    before = keys(config, tmp_path)
    removed = config.decontaminate
    assert removed
    fewer = {name: at for name, at in removed.items() if name != "mmlu"}
    after = keys(replace(config, decontaminate=fewer), tmp_path)
    assert after["normalize"] == before["normalize"]
    assert all(after[name] != before[name] for name in ("clean", "pack", "pretrain"))
    vocabulary = VocabularyConfig(sft_sets=tuple(config.pack.vocabulary.sft_sets[1:]))
    pruned = replace(config, pack=replace(config.pack, vocabulary=vocabulary))
    if config.pack.prune and config.pack.vocabulary.sft_sets:
        after = keys(pruned, tmp_path)
        assert after["clean"] == before["clean"]
        assert all(after[name] != before[name] for name in ("pack", "pretrain"))
    else:
        assert keys(pruned, tmp_path) == before


def test_every_shipped_deployment_is_sound(
    deployment: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`steel check` with a fake of each source: nothing is missing but the disk."""
    monkeypatch.setattr("flows.preflight.require_free_space", lambda *_: None)
    config = preflight(deployment, [], tmp_path / "store")
    rows = planned(config, tmp_path / "store")
    assert rows[-1].stage == "report"
    assert {row.state for row in rows} == {"to be made"}
    assert len({row.key for row in rows}) == len(rows), "nothing is made twice"


def test_one_more_set_leaves_other_mixtures_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = RECIPES.parent / "deployments" / "smoke.yaml"
    config = load_config(path, PipelineConfig)

    def of(config: PipelineConfig) -> dict[str, str]:
        return {row.stage: row.key for row in planned(config, tmp_path / "store")}

    before = of(config)
    after = of(replace(config, sft_sets={**config.sft_sets, "gsm8k": "hub"}))
    assert after == before
    after = of(replace(config, mixtures=[*config.mixtures, "table3-2-chinese"], dpo=None))
    tuned = [stage for stage in before if stage.startswith(("sft", "evaluate sft", "pretrain"))]
    assert {stage: after[stage] for stage in tuned} == {stage: before[stage] for stage in tuned}
    more = {**config.preference_sets, "medicalgpt_dpo": "hub"}
    after = of(replace(config, preference_sets=more))
    changed = {stage for stage in before if before[stage] != after[stage]}
    assert changed == {"dpo", "evaluate dpo", "adjusted_scores dpo", "report"}


def test_settings_of_a_search_that_is_not_made_are_in_no_key(tmp_path: Path) -> None:
    path = RECIPES.parent / "deployments" / "smoke.yaml"
    config = load_config(path, PipelineConfig)
    assert config.sft is not None
    assert config.dpo is not None

    def of(action: Any, *benchmarks: str, **search: Any) -> list[PlannedStage]:
        settings = ContaminationConfig(action=action, benchmarks=benchmarks, **search)
        changed = replace(
            config,
            clean=replace(config.clean, contamination=settings),
            sft=replace(config.sft, contamination=settings),
            dpo=replace(config.dpo, contamination=settings),
        )
        return planned(changed, tmp_path)

    assert of("off") == of("off", "ceval", ngram=9)
    assert of("drop") != of("drop", ngram=9)
    assert of("drop") != of("drop", "ceval") != of("off")
    none = replace(config, decontaminate={})
    off = replace(none, clean=replace(none.clean, contamination=ContaminationConfig(action="off")))
    assert keys(none, tmp_path) == keys(off, tmp_path) != keys(config, tmp_path)


def test_a_benchmark_in_both_lists_is_acquired_once(tmp_path: Path) -> None:
    path = RECIPES.parent / "deployments" / "smoke.yaml"
    rows = planned(load_config(path, PipelineConfig), tmp_path / "store")
    assert [row.stage for row in rows].count("acquire evals ceval") == 1


def test_settings_of_muon_are_in_the_key_once_they_are_set(tmp_path: Path) -> None:
    """Their group came later than finished pretrainings, whose keys stay."""
    config = load_config(RECIPES.parent / "deployments" / "smoke.yaml", PipelineConfig)
    assert config.pretrain is not None
    assert "muon" not in plain(config.pretrain, key=True)
    assert plain(config.pretrain)["muon"]["momentum"] == 0.95
    settings = (MuonSettings(), MuonSettings(momentum=0.9), MuonSettings(newton_schulz_steps=4))
    changed = [replace(config.pretrain, muon=one) for one in settings]
    changed.append(replace(config.pretrain, optimizer="muon"))
    found = [keys(replace(config, pretrain=one), tmp_path) for one in changed]
    assert found[0] == keys(config, tmp_path)
    assert len({one["pretrain"] for one in found}) == 4
    assert len({one["pack"] for one in found}) == 1


# ── settings that change speed alone ─────────────────────────────────────────────────────────────

OPERATIONAL = {
    "activation_checkpointing",
    "attn_implementation",
    "batch_size",
    "checkpoint_interval",
    "checkpoints",
    "compile",
    "deterministic",
    "enabled",
    "encoder",
    "eval_interval",
    "examples",
    "log_interval",
    "max_drop",
    "max_drop_bytes",
    "merged_products",
    "micro_batch_size",
    "nodes",
    "num_processes",
    "parallel",
    "profile",
    "ray",
    "rendezvous",
    "validation_samples",
    "workers",
}
"""Names of settings that change how fast a stage is, how often it saves or what it shows, and not
what is learned, wherever they stand."""


def stage_configs() -> Iterator[type[StageConfig]]:
    waiting: list[type[Any]] = [StageConfig]
    while waiting:
        one = waiting.pop()
        waiting += one.__subclasses__()
        if dataclasses.is_dataclass(one) and one.__module__.startswith("tasks."):
            yield one


@pytest.mark.parametrize("config", sorted(stage_configs(), key=lambda c: c.__qualname__))
def test_operational_settings_are_in_no_key(config: type[StageConfig]) -> None:
    in_key = {f.name for f in dataclasses.fields(config) if f.metadata.get("in_key", True)}
    if config.__name__ == "ThroughputConfig":  # speed is what it measures
        return
    if issubclass(config, FinetuneConfig):  # with `keep: best` a validation chooses the model
        in_key -= {"eval_interval"}
    assert not in_key & OPERATIONAL
    assert field_types(config).keys() >= in_key


def described(text: str) -> str:
    """A recipe with another licence, note and comment."""
    data = yaml.safe_load(text)
    data |= {key: f"other {data[key]}" for key in ("licence", "title", "note") if key in data}
    return f"# A comment more.\n{yaml.safe_dump(data, allow_unicode=True)}"


@pytest.mark.parametrize(
    ("path", "change"),
    [
        ("corpora/skypile.yaml", described),
        ("corpora/new_one.yaml", lambda _: "not read: no configuration names it"),
        ("sft/openhermes.yaml", described),
        ("mixtures/smoke-chinese.yaml", described),
        ("preferences/ultrafeedback_chinese.yaml", described),
        ("preferences/new_one.yaml", lambda _: "not read"),
        ("quality/README.md", lambda text: f"{text}\nmore"),
        ("quality/labels.jsonl", lambda text: text[:-1]),
        ("clean/curated/web.yaml", lambda text: f"# A comment more.\n{text}"),
        ("clean/paper/text.yaml", lambda text: f"{text}\n# another set"),
    ],
)
def test_descriptions_and_what_is_not_used_are_in_no_key(
    path: str, change: Callable[[str], str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A licence, a note, a comment, a recipe that nobody names: none makes a stage anew."""
    config = load_config(RECIPES.parent / "deployments" / "smoke.yaml", PipelineConfig)
    copied = tmp_path / "data_recipes"
    shutil.copytree(RECIPES, copied)
    for module in (
        "common.recipes",
        "tasks.normalize",
        "tasks.clean",
        "corpus.cleaning.recipe_sets",
    ):
        monkeypatch.setattr(f"{module}.RECIPES", copied, raising=False)
    before = planned(config, tmp_path / "store")
    file = copied / path
    file.write_text(change(file.read_text("utf-8") if file.is_file() else ""), encoding="utf-8")
    assert planned(config, tmp_path / "store") == before
