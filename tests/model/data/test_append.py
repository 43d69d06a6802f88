"""Data that cannot join a run are refused, and named."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from common.errors import DataError
from model.data import Append, PackedManifest, SampleOrder
from model.data.append import check_appends

Simulate = Callable[..., PackedManifest]


def append(manifest: PackedManifest, *, at: int = 3, seed: int = 5, **more: Any) -> Append:
    return Append(at=at, manifest=manifest, seed=seed, **more)


def test_the_same_data_are_refused_a_second_time(simulate: Simulate) -> None:
    base, new = simulate({"zh": [50]}), simulate({"zh": [20]}, prefix="x")
    once = append(new, weights={"zh": 0.5})
    check_appends(base, [once])
    for again in (once, replace(once, at=4), replace(once, seed=6)):
        with pytest.raises(DataError, match=r"'xzh.*' of the data appended at sample 3"):
            check_appends(base, [once, again])


def test_the_same_content_is_refused_by_name(simulate: Simulate) -> None:
    base = simulate({"zh": [50, 40], "en": [30]})
    new = simulate({"zh": [20, 25]}, prefix="x")
    copied = replace(base.shards[0], name="harmless.bin", source="other")
    with pytest.raises(
        DataError, match=r"'harmless\.bin'.*'en-00000\.bin' of the run's first data"
    ):
        check_appends(base, [append(replace(new, shards=(*new.shards, copied)))])
    later = replace(simulate({"zh": [9]}, prefix="y"), shards=(new.shards[1],))
    with pytest.raises(DataError, match=r"'xzh.*of the data appended at sample 3"):
        check_appends(base, [append(new), append(later, at=9, seed=6)])


def test_refuses_the_past_and_other_tokenizers(simulate: Simulate) -> None:
    base, new = simulate({"zh": [50]}), simulate({"zh": [20]}, prefix="x")
    later = simulate({"zh": [20]}, prefix="y")
    with pytest.raises(DataError, match="begins at sample 2, before"):
        check_appends(base, [append(new), append(later, at=2)])
    check_appends(base, [append(new), append(later, at=3)])
    with pytest.raises(DataError, match="tokenizer_digest of the appended data"):
        check_appends(base, [append(replace(new, tokenizer_digest="2" * 32))])


@pytest.mark.parametrize("wrong", [{"at": -1}, {"at": 1.5}, {"seed": "2"}])
def test_refuses_values_of_the_wrong_type(simulate: Simulate, wrong: dict[str, Any]) -> None:
    with pytest.raises(DataError, match="give integers"):
        append(simulate({"zh": [20]}), **wrong)


def test_an_append_that_holds_out_less_than_the_run_is_refused(simulate: Simulate) -> None:
    manifest = simulate({"en": [200]}, validation={"en": [31]}, fraction=0.1)
    arguments: dict[str, Any] = {"sequence_length": 10, "seed": 0}
    for fraction in (0.0, 0.05, 0.1, 0.2):
        appends = [append(simulate({"a": [90]}, "x", fraction=fraction))]
        if fraction < 0.1:
            with pytest.raises(DataError, match=r"Pack them with pack.validation_fraction: 0.1"):
                SampleOrder(manifest, **arguments, appends=appends)
        else:
            assert SampleOrder(manifest, **arguments, appends=appends).num_samples == 27
