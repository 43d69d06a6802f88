"""The model's code as two files that need Transformers and torch alone.

    model/config.py, architecture.py                   ──▶  configuration_steel.py
    model/modeling_steel.py, soft_moe.py, attention.py,
      documents.py, kernels/*.py (eager references)    ──▶  modeling_steel.py

Made from the very sources that are running here, each time a model is exported: every definition
that the three public classes reach is copied as it stands, with its comments; what they do not
reach (training, Triton kernels, the choice of an attention) stays behind. A few definitions that
concern this project alone have stand-ins (`STAND_INS`). Names that two modules define differently
are refused, since both would stand in one file.
"""

import ast
import builtins
import importlib.util
import textwrap
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path

from model.kernels import IMPLEMENTATIONS, OPERATIONS

CONFIGURATION_FILE = "configuration_steel.py"
MODELING_FILE = "modeling_steel.py"

AUTO_MAP = {
    "AutoConfig": "configuration_steel.SteelConfig",
    "AutoModel": "modeling_steel.SteelModel",
    "AutoModelForCausalLM": "modeling_steel.SteelForCausalLM",
}
"""Entry `auto_map` of config.json: where Transformers finds the classes."""

OURS = ("model", "common")
"""Packages whose definitions are copied; all others are imported."""

OLDEST_TRANSFORMERS = (5, 17)
"""Oldest version that has what the code imports, as in pyproject.toml."""

STAND_INS = {
    ("common.errors", "ConfigError"): "ConfigError = ValueError",
    ("model.architecture", "check_ranges"): '''
        def check_ranges(architecture: Any) -> None:
            """Ranges were checked when the model was made."""
    ''',
    ("model.kernels", "check_choice"): '''
        def check_choice(choice: Any) -> None:
            """Every choice of kernels computes the same; here all is plain PyTorch."""
    ''',
}
"""(module, name) -> what stands in its place."""

HEADER = {
    CONFIGURATION_FILE: '''"""Configuration of a Steel model: code for the weights beside it.

Made by `steel export` from Steel's own modules; it needs Transformers alone.
"""

import transformers

if tuple(int(part) for part in transformers.__version__.split(".")[:2]) < OLDEST:
    raise ImportError(
        f"the code of this model needs Transformers MINIMUM or newer, here is "
        f"{transformers.__version__}: pip install --upgrade transformers"
    )
''',
    MODELING_FILE: '''"""A Steel model: code for the weights beside it.

Made by `steel export` from Steel's own modules; it needs Transformers and torch alone. All
operations are in plain PyTorch. Shapes: B = rows, M = tokens of a row, d = hidden size, T = B M.
"""
''',
}


@dataclass(frozen=True, kw_only=True)
class _Module:
    """A module of ours, cut into its definitions."""

    definitions: dict[str, ast.stmt] = field(default_factory=dict)
    """Name -> the statement that defines it; a `try` that defines several stands at each."""
    texts: dict[ast.stmt, str] = field(default_factory=dict)
    """Statement -> its source, with the comments above and the docstring below."""
    imports: dict[str, tuple[str, str | None]] = field(default_factory=dict)
    """Name -> (module, name there); None for a module itself."""
    order: list[ast.stmt] = field(default_factory=list)


@cache
def remote_code() -> dict[str, str]:
    """The two files, by name."""
    configuration = _Collector({})
    configuration.reach("model.config", "SteelConfig")
    known = dict.fromkeys(configuration.names, CONFIGURATION_FILE.removesuffix(".py"))
    modeling = _Collector(known)
    for name in ("SteelModel", "SteelForCausalLM"):
        modeling.reach("model.modeling_steel", name)
    return {
        CONFIGURATION_FILE: configuration.file(CONFIGURATION_FILE),
        MODELING_FILE: modeling.file(MODELING_FILE),
    }


class _Collector:
    """Everything that some definitions need, for one file.

    elsewhere: names that another file of the folder defines, with its module name.
    """

    def __init__(self, elsewhere: dict[str, str]) -> None:
        self.elsewhere = elsewhere
        self.names: dict[str, tuple[str, str]] = {}
        """Name in this file -> where it comes from."""
        self._imports: dict[str, tuple[str, str | None]] = {}
        self._kept: dict[str, set[ast.stmt]] = {}
        self._stand_ins: dict[str, list[str]] = {}

    def reach(self, module: str, name: str) -> None:
        """Take a definition, and all that it uses."""
        if name in self.elsewhere:
            self._import(name, (f".{self.elsewhere[name]}", name))
            return
        parsed = _parse(module)
        if name in parsed.imports:
            self._reach_import(module, name)
            return
        if name in self.names:
            assert self.names[name] == (module, name), f"{module} and {self.names[name]}: {name}"
            return
        self.names[name] = (module, name)
        text = _stand_in(module, name)
        if text is None:
            statement = parsed.definitions[name]
            tree: ast.AST = ast.parse(parsed.texts[statement])
        else:
            tree = ast.parse(text)
        read, free = _names_in(tree)
        for used in sorted(read):
            if text is not None and (found := _of_kernel(used)):
                self.reach(*found)
            elif used in parsed.definitions or used in parsed.imports:
                self.reach(module, used)
            else:
                assert used not in free or used in (*dir(builtins), "Any"), (module, name, used)
        if text is None:
            self._kept.setdefault(module, set()).add(statement)
        else:
            self._stand_ins.setdefault(module, []).append(text)
            if "Any" in read:
                self._import("Any", ("typing", "Any"))

    def _reach_import(self, module: str, name: str) -> None:
        source, original = _parse(module).imports[name]
        if source.split(".")[0] not in OURS:
            self._import(name, (source, original))
            return
        assert original == name, f"{module} imports {original} under another name"
        self.reach(source, name)

    def _import(self, name: str, found: tuple[str, str | None]) -> None:
        assert self._imports.setdefault(name, found) == found, f"two imports are called {name}"
        assert name not in self.names, f"{name} is imported and defined"

    def file(self, name: str) -> str:
        """The file's text."""
        header = HEADER[name].replace("OLDEST", repr(OLDEST_TRANSFORMERS))
        parts = [header.replace("MINIMUM", ".".join(map(str, OLDEST_TRANSFORMERS)))]
        parts.append("\n".join(self._import_lines()))
        for module in self._in_order():
            kept = self._kept.get(module, set())
            parts += [_parse(module).texts[s] for s in _parse(module).order if s in kept]
            parts += self._stand_ins.get(module, [])
        return "\n\n".join(part.strip("\n") + "\n" for part in parts)

    def _in_order(self) -> list[str]:
        """Modules of which something was taken, each behind those that it imports."""
        ordered: list[str] = []

        def add(module: str) -> None:
            if module in (*ordered, *passed):
                return
            passed.add(module)
            for source, _ in _parse(module).imports.values():
                if source.split(".")[0] in OURS:
                    add(source)
            ordered.append(module)

        passed: set[str] = set()
        for module, _ in self.names.values():
            add(module)
        return [m for m in ordered if m in self._kept or m in self._stand_ins]

    def _import_lines(self) -> Iterator[str]:
        by_module: dict[str, list[str]] = {}
        for name, (module, original) in sorted(self._imports.items()):
            if original is None:
                yield f"import {module}" if name == module else f"import {module} as {name}"
            else:
                text = name if name == original else f"{original} as {name}"
                by_module.setdefault(module, []).append(text)
        for module, texts in sorted(by_module.items(), key=lambda item: (item[0][0] == ".", item)):
            yield f"from {module} import {', '.join(texts)}"


def _stand_in(module: str, name: str) -> str | None:
    if (module, name) == ("model.kernels", "choose"):
        functions = {
            kernel: function.__name__
            for operation, kernels in OPERATIONS.items()
            for kernel, function in zip(kernels, IMPLEMENTATIONS[operation]["eager"], strict=True)
        }
        lines = "".join(f"        {kernel}={function},\n" for kernel, function in functions.items())
        return (
            "def choose(choice: Any) -> Kernels:\n"
            '    """The reference of every operation, whatever kernels the training used."""\n'
            f"    return Kernels(\n{lines}    )\n"
        )
    text = STAND_INS.get((module, name))
    return None if text is None else textwrap.dedent(text).strip("\n") + "\n"


def _of_kernel(name: str) -> tuple[str, str] | None:
    """Module and name of an eager reference."""
    for kernels in IMPLEMENTATIONS.values():
        for function in kernels["eager"]:
            if function.__name__ == name:
                return function.__module__, name
    return None


@cache
def _parse(module: str) -> _Module:
    """A module of ours, from its source."""
    spec = importlib.util.find_spec(module)
    assert spec is not None and spec.origin is not None, module
    source = Path(spec.origin).read_text(encoding="utf-8")
    lines = source.splitlines()
    found = _Module()
    body = ast.parse(source).body
    for number, statement in enumerate(body):
        if isinstance(statement, ast.Import | ast.ImportFrom):
            _note_import(found, statement)
            continue
        names = list(_defined(statement))
        if not names:
            continue
        end = statement.end_lineno
        assert end is not None
        follower = body[number + 1] if number + 1 < len(body) else None
        if isinstance(statement, ast.Assign | ast.AnnAssign) and _is_text(follower):
            assert follower is not None and follower.end_lineno is not None
            end = follower.end_lineno
        decorators = getattr(statement, "decorator_list", [])
        start = min([statement.lineno, *(decorator.lineno for decorator in decorators)])
        while start > 1 and lines[start - 2].startswith("#"):
            start -= 1
        text = "\n".join(lines[start - 1 : end]) + "\n"
        is_class = isinstance(statement, ast.ClassDef)
        found.texts[statement] = _without_ranges(text) if is_class else text
        found.order.append(statement)
        found.definitions.update(dict.fromkeys(names, statement))
    return found


def _note_import(module: _Module, statement: ast.Import | ast.ImportFrom) -> None:
    for alias in statement.names:
        name = alias.asname or alias.name
        if isinstance(statement, ast.Import):
            module.imports[name] = (alias.name, None)
        else:
            assert statement.module is not None and statement.level == 0
            module.imports[name] = (statement.module, alias.name)


def _defined(statement: ast.stmt) -> Iterator[str]:
    """Names that a statement at the top of a module defines."""
    if isinstance(statement, ast.FunctionDef | ast.ClassDef):
        yield statement.name
    elif isinstance(statement, ast.Assign):
        for target in statement.targets:
            yield from (node.id for node in ast.walk(target) if isinstance(node, ast.Name))
    elif isinstance(statement, ast.AnnAssign) and isinstance(statement.target, ast.Name):
        yield statement.target.id


def _is_text(statement: ast.stmt | None) -> bool:
    return (
        isinstance(statement, ast.Expr)
        and isinstance(statement.value, ast.Constant)
        and isinstance(statement.value.value, str)
    )


def _names_in(tree: ast.AST) -> tuple[set[str], set[str]]:
    """Names that code reads, and those of them that it nowhere binds itself."""
    read, bound = set[str](), set[str]()
    for node in ast.walk(tree):
        if isinstance(node, ast.Name):
            (read if isinstance(node.ctx, ast.Load) else bound).add(node.id)
        elif isinstance(node, ast.arg):
            bound.add(node.arg)
        elif isinstance(node, ast.FunctionDef | ast.ClassDef):
            bound.add(node.name)
    return read, read - bound


def _without_ranges(text: str) -> str:
    """A class whose fields are annotated with their types alone: `Annotated[int, Ge(1)]` is `int`,
    and so are the names of common/ranges.py for such types."""
    lines = text.splitlines(keepends=True)
    for statement in reversed(ast.parse(text).body[0].body):  # type: ignore[attr-defined]
        if not isinstance(statement, ast.AnnAssign):
            continue
        annotation = statement.annotation
        plain = ast.unparse(_PlainTypes().visit(ast.parse(ast.unparse(annotation), mode="eval")))
        if plain != ast.unparse(annotation):
            assert annotation.lineno == annotation.end_lineno, "an annotation of several lines"
            line = lines[annotation.lineno - 1].encode()
            before, after = line[: annotation.col_offset], line[annotation.end_col_offset :]
            lines[annotation.lineno - 1] = (before + plain.encode() + after).decode()
    return "".join(lines)


class _PlainTypes(ast.NodeTransformer):
    """Takes declared ranges off a type."""

    def visit_Subscript(self, node: ast.Subscript) -> ast.AST:
        if isinstance(node.value, ast.Name) and node.value.id == "Annotated":
            assert isinstance(node.slice, ast.Tuple)
            plain: ast.AST = self.visit(node.slice.elts[0])
            return plain
        return self.generic_visit(node)

    def visit_Name(self, node: ast.Name) -> ast.AST:
        names = {"PositiveFloat": "float", "NonNegativeFloat": "float", "PositiveInt": "int"}
        return ast.Name(names.get(node.id, node.id), ast.Load())
