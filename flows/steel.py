"""The flow `steel`: one function per deployment, each with its own form in the Prefect UI.

Every function names a target of the graph (flows/graph.py); the stages that it needs run first, or
are skipped if they are finished in the store. prefect.yaml makes each function a deployment
(`steel/pretrain`, …).
"""

from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Literal

from prefect import flow
from pydantic import Field

from common.paths import MAX_PATH
from common.ranges import MOST, MOST_FLOAT
from flows.graph import Target
from flows.runs.prefect_run import remembered
from flows.runs.session import given, session

MAX_OVERRIDE = 100_000
"""Characters of one change to the configuration."""
MAX_NAME = 255
"""Characters of a name, as of a file's."""
MAX_ENTRIES = 1000
"""Entries of a list."""

# Bounds of common/ranges.py, which are no part of a form: a value out of them ends the flow run
# before its function begins.
Config = Annotated[
    str,
    Field(
        description="Configuration file, relative to the project's root.",
        min_length=1,
        max_length=MAX_PATH,
    ),
]
Store = Annotated[
    str,
    Field(
        description="Folder that holds every stage's results.", min_length=1, max_length=MAX_PATH
    ),
]
Overrides = Annotated[
    list[Annotated[str, Field(max_length=MAX_OVERRIDE)]],
    Field(
        description="Changes to the configuration, each `section.key=value`.",
        max_length=MAX_ENTRIES,
    ),
]
ModelPath = Annotated[
    str | None,
    Field(
        description="Folder of a model (Transformers), or of a stage in a store; empty: the "
        "configuration's own.",
        max_length=MAX_PATH,
    ),
]
LearningRate = Annotated[float | None, Field(gt=0, le=100, description="Peak learning rate.")]
RecipeName = Annotated[str, Field(max_length=MAX_NAME)]
Routing = Literal["token", "sequence", "reference_norm", "dense"]

SMOKE = "deployments/smoke.yaml"
STORE = "store"


def _make(
    stages: Sequence[Target],
    config: str,
    store: str,
    overrides: list[str],
    changes: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    with session(config, store, overrides, changes) as run:
        for stage in stages or [run.last]:
            run.make(stage)
        return run.summary()


@flow(name="steel")
@remembered
def pipeline(
    config: Config = SMOKE,
    store: Store = STORE,
    overrides: Overrides = [],  # noqa: B006 - Prefect copies defaults into the form
    stages: Annotated[list[Target], Field(max_length=MAX_ENTRIES)] | None = None,
) -> dict[str, Any]:
    """The whole pipeline, from raw corpora to the report, or only `stages` and their inputs."""
    return _make(stages or [], config, store, overrides)


@flow(name="steel")
@remembered
def data(
    config: Config = SMOKE,
    store: Store = STORE,
    fraction: Annotated[
        float | None, Field(gt=0, le=1, description="Share of each corpus to take.")
    ] = None,
    limit: Annotated[
        int | None, Field(ge=1, le=MOST, description="Records of each corpus at most.")
    ] = None,
    recipes: Annotated[
        RecipeName | None,
        Field(description="Set of cleaning recipes: `curated`, `repaired`, `paper`, or your own."),
    ] = None,
    overrides: Overrides = [],  # noqa: B006
) -> dict[str, Any]:
    """Acquire, normalize, clean and pack the corpora. Fields left empty keep the configuration's
    values."""
    changes = {"sample.fraction": fraction, "sample.limit": limit, "clean.recipes": recipes}
    return _make(["data"], config, store, overrides, changes)


@flow(name="steel")
@remembered
def pretrain(
    config: Config = SMOKE,
    store: Store = STORE,
    steps: Annotated[int | None, Field(ge=1, le=10**10, description="Optimizer steps.")] = None,
    learning_rate: LearningRate = None,
    routing: Annotated[Routing | None, Field(description="Soft MoE routing.")] = None,
    overrides: Overrides = [],  # noqa: B006
) -> dict[str, Any]:
    """Pretrain on the packed corpus. Fields left empty keep the configuration's values."""
    changes = {
        "pretrain.steps": steps,
        "pretrain.learning_rate": learning_rate,
        "pretrain.model.routing": routing,
    }
    return _make(["pretrain"], config, store, overrides, changes)


@flow(name="steel")
@remembered
def sft(
    mixture: Annotated[
        RecipeName | None, Field(description="One mixture; empty: all of them.")
    ] = None,
    config: Config = SMOKE,
    store: Store = STORE,
    epochs: Annotated[
        float | None, Field(gt=0, le=10**6, description="Passes over the mixture.")
    ] = None,
    learning_rate: LearningRate = None,
    base_model: ModelPath = None,
    overrides: Overrides = [],  # noqa: B006
) -> dict[str, Any]:
    """Supervised fine-tuning of the pretrained model, or of one in a folder."""
    changes = {
        "sft.base_model": base_model,
        "sft.epochs": epochs,
        "sft.learning_rate": learning_rate,
        "mixtures": [mixture] if mixture else None,
        "dpo_policy": mixture,
    }
    return _make(["sft"], config, store, overrides, changes)


@flow(name="steel")
@remembered
def mixture_ablation(
    mixtures: Annotated[
        list[RecipeName] | None,
        Field(
            description="Mixtures to compare; empty: the configuration's.", max_length=MAX_ENTRIES
        ),
    ] = None,
    seeds: Annotated[
        list[Annotated[int, Field(ge=0, le=MOST)]],
        Field(
            description="A model of each mixture for each; empty: the configured seed.",
            max_length=MAX_ENTRIES,
        ),
    ] = [],  # noqa: B006
    parallel: Annotated[
        int,
        Field(ge=1, le=4096, description="Models trained at once, each on its share of the GPUs."),
    ] = 1,
    config: Config = SMOKE,
    store: Store = STORE,
    overrides: Overrides = [],  # noqa: B006
) -> dict[str, Any]:
    """Table 3: SFT models of several mixtures, all from the same base, compared question by
    question."""
    from flows.ablations.mixtures import compare_mixtures

    return compare_mixtures(mixtures, seeds, parallel, config, store, overrides)


@flow(name="steel")
@remembered
def dpo(
    config: Config = SMOKE,
    store: Store = STORE,
    beta: Annotated[float | None, Field(gt=0, le=MOST_FLOAT, description="DPO's beta.")] = None,
    learning_rate: LearningRate = None,
    policy_model: ModelPath = None,
    overrides: Overrides = [],  # noqa: B006
) -> dict[str, Any]:
    """Direct preference optimisation of one SFT model, or of one in a folder."""
    changes = {
        "dpo.beta": beta,
        "dpo.learning_rate": learning_rate,
        "dpo.policy_model": policy_model,
    }
    if policy_model:  # in the place of the configured mixture's
        overrides = [*given(overrides), "dpo_policy=null"]
    return _make(["dpo"], config, store, overrides, changes)


@flow(name="steel")
@remembered
def evaluate(
    config: Config = SMOKE,
    store: Store = STORE,
    model: ModelPath = None,
    overrides: Overrides = [],  # noqa: B006
) -> dict[str, Any]:
    """C-Eval, CMMLU and MMLU for every model of the configuration, or for one in a folder alone."""
    if not model:
        return _make(["evaluate"], config, store, overrides)
    name = "given"
    changes = {"evaluate.models": {name: model}}
    with session(config, store, overrides, changes) as run:
        given_model = run.pipeline.given(model)
        scores = run.pipeline.score(name, given_model)
        run.pipeline.adjust(name, given_model, scores)
        # What the summary shows: nothing else of this configuration is asked for.
        vars(run.pipeline).update(evaluations={name: scores})
        return run.summary()


@flow(name="steel")
@remembered
def evaluate_checkpoints(
    run: Annotated[
        str | None,
        Field(
            description="Pretraining: its folder, or the beginning of its key; empty: the "
            "configuration's own.",
            max_length=MAX_PATH,
        ),
    ] = None,
    watch: Annotated[
        bool, Field(description="Go on with each new checkpoint until the pretraining ends.")
    ] = True,
    config: Config = SMOKE,
    store: Store = STORE,
    overrides: Overrides = [],  # noqa: B006
) -> dict[str, Any]:
    """Bits per byte and benchmarks of each checkpoint of a pretraining, while it runs or
    afterwards: curves by tokens."""
    from flows.checkpoint_curves import evaluate_checkpoints as evaluated

    return evaluated(run, watch, config, store, overrides)


@flow(name="steel")
@remembered
def report(
    config: Config = SMOKE,
    store: Store = STORE,
    overrides: Overrides = [],  # noqa: B006
) -> dict[str, Any]:
    """Tables 3 and 4 beside the paper's, curves, provenance."""
    return _make(["report"], config, store, overrides)


@flow(name="steel")
@remembered
def ffn_ablation(
    routings: Annotated[
        list[Routing],
        Field(
            description="Feed-forward variants of equal parameters.",
            min_length=1,
            max_length=MAX_ENTRIES,
        ),
    ] = ["token", "dense", "sequence"],  # noqa: B006
    config: Config = SMOKE,
    store: Store = STORE,
    overrides: Overrides = [],  # noqa: B006
) -> dict[str, Any]:
    """The same pretraining with each Soft MoE routing and with a dense FFN."""
    from flows.ablations.variants import pretrain_variants

    variants: dict[str, dict[str, Any]] = {
        routing: {"pretrain.model.routing": routing} for routing in routings
    }
    return pretrain_variants("ffn-ablation", variants, config, store, overrides)


@flow(name="steel")
@remembered
def data_ablation(
    recipes: Annotated[
        list[RecipeName],
        Field(
            description="Sets of cleaning recipes to compare (folders of data_recipes/clean).",
            min_length=1,
            max_length=MAX_ENTRIES,
        ),
    ] = ["paper", "repaired", "curated"],  # noqa: B006
    seeds: Annotated[
        list[Annotated[int, Field(ge=0, le=MOST)]],
        Field(description="A model for each.", min_length=1, max_length=MAX_ENTRIES),
    ] = [1, 2, 3],  # noqa: B006
    steps: Annotated[
        int | None,
        Field(ge=1, le=10**10, description="Optimizer steps of each model; empty: configured."),
    ] = None,
    config: Config = "deployments/data-ablation.yaml",
    store: Store = STORE,
    overrides: Overrides = [],  # noqa: B006
) -> dict[str, Any]:
    """The same small model on the same number of tokens of corpora that were cleaned in different
    ways, scored in bits per byte on texts that none was trained on."""
    from flows.ablations.corpora import compare_corpora

    return compare_corpora(recipes, seeds, steps, config, store, overrides)


@flow(name="steel")
@remembered
def kernel_ablation(
    experiments: Annotated[
        list[Annotated[int, Field(ge=1, le=8)]] | None,
        Field(
            description="Columns of the paper's Table 2; empty: all eight.", max_length=MAX_ENTRIES
        ),
    ] = None,
    num_processes: Annotated[
        int | None,
        Field(ge=1, le=4096, description="GPUs that share a step; empty: all of this machine."),
    ] = None,
    timed_steps: Annotated[
        int, Field(ge=1, le=10**6, description="Steps whose median counts.")
    ] = 10,
    store: Store = STORE,
) -> dict[str, Any]:
    """Table 2: throughput and memory with each choice of kernels, and with ours. Needs no corpus;
    without a GPU a tiny model is measured, and the table says so."""
    from flows.ablations.variants import (
        kernel_variants,
    )  # torch and Transformers: seconds of every other run

    return kernel_variants(experiments, num_processes, timed_steps, store)
