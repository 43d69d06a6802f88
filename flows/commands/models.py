"""Commands for what was trained: chat."""

import argparse
import sys
from collections.abc import Iterator
from pathlib import Path

from flows.commands import DONE


def add(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Declare them."""
    chat = commands.add_parser("chat", help="talk to a model")
    chat.add_argument("model", help="a Transformers folder, or a stage folder of the store")
    chat.add_argument("--message", help="answer this one message and end")
    chat.add_argument("--max-new-tokens", type=int, default=128)
    chat.set_defaults(run=_chat)


def _chat(arguments: argparse.Namespace) -> int:
    from model.entry.chat import answers

    messages = iter([arguments.message]) if arguments.message else _lines()
    limit = arguments.max_new_tokens
    for answer in answers(Path(arguments.model), messages, max_new_tokens=limit):
        print(answer, flush=True)
    return DONE


def _lines() -> Iterator[str]:
    """What a person types, line by line, until Ctrl-D."""
    while True:
        if sys.stdin.isatty():
            print("> ", end="", flush=True)
        line = sys.stdin.readline()
        if not line:
            return
        if line.strip():
            yield line.strip()
