"""Judgement of web pages against labels that people gave by reading.

    python -m benchmarks.bench_quality                  agreement, AUC, precision, recall, speed
    python -m benchmarks.bench_quality --learning-curve what more labels would bring
    python -m benchmarks.bench_quality --write-model    trains data_recipes/quality/web.npz on all

Labels (data_recipes/quality/labels.jsonl) have hashes instead of texts, which are read from the
real rows in ../shared/data. `judged` rows were drawn by hash and read by two people where `second`
is there; `extra` rows are the rest of the same files, read by the first only.

A page's half is the parity of its hash. The model learns from one half, with the extra pages or
without, and is measured on judged pages of the other half; then the halves change places.
"""

import argparse
import contextlib
import hashlib
import itertools
import json
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import fasttext  # type: ignore[import-untyped]
import numpy as np
import numpy.typing as npt
from sklearn.metrics import cohen_kappa_score, roc_auc_score  # type: ignore[import-untyped]
from sklearn.model_selection import StratifiedKFold  # type: ignore[import-untyped]

from benchmarks._figures import add_options, publish
from benchmarks._sample_texts import SHARED
from common.paths import RECIPES
from corpus.cleaning import recipe as recipes
from corpus.cleaning.engine import pipeline
from corpus.cleaning.quality.model import SHIPPED, FastTextModel, fasttext_line
from corpus.cleaning.quality.rules import reason_to_drop
from corpus.cleaning.quality.train import train

LABELS = RECIPES / "quality" / "labels.jsonl"
PLACES = {"sky": ("sky", "text"), "wanjuan": ("wanjuan", "content"), "c4": ("english", "text")}
"""Source -> its folder and the field with the text."""
ORIGIN = "labels.jsonl: pages of SkyPile, WanJuan and C4, judged by reading"
RECIPE = "curated/web"
BOUNDS = (0.4, 0.45, 0.5, 0.52, 0.55, 0.6, 0.65, 0.7)
FOLDS, SEEDS = 8, 5
"""Parts of the cross-validation, and how often it is done with other parts."""
SHARES = (0.25, 0.5, 1.0)
"""Shares of the pages that a learning curve trains on."""

Bools = npt.NDArray[np.bool_]
Scores = npt.NDArray[np.float64]


@dataclass(frozen=True, kw_only=True)
class Pages:
    """Labelled pages as columns."""

    texts: list[str]
    labels: list[dict[str, Any]]

    def of(self, name: str) -> npt.NDArray[Any]:
        """A column of the labels."""
        return np.array([label.get(name, "") for label in self.labels])

    def train(self, chosen: Bools) -> Any:
        """A model of the chosen pages."""
        good = self.of("verdict") == "keep"
        return train([(self.texts[i], bool(good[i])) for i in np.flatnonzero(chosen)], ORIGIN)


def read(shared: Path) -> Pages:
    """The labels with their texts, after the mappers of the recipe for web pages."""
    found = {}
    for folder, field in PLACES.values():
        for path in sorted((shared / folder).glob("*.jsonl")):
            for line in path.read_text("utf-8").splitlines():
                text = json.loads(line).get(field)
                if isinstance(text, str):
                    found[hashlib.sha256(text.encode()).hexdigest()] = text
    labels = [json.loads(line) for line in LABELS.read_text("utf-8").splitlines()]
    recipe = recipes.load(RECIPE)
    recipe.import_custom_operators()
    mappers = pipeline.build(itertools.takewhile(lambda op: op.kind == "mapper", recipe.operators))
    texts = list(pipeline.map_texts(mappers, [found[label["sha256"]] for label in labels]))
    assert len(texts) == len(labels)
    return Pages(texts=texts, labels=labels)


def agreement(pages: Pages) -> dict[str, Any]:
    """Raw agreement and Cohen's kappa of the two readers."""
    both = [label for label in pages.labels if "second" in label]
    if not both:
        return {"pages": 0}
    first, second = ([label[name] for label in both] for name in ("first", "second"))
    final = [label["verdict"] for label in both]
    return {
        "pages": len(both),
        "raw": np.mean(np.array(first) == np.array(second)),
        "second_as_a_filter": at_bound(
            np.array(first) == "keep", np.zeros(len(both)), np.array(second) == "drop", 0
        ),
        "kappa": cohen_kappa_score(first, second),
        "dropped_by_first": np.mean(np.array(first) == "drop"),
        "dropped_by_second": np.mean(np.array(second) == "drop"),
        "settled_for_first": sum(
            a != b and a == c for a, b, c in zip(first, second, final, strict=True)
        ),
        "settled_for_second": sum(
            a != b and b == c for a, b, c in zip(first, second, final, strict=True)
        ),
    }


def fasttext_scores(pages: Pages, learn: Bools, judge: Bools) -> Scores:
    """Scores of a fastText model of the same pages."""
    verdicts = pages.of("verdict")
    with tempfile.TemporaryDirectory() as folder:
        lines, path = Path(folder) / "train.txt", Path(folder) / "model.bin"
        lines.write_text(
            "".join(
                f"__label__{'pos' if verdicts[i] == 'keep' else 'neg'} "
                f"{fasttext_line(pages.texts[i])}\n"
                for i in np.flatnonzero(learn)
            ),
            "utf-8",
        )
        for size in range(50, 80):
            # fastText 0.9.3 begins with what is in memory, and fails where that is no number.
            with contextlib.suppress(RuntimeError):
                fasttext.train_supervised(
                    str(lines), dim=size, epoch=40, lr=0.3, wordNgrams=3, bucket=1 << 18,
                    thread=1, seed=1, verbose=0,
                ).save_model(str(path))  # fmt: skip
                break
        model = FastTextModel(path, "__label__pos")
    return np.array(model.scores([pages.texts[i] for i in np.flatnonzero(judge)]))


def at_bound(good: Bools, score: Scores, ruled: Bools, bound: float) -> dict[str, float]:
    """Shares that go and stay at a bound, the rules' pages gone before."""
    drop = ruled | (score < bound)
    return {
        "bound": bound,
        "dropped": drop.mean(),
        "wrong_among_dropped": good[drop].mean() if drop.any() else 0.0,
        "bad_among_kept": (~good[~drop]).mean() if not drop.all() else 0.0,
        "recall": drop[~good].mean(),
    }


def mean_at_bound(good: Bools, scored: Scores, ruled: Bools, bound: float) -> dict[str, float]:
    """The mean of `at_bound` over the rows of scores."""
    found = [at_bound(good, row, ruled, bound) for row in scored]
    return {name: float(np.mean([one[name] for one in found])) for name in found[0]}


def cross_validated(pages: Pages, *, seeds: int = SEEDS, share: float = 1.0) -> Scores:
    """Scores of models that have not seen the page: a row for each seed of the parts.

    share: of the pages outside of a part, so many are learnt from, drawn by the seed.
    """
    good = pages.of("verdict") == "keep"
    found = np.zeros((seeds, len(good)))
    for seed in range(seeds):
        parts = StratifiedKFold(FOLDS, shuffle=True, random_state=seed)
        random = np.random.default_rng(seed)
        for learn, judge in parts.split(good, good):
            chosen = np.zeros(len(good), bool)
            chosen[random.permutation(learn)[: round(share * len(learn))]] = True
            found[seed, judge] = pages.train(chosen).scores([pages.texts[i] for i in judge])
    return found


def measure(pages: Pages) -> dict[str, Any]:
    """All figures."""
    good, source = pages.of("verdict") == "keep", pages.of("source")
    judged = pages.of("part") == "judged"
    even = np.array([int(label["sha256"][-1], 16) % 2 == 0 for label in pages.labels])
    ruled = np.array([bool(reason_to_drop(text)) for text in pages.texts])
    halves: list[dict[str, Any]] = []
    score = np.full(len(good), np.nan)
    for learn, other in ((even, ~even), (~even, even)):
        judge = other & judged
        texts = [pages.texts[i] for i in np.flatnonzero(judge)]
        half = np.array(pages.train(learn & judged).scores(texts))
        more = pages.train(learn & judged | ~judged)
        begun = time.process_time()
        score[judge] = more.scores(texts)
        seconds = time.process_time() - begun
        halves.append(
            {
                "pages": int(judge.sum()),
                "auc": roc_auc_score(good[judge], half),
                "auc_with_extra": roc_auc_score(good[judge], score[judge]),
                "auc_fasttext_with_extra": roc_auc_score(
                    good[judge], fasttext_scores(pages, learn & judged | ~judged, judge)
                ),
                "mb_per_second": sum(len(t.encode()) for t in texts) / 1e6 / seconds,
            }
        )
    folds = cross_validated(pages)
    kept = [at_bound(good[judged], score[judged], ruled[judged], bound) for bound in BOUNDS]
    by_source = {
        name: {
            "pages": int(one.sum()),
            "bad": (~good[one]).mean(),
            "auc": np.mean([roc_auc_score(good[one], scored[one]) for scored in folds]),
            "bounds": [mean_at_bound(good[one], folds[:, one], ruled[one], b) for b in BOUNDS],
        }
        for name in PLACES
        if (one := source == name).any()
    }
    return {
        "pages": dict(Counter(f"{label['source']} {label['part']}" for label in pages.labels)),
        "bad": {"judged": (~good[judged]).mean(), "extra": (~good[~judged]).mean()},
        "reasons": dict(Counter(label["why"] for label in pages.labels if label["why"])),
        "agreement": agreement(pages),
        "rules": {"dropped": int(ruled.sum()), "wrong": int((ruled & good).sum())},
        "halves": halves,
        "cross_validation": {
            name: {"auc": np.mean(found), "deviation": np.std(found)}
            for name, chosen in (("judged", judged), ("all", judged | ~judged))
            if (found := [roc_auc_score(good[chosen], scored[chosen]) for scored in folds])
        },
        "bounds_of_halves": kept,
        "bounds_cross_validated": [mean_at_bound(good, folds, ruled, b) for b in BOUNDS],
        "by_source_cross_validated": by_source,
    }


def learning_curve(pages: Pages) -> list[dict[str, Any]]:
    """AUC, and what stays where at most a tenth of the drops is wrong, by pages learnt from."""
    good = pages.of("verdict") == "keep"
    ruled = np.array([bool(reason_to_drop(text)) for text in pages.texts])
    found = []
    for share in SHARES:
        scores = cross_validated(pages, seeds=1, share=share)
        bounds = [mean_at_bound(good, scores, ruled, b) for b in np.arange(0.02, 1, 0.01)]
        fitting = [one for one in bounds if one["wrong_among_dropped"] <= 0.1]
        found.append(
            {
                "pages": round(share * len(good) * (FOLDS - 1) / FOLDS),
                "auc": roc_auc_score(good, scores[0]),
                "at_a_tenth_wrong": max(fitting, key=lambda one: one["dropped"]),
            }
        )
    return found


def rounded(value: Any) -> Any:
    """The same JSON with numbers of three digits."""
    if isinstance(value, dict):
        return {key: rounded(one) for key, one in value.items()}
    if isinstance(value, list):
        return [rounded(one) for one in value]
    return round(float(value), 3) if isinstance(value, float | np.floating) else value


def main(argv: Sequence[str] | None = None) -> int:
    """Measure, or train what is shipped. Returns the exit status."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--shared", type=Path, default=SHARED, help="folder of the real rows")
    parser.add_argument("--write-model", action="store_true", help=f"train {SHIPPED.name} on all")
    parser.add_argument("--learning-curve", action="store_true", help="by pages learnt from")
    add_options(parser)
    options = parser.parse_args(argv)
    pages = read(options.shared)
    if options.write_model:
        pages.train(np.ones(len(pages.texts), bool)).save(SHIPPED)
        return 0
    if options.learning_curve:
        figures = {"learning_curve": learning_curve(pages)}
        publish(rounded(figures), "bench_quality", argv, options.json)
        return 0
    publish(rounded(measure(pages)), "bench_quality", argv, options.json)
    return 0


if __name__ == "__main__":
    sys.exit(main())
