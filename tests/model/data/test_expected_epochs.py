"""Epochs read of each source, against counting the order's samples one by one."""

from collections.abc import Callable

import numpy as np
import pytest

from model.data import Append, PackedManifest, SampleOrder

Simulate = Callable[..., PackedManifest]


@pytest.mark.parametrize("consumed", [0, 1, 1500, 2000, 2600, 5000, None])
def test_expected_epochs_are_those_counted(simulate: Simulate, consumed: int | None) -> None:
    first = simulate({"zh": [16_001], "en": [8_001]})
    more = simulate({"zh": [4_001], "code": [12_001]}, prefix="x")
    append = Append(at=2000, manifest=more, seed=3, weights={"code": 1.5})
    order = SampleOrder(first, sequence_length=4, seed=1, weights={"en": 0.5}, appends=[append])
    if consumed is None:
        consumed = order.num_samples
    found = order.expected_epochs(consumed)
    assert set(found) == {"zh", "en", "code"}
    read = np.bincount(order.locate_many(np.arange(consumed)).source, minlength=3)
    joined = consumed > 2000
    blocks = {"zh": 4000 + joined * 1000, "en": 2000, "code": 3000}
    for name, samples in zip(order.sources, read.tolist(), strict=True):
        assert found[name] == pytest.approx(samples / blocks[name], abs=0.02), name
    if consumed == order.num_samples:
        assert found == pytest.approx({"zh": 1.0, "en": 0.5, "code": 1.5})
