"""The split of documents: a threshold for the hash of a text."""

from collections.abc import Callable

import numpy as np
import pytest

from common.errors import ConfigError
from model.data import PackedManifest, SampleOrder
from model.data.held_out import document_digests, is_held_out, threshold

Simulate = Callable[..., PackedManifest]


def test_digests_never_change() -> None:
    """Packed data rely on it: whoever changes this lets held-out documents be trained on."""
    found = document_digests(["", "a", "中文", "a\n"])
    # python -c "import hashlib; print(hashlib.blake2b('中文'.encode(), digest_size=8).hexdigest())"
    assert [digest.tobytes().hex() for digest in found] == [
        "e4a6a0577479b2b4",
        "40f89e395b66422f",
        "01e655a3e9ba535a",
        "baeb391be5387e3b",
    ]
    assert document_digests([]).size == 0


def test_a_digest_below_the_fraction_is_held_out() -> None:
    assert [int(threshold(f)) for f in (0, 0.25, 0.5)] == [0, 2**62, 2**63]
    assert int(threshold(0.1)) == 2**64 // 10, "the decimal number, not its nearest float"
    digests = np.asarray([0, 2**62 - 1, 2**62, 2**63, 2**64 - 1], dtype=np.uint64)
    assert is_held_out(digests, 0.25).tolist() == [True, True, False, False, False]
    assert not is_held_out(digests, 0.0).any()
    for wrong in (-0.1, 0.51, float("nan"), float("inf")):
        with pytest.raises(ConfigError, match="validation_fraction"):
            threshold(wrong)


def test_the_share_of_many_documents_is_the_fraction() -> None:
    held_out = is_held_out(document_digests([str(number) for number in range(100_000)]), 0.02)
    assert abs(held_out.sum() - 2000) < 4 * (100_000 * 0.02 * 0.98) ** 0.5


def test_a_source_whose_held_out_documents_are_short_has_no_validation(simulate: Simulate) -> None:
    manifest = simulate(
        {"en": [200], "short": [11]}, validation={"en": [31], "short": [10], "only": [21]}
    )
    order = SampleOrder(manifest, sequence_length=10, seed=0)
    assert order.samples_by_source() == {"en": 19, "only": 0, "short": 1}
    assert order.validation_samples_by_source() == {"en": 3, "only": 2, "short": 0}
    assert order.num_validation_samples == 5
