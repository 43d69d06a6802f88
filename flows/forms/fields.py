"""Fields of the deployments' forms, one type each: what may be given, and what the page says of it.

Bounds are those of common/ranges.py; what only the configuration can know (does this file exist,
do these settings fit together) is checked first thing by the run.
"""

from typing import Annotated, Literal

from pydantic import Field

from common.paths import MAX_PATH
from common.ranges import MOST, SEEDS
from flows.forms.choices import cleaning_sets, configurations, configured, recipes
from flows.forms.publish import Entry
from flows.targets import TARGET_NAMES, Target
from model.architecture import Routing

MAX_OVERRIDE = 100_000
"""Characters of one change to the configuration."""
MAX_NAME = 255
"""Characters of a name, as of a file's."""
MAX_ENTRIES = 1000
"""Entries of a list."""
MAX_STEPS = 10**10
MAX_PROCESSES = 4096

SMOKE = "deployments/smoke.yaml"
STORE = "store"

ROUTINGS: tuple[Routing, ...] = ("token", "sequence", "reference_norm", "uniform", "dense")
ROUTING_HELP = (
    "`token`: each token by itself, safe to generate with; `sequence`: the paper's equations, and "
    "`reference_norm`: its published code, in both of which a position sees later tokens; "
    "`uniform`: all experts alike, no router; `dense`: one SwiGLU FFN of the same size, no experts."
)


def as_configured(key: str, otherwise: str = "") -> str:
    """Sentence on the meaning of an empty field."""
    values = configured(key, otherwise)
    return f"Empty: as the configuration says{f' ({values})' if values else ''}."


Config = Annotated[
    str,
    Field(min_length=1, max_length=MAX_PATH),
    Entry(
        "Configuration",
        "YAML file with all settings and the locations of the data; relative paths start at the "
        "project's root. `smoke` takes about ten minutes on two CPU cores, `steel-1b` is the "
        "paper's model.",
        configurations(),
        other="another file",
    ),
]
Store = Annotated[
    str,
    Field(min_length=1, max_length=MAX_PATH),
    Entry(
        "Store",
        "Folder of every stage's results; relative paths start at the project's root. What stands "
        "finished there is not made again.",
    ),
]
Overrides = Annotated[
    list[Annotated[str, Field(max_length=MAX_OVERRIDE)]],
    Field(max_length=MAX_ENTRIES),
    Entry(
        "Changes to the configuration",
        "Each as `section.key=value`, for example `pretrain.warmup_steps=10`; later ones win. "
        "At most 1,000. Give no passwords: Prefect keeps what is typed here.",
    ),
]
Stages = Annotated[
    list[Target] | None,
    Field(max_length=MAX_ENTRIES),
    Entry(
        "Only these stages",
        "These and what they need. Empty: all, up to the report (or the packed data, for a "
        "configuration of data alone).",
        TARGET_NAMES,
    ),
]

Fraction = Annotated[
    float | None,
    Field(gt=0, le=1),
    Entry(
        "Share of each corpus",
        "Above 0, at most 1 (all); in bytes as stored, and always the same part. "
        + as_configured("sample.fraction", "1")
        + " The paper takes all.",
    ),
]
Limit = Annotated[
    int | None,
    Field(ge=1, le=MOST),
    Entry(
        "Records of each corpus",
        "At most so many lines, items or rows of each; 1 or more. Empty: as the configuration "
        "says, which is no limit unless it has one. The paper takes all.",
    ),
]
CleaningSet = Annotated[
    str | None,
    Field(min_length=1, max_length=MAX_NAME),
    Entry(
        "Cleaning recipes",
        "Folder of data_recipes/clean. `paper`: the operators of its Tables 7 and 8; `repaired`: "
        "those without their defects; `curated`: ours. "
        + as_configured("clean.recipes", "curated"),
        cleaning_sets(),
    ),
]
CleaningSets = Annotated[
    list[Annotated[str, Field(min_length=1, max_length=MAX_NAME)]],
    Field(min_length=1, max_length=MAX_ENTRIES),
    Entry(
        "Sets of cleaning recipes",
        "Folders of data_recipes/clean to compare; one or more, each once. `paper`: the operators "
        "of its Tables 7 and 8; `repaired`: those without their defects; `curated`: ours.",
        cleaning_sets(),
    ),
]

Steps = Annotated[
    int | None,
    Field(ge=1, le=MAX_STEPS),
    Entry(
        "Optimizer steps",
        "Length of the training, 1 to 10,000,000,000. "
        + as_configured("pretrain.steps", "as many as the data hold")
        + " The paper (section 5): 1,070,000.",
    ),
]
PretrainRate = Annotated[
    float | None,
    Field(gt=0, le=100),
    Entry(
        "Learning rate",
        "Peak, after the warm-up; above 0, at most 100. "
        + as_configured("pretrain.learning_rate")
        + " The paper (section 5): 3e-4.",
    ),
]
OneRouting = Annotated[
    Routing | None,
    Entry(
        "Soft MoE routing",
        f"{ROUTING_HELP} " + as_configured("pretrain.model.routing", "token"),
        ROUTINGS,
    ),
]
Routings = Annotated[
    list[Routing],
    Field(min_length=1, max_length=MAX_ENTRIES),
    Entry(
        "Feed-forward variants", f"One model of equal parameters for each. {ROUTING_HELP}", ROUTINGS
    ),
]

Mixture = Annotated[
    str | None,
    Field(max_length=MAX_NAME),
    Entry(
        "SFT mixture",
        "Recipe of data_recipes/mixtures to train on. The paper's best of Table 3 is "
        "`table3-5-chinese-20-english-mcq`; `smoke-…` and `real-sample-…` are small ones of the "
        "same shares. Empty: a model of each that the configuration lists.",
        recipes("mixtures"),
    ),
]
Mixtures = Annotated[
    list[Annotated[str, Field(max_length=MAX_NAME)]] | None,
    Field(max_length=MAX_ENTRIES),
    Entry(
        "SFT mixtures",
        "Recipes of data_recipes/mixtures to compare, each once. The paper's Table 3 compares the "
        "five `table3-…`. Empty: those that the configuration lists.",
        recipes("mixtures"),
    ),
]
SftEpochs = Annotated[
    float | None,
    Field(gt=0, le=10**6),
    Entry(
        "Epochs",
        "Passes over the mixture; above 0, at most 1,000,000; 0.5 is half of it. "
        + as_configured("sft.epochs", "4")
        + " The paper (section 6): about 4.",
    ),
]
SftRate = Annotated[
    float | None,
    Field(gt=0, le=100),
    Entry(
        "Learning rate",
        "Peak, after the warm-up; above 0, at most 100. "
        + as_configured("sft.learning_rate", "2e-5")
        + " The paper (section 6): 2e-5.",
    ),
]
BaseModel = Annotated[
    str | None,
    Field(max_length=MAX_PATH),
    Entry(
        "Base model",
        "Model to start from: a Transformers folder with its tokenizer, or the folder of a stage "
        "such as `store/pretrain/KEY`. Empty: the one that the configuration pretrains.",
    ),
]
Beta = Annotated[
    float | None,
    Field(gt=0, le=10**4),
    Entry(
        "Beta",
        "Strength that holds the policy to the SFT model; above 0, at most 10,000. "
        + as_configured("dpo.beta", "0.1")
        + " The paper (section 6): 0.1.",
    ),
]
DpoRate = Annotated[
    float | None,
    Field(gt=0, le=100),
    Entry(
        "Learning rate",
        "Peak, after the warm-up; above 0, at most 100. "
        + as_configured("dpo.learning_rate", "5e-6")
        + " The paper (section 6): 5e-6.",
    ),
]
PolicyModel = Annotated[
    str | None,
    Field(max_length=MAX_PATH),
    Entry(
        "SFT model",
        "Model to align: a Transformers folder with its tokenizer, or the folder of a stage such "
        "as `store/sft/KEY`. Empty: the one of the configuration's mixture (the paper: mixture 5).",
    ),
]

Model = Annotated[
    str | None,
    Field(max_length=MAX_PATH),
    Entry(
        "Model",
        "One model to score alone: a Transformers folder with its tokenizer, or the folder of a "
        "stage such as `store/sft/KEY`. Empty: every model of the configuration.",
    ),
]
Pretraining = Annotated[
    str | None,
    Field(max_length=MAX_PATH),
    Entry(
        "Pretraining",
        "Its folder, or the first letters of its key in the store. Empty: the one that the "
        "configuration makes.",
    ),
]
LengthWithMore = Annotated[
    Literal["keep", "extend"],
    Entry(
        "Number of steps",
        "`keep`: the new data compete for the steps that are left; `extend`: the steps that they "
        "make come on top.",
    ),
]
Benchmarks = Annotated[
    list[Annotated[str, Field(max_length=MAX_NAME)]] | None,
    Field(max_length=MAX_ENTRIES),
    Entry(
        "Benchmarks",
        "Those to score each checkpoint on, of the ones that the configuration lists. The paper: "
        "`ceval`, `cmmlu`, `mmlu`. Empty: as the configuration says (all it lists, where it says "
        "nothing).",
        recipes("evals"),
    ),
]
Watch = Annotated[
    bool,
    Entry(
        "Wait for new checkpoints",
        "On: each new checkpoint is scored until the pretraining ends. Off: those that are there.",
    ),
]

SeedNumbers = list[Annotated[int, Field(ge=0, le=SEEDS)]]
SomeSeeds = Annotated[SeedNumbers, Field(min_length=1, max_length=MAX_ENTRIES)]
Seeds = Annotated[
    SeedNumbers,
    Field(max_length=MAX_ENTRIES),
    Entry(
        "Seeds",
        "A model of each mixture for each seed, 0 to 4,294,967,295, each once: several show how "
        "much is chance. Empty: one model each, with the configuration's seed. The paper: one.",
    ),
]
CorpusSeeds = Annotated[
    SomeSeeds,
    Entry(
        "Seeds",
        "A model of each corpus for each seed, 0 to 4,294,967,295; one or more, each once. Several "
        "show how much is chance.",
    ),
]
RoutingSeeds = Annotated[
    SomeSeeds,
    Entry(
        "Seeds",
        "A model of each variant for each seed, 0 to 4,294,967,295; one or more, each once. Two or "
        "more give an interval.",
    ),
]
CorpusSteps = Annotated[
    int | None,
    Field(ge=1, le=MAX_STEPS),
    Entry(
        "Optimizer steps of each model",
        "1 to 10,000,000,000, the same for every corpus. "
        + as_configured("pretrain.steps", "as many as the data hold"),
    ),
]
Parallel = Annotated[
    int,
    Field(ge=1, le=MAX_PROCESSES),
    Entry(
        "Models at once",
        "1 to 4,096 trainings at a time, each on its share of the GPUs. Without a GPU, 1 is the "
        "fastest.",
    ),
]
Experiments = Annotated[
    list[Annotated[int, Field(ge=1, le=8)]] | None,
    Field(max_length=MAX_ENTRIES),
    Entry("Columns of Table 2", "Numbers 1 to 8 of the paper's experiments. Empty: all eight."),
]
NumProcesses = Annotated[
    int | None,
    Field(ge=1, le=MAX_PROCESSES),
    Entry(
        "GPUs",
        "GPUs that share a step, 1 to 4,096. Empty: all of this machine, or two processes without "
        "a GPU. The paper: A100, 8 of them in its pretraining.",
    ),
]
TimedSteps = Annotated[
    int,
    Field(ge=1, le=10**6),
    Entry("Timed steps", "Steps whose median counts, 1 to 1,000,000, after a warm-up."),
]
