"""Stage `dpo`: an SFT model and preference pairs ──torchrun, TRL──▶ model/, metrics.jsonl.

data/<set>/… ──formats, Chinese:English 4:1──▶ pairs.jsonl ──model.entry.dpo──▶ model/
"""

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field, fields
from typing import Any, Literal

import torch

from common.errors import ConfigError, DataError
from common.files import complete_file, json_line
from common.paths import RECIPES, display
from corpus.chats import ReadPair, SetAside, load_set, read_pairs
from corpus.chats.mixing import draw
from corpus.chats.screening import Screen, found_file, report_found
from corpus.decontaminate import ContaminationConfig
from model.train.finetune.config import DpoJob, DpoSettings
from model.train.run.folder import CHECKPOINTS_FOLDER, METRICS_FILE, MODEL_FOLDER
from model.train.run.metrics import last_value, read_metrics
from tasks.core.stage import StageResult, StageRun, plain, stage
from tasks.core.torchrun import torchrun

CPU_PROCESSES = 1
"""A second process on a small machine starts as long as it helps (docs/FOOTGUNS.md)."""


@dataclass(frozen=True, kw_only=True)
class DpoConfig(DpoSettings):
    """Which preference pairs, and how to learn them (section 6)."""

    sets: tuple[str, ...] = ()
    """Recipes in data_recipes/preferences; empty: every set that was acquired."""
    chinese_per_english: int = 4
    """Chinese pairs for each English one, exactly; section 6: 4. 0 takes all there are."""
    limit: int | None = None
    """At most so many pairs."""
    contamination: ContaminationConfig = field(default_factory=ContaminationConfig)
    """Pairs that contain an evaluation question: what counts as one, and what happens to them."""
    num_processes: int | Literal["auto"] = "auto"
    """Ranks on this machine; auto: one per GPU, or 1 without a GPU, but no more than split
    global_batch_size into whole micro-batches."""

    def fingerprint(self) -> dict[str, Any]:
        """The recipes this run may depend on."""
        known = sorted(path.stem for path in (RECIPES / "preferences").glob("*.yaml"))
        return {name: plain(load_set("preferences", name)) for name in self.sets or known}


def check(config: DpoConfig) -> None:
    """Refuse unknown sets and contradictory settings. Raises ConfigError."""
    config.check("dpo")
    config.check_ranks("dpo", num_processes(config))
    config.contamination.check("dpo")
    if config.chinese_per_english < 0:
        raise ConfigError(
            f"dpo: chinese_per_english = {config.chinese_per_english}; give 0 or more"
        )
    if config.limit is not None and config.limit <= config.chinese_per_english:
        raise ConfigError(
            f"dpo: limit = {config.limit} leaves no English pair beside "
            f"{config.chinese_per_english} Chinese ones; raise it"
        )
    for name in config.sets:
        load_set("preferences", name)


def num_processes(config: DpoConfig) -> int:
    """Ranks that a run on this machine has."""
    if config.num_processes != "auto":
        return config.num_processes
    return config.fitting_ranks(torch.cuda.device_count() or CPU_PROCESSES)


@stage(version=2, trains=True)
def dpo(
    run: StageRun,
    config: DpoConfig,
    *,
    policy: StageResult,
    data: StageResult,
    benchmarks: StageResult | None = None,
) -> None:
    """Optimize the SFT model on the pairs; an interrupted run continues.

    Raises DataError when a set was not acquired, or when a language of the ratio has no pair.
    """
    num_samples = write_pairs(run, config, data, benchmarks)
    ranks = num_processes(config)
    job = DpoJob(
        settings=DpoSettings(**{f.name: getattr(config, f.name) for f in fields(DpoSettings)}),
        model=str(policy.folder / MODEL_FOLDER),
        data=str(run.folder / "mixture.jsonl"),
        output=str(run.folder),
        scratch=str(run.scratch / CHECKPOINTS_FOLDER),
    )
    torchrun(
        run,
        "model.entry.dpo",
        job.plain(),
        num_processes=ranks,
        total_steps=config.num_steps(num_samples, ranks),
    )
    metrics = run.folder / METRICS_FILE
    losses = [line["metrics"]["train/loss"] for line in read_metrics(metrics)]
    run.count(
        steps=max(line["step"] for line in read_metrics(metrics)),
        first_loss=losses[0],
        train_loss=losses[-1],
        reward_margin=last_value(metrics, "train/reward_margin") or 0.0,
        preference_accuracy=last_value(metrics, "train/preference_accuracy") or 0.0,
    )
    run.note(num_processes=ranks)


def write_pairs(
    run: StageRun, config: DpoConfig, data: StageResult, benchmarks: StageResult | None = None
) -> int:
    """Write mixture.jsonl with the pairs at the configured ratio; returns their number."""
    screen = Screen.of(config.contamination, benchmarks.folder if benchmarks else None)
    names = config.sets or tuple(sorted(p.name for p in data.folder.iterdir() if p.is_dir()))
    missing = [name for name in names if not (data.folder / name).is_dir()]
    if missing or not names:
        raise DataError(
            f"dpo: {display(data.folder)} does not hold {', '.join(missing) or 'any set'}: add "
            "them to `preference_sets`"
        )
    pairs: dict[str, list[dict[str, Any]]] = {"zh": [], "en": []}
    found: dict[str, Counter[str]] = {}
    contaminated: Counter[str] = Counter()
    for position, name in enumerate(names):
        run.progress(position, len(names), f"reading {name}")
        found[name] = Counter()
        with (
            complete_file(run.folder / "quarantine" / f"{name}.jsonl") as bad,
            complete_file(found_file(run.scratch, name)) as questions,
        ):
            for item in read_pairs(data.folder / name, name):
                if isinstance(item, SetAside):
                    found[name][item.reason] += 1
                    bad.write(json_line(plain(vars(item))))
                    continue
                if screen is not None:
                    texts = [message["content"] for message in item.pair.prompt]
                    rows = screen.rows(
                        [*texts, item.pair.chosen, item.pair.rejected], f"{name}/{item.place}"
                    )
                    questions.writelines(map(json_line, rows))
                    contaminated[name] += bool(rows)
                    if rows and screen.drop:
                        continue
                pairs[item.language].append(as_row(name, item))
    counts = balance(len(pairs["zh"]), len(pairs["en"]), config)
    taken: Counter[str] = Counter()
    with complete_file(run.folder / "mixture.jsonl") as file:
        for row in _drawn(pairs, counts, config.seed):
            taken[row["set"]] += 1
            file.write(json_line(row))
    _report(run, pairs, found, counts, taken)
    report_found(run, screen, run.stage, {name: contaminated[name] for name in names})
    return sum(counts.values())


def as_row(name: str, item: ReadPair) -> dict[str, Any]:
    """A pair as TRL wants it: three lists of messages."""
    return {
        "prompt": item.pair.prompt,
        "chosen": [{"role": "assistant", "content": item.pair.chosen}],
        "rejected": [{"role": "assistant", "content": item.pair.rejected}],
        "set": name,
        "language": item.language,
    }


def balance(chinese: int, english: int, config: DpoConfig) -> dict[str, int]:
    """How many pairs of each language: as many as there are at exactly the configured ratio.

    Raises DataError when a language has too few for a single unit of the ratio.
    """
    ratio, limit = config.chinese_per_english, config.limit
    if ratio == 0:
        total = min(chinese + english, limit) if limit else chinese + english
        of_chinese = total * chinese // max(1, chinese + english)
        return {"zh": of_chinese, "en": min(english, total - of_chinese)}
    units = min(english, chinese // ratio)
    if limit is not None:
        units = min(units, limit // (ratio + 1))
    if not units:
        raise DataError(
            f"dpo: {chinese} Chinese and {english} English pairs cannot be mixed {ratio}:1. Add a "
            "set of the missing language, or set chinese_per_english: 0 to take what there is"
        )
    return {"zh": ratio * units, "en": units}


def _drawn(
    pairs: dict[str, list[dict[str, Any]]], counts: dict[str, int], seed: int
) -> Iterator[dict[str, Any]]:
    for language, count in counts.items():
        for index in draw(len(pairs[language]), count, f"{seed}/{language}"):
            yield pairs[language][index]


def _report(
    run: StageRun,
    pairs: dict[str, list[dict[str, Any]]],
    found: dict[str, Counter[str]],
    counts: dict[str, int],
    taken: Counter[str],
) -> None:
    usable = Counter(row["set"] for rows in pairs.values() for row in rows)
    table = [
        {
            "set": name,
            "usable": usable[name],
            "taken": taken[name],
            "set aside": sum(reasons.values()),
            "why": ", ".join(f"{reason}: {n}" for reason, n in sorted(reasons.items())),
        }
        for name, reasons in found.items()
    ]
    for name, reasons in found.items():
        if not reasons:
            (run.folder / "quarantine" / f"{name}.jsonl").unlink()
        run.count(**{f"taken.{name}": taken[name], f"set_aside.{name}": sum(reasons.values())})
    run.table("preference pairs", table, "Pairs of each set")
    run.count(pairs=sum(counts.values()), chinese=counts["zh"], english=counts["en"])
    run.note(mixture=table)
    run.log.info(
        "%s: %d Chinese and %d English pairs of %d and %d usable ones",
        run.stage,
        counts["zh"],
        counts["en"],
        len(pairs["zh"]),
        len(pairs["en"]),
    )
