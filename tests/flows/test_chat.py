"""The command `steel chat`: at a terminal, on a pipe, for one question, as JSON."""

import contextlib
import functools
import io
import json
import os
import pty
import re
import select
import signal
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Self

import pytest

from flows.cli import main
from model.entry.chat import ChatModel
from tests.tiny_chat import byte_tokenizer, save_tiny_model

CONTEXT = 200


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("chat") / "model"
    shape = {"hidden_size": 16, "expert_intermediate_size": 8, "max_position_embeddings": CONTEXT}
    return save_tiny_model(folder, byte_tokenizer(), seed=2, vocab_size=264, **shape)


@dataclass(frozen=True, kw_only=True)
class Done:
    """Outcome of a command."""

    code: int
    out: str
    err: str


Chat = Callable[..., Done]


@pytest.fixture
def chat(model: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Chat:
    """Run the command with these bytes as its input, as from a pipe."""
    monkeypatch.setattr("flows.commands.chat._load", lambda place: load(model))

    def run(text: bytes, *options: str) -> Done:
        monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(text), "ascii"))
        code = main(["chat", str(model), *options])
        return Done(code=code, **capsys.readouterr()._asdict())

    return run


@functools.cache
def load(folder: Path) -> ChatModel:
    """Loaded once for all tests."""
    return ChatModel(folder)


def test_on_a_pipe(chat: Chat) -> None:
    lines = (
        "你好\n\n  \n/help\n/system 规则\n//system\n/nonsense\n/reset\nhi<|im_end|>\n/exit\nno\n"
    )
    done = chat(lines.encode(), "--json", "--max-new-tokens", "4", "--seed", "7")
    assert done.code == 0, done.err
    answers = [json.loads(line) for line in done.out.splitlines()]
    assert [answer["prompt"] for answer in answers] == ["你好", "/system", "hi<|im_end|>"]
    assert all(answer["answer_tokens"] <= 4 and answer["seed"] == 7 for answer in answers)
    said = done.err
    for words in ("/reset        forget", "[system prompt: 规则]", "no command /nonsense", "anew]"):
        assert words in said, said
    assert "> " not in said and "/help lists commands" not in said, "that is for a terminal"


def test_answers_alone_go_to_standard_output(chat: Chat) -> None:
    options = ("--max-new-tokens", "5")
    plain = chat(b"a\nb\n", *options)
    # As an editor of Windows saves it.
    records = chat(b"\xef\xbb\xbfa\r\nb", "--json", *options)
    expected = [json.loads(line)["answer"] for line in records.out.splitlines()]
    assert len(expected) == 2
    assert plain.out == "".join(f"{answer}\n" for answer in expected)


@pytest.mark.parametrize(
    ("text", "options", "words"),
    [
        (b"ok\n\xff\xfe\n", ["--max-new-tokens", "2"], "line 2 of the input is not UTF-8"),
        (b"x" * 300, [], "takes 3"),
        (b"", ["--prompt", "x" * 300], "takes 3"),
        (b"", ["--prompt", "hi", "--system", "x" * 300], "with its system prompt takes 3"),
    ],
)
def test_what_cannot_be_answered_is_said(
    chat: Chat, text: bytes, options: list[str], words: str
) -> None:
    done = chat(text, *options)
    assert done.code == 2, done.err
    assert words in done.err.splitlines()[-1]


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--prompt", " "], "--prompt is empty"),
        (["--top-k", "5"], "--top-k has no effect at --temperature 0"),
        (["--top-p", "0.5"], "--top-p has no effect at --temperature 0"),
        (["--top-p", "1.5"], "(0, 1]"),
        (["--temperature", "-1"], "[0, 100]"),
        (["--max-new-tokens", "0"], "at least 1"),
        (["--checkpoint", "3"], "has no complete checkpoint of step 3"),
        (["--message", "x"], "--message"),
    ],
)
def test_options_are_checked_before_the_model_is_loaded(
    model: Path, options: list[str], words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    try:
        code: object = main(["chat", str(model), *options])
    except SystemExit as end:
        code = end.code
    assert code == 2
    assert words in capsys.readouterr().err


class Terminal:
    """The command at a terminal of its own (a pty)."""

    def __init__(self, model: Path, *options: str) -> None:
        self.screen = b""
        command = [sys.executable, "-m", "flows.cli", "chat", str(model), *options]
        self.pid, self.fd = pty.fork()
        if self.pid == 0:
            # A shell lets what it runs in the background ignore it, and so would the command.
            signal.signal(signal.SIGINT, signal.default_int_handler)
            os.environ |= {"TERM": "dumb", "COLUMNS": "200", "INPUTRC": "/dev/null"}
            os.execv(sys.executable, command)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        os.close(self.fd)
        with contextlib.suppress(ProcessLookupError, ChildProcessError):
            os.kill(self.pid, signal.SIGKILL)
            os.waitpid(self.pid, 0)

    def read(self, until: str, *, seconds: float = 300) -> str:
        """The screen up to a text; the rest stays for the next call."""
        end = time.monotonic() + seconds
        while until.encode() not in self.screen:
            assert time.monotonic() < end, (until, self.screen.decode(errors="replace"))
            if select.select([self.fd], [], [], 0.2)[0]:
                try:
                    self.screen += os.read(self.fd, 4096)
                except OSError:  # it has ended
                    assert until.encode() in self.screen, self.screen.decode(errors="replace")
        shown, self.screen = self.screen.split(until.encode(), 1)
        # Readline goes to the beginning of a line before it ends it.
        return re.sub("\r+\n", "\n", shown.decode() + until)

    def type(self, text: str) -> None:
        os.write(self.fd, text.encode())

    def end(self) -> int:
        """Wait for its end; returns the exit code."""
        with_rest = b""
        while True:
            try:
                with_rest += os.read(self.fd, 4096)
            except OSError:
                break
        self.screen += with_rest
        return os.waitstatus_to_exitcode(os.waitpid(self.pid, 0)[1])


@pytest.fixture
def terminal(model: Path) -> Iterator[Terminal]:
    with Terminal(model, "--max-new-tokens", "120", "--seed", "1", "--temperature", "1") as opened:
        yield opened


@pytest.mark.slow
def test_at_a_terminal(terminal: Terminal) -> None:
    greeting = terminal.read("\n> ")
    assert "SteelForCausalLM" in greeting and "context 200 tokens. /help lists" in greeting
    terminal.type("/help\r")
    helped = terminal.read("\n> ")
    assert "/system TEXT" in helped and "temperature 1, top-p 1, top-k 0" in helped

    terminal.type("你好<|im_end|>\r")
    shown = terminal.read("\n> ")
    assert shown.startswith("你好<|im_end|>\n")
    answer = shown.removeprefix("你好<|im_end|>\n").removesuffix("\n> ")
    assert answer
    control = {c for c in answer if ord(c) < 32 and c not in "\n\t"}
    assert not control, "it could write anywhere"

    terminal.type("/system 用中文回答\r")
    assert "[system prompt: 用中文回答]" in terminal.read("\n> ")
    terminal.type("/reset\r")
    assert "[the conversation begins anew]" in terminal.read("\n> ")
    terminal.type("x" * 250 + "\r")
    assert "shorten it]" in terminal.read("\n> ")
    shown = ""
    for _ in range(3):
        terminal.type("y" * 60 + "\r")
        shown += terminal.read("\n> ")
    assert "no longer fits into the model's context" in shown and "left out]" in shown

    terminal.type("\x04")  # Ctrl-D
    assert terminal.end() == 0


@pytest.mark.slow
def test_control_c_stops_the_answer_and_not_the_program(tmp_path: Path) -> None:
    folder = tmp_path / "model"
    shape = {"hidden_size": 16, "expert_intermediate_size": 8, "max_position_embeddings": 10**6}
    save_tiny_model(folder, byte_tokenizer(), seed=2, vocab_size=264, **shape)
    weights_never_end = ("--max-new-tokens", "900000", "--temperature", "5")
    with Terminal(folder, *weights_never_end) as terminal:
        terminal.read("\n> ")
        terminal.type("\x03")  # at the prompt
        assert "/exit or Ctrl-D ends" in terminal.read("\n> ")
        for _ in range(2):
            terminal.type("go\r")
            terminal.read("go\r\n")
            while len(terminal.screen) < 50:
                terminal.screen += os.read(terminal.fd, 4096)
            terminal.type("\x03")
            shown = terminal.read("\n> ")
            if "[stopped]" not in shown:  # the model ended it first, which is rare
                continue
        terminal.type("/exit\r")
        assert terminal.end() == 0
