"""A cleaning recipe: native Data-Juicer YAML, checked before any work and without its library.

Data-Juicer takes seconds to import, downloads models and installs packages by itself when they are
missing. So operators and their parameters are looked up in its source files, and what they need is
checked beforehand.

Operators of our own are files named after their operator: those in corpus/cleaning/operators are
found by their name, others are listed under Data-Juicer's key `custom_operator_paths`, relative to
the project's root. The copy of a recipe in a finished stage's folder lists all that it uses.
"""

import ast
import dataclasses
import difflib
import functools
import importlib.util
import json
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from common.errors import ConfigError
from common.files import complete_file
from common.names import is_name
from common.paths import display, resolve
from common.recipes import read_yaml
from corpus.cleaning.recipe_sets import CHANGES, changed, recipe_file

SUPPORTED_KINDS = ("mapper", "filter", "deduplicator")

ALWAYS_NEEDED = ("data_juicer", "ray", "datasets", "loguru", "regex")
"""ray: every operator imports it, though Data-Juicer's own requirements do not name it."""

NEEDED_BY = {
    "chinese_convert_mapper": ("opencc",),
    "clean_html_mapper": ("selectolax",),
    "fix_unicode_mapper": ("ftfy",),
    "html_to_text_mapper": ("selectolax", "resiliparse"),
    "perplexity_filter": ("sentencepiece", "kenlm"),
    "document_simhash_deduplicator": ("simhash",),
    "document_minhash_deduplicator": ("rensa", "xxhash"),
}
PACKAGE_OF = {
    "simhash": "simhash-pybind",
    "data_juicer": "py-data-juicer",
    "kenlm": "camel-kenlm",  # the package `kenlm` is source, which takes minutes to build
}

BASE_PARAMETERS = frozenset(
    (
        "text_key",
        "batch_size",
        "num_proc",
        "skip_op_error",
        "min_closed_interval",
        "max_closed_interval",
        "reversed_range",
    )
)
"""Parameters that every operator, or every filter, takes."""

OWN_OPERATORS = Path(__file__).with_name("operators")
"""Folder of our own operators."""

MINHASH = "document_minhash_deduplicator"
REPEATED_LINES = "repeated_lines_deduplicator"

CONTAMINATION_FILTER = OWN_OPERATORS / "contamination_filter.py"

QUALITY_FILTER = "quality_filter"

CUSTOM = "custom_operator_paths"
"""Data-Juicer's key for operators that are not its own."""


@dataclass(frozen=True, kw_only=True)
class Operator:
    """One entry of a recipe's `process` list."""

    name: str
    """Data-Juicer's name."""
    arguments: dict[str, Any]
    """Its parameters."""

    @property
    def kind(self) -> str:
        """`mapper`, `filter` or `deduplicator`."""
        return self.name.rpartition("_")[2]

    @property
    def key(self) -> str:
        """The same for operators that do the same: name and parameters."""
        return json.dumps([self.name, self.arguments], sort_keys=True, default=str)

    @property
    def tokenizes(self) -> bool:
        """True if it cuts texts into tokens with a model."""
        return self.arguments.get("tokenization") is True


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """A cleaning recipe."""

    path: Path
    """Its file."""
    data: dict[str, Any]
    """The whole YAML, inheritance resolved."""
    operators: tuple[Operator, ...]
    """Its operators, in order."""
    custom_operator_files: tuple[Path, ...] = ()
    """Source files of the operators that are not Data-Juicer's own, absolute."""

    @property
    def by_document(self) -> tuple[Operator, ...]:
        """Its mappers and filters, which look at one document at a time."""
        return self.operators[: len(self.operators) - len(self.deduplicators)]

    @property
    def deduplicators(self) -> tuple[Operator, ...]:
        """Its last operators, which look at all documents at once."""
        return tuple(op for op in self.operators if op.kind == "deduplicator")

    @property
    def languages(self) -> set[str]:
        """Languages whose sentencepiece model it needs."""
        return {
            str(op.arguments.get("lang", "en"))
            for op in self.operators
            if op.name == "perplexity_filter"
            or (op.name in ("word_repetition_filter", "words_num_filter") and op.tokenizes)
        }

    @property
    def needs_language_model(self) -> bool:
        """True if it measures perplexity or cuts words with a sentencepiece model."""
        return bool(self.languages)

    @property
    def judges_quality(self) -> bool:
        """True if it scores pages with a model of quality."""
        return any(op.name == QUALITY_FILTER for op in self.operators)

    @property
    def needs_tokenizer(self) -> bool:
        """True if it counts the tokens of a Transformers tokenizer."""
        return any(op.name == "alphanumeric_filter" and op.tokenizes for op in self.operators)

    def with_contamination_filter(self, index: str, action: str) -> "Recipe":
        """The recipe with a filter for evaluation questions before its deduplicators.

        Args:
            index: file of the questions' index.
            action: `drop` or `flag`.
        """
        added = Operator(
            name=CONTAMINATION_FILTER.stem, arguments={"index": index, "action": action}
        )
        operators = (*self.by_document, added, *self.deduplicators)
        return dataclasses.replace(
            self,
            operators=operators,
            data=self.data | {"process": [{op.name: op.arguments or None} for op in operators]},
            custom_operator_files=(*self.custom_operator_files, CONTAMINATION_FILTER),
        )

    def with_arguments(self, name: str, **arguments: Any) -> "Recipe":
        """The recipe with other arguments of an operator; those not named stay."""
        operators = tuple(
            dataclasses.replace(op, arguments=op.arguments | arguments) if op.name == name else op
            for op in self.operators
        )
        process = [{op.name: op.arguments or None} for op in operators]
        return dataclasses.replace(self, operators=operators, data=self.data | {"process": process})

    def import_custom_operators(self) -> None:
        """Register the recipe's own operators with Data-Juicer in this process, once."""
        for file in self.custom_operator_files:
            _import_file(file)

    def write_resolved(self, path: Path, *, dataset: Path, export: Path) -> None:
        """Write the YAML that `dj-process --config` runs on `dataset`: inheritance resolved, and
        paths of operators absolute, since Data-Juicer looks for them from where it is started."""
        data = {"dataset_path": str(dataset), "export_path": str(export)} | self.data
        data.pop(CUSTOM, None)
        if self.custom_operator_files:
            data[CUSTOM] = [str(file) for file in self.custom_operator_files]
        with complete_file(path) as file:
            file.write(yaml.safe_dump(data, allow_unicode=True, sort_keys=False).encode())


def load(name: str) -> Recipe:
    """Load data_recipes/clean/<name>.yaml, as in `curated/web`. Raises ConfigError for any error
    in it."""
    return load_file(recipe_file(name))


def load_file(path: Path) -> Recipe:
    """Load a recipe from any file. Raises ConfigError for any error in it."""
    data = read_yaml(path)
    process, changes = data.get("process"), data.pop(CHANGES, None)
    if not isinstance(process, list) or not process:
        raise ConfigError(f"{display(path)}: `process` must be a list of operators")
    custom = _custom_operators(data.get(CUSTOM), path)
    if changes is not None:
        for name in changes if isinstance(changes, dict) else ():
            _operator_file(str(name), path, custom)
        process = data["process"] = changed(process, changes, path)
    operators = tuple(_operator(entry, path, custom) for entry in process)
    files = dict.fromkeys(_operator_file(op.name, path, custom) for op in operators)
    recipe = Recipe(
        path=path,
        data=data,
        operators=operators,
        custom_operator_files=tuple(
            file for file in files if not file.is_relative_to(_operators_folder())
        ),
    )
    last = [op.kind == "deduplicator" for op in operators]
    if last != sorted(last):
        raise ConfigError(
            f"{display(path)}: deduplicators must come last, because they look at all documents at "
            f"once ({operators[last.index(True)].name} does not)"
        )
    if REPEATED_LINES in [op.name for op in operators[:-1]]:
        raise ConfigError(
            f"{display(path)}: {REPEATED_LINES} must be the last operator: the deduplicators "
            "behind it would compare texts that still have the lines, and a page that was copied "
            "a hundred times would make all of its lines repeated ones"
        )
    if len(recipe.languages) > 1:
        raise ConfigError(
            f"{display(path)} measures text in several languages "
            f"({', '.join(sorted(recipe.languages))}); one language model serves a recipe"
        )
    return recipe


def _custom_operators(paths: Any, path: Path) -> dict[str, Path]:
    """Name -> file of the operators that a recipe brings along."""
    if paths is None:
        return {}
    if not isinstance(paths, list) or not all(isinstance(p, str) for p in paths):
        raise ConfigError(f"{display(path)}: `{CUSTOM}` must be a list of Python files")
    files: dict[str, Path] = {}
    for written in paths:
        file = resolve(written)
        if file.suffix != ".py" or not file.is_file():
            raise ConfigError(
                f"{display(path)}: {CUSTOM} names {written}, which is not a Python file "
                "(paths start at the project's root)"
            )
        name, kind = file.stem, file.stem.rpartition("_")[2]
        if kind not in SUPPORTED_KINDS:
            raise ConfigError(
                f"{display(path)}: {written} must be named after its operator, which ends in "
                f"{', '.join(f'_{k}' for k in SUPPORTED_KINDS)}"
            )
        ours = OWN_OPERATORS / file.name
        taken = (_operators_folder() / kind / file.name).exists() or (
            ours.exists() and file.resolve() != ours.resolve()
        )
        if name in files or taken:
            raise ConfigError(f"{display(path)}: {written}: there is another operator {name}")
        files[name] = file
    return files


def _operator(entry: Any, path: Path, custom: dict[str, Path]) -> Operator:
    if isinstance(entry, str):
        entry = {entry: None}
    if not isinstance(entry, dict) or len(entry) != 1:
        raise ConfigError(f"{display(path)}: {entry!r} is not one operator with its parameters")
    name, arguments = next(iter(entry.items()))
    if not isinstance(arguments, dict | None):
        raise ConfigError(f"{display(path)}: the parameters of {name} must be a mapping")
    operator = Operator(name=str(name), arguments=arguments or {})
    file = _operator_file(operator.name, path, custom)
    known = sorted(_parameters(file) | BASE_PARAMETERS)
    for parameter in operator.arguments:
        if parameter not in known:
            close = difflib.get_close_matches(str(parameter), known, n=1)
            hint = f"did you mean {close[0]!r}?" if close else f"it takes: {', '.join(known)}"
            raise ConfigError(f"{display(path)}: {name} has no parameter {parameter!r} ({hint})")
    return operator


def _operator_file(name: str, path: Path, custom: dict[str, Path]) -> Path:
    """The source file of an operator: listed by the recipe, ours, or Data-Juicer's."""
    folder, kind = _operators_folder(), name.rpartition("_")[2]
    if name in custom:
        return custom[name]
    if kind in SUPPORTED_KINDS and is_name(name):
        for file in (OWN_OPERATORS / f"{name}.py", folder / kind / f"{name}.py"):
            if file.is_file():
                return file
    known = [f.stem for kind in SUPPORTED_KINDS for f in (folder / kind).glob("*.py")]
    known += [*custom, *(f.stem for f in OWN_OPERATORS.glob("*_*.py"))]
    close = difflib.get_close_matches(name, known, n=1, cutoff=0.5)
    hint = f"did you mean {close[0]!r}?" if close else "see Data-Juicer's list of operators"
    raise ConfigError(
        f"{display(path)}: unknown operator {name!r} ({hint}; mappers, filters and "
        "deduplicators can be used)"
    )


@functools.cache
def _operators_folder() -> Path:
    # find_spec of a top-level name does not import it.
    spec = importlib.util.find_spec("data_juicer")
    if spec is None or spec.origin is None:
        raise ConfigError("Cleaning needs the package py-data-juicer. Install the lock file again.")
    return Path(spec.origin).parent / "ops"


@functools.cache
def _parameters(file: Path) -> frozenset[str]:
    """Parameters of the `__init__` of the operator that a source file defines."""
    found = set()
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.FunctionDef) and node.name == "__init__":
            found |= {arg.arg for arg in [*node.args.args, *node.args.kwonlyargs]}
    return frozenset(found - {"self", "args", "kwargs"})


def _import_file(file: Path) -> None:
    """Import an operator's file under the module name that Data-Juicer gives it."""
    name = file.stem
    loaded = sys.modules.get(name)
    if loaded is not None:
        assert loaded.__file__ == str(file), f"{name} is both {loaded.__file__} and {file}"
        return
    spec = importlib.util.spec_from_file_location(name, file)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    try:
        spec.loader.exec_module(module)
    except BaseException:
        del sys.modules[name]
        raise


@functools.cache
def _imports(file: Path) -> tuple[str, ...]:
    """Packages that a source file imports, the standard library left out."""
    modules: set[str] = set()
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            modules |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            modules.add(node.module)
    packages = {module.partition(".")[0] for module in modules}
    return tuple(sorted(packages - sys.stdlib_module_names))


def require_packages(recipes: list[Recipe]) -> None:
    """Raise ConfigError naming every package that the recipes need and that is not installed."""
    needed = dict.fromkeys(ALWAYS_NEEDED, "every operator")
    for recipe in recipes:
        for file in recipe.custom_operator_files:
            for module in _imports(file):
                needed.setdefault(module, file.stem)
        for operator in recipe.operators:
            modules = NEEDED_BY.get(operator.name, ())
            if operator.name in ("word_repetition_filter", "words_num_filter"):
                modules = ("sentencepiece",) if operator.tokenizes else ()
            for module in modules:
                needed.setdefault(module, operator.name)
    missing = [m for m in needed if importlib.util.find_spec(m) is None]
    if missing:
        wanted = ", ".join(f"{PACKAGE_OF.get(m, m)} (for {needed[m]})" for m in missing)
        raise ConfigError(
            f"Cleaning needs packages that are not installed: {wanted}. Install the lock file "
            "again; nothing is installed while a stage runs."
        )
