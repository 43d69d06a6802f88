"""Numbers of samples that are reported are those of the samples that reached the network."""

import itertools
import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from model.train.run.folder import PREPARED_FILE
from tests.model.train.finetune import recording
from tests.model.train.finetune.gradients import chatml, encode
from tests.model.train.finetune.recording import content, curve, documents, make_job
from tests.tiny_chat import conversations, pairs

pytestmark = pytest.mark.usefixtures("in_this_process")

MAX_LENGTH = 200


def train(method: str, output: Path) -> Counter[int]:
    """Run a job; returns the content of every sequence that the network was given."""
    given: Counter[int] = Counter()

    def note_documents(network: Any, arguments: Any, inputs: dict[str, Any]) -> None:
        given.update(content(ids) for ids in documents({**inputs, "labels": arguments[1]}))

    def prepare(trainer: Any) -> None:
        trainer.train_step.model_with_loss.register_forward_pre_hook(
            lambda network, given, named: note_documents(
                network, given, {**named, "input_ids": given[0]}
            ),
            with_kwargs=True,
        )

    assert recording.train(method, output, prepare=prepare) == 0
    return given


def check(output: Path, sets: dict[str, int], drawn: Counter[str]) -> None:
    counts = json.loads((output / PREPARED_FILE).read_text())
    assert {name: of["trained_on"] for name, of in counts["sets"].items()} == sets
    assert {name: of["drawn"] for name, of in counts["sets"].items()} == drawn
    for of_set in counts["sets"].values():
        kept = of_set["trained_on"] + of_set["held_out"]
        assert of_set["drawn"] == kept + sum(of_set["left_out"].values())
        assert sum(of_set["languages"].values()) == of_set["trained_on"]
    assert counts["trained_on"] == sum(sets.values())
    assert counts["left_out"] == drawn.total() - counts["trained_on"]
    assert curve(output)[-1][1]["data/samples"] == counts["trained_on"]
    assert curve(output)[-1][0] == counts["steps"]
    assert curve(output)[-1][1]["data/tokens"] == counts["tokens"]


def in_set(name: str, rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [{**row, "set": name} for row in rows]


def whole_answers(messages: list[dict[str, str]]) -> list[int]:
    """Ids up to the last answer that fits, of a conversation that does not."""
    ids, labels = chatml(messages)
    if len(ids) <= MAX_LENGTH:
        return ids
    pairs = enumerate(itertools.pairwise(labels[: MAX_LENGTH + 1]), start=1)
    return ids[: max(end for end, (a, b) in pairs if a != -100 and b == -100)]


@pytest.mark.parametrize(("packing", "grouped"), [(False, False), (True, True)])
def test_conversations(base: Path, tmp_path: Path, packing: bool, grouped: bool) -> None:
    good, long, damaged = conversations(5), conversations(4), conversations(9)[1:]
    for row in long:  # no answer has room
        row["messages"].insert(0, {"role": "system", "content": "规" * 99})
        row["messages"] = [
            m for n, m in enumerate(row["messages"]) if not n or m["role"] != "system"
        ]
    question = {"role": "user", "content": "q"}
    answer = {"role": "assistant", "content": "a"}
    nothing = {"role": "assistant", "content": "\n "}
    damaged[0]["messages"] = [question, nothing]
    damaged[1]["messages"] = [question, nothing, {**question, "content": "k" * 200}, answer]
    damaged[2]["messages"] = [question, nothing, {**question, "content": "m"}, answer]
    damaged[3]["messages"] = [question, {**answer, "content": "z" * 300}]
    damaged[4]["messages"] = [{**question, "content": "e" * 98}, {**answer, "content": "b" * 9}]
    rows = in_set("good", good) + in_set("long", long) + in_set("damaged", damaged)
    settings = {"packing": packing, "group_by_length": grouped, "epochs": 1}
    make_job("sft", base, tmp_path, rows, max_length=MAX_LENGTH, **settings)
    given = train("sft", tmp_path)
    wanted = good + damaged[2:3] + damaged[4:]
    assert given == Counter(content(whole_answers(row["messages"])) for row in wanted)
    check(
        tmp_path,
        {"good": 5, "long": 0, "damaged": 5},
        Counter(good=5, long=4, damaged=len(damaged)),
    )


@pytest.mark.parametrize("grouped", [False, True])
def test_pairs(base: Path, tmp_path: Path, grouped: bool) -> None:
    good, long, damaged = pairs(5), pairs(4), pairs(8)
    for row in long:
        row["prompt"][0]["content"] = "题" * 99
    damaged[0]["rejected"] = damaged[0]["chosen"]  # alike from the start
    for name, end in (("chosen", "good"), ("rejected", "bad")):  # alike when cut
        damaged[1][name][0]["content"] = "a" * MAX_LENGTH + end
    damaged[2]["chosen"][0]["content"] = " "
    damaged[3]["rejected"][0]["content"] = ""
    damaged[4]["chosen"][0]["content"] = "x" * 300  # cut, and different
    damaged[6] = {**damaged[5]}  # the same pair twice
    rows = in_set("good", good) + in_set("long", long) + in_set("damaged", damaged)
    settings = {"group_by_length": grouped, "epochs": 1}
    make_job("dpo", base, tmp_path, rows, max_length=MAX_LENGTH, **settings)
    given = train("dpo", tmp_path)
    wanted: Counter[int] = Counter()
    for row in [*good, damaged[5], damaged[7]]:
        prompt = chatml(row["prompt"])[0] + encode("<|im_start|>assistant\n")
        for answer in (row["chosen"], row["rejected"]):
            wanted[content(prompt + encode(f"{answer[0]['content']}<|im_end|>"))] += 1
    assert given == wanted
    check(
        tmp_path,
        {"good": 5, "long": 0, "damaged": 2},
        Counter(good=5, long=4, damaged=len(damaged)),
    )


def test_what_is_held_out_is_in_no_count_of_what_is_trained_on(
    base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("model.train.finetune.held_out.MIN_ROWS", 1)
    rows = in_set("one", conversations(40)) + in_set("two", conversations(60)[40:])
    for number, row in enumerate(rows):
        row["language"] = ("zh", "en", "other")[number % 3]
        if number % 4 == 0:
            row["messages"] += [
                {"role": "user", "content": "more"},
                {"role": "assistant", "content": "y" * 200},
            ]
    settings = {"epochs": 1, "validation_fraction": 0.4, "max_length": MAX_LENGTH}
    make_job("sft", base, tmp_path, rows, **settings)
    assert recording.train("sft", tmp_path) == 0
    names = {content(whole_answers(row["messages"])): row for row in rows}
    given = [names[name] for step in recording.seen(tmp_path).values() for name in step]
    counts = json.loads((tmp_path / PREPARED_FILE).read_text())
    assert 0 < len(given) == counts["trained_on"] < len(rows)
    assert counts["held_out"] == len(rows) - len(given)
    for name, of_set in counts["sets"].items():
        mine = [row for row in given if row["set"] == name]
        assert of_set["trained_on"] == len(mine)
        assert of_set["languages"] == Counter(row["language"] for row in mine)
        assert of_set["tokens"] == sum(len(whole_answers(row["messages"])) for row in mine)
        long = [row for row in mine if len(chatml(row["messages"])[0]) > MAX_LENGTH]
        assert of_set["cut"] == len(long)
    last = [line for _, line in curve(tmp_path) if "train/loss" in line][-1]
    assert last["data/tokens"] == counts["tokens"]
    assert last["data/targets"] == counts["target_tokens"]
