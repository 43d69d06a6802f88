"""Configurations and commands made by hypothesis, through the real entry of `steel`; a program.

    python -m tests.flows.fuzz NUMBER SEED FOLDER [PART,…]

Every case must end with exit code 0 or 2, no traceback, one short message without control
characters, and soon: a case that hangs is ended by a watchdog. Memory is limited. The case that is
being tried stands in FOLDER/case.txt, so that whoever started the program can name it.
"""

import contextlib
import copy
import faulthandler
import functools
import io
import json
import resource
import shutil
import sys
import types
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import yaml
from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis import strategies as st

import common.paths
import common.recipes
import corpus.tokenizer
import flows.commands.pipeline
from common.config import dataclass_in, field_types
from common.files import canonical_json
from common.ranges import members, unwrapped
from flows.cli import MAX_MESSAGE, main
from flows.config import PipelineConfig, parse_pipeline
from tasks.core.manifest import plain
from tests.flows.fuzz_values import TEXTS, TOKENS, VALUES, mutated

HANG_SECONDS = 300
"""Far more than any case takes; a case that takes longer ends the program with its stack."""
MEMORY = 12 << 30
"""Bytes of address space; torch and its libraries take up some 6 GB of it."""

SMOKE = common.paths.ROOT / "deployments" / "smoke.yaml"


# ── changes ──────────────────────────────────────────────────────────────────────────────────────


def places(hint: Any, place: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    """Every place of a configuration that its classes declare."""
    if place:
        yield place
    group = dataclass_in(hint)
    if group is not None:
        for name, kind in field_types(group).items():
            yield from places(kind, (*place, name))
        return
    for member in members(hint):
        kind, _ = unwrapped(member)
        arguments = getattr(kind, "__args__", ())
        if getattr(kind, "__origin__", None) is dict and arguments:
            yield from places(arguments[1], (*place, "skypile"))


PLACES = sorted(set(places(PipelineConfig)))
MODEL = [
    ("pretrain", "model", name)
    for name in (
        *("hidden_size", "num_hidden_layers", "num_attention_heads", "num_key_value_heads"),
        *("expert_intermediate_size", "num_experts", "slots_per_expert", "routing", "head_dim"),
        *("vocab_size", "rope_theta", "kernels", "pad_head_dim", "max_position_embeddings"),
        *("attention_dropout", "rms_norm_eps", "initializer_range", "tie_word_embeddings", "gain"),
        *("eos_token_id", "use_cache", "learn_gain", "expert_init", "decode_with_cache"),
    )
]
CHANGES = st.lists(
    st.tuples(
        st.one_of(
            st.sampled_from(PLACES),
            st.sampled_from(PLACES),
            st.sampled_from(MODEL),
            st.lists(
                st.one_of(st.text(max_size=6), st.sampled_from(["base", "pretrain"])), max_size=3
            )
            .map(tuple)
            .filter(bool),
        ),
        st.one_of(VALUES, VALUES, VALUES, st.just(...)),
    ),
    min_size=1,
    max_size=3,
)


def changed(data: Any, place: tuple[str, ...], value: Any) -> None:
    """Put a value at a place of nested mappings; `...` removes what is there."""
    for key in place[:-1]:
        if not isinstance(data.get(key), dict):
            data[key] = {}
        data = data[key]
    if value is ...:
        data.pop(place[-1], None)
    else:
        data[place[-1]] = value


def dumped(value: Any, **style: Any) -> str:
    """A value as YAML."""
    text: str = yaml.dump(value, Dumper=yaml.CSafeDumper, allow_unicode=True, **style)
    return text


# ── running ──────────────────────────────────────────────────────────────────────────────────────


class Runner:
    """Runs commands in this process and looks at how they end."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.store = folder / "store"
        self.recipes = folder / "data_recipes"
        self.case = folder / "case.txt"
        shutil.copytree(common.paths.RECIPES, self.recipes)
        for module in list(sys.modules.values()):
            if getattr(module, "RECIPES", None) == common.paths.ROOT / "data_recipes":
                module.RECIPES = self.recipes  # type: ignore[attr-defined]
        # The same for all cases, and slow: the tokenizer's proof, and the parsing of the recipes.
        proof = functools.cache(corpus.tokenizer.files_are_qwen)
        corpus.tokenizer.files_are_qwen = proof  # type: ignore[attr-defined]
        parsed = functools.lru_cache(200)(common.recipes._parse)
        common.recipes._parse = lambda text: copy.deepcopy(parsed(text))
        flows.commands.pipeline._show = lambda *given: None  # it would make MLflow's database
        sys.modules["flows.steel"] = types.ModuleType("flows.steel")
        sys.modules["flows.steel"].pipeline = self._pipeline  # type: ignore[attr-defined]

    def _pipeline(self, **_: Any) -> dict[str, Any]:
        """Stand in for all that a run does after it was checked."""
        empty: dict[str, Any] = {"stages": [], "folders": {}, "results": [], "views": []}
        return {"name": "x", "store": str(self.store), **empty}

    def __call__(self, *argv: str) -> None:
        """Run one command. Raises AssertionError if it ends as it must not."""
        self.case.write_text(repr(argv)[:5000], encoding="utf-8", errors="backslashreplace")
        out, err = io.StringIO(), io.StringIO()
        faulthandler.dump_traceback_later(HANG_SECONDS, exit=True, file=sys.__stderr__)
        try:
            with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
                try:
                    code: Any = main(list(argv))
                except SystemExit as end:
                    code = end.code
        finally:
            faulthandler.cancel_dump_traceback_later()
        message = err.getvalue()
        assert code in (0, 2), f"exit code {code}\n{message[-3000:]}"
        assert "Traceback" not in message, message[-3000:]
        assert len(message) <= 2 * MAX_MESSAGE + 1000, f"{len(message)} characters"
        assert all(c.isprintable() or c == "\n" for c in message), ascii(message[:3000])
        if code == 2:
            assert message.startswith("error: "), message[:3000]
            assert message.count("\nerror: ") == 0, message[:3000]
            assert out.getvalue() == "", out.getvalue()[:3000]
            assert not self.store.exists(), "work has started"
        shutil.rmtree(self.store, ignore_errors=True)

    def check(self, path: Path, *options: str) -> None:
        """`steel check`, and `steel run` as far as the check."""
        command = "run" if len(options) % 4 == 2 else "check"
        self(command, str(path), "--store", str(self.store), *options)

    def sound(self, path: Path, *options: str) -> None:
        """Prove that a configuration that was called sound can be written down."""
        value = parse_pipeline(path, options[1::2]).value
        assert value is not None
        canonical_json(plain(value))


def _resolved(path: Path) -> dict[str, Any]:
    return common.recipes.read_yaml(path)


def parts(run: Runner) -> dict[str, Callable[[Any], None]]:
    """The kinds of cases: a strategy in `given`, and a function that tries one."""
    shipped = sorted((common.paths.ROOT / "deployments").glob("*.yaml"))
    # Real rows take long to read, and are not everywhere.
    contents = [path.read_bytes().replace(b"../shared/", b"../absent/") for path in shipped]
    bases = [_resolved(path) for path in shipped if path.name in ("smoke.yaml", "small.yaml")]
    recipes = sorted(run.recipes.rglob("*.yaml"))
    deployed = run.folder / "deployments"
    shutil.copytree(common.paths.ROOT / "deployments", deployed)

    @given(st.sampled_from(bases), CHANGES)
    def written(base: dict[str, Any], changes: list[tuple[tuple[str, ...], Any]]) -> None:
        data = copy.deepcopy(base)
        for place, value in changes:
            changed(data, place, value)
        path = deployed / "case.yaml"
        path.write_text(dumped(data), encoding="utf-8")
        run.check(path)

    @given(CHANGES, st.booleans())
    def overridden(changes: list[tuple[tuple[str, ...], Any]], as_json: bool) -> None:
        options = []
        for place, value in changes:
            if value is ...:
                continue
            text = json.dumps(value) if as_json else dumped(value, default_flow_style=True)
            options += ["--set", f"{'.'.join(place)}={text}"[:120_000]]
        run.check(SMOKE, *options)

    @given(st.one_of(mutated(contents), mutated(contents), TOKENS, st.binary(max_size=200)))
    def raw(content: bytes) -> None:
        path = deployed / "case.yaml"
        path.write_bytes(content)
        run.check(path)

    @given(st.sampled_from(recipes), st.data())
    def recipe(path: Path, data: st.DataObject) -> None:
        content = path.read_bytes()
        run.case.write_text(str(path))
        try:
            path.write_bytes(data.draw(st.one_of(mutated([content]), TOKENS)))
            run.check(SMOKE)
        finally:
            path.write_bytes(content)

    @given(COMMANDS)
    def command(argv: list[str]) -> None:
        run(*[word.replace("\0", "") for word in argv])

    return {
        "written": written,
        "overridden": overridden,
        "raw": raw,
        "recipe": recipe,
        "command": command,
    }


WORDS = st.one_of(
    st.sampled_from([text for text in TEXTS if len(text) < 5000]),
    st.sampled_from(["-1", "0", "1", "10", "nan", "inf", "-inf", "1e400", "1e9", "9" * 40, "now"]),
    st.sampled_from(
        ["9" * 5000, "1_000", "+3", "1.5", "2,3", ",", "0,0", "-1,2", "1,,2", "5M", "20k"]
    ),
    st.sampled_from(
        ["a=1", "=1", "a=", "a=nan", "a=-1", "a=inf", "a=1e400", "a=1=2", "5M@3", "5@-1"]
    ),
    st.text(max_size=12),
)
OPTIONS = {
    "verify-order": [
        *("--ranks", "--micro-batch-size", "--restart", "--append", "--sequence-length"),
        *("--global-batch-size", "--seed", "--validation-fraction", "--weight"),
    ],
    "append": ["--at-step", "--seed", "--steps", "--weight", "--horizon"],
    "reschedule": ["--steps", "--decay-at", "--decay"],
    "profile": ["--steps"],
    "check": ["--set", "--store", "--fraction", "--limit"],
    "report": ["--store"],
    "verify": [],
    "explain": ["--store"],
    "review": ["--stage", "--verdicts", "--recipes"],
    "contamination": ["--stage", "--benchmark", "--number", "--seed", "--json"],
    "export": ["--to", "--checkpoint", "--form", "--dtype", "--max-shard-size", "--store"],
    "import": ["--routing"],
}


@st.composite
def commands(draw: st.DrawFn) -> list[str]:
    """A command with options that have odd values."""
    name = draw(st.sampled_from(sorted(OPTIONS)))
    argv = [name]
    if name == "verify-order" and draw(st.booleans()):
        argv += ["--simulate", draw(st.sampled_from(["10", "500", "20k", "0", "1", "-3", "x"]))]
        argv += ["--json"] * draw(st.booleans())
    else:
        argv += draw(st.lists(WORDS, max_size=2))
    if name == "review":  # without one of these it serves until it is stopped
        argv.append(draw(st.sampled_from(["--shares", "--check"])))
    for option in draw(st.lists(st.sampled_from(OPTIONS[name] or ["--json"]), max_size=3)):
        argv += [option] if option == "--json" else [f"{option}={draw(WORDS)}"]
    return argv


COMMANDS = commands()


def fuzz(number: int, start: int, folder: Path, names: list[str] | None = None) -> None:
    """Try `number` cases, shared out over the kinds."""
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
    every = parts(Runner(folder))
    chosen = names or list(every)
    for name in chosen:
        limits = settings(
            max_examples=number // len(chosen),
            deadline=None,
            database=None,
            phases=[Phase.generate, Phase.shrink] if start else [Phase.generate],
            suppress_health_check=list(HealthCheck),
        )
        seed(start)(limits(every[name]))()  # type: ignore[operator]
        print(f"{name}: {number // len(chosen)} cases", flush=True)


if __name__ == "__main__":
    fuzz(
        int(sys.argv[1]), int(sys.argv[2]), Path(sys.argv[3]), *[a.split(",") for a in sys.argv[4:]]
    )
