"""A flow's parameters as Prefect's page, command line and server read them.

    Annotated[int | None, Field(ge=1, …), Entry("Optimizer steps", "…")] = None
         │                                                    published(function)
         ├── Prefect checks what a flow is called with: `int | None`, within the bounds
         └── Prefect publishes {"type": "integer", "minimum": 1, "title": …, "description": …}

Prefect makes a field of its own of each parameter, and takes over a description and further keys
only from a default value that is a pydantic `Field`. `published` gives the function a signature of
such defaults; the function itself keeps its plain ones.

An empty field means "as the configuration says". It is published under its one type, not as a
choice between a number and nothing: the pages show such a choice as two buttons, and the server
answers a wrong number with "is not valid under any of the given schemas". It is published without
a default: of the default `null` the pages make a value that they send, and the server refuses.
"""

import functools
import inspect
import typing
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ParamSpec, TypeVar

from pydantic import Field, GetJsonSchemaHandler
from pydantic.fields import FieldInfo
from pydantic_core import CoreSchema

P = ParamSpec("P")
R = TypeVar("R")

Schema = dict[str, Any]


@dataclass(frozen=True)
class Entry:
    """A field of a form."""

    title: str
    """Name that the page shows."""
    help: str
    """Text below the name: meaning, unit, range, the paper's value, an empty field's meaning."""
    choices: tuple[str, ...] = ()
    """Values to choose from; those of a list's entries where the field is a list."""
    other: str = ""
    """Title of a second way to fill the field, with text that is none of the choices; empty: the
    choices are all there are."""

    def __get_pydantic_json_schema__(
        self, core_schema: CoreSchema, handler: GetJsonSchemaHandler
    ) -> Schema:
        """Schema of one type, with the choices."""
        return _Empty(self._schema(without_null(handler(core_schema))))

    def _schema(self, schema: Schema) -> Schema:
        if not self.choices:
            return schema
        if "items" in schema:
            return {**schema, "items": {**schema["items"], "enum": [*self.choices]}}
        if not self.other:
            return {"type": schema["type"], "enum": [*self.choices]}
        listed = {"type": schema["type"], "enum": [*self.choices], "title": "one of the project"}
        # With type and bounds beside the alternatives what breaks them is refused by their names.
        return {**schema, "anyOf": [listed, {**schema, "title": self.other}]}


class _Empty(dict[str, Any]):
    """Schema of a field that may be empty, into which pydantic writes no default `null`."""

    def __setitem__(self, key: str, value: Any) -> None:
        if key != "default" or value is not None:
            super().__setitem__(key, value)


def without_null(schema: Schema) -> Schema:
    """The schema of a value or null, as that of the value."""
    kinds = [kind for kind in schema.get("anyOf", []) if kind.get("type") != "null"]
    if len(kinds) != 1:
        return schema
    beside = {key: value for key, value in schema.items() if key != "anyOf"}
    return {**kinds[0], **beside}


def entry_of(annotation: Any) -> Entry | None:
    """The field that is declared for a parameter; None where there is none."""
    found = [one for one in typing.get_args(annotation)[1:] if isinstance(one, Entry)]
    return found[-1] if found else None


def published(function: Callable[P, R]) -> Callable[P, R]:
    """A function with the same parameters, whose signature says all that its form shows.

    Raises TypeError for a parameter without an `Entry`.
    """
    signature = inspect.signature(function, eval_str=True)
    parameters = [
        parameter.replace(default=_field(parameter)) for parameter in signature.parameters.values()
    ]

    @functools.wraps(function)
    def call(*args: P.args, **kwargs: P.kwargs) -> R:
        bound = signature.bind(*args, **kwargs)
        # Prefect passes the defaults of this signature on: the function has its own.
        for name, value in list(bound.arguments.items()):
            if isinstance(value, FieldInfo):
                del bound.arguments[name]
        return function(**bound.arguments)  # type: ignore[call-arg]

    call.__signature__ = signature.replace(parameters=parameters)  # type: ignore[attr-defined]
    return call


def _field(parameter: inspect.Parameter) -> Any:
    entry = entry_of(parameter.annotation)
    if entry is None:
        raise TypeError(f"parameter {parameter.name} says nothing of its field: annotate an Entry")
    return Field(
        default=parameter.default, description=entry.help, json_schema_extra={"title": entry.title}
    )
