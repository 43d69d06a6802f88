"""Parameters of the flows: each is bounded, and a value out of its range ends before work."""

import math
from collections.abc import Iterator, Mapping
from typing import Any

import pytest
from prefect import Flow
from prefect.exceptions import ParameterTypeError

from flows import steel

FLOWS = {name: value for name, value in vars(steel).items() if isinstance(value, Flow)}
BOUNDS = {
    "integer": ("minimum", "maximum"),
    "number": ("minimum", "maximum"),
    "string": ("maxLength",),
    "array": ("maxItems",),
    "boolean": (),
}


def types_of(schema: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
    """A parameter's schema and those of its alternatives and entries, where they name a type."""
    for inner in [*schema.get("anyOf", []), *([schema["items"]] if "items" in schema else [])]:
        # Bounds of an optional list stand beside its alternatives.
        yield from types_of(inner)
    if "type" in schema and "enum" not in schema and schema["type"] != "null":
        yield schema


def parameters(flow: Flow[..., Any]) -> Mapping[str, Any]:
    properties: Mapping[str, Any] = flow.parameters.model_dump()["properties"]
    return properties


def test_there_is_a_flow_for_every_deployment() -> None:
    assert len(FLOWS) == 13


@pytest.mark.parametrize("name", FLOWS)
def test_every_parameter_is_bounded(name: str) -> None:
    found = 0
    for parameter, schema in parameters(FLOWS[name]).items():
        for part in types_of(schema):
            for bound in BOUNDS[part["type"]]:
                exclusive = f"exclusive{bound[0].upper()}{bound[1:]}"
                assert bound in part or exclusive in part, f"{parameter}: {part}"
                found += 1
    assert found >= 1


def bad_values() -> Iterator[tuple[str, str, Any]]:
    """(flow, parameter, value) that must be refused."""
    for name, flow in FLOWS.items():
        for parameter, schema in parameters(flow).items():
            for part in types_of({key: v for key, v in schema.items() if key != "items"}):
                yield from (
                    (name, parameter, value)
                    for value in {
                        "integer": [10**30, 10**15 + 1, -1, 0, 1.5, "many"],
                        "number": [1e308, math.inf, math.nan, -1.0, 0.0, "much"],
                        "string": ["x" * 10**6, 3],
                        "array": [["report"] * 10**4, 3, [[]]],
                        "boolean": ["maybe", 7, []],
                    }[part["type"]]
                )


@pytest.mark.parametrize("name", FLOWS)
def test_a_value_out_of_range_ends_with_the_parameters_name(name: str) -> None:
    flow = FLOWS[name]
    given = {key: s["default"] for key, s in parameters(flow).items() if "default" in s}
    assert flow.validate_parameters(given)
    tried = 0
    for _, parameter, value in (case for case in bad_values() if case[0] == name):
        with pytest.raises(ParameterTypeError) as error:
            flow.validate_parameters({**given, parameter: value})
        assert f"- {parameter}" in str(error.value)
        assert len(str(error.value)) < 2000, parameter
        tried += 1
    assert tried >= 2
