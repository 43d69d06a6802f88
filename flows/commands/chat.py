"""The command `steel chat`: a conversation in the terminal, on a pipe, or one question."""

import argparse
import contextlib
import dataclasses
import json
import random
import sys
import tempfile
import unicodedata
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from common.ranges import Ge, Gt, Le, Limit, Seed, Steps
from flows.commands import DONE, NAMES_HELP, add_options, number

if TYPE_CHECKING:
    from model.entry.chat import ChatModel, Conversation

NewTokens = Annotated[int, Ge(1), Limit(10**6)]
Temperature = Annotated[float, Ge(0), Le(100)]
Share = Annotated[float, Gt(0), Le(1)]
TopK = Annotated[int, Ge(0), Limit(10**9)]
Penalty = Annotated[float, Gt(0), Le(100)]

MODEL_HELP = f"of the store: {NAMES_HELP}; also of a run, a checkpoint or a Transformers folder"

COMMANDS = {
    "/help": "this list, and the settings",
    "/reset": "forget the conversation; the system prompt stays",
    "/system TEXT": "another system prompt from here on; without TEXT: the chat template's own",
    "/exit": "end (so does Ctrl-D)",
}
"""Words that can be typed in place of a message; `//` at the beginning is a `/` of the text."""

WHY = {
    "length": "[the answer reached --max-new-tokens]",
    "context": "[the answer reached the end of the model's context]",
    "stopped": "[stopped]",
    "silent": "[the model ended its answer at once]",
}
"""Said below an answer that the model did not end."""


def add(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Declare it."""
    chat = commands.add_parser("chat", help="talk to a model")
    chat.add_argument("model", help=MODEL_HELP)
    chat.add_argument(
        "--checkpoint", type=number(Steps), metavar="STEP", help="of a training: this checkpoint"
    )
    chat.add_argument("--prompt", metavar="TEXT", help="answer this one message and end")
    chat.add_argument("--system", metavar="TEXT", default="", help="system prompt")
    chat.add_argument(
        "--temperature",
        type=number(Temperature),
        default=0.0,
        help="0 (default): always the likeliest token; above: drawn, the more freely the higher",
    )
    chat.add_argument(
        "--top-p",
        type=number(Share),
        default=1.0,
        help="draw among the likeliest tokens that have this share together (default: 1, all)",
    )
    chat.add_argument(
        "--top-k", type=number(TopK), default=0, help="draw among so many tokens (default: 0, all)"
    )
    chat.add_argument(
        "--repetition-penalty",
        type=number(Penalty),
        default=1.0,
        help="above 1: what was said becomes less likely (default: 1)",
    )
    chat.add_argument("--max-new-tokens", type=number(NewTokens), default=512, help="default: 512")
    chat.add_argument(
        "--seed", type=number(Seed), help="same seed, same answers (default: another each time)"
    )
    add_options(chat, "store", "json")
    chat.set_defaults(run=_chat)


def _chat(arguments: argparse.Namespace) -> int:
    from common.errors import ConfigError
    from flows.commands.find_model import find_model

    if arguments.prompt is not None and not arguments.prompt.strip():
        raise ConfigError("--prompt is empty: give it text, or leave it out to type messages")
    drawing = {"--top-p": arguments.top_p < 1, "--top-k": arguments.top_k > 0}
    if not arguments.temperature and (useless := [name for name, set_ in drawing.items() if set_]):
        raise ConfigError(
            f"{useless[0]} has no effect at --temperature 0, which always takes the likeliest "
            "token: give --temperature 0.7, say"
        )
    found = find_model(Path(arguments.store), arguments.model, arguments.checkpoint)

    from model.entry.chat import Conversation, Sampling

    seed = random.SystemRandom().randrange(2**31) if arguments.seed is None else arguments.seed
    sampling = Sampling(
        temperature=arguments.temperature,
        top_p=arguments.top_p,
        top_k=arguments.top_k,
        repetition_penalty=arguments.repetition_penalty,
        max_new_tokens=arguments.max_new_tokens,
        seed=seed,
    )
    conversation = Conversation(
        model=_load(found.place), sampling=sampling, system=arguments.system.strip()
    )
    screen = _Screen(as_json=arguments.json, for_person=arguments.prompt is None and _is_terminal())
    if arguments.prompt is not None:
        screen.ask(conversation, arguments.prompt)
        return DONE
    if screen.for_person:
        screen.note(_greeting(conversation, found.words))
    for line in screen.lines():
        if not screen.handle(conversation, line):
            break
    return DONE


def _load(place: Path) -> "ChatModel":
    """Load a model; a checkpoint is written as a Transformers folder first, which is removed."""
    from transformers.utils.logging import disable_progress_bar

    from model.entry.chat import ChatModel
    from model.export.source import is_checkpoint
    from model.train.checkpoint.export import write_model

    disable_progress_bar()
    if not is_checkpoint(place):
        return ChatModel(place)
    with tempfile.TemporaryDirectory(prefix="steel-chat-") as scratch:
        folder = Path(scratch) / "model"
        write_model(place, folder)
        return ChatModel(folder)


class _Screen:
    """Input and output: a person at a terminal, lines on a pipe, or JSON.

    Answers go to standard output, everything else that is said to standard error.
    """

    def __init__(self, *, as_json: bool, for_person: bool) -> None:
        from common.redaction import output

        self.as_json, self.for_person = as_json, for_person
        self.out = output()
        self.escape = sys.stdout.isatty()

    def note(self, text: str) -> None:
        """Say something that is no answer."""
        print(_visible(text), file=sys.stderr, flush=True)

    def lines(self) -> Iterator[str]:
        """Lines that are typed or come through a pipe, without blank ones."""
        from common.errors import DataError

        with contextlib.suppress(AttributeError):  # a stream of tests
            sys.stdin.reconfigure(encoding="utf-8", errors="surrogateescape")  # type: ignore[union-attr]
        if self.for_person:
            with contextlib.suppress(ImportError):
                import readline  # noqa: F401 (input() then edits lines, of any length)
        number_ = 0
        while (line := self._line()) is not None:
            number_ += 1
            line = line.removeprefix("\ufeff").strip() if number_ == 1 else line.strip()
            try:
                line.encode()
            except UnicodeEncodeError:
                wrong = f"line {number_:,} of the input is not UTF-8"
                if not self.for_person:
                    raise DataError(f"{wrong}: convert it (iconv -t utf-8)") from None
                self.note(f"[{wrong}: it was not sent]")
                continue
            if line:
                yield line

    def _line(self) -> str | None:
        """The next line; None at the end."""
        if not self.for_person:
            return sys.stdin.readline() or None
        while True:
            try:
                return input("> ") + "\n"
            except EOFError:
                self.out.write("\n")
                return None
            except KeyboardInterrupt:
                self.note("\n[/exit or Ctrl-D ends the conversation]")

    def handle(self, conversation: "Conversation", line: str) -> bool:
        """Carry out one line: a command, or a message. Returns False after /exit."""
        from common.errors import DataError

        command, _, rest = line.partition(" ")
        if command == "/exit":
            return False
        if command == "/help":
            self.note(_help(conversation))
        elif command == "/reset":
            conversation.reset()
            self.note("[the conversation begins anew]")
        elif command == "/system":
            conversation.system = rest.strip()
            self.note(_system(conversation))
        elif command[:1] == "/" and command[1:].isascii() and command[1:].isalpha():
            self.note(f"[there is no command {command}; /help lists them, // sends a / as text]")
        else:
            try:
                self.ask(conversation, line[1:] if line.startswith("//") else line)
            except DataError as error:
                if not self.for_person:
                    raise
                self.note(f"[{error}]")
            except KeyboardInterrupt:  # before the model began, or after it ended
                if not self.for_person:
                    raise
                self.note(WHY["stopped"])
        return True

    def ask(self, conversation: "Conversation", message: str) -> None:
        """Send a message, and show the answer as it comes."""
        if self.as_json:
            answer = conversation.ask(message)
            record = {"prompt": message, "answer": answer.text, **dataclasses.asdict(answer)}
            del record["text"]
            record["seed"] = conversation.sampling.seed
            print(json.dumps(record, ensure_ascii=False), file=self.out, flush=True)
        else:
            answer = conversation.ask(message, self._show, self._say_left_out)
            print(file=self.out, flush=True)
            if why := WHY.get(answer.finish) or ("" if answer.text else WHY["silent"]):
                self.note(why)
            if self.for_person:
                print(file=self.out, flush=True)
        if answer.finish == "stopped" and not self.for_person:
            raise KeyboardInterrupt

    def _show(self, piece: str) -> None:
        print(_visible(piece) if self.escape else piece, end="", file=self.out, flush=True)

    def _say_left_out(self, count: int) -> None:
        exchanges = "the oldest exchange" if count == 1 else f"the {count} oldest exchanges"
        self.note(
            f"[the conversation no longer fits into the model's context: {exchanges} left out]"
        )


def _is_terminal() -> bool:
    return sys.stdin is not None and sys.stdin.isatty() and sys.stdout.isatty()


def _visible(text: str) -> str:
    """A text whose control characters do nothing to a terminal."""
    return "".join(
        repr(c)[1:-1] if unicodedata.category(c) == "Cc" and c not in "\n\t" else c for c in text
    )


def _greeting(conversation: "Conversation", words: str) -> str:
    model = conversation.model
    parameters = sum(p.numel() for p in model.network.parameters())
    size = f"{parameters / 1e9:,.2f} B" if parameters >= 1e8 else f"{parameters / 1e6:,.2f} M"
    context = "" if model.context is None else f", context {model.context:,} tokens"
    name = type(model.network).__name__
    return f"{words}: {name}, {size} parameters on {model.device}{context}. /help lists commands."


def _system(conversation: "Conversation") -> str:
    return (
        f"[system prompt: {conversation.system}]"
        if conversation.system
        else "[no system prompt but the chat template's own]"
    )


def _help(conversation: "Conversation") -> str:
    sampling = conversation.sampling
    how = (
        f"temperature {sampling.temperature:g}, top-p {sampling.top_p:g}, top-k {sampling.top_k}"
        if sampling.temperature
        else "always the likeliest token"
    )
    return "\n".join(
        [
            *(f"  {command:13} {what}" for command, what in COMMANDS.items()),
            "  Ctrl-C stops an answer. // at the beginning sends a / as text.",
            f"  {_system(conversation)}",
            f"  [{how}, repetition penalty {sampling.repetition_penalty:g}, answers of at most "
            f"{sampling.max_new_tokens:,} tokens, seed {sampling.seed}]",
        ]
    )
