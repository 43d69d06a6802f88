import json
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from common.errors import DataError
from model.data import Append, DataState, PackedManifest, SampleOrder
from model.data.state import SavedAppend
from tests.model.data.blocks import locate

Simulate = Callable[..., PackedManifest]


def order_of(simulate: Simulate, **changes: Any) -> SampleOrder:
    manifest = simulate({"en": [200], "zh": [300, 100]})
    append = Append(at=8, manifest=simulate({"zh": [90]}, prefix="x"), seed=3)
    arguments = {"sequence_length": 5, "seed": 1, "weights": {"zh": 1.5}, "appends": [append]}
    return SampleOrder(manifest, **arguments | changes)


@settings(deadline=None)
@given(seed=st.integers(-(1 << 63), 1 << 63), consumed=st.integers(0, 20), weight=st.floats(0.5, 3))
def test_round_trip_gives_the_same_order(
    simulate: Simulate, seed: int, consumed: int, weight: float
) -> None:
    order = order_of(simulate, seed=seed, weights={"zh": weight})
    state = DataState.of(order, consumed)
    again = DataState.from_json(state.to_json())
    assert again == state
    again.check_order(order)
    restored = again.order(order.manifest, order.appends)
    assert restored.num_samples == order.num_samples
    for sample in (0, consumed, order.num_samples - 1):
        assert locate(restored, sample) == locate(order, sample)


def test_names_every_source_and_is_small(simulate: Simulate) -> None:
    state = DataState.of(order_of(simulate), 7)
    assert state.weights == {"en": 1.0, "zh": 1.5}
    assert len(state.to_json()) < 1000


def test_a_hundred_appends_stay_under_ten_kilobytes(simulate: Simulate) -> None:
    """A trillion tokens of 30 weighted sources, and appends that weight each of 30 sources, too."""
    names = [f"a-source-with-a-name-{number}" for number in range(30)]
    manifest = simulate({name: [1 << 35] for name in names})
    appends = [
        Append(
            at=number << 22,
            manifest=simulate({name: [1 << 25] for name in names}, prefix=f"{number}-"),
            seed=(1 << 62) + number,
            weights={name: 0.123 + number + i for i, name in enumerate(names)},
        )
        for number in range(100)
    ]
    order = SampleOrder(
        manifest, sequence_length=2048, seed=1, appends=appends, weights=dict.fromkeys(names, 1.25)
    )
    text = DataState.of(order, 400 << 20).to_json()
    assert len(text.encode()) < 10_000
    state = DataState.from_json(text)
    assert state.appends == tuple(map(SavedAppend.of, appends)) and len(state.appends) == 100
    state.check_order(order)


def test_other_appends_are_refused_by_number_and_field(simulate: Simulate) -> None:
    manifest = simulate({"en": [500]})
    first, second = (simulate({"zh": [90], "fr": [90]}, prefix=prefix) for prefix in "xy")

    def order(**changes: Any) -> SampleOrder:
        values: dict[str, Any] = {"at": 9, "seed": 4, "weights": {"zh": 2.0}} | changes
        appends = [Append(at=5, manifest=first, seed=3), Append(manifest=second, **values)]
        return SampleOrder(manifest, sequence_length=5, seed=1, appends=appends)

    state = DataState.of(order(), 20)
    state.check_order(order(weights={"zh": 2, "fr": 1.0}))  # says the same
    for name, value in (("at", 10), ("seed", 5), ("weights", {"zh": 2.5}), ("weights", {})):
        with pytest.raises(DataError, match=f"says {name} = .* of append 1 .*{second.digest}"):
            state.check_order(order(**{name: value}))
    short = SampleOrder(manifest, sequence_length=5, seed=1, appends=order().appends[:1])
    with pytest.raises(DataError, match=f"append of manifest {second.digest} at sample 9 is miss"):
        state.check_order(short)
    # The order of an earlier state leaves out what was appended later.
    early = DataState.of(short, 7).order(manifest, order().appends)
    assert early.num_samples == short.num_samples


FIELDS: dict[str, Any] = {
    "schema_version": 1,
    "manifest_digest": "0" * 32,
    "seed": 2,
    "sequence_length": 6,
    "weights": {"en": 1.0, "zh": 1.0},
    "samples_consumed": 8,
    "appends": [],
}


@pytest.mark.parametrize("name", FIELDS)
def test_tampering_is_refused_by_field(simulate: Simulate, name: str) -> None:
    raw = json.loads(DataState.of(order_of(simulate), 7).to_json())
    assert raw[name] != FIELDS[name]
    with pytest.raises(DataError, match=name):
        DataState.from_json(json.dumps(raw | {name: FIELDS[name]}))
    missing = {key: value for key, value in raw.items() if key != name}
    with pytest.raises(DataError, match=name):
        DataState.from_json(json.dumps(missing))


def test_tampering_with_checks_is_refused(simulate: Simulate) -> None:
    state = DataState.of(order_of(simulate), 7)
    raw = json.loads(state.to_json())
    other = json.loads(DataState.of(order_of(simulate, seed=2), 7).to_json())
    # A field together with its own check, taken from another state: only the whole tells.
    mixed = raw | {"seed": 2, "checks": raw["checks"] | {"seed": other["checks"]["seed"]}}
    with pytest.raises(DataError, match="digest of the data state"):
        DataState.from_json(json.dumps(mixed))
    for checks in (None, {}, [], raw["checks"] | {"more": "0"}):
        with pytest.raises(DataError, match="check"):
            DataState.from_json(json.dumps(raw | {"checks": checks}))
    with pytest.raises(DataError, match="extra is unknown"):
        DataState.from_json(json.dumps(raw | {"extra": 1}))
    for text in ("{", "[]", ""):
        with pytest.raises(DataError, match="JSON"):
            DataState.from_json(text)


def test_other_data_are_refused(simulate: Simulate) -> None:
    state = DataState.of(order_of(simulate), 7)
    with pytest.raises(DataError, match="manifest_digest of the checkpoint"):
        state.check(simulate({"en": [200]}))


@pytest.mark.parametrize(
    ("name", "value"),
    [("seed", 2), ("sequence_length", 6), ("weights", {"zh": 1.0}), ("appends", ())],
)
def test_other_settings_are_refused_by_field(simulate: Simulate, name: str, value: object) -> None:
    state = DataState.of(order_of(simulate), 7)
    with pytest.raises(DataError, match=f"^{name} of the checkpoint"):
        state.check_order(order_of(simulate, **{name: value}))


def test_later_appends_are_accepted_and_earlier_ones_refused(simulate: Simulate) -> None:
    order = order_of(simulate)
    state = DataState.of(order_of(simulate, appends=()), 8)
    state.check_order(order)  # appended at 8, of which sample 7 is the last consumed
    with pytest.raises(DataError, match="appended at sample 8, but 9 are trained on"):
        DataState.of(order_of(simulate, appends=()), 9).check_order(order)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("seed", 1.0),
        ("samples_consumed", -1),
        ("sequence_length", "5"),
        ("weights", {"zh": -1.0}),
        ("manifest_digest", 5),
    ],
)
def test_refuses_wrong_types(simulate: Simulate, name: str, value: object) -> None:
    arguments: dict[str, Any] = {**DataState.of(order_of(simulate), 7).__dict__, name: value}
    with pytest.raises(DataError, match="zh" if name == "weights" else name):
        DataState(**arguments)
