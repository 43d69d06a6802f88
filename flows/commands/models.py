"""Commands for trained models, ours and published ones: export, chat, import."""

import argparse
import dataclasses
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated

from common.ranges import Ge, Limit
from flows.commands import DONE, add_options, number

NewTokens = Annotated[int, Ge(1), Limit(10**6)]


def add(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Declare them."""
    export = commands.add_parser(
        "export", help="a checkpoint of a pretraining as a Transformers folder"
    )
    export.add_argument(
        "checkpoint",
        help="a folder checkpoints/step-…, or one that holds them: "
        "a run's folder, for its newest complete checkpoint",
    )
    export.add_argument("out", help="the folder to write")
    export.add_argument("--force", action="store_true", help="replace OUT if it exists")
    export.set_defaults(run=_export)
    chat = commands.add_parser("chat", help="talk to a model")
    chat.add_argument("model", help="a Transformers folder, or a stage folder of the store")
    chat.add_argument("--message", help="answer this one message and end")
    chat.add_argument("--max-new-tokens", type=number(NewTokens), default=128)
    chat.set_defaults(run=_chat)

    imported = commands.add_parser(
        "import", help="convert a published Steel-LLM checkpoint to this project's format"
    )
    imported.add_argument("source", help="its folder: config.json, safetensors, tokenizer")
    imported.add_argument("output", help="folder to make")
    imported.add_argument(
        "--routing",
        default="reference_norm",
        choices=("reference_norm", "sequence", "token"),
        help="reference_norm (default) computes what was published; the others start training anew "
        "from its weights",
    )
    add_options(imported, "json")
    imported.set_defaults(run=_import)


def _export(arguments: argparse.Namespace) -> int:
    from common.errors import ConfigError
    from model.train.checkpoint.export import export, find_checkpoint

    out = Path(arguments.out)
    if out.exists() and not arguments.force:
        raise ConfigError(f"{out} exists; give another folder, or --force to replace it")
    checkpoint = find_checkpoint(Path(arguments.checkpoint))
    export(checkpoint, out)
    print(f"{checkpoint} exported to {out}")
    return DONE


def _chat(arguments: argparse.Namespace) -> int:
    from common.errors import ConfigError
    from common.redaction import output

    if arguments.message is not None and not arguments.message.strip():
        raise ConfigError("--message is empty: give it text, or leave it out to type messages")
    from model.entry.chat import chat

    messages = _lines() if arguments.message is None else iter([arguments.message])
    limit = arguments.max_new_tokens
    for answer in chat(Path(arguments.model), messages, max_new_tokens=limit):
        print(answer, flush=True, file=output())
    return DONE


def _import(arguments: argparse.Namespace) -> int:
    from model.convert import import_published

    done = import_published(
        Path(arguments.source), Path(arguments.output), routing=arguments.routing
    )
    if arguments.json:
        print(json.dumps(dataclasses.asdict(done), indent=1))
        return DONE
    print(
        f"{done.output}: {done.parameters / 1e6:,.1f} M parameters in {done.dtype}, from "
        f"{done.tensors} tensors"
    )
    if not done.exact:
        print(
            f"routing {done.routing} is another function than these weights were trained for: "
            "train on before use",
            file=sys.stderr,
        )
    return DONE


def _lines() -> Iterator[str]:
    """Lines that a person types, until Ctrl-D."""
    while True:
        if sys.stdin.isatty():
            print("> ", end="", flush=True)
        line = sys.stdin.readline()
        if not line:
            return
        if line.strip():
            yield line.strip()
