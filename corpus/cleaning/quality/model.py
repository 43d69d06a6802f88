"""A model that scores web pages, read from a file without pickle.

    .npz   trained by train.py: trees over the measures of a page, and weights of its n-grams
           score = 1 - (2 * share of bad pages in the trees' leaves + bad by n-grams) / 3
    .bin   a fastText model of two labels, as Ultra-FineWeb's: score = probability of the good label

fastText's files are read by its C++ code, which trusts them: use one that you trained yourself or
whose origin you know.
"""

import json
import math
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from common.errors import DataError
from common.files import complete_file
from common.paths import RECIPES, display
from corpus.cleaning.quality import features

SHIPPED = RECIPES / "quality" / "web.npz"
"""The model that is used where none is given: weights alone, no text of the pages behind it."""
FORMAT = 1
TREES, GRAMS = 2.0, 1.0
"""Weights of the two parts in the score."""


class Scorer(Protocol):
    """Anything that scores texts."""

    @property
    def about(self) -> dict[str, Any]:
        """Its origin, for the notes of a run."""
        ...

    def scores(self, texts: Sequence[str]) -> list[float]:
        """Quality of each text, 0 (spam) to 1."""
        ...


@dataclass(frozen=True, kw_only=True)
class PageModel:
    """Trees over measures and weights of hashed n-grams, as arrays."""

    feature: npt.NDArray[np.int16]
    """Measure that a node looks at; -1 at a leaf."""
    threshold: npt.NDArray[np.float32]
    """Values up to it go left; at a leaf, the share of bad pages among those that came there."""
    left: npt.NDArray[np.int32]
    right: npt.NDArray[np.int32]
    roots: npt.NDArray[np.int32]
    """First node of each tree."""
    weights: npt.NDArray[np.float32]
    """Of each bucket of n-grams; positive: bad pages have it."""
    bias: float
    about: dict[str, Any]
    """Names of the measures, digest of the words, what it was trained on."""

    def scores(self, texts: Sequence[str]) -> list[float]:
        """Quality of each text, 0 (spam) to 1."""
        if not texts:
            return []
        pages = [features.measure(text) for text in texts]
        measures = np.array([page.measures for page in pages], np.float32)
        bad = TREES * self._leaves(measures)
        bad += GRAMS * np.array([self._by_grams(page.buckets) for page in pages])
        return [round(float(score), 4) for score in 1 - bad / (TREES + GRAMS)]

    def _leaves(self, measures: npt.NDArray[np.float32]) -> npt.NDArray[np.float64]:
        """Mean share of bad pages in the leaves that each row reaches."""
        node = np.tile(self.roots, (len(measures), 1))
        row = np.arange(len(measures))[:, None]
        while True:
            looked_at = self.feature[node]
            inner = looked_at >= 0
            if not inner.any():
                shares: npt.NDArray[np.float64] = self.threshold[node].mean(axis=1, dtype=float)
                return shares
            goes_left = measures[row, looked_at] <= self.threshold[node]
            node = np.where(inner, np.where(goes_left, self.left[node], self.right[node]), node)

    def _by_grams(self, buckets: features.Buckets) -> float:
        different, values = gram_values(buckets)
        evidence = float(self.weights[different] @ values) + self.bias
        return 1 / (1 + math.exp(-max(-30.0, min(30.0, evidence))))

    def save(self, path: Path) -> None:
        """Write the model; the same model gives the same bytes."""
        with complete_file(path) as file:
            np.savez_compressed(
                file,
                about=np.array(json.dumps(self.about, ensure_ascii=False, sort_keys=True)),
                feature=self.feature,
                threshold=self.threshold,
                left=self.left,
                right=self.right,
                roots=self.roots,
                weights=self.weights.astype(np.float16),
                bias=np.array(self.bias),
            )

    @classmethod
    def load(cls, path: Path) -> "PageModel":
        """Read a model. Raises DataError if the file is none, or was trained with other words."""
        try:
            with np.load(path, allow_pickle=False) as data:
                about = json.loads(str(data["about"]))
                model = cls(
                    feature=data["feature"],
                    threshold=data["threshold"],
                    left=data["left"],
                    right=data["right"],
                    roots=data["roots"],
                    weights=data["weights"].astype(np.float32),
                    bias=float(data["bias"]),
                    about=about,
                )
        except (OSError, ValueError, KeyError, zipfile.BadZipFile) as error:
            raise DataError(
                f"{display(path)} is not a quality model ({type(error).__name__}). Give an .npz "
                "that Steel trained, a fastText .bin, or none for the one that Steel ships."
            ) from None
        expected = {
            "format": FORMAT,
            "measures": list(features.names()),
            "words": features.words().digest,
        }
        for name, value in expected.items():
            if about.get(name) != value:
                raise DataError(
                    f"{display(path)} was trained with other {name} than this Steel has "
                    f"({display(features.WORDS)} may have changed). Train it again."
                )
        model._check(path)
        return model

    def _check(self, path: Path) -> None:
        """Raise DataError unless every walk from a root ends at a leaf."""
        number = len(self.feature)
        inner = self.feature >= 0
        nodes = np.arange(number)
        sound = (
            len(self.threshold) == len(self.left) == len(self.right) == number
            and len(self.weights) == features.BUCKETS
            and len(self.roots) > 0
            and bool(np.all((self.roots >= 0) & (self.roots < number)))
            and bool(np.all(self.feature < len(self.about["measures"])))
            # Children stand behind their parent, so no walk can turn in a circle.
            and bool(np.all(self.left[inner] > nodes[inner]))
            and bool(np.all(self.right[inner] > nodes[inner]))
            and bool(np.all(self.left[inner] < number))
            and bool(np.all(self.right[inner] < number))
        )
        if not sound:
            raise DataError(f"{display(path)} is a damaged quality model. Train it again.")


def gram_values(buckets: features.Buckets) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.float64]]:
    """The different buckets of a page, and values of length 1: logarithms of their counts."""
    ordered = np.sort(buckets)
    starts = np.flatnonzero(np.concatenate(([True], ordered[1:] != ordered[:-1])))
    counts = np.diff(np.append(starts, len(ordered)))
    values = 1 + np.log(counts)
    return ordered[starts].astype(np.int64), values / math.sqrt(float(values @ values))


class FastTextModel:
    """A fastText classifier with a good and a bad label."""

    def __init__(self, path: Path, good: str) -> None:
        """
        Args:
            path: the .bin.
            good: label of good pages, `__label__` included.
        """
        import fasttext  # type: ignore[import-untyped]  # the settings' check looks for it

        try:
            self._model = fasttext.load_model(str(path))
        except ValueError as error:
            raise DataError(f"{display(path)} is not a fastText model: {error}") from None
        labels = list(self._model.get_labels())
        if good not in labels:
            raise DataError(
                f"{display(path)} has no label {good} (it has {', '.join(labels[:4])}). Name the "
                "label of good pages as clean.quality.good_label."
            )
        self._good, self._labels = good, len(labels)
        self._about = {"file": path.name, "labels": labels[:4]}

    @property
    def about(self) -> dict[str, Any]:
        """Its file and labels."""
        return self._about

    def scores(self, texts: Sequence[str]) -> list[float]:
        """Probability of the good label; a line break is a blank, as fastText reads lines."""
        found = []
        for text in texts:
            # The public method of 0.9.3 fails under NumPy 2; the one beneath gives plain pairs.
            pairs = self._model.f.predict(fasttext_line(text) + "\n", self._labels, 0.0, "strict")
            found.append(round(min(1.0, {label: p for p, label in pairs}.get(self._good, 0.0)), 4))
        return found


def fasttext_line(text: str) -> str:
    """A text as fastText is trained on it: one line, a blank between Chinese characters."""
    spaced = "".join(f" {c} " if "\u3400" <= c <= "\u9fff" else c for c in text[: features.HEAD])
    return " ".join(spaced.split())


def load(path: str, good_label: str) -> Scorer:
    """The model in a file; "" is the one that Steel ships."""
    file = Path(path) if path else SHIPPED
    if file.suffix == ".bin":
        return FastTextModel(file, good_label)
    return PageModel.load(file)
