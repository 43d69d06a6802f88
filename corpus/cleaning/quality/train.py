"""Training of a model for web pages from good and bad ones.

Both parts are scikit-learn's, taken over into arrays: extremely randomised trees over the measures,
which a few hundred pages suffice for, and a logistic regression over the hashed n-grams. The same
pages in the same order give the same model, byte for byte, on any number of cores of a machine.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy.sparse import csr_matrix  # type: ignore[import-untyped]
from sklearn.ensemble import ExtraTreesClassifier  # type: ignore[import-untyped]
from sklearn.linear_model import LogisticRegression  # type: ignore[import-untyped]
from threadpoolctl import threadpool_limits  # type: ignore[import-untyped]

from common.errors import DataError
from corpus.cleaning.quality import features
from corpus.cleaning.quality.config import FEWEST
from corpus.cleaning.quality.model import FORMAT, PageModel, gram_values

NUM_TREES = 100
LEAF = 2
"""Fewest pages in a leaf."""
LOOKED_AT = 0.2
"""Share of the measures that a node chooses from."""
INVERSE_PENALTY = 30.0


def train(pages: Sequence[tuple[str, bool]], origin: str) -> PageModel:
    """Train on texts, each with True for a good one.

    Args:
        pages: texts and verdicts.
        origin: a line on where they are from, kept in the model.

    Raises:
        DataError: there are fewer than FEWEST of a kind.
    """
    bad = np.array([not good for _, good in pages], bool)
    if min(int(bad.sum()), int((~bad).sum())) < FEWEST:
        raise DataError(
            f"A quality model needs {FEWEST} good and {FEWEST} bad pages at least; there are "
            f"{int((~bad).sum())} and {int(bad.sum())}. Name more under clean.quality.positives, "
            "negatives or labels, or leave all out for the model that Steel ships."
        )
    measured = [features.measure(text) for text, _ in pages]
    measures = np.array([page.measures for page in measured], np.float32)
    forest = ExtraTreesClassifier(
        NUM_TREES, min_samples_leaf=LEAF, max_features=LOOKED_AT, random_state=0, n_jobs=1
    ).fit(measures, bad)
    with threadpool_limits(1):  # sums in one order
        regression = LogisticRegression(C=INVERSE_PENALTY, max_iter=300).fit(_grams(measured), bad)
    return PageModel(
        **_arrays(forest),
        weights=regression.coef_[0].astype(np.float16).astype(np.float32),
        bias=round(float(regression.intercept_[0]), 6),
        about={
            "format": FORMAT,
            "measures": list(features.names()),
            "words": features.words().digest,
            "good": int((~bad).sum()),
            "bad": int(bad.sum()),
            "origin": origin,
        },
    )


def _grams(pages: Sequence[features.Page]) -> csr_matrix:
    found = [gram_values(page.buckets) for page in pages]
    rows = np.repeat(np.arange(len(found)), [len(places) for places, _ in found])
    places = np.concatenate([places for places, _ in found])
    values = np.concatenate([values for _, values in found])
    return csr_matrix((values, (rows, places)), shape=(len(pages), features.BUCKETS))


def _arrays(forest: Any) -> dict[str, npt.NDArray[Any]]:
    """The nodes of all trees, one tree behind the other."""
    parts: dict[str, list[npt.NDArray[Any]]] = {
        name: [] for name in ("feature", "threshold", "left", "right")
    }
    roots, start = [], 0
    for estimator in forest.estimators_:
        tree = estimator.tree_
        leaf = tree.children_left < 0
        shares = tree.value[:, 0, 1] / tree.value[:, 0].sum(axis=1)
        parts["feature"].append(np.where(leaf, -1, tree.feature).astype(np.int16))
        parts["threshold"].append(np.where(leaf, shares, tree.threshold).astype(np.float32))
        parts["left"].append(np.where(leaf, -1, tree.children_left + start).astype(np.int32))
        parts["right"].append(np.where(leaf, -1, tree.children_right + start).astype(np.int32))
        roots.append(start)
        start += len(leaf)
    arrays = {name: np.concatenate(found) for name, found in parts.items()}
    return arrays | {"roots": np.array(roots, np.int32)}
