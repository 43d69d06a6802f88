"""Encoded sets on disk, and conversations cut behind the last answer that fits."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from common.errors import DataError
from common.files import read_json_lines
from model.data.dataset import IGNORED
from model.tokenizer.conversation import conversation_encoder
from model.train.finetune.build import load_tokenizer
from model.train.finetune.config import SftJob, SftSettings
from model.train.finetune.encoded import EncodedSet, EncodedWriter, write_encoded
from model.train.finetune.encoding import digest_of_texts, encode_conversations
from model.train.finetune.samples import training_samples
from model.train.run.folder import LEFT_OUT_FILE, MIXTURE_FILE, PREPARED_FILE
from tests.tiny_chat import write_lines


@pytest.fixture(scope="module")
def tokenizer(base: Path) -> Any:
    return load_tokenizer(str(base))


def chat(*turns: str) -> list[dict[str, str]]:
    return [
        {"role": ("user", "assistant")[number % 2], "content": text}
        for number, text in enumerate(turns)
    ]


def samples_of(base: Path, folder: Path, rows: list[Any], **options: Any) -> tuple[Any, Any]:
    """The samples of a job whose data are these rows, and its prepared.json."""
    folder.mkdir()
    sets = options.pop("sets", {})
    job = SftJob(
        settings=SftSettings(**options),
        model=str(base),
        data=str(write_lines(folder / MIXTURE_FILE, rows)),
        output=str(folder),
        scratch=str(folder / "scratch"),
        sets=sets,
    )
    found = training_samples(job, load_tokenizer(str(base)))
    return found, json.loads((folder / PREPARED_FILE).read_text())


PIECES = [*"aZ 9.\n中é💡<|>", "<|im_end|>", "<|im_start|>", "assistant"]
TEXT = st.lists(st.sampled_from(PIECES), max_size=12).map("".join)


@given(st.lists(st.lists(TEXT, min_size=2, max_size=6), min_size=1, max_size=4))
def test_many_are_encoded_as_each_alone(tokenizer: Any, conversations: list[list[str]]) -> None:
    chats = [chat(*turns) for turns in conversations]
    for messages, (ids, spoken, why) in zip(
        chats, encode_conversations(chats, tokenizer), strict=True
    ):
        said = [m["content"].strip() for m in messages if m["role"] == "assistant"]
        if not any(said):
            assert (ids, why) == ([], "empty answer")
            continue
        expected, mask = conversation_encoder(tokenizer).encode(messages)
        assert ids == expected
        if all(said):
            assert spoken == mask
        else:
            assert sum(spoken) < sum(mask)


def test_real_conversations_are_encoded_as_transformers_does(full: Any, shared: Path) -> None:
    from corpus.chats import Sample, read_samples

    folder = shared / "data" / "sft"
    for name, place in {"sharegpt_zh": "sharegpt", "moss_chat": "moss"}.items():
        found: Any = [s for s in read_samples("sft", folder / place, name) if isinstance(s, Sample)]
        chats = [[*chat.content.messages] for chat in found[:60]]
        for messages, (ids, spoken, _) in zip(
            chats, encode_conversations(chats, full), strict=True
        ):
            expected = full.apply_chat_template(
                messages, return_dict=True, return_assistant_tokens_mask=True
            )
            assert ids == expected["input_ids"]
            assert spoken == expected["assistant_masks"]


def test_a_long_conversation_ends_behind_its_last_answer_that_fits(
    base: Path, tokenizer: Any, tmp_path: Path
) -> None:
    end = conversation_encoder(tokenizer).turn_end()
    messages = chat("ask", "one", "ask more", "two" * 10, "ask again", "three" * 20)
    (whole, spoken, _) = encode_conversations([messages], tokenizer)[0]
    ends = [n + 1 for n in range(len(whole) - 1) if spoken[n] and not spoken[n + 1]]
    assert len(ends) == 3
    for number, max_length in enumerate(range(ends[0], len(whole) + 2)):
        found, counts = samples_of(
            base, tmp_path / str(number), [{"messages": messages}], max_length=max_length
        )
        ids, labels = found[0]["input_ids"].tolist(), found[0]["labels"].tolist()
        fits = len(whole) if max_length >= len(whole) else max(e for e in ends if e <= max_length)
        assert ids == whole[:fits]
        assert [n for n in labels if n != IGNORED][-1] == end
        assert labels == [
            id_ if mark else IGNORED for id_, mark in zip(whole[:fits], spoken, strict=False)
        ]
        assert (found.lengths[0], counts["tokens"]) == (fits, fits)
        assert found.targets[0] == counts["target_tokens"] == sum(spoken[1:fits])
        assert counts["cut"] == int(fits < len(whole))


def test_what_is_left_out_is_counted_by_set_and_reason(base: Path, tmp_path: Path) -> None:
    rows: list[Any] = [
        {"messages": chat("ask", "answer"), "set": "a", "language": "en"},
        {"messages": chat("ask " * 90, "answer"), "set": "a"},
        {"messages": chat("ask", "answer " * 90), "set": "b"},
        {"messages": chat("ask", " "), "set": "b"},
        {"messages": chat("ask", "answer", "more", "answer " * 90), "set": "b"},
    ]
    found, counts = samples_of(base, tmp_path / "run", rows, max_length=200)
    assert counts["sets"]["a"]["left_out"] == {"prompt fills max_length": 1}
    assert counts["sets"]["b"]["left_out"] == {
        "first answer ends beyond max_length": 1,
        "empty answer": 1,
    }
    assert (counts["drawn"], counts["trained_on"], counts["cut"]) == (5, 2, 1)
    assert [row["line"] for row in read_json_lines(tmp_path / "run" / LEFT_OUT_FILE)] == [2, 3, 4]
    assert [found.names[n] for n in found.name] == ["a", "b"]
    with pytest.raises(DataError, match=r"max_length = 8 .*a: 1 of 1 \(prompt fills"):
        samples_of(base, tmp_path / "none", rows[:1], max_length=8)


def test_rows_of_encoded_sets_are_the_conversations_that_were_encoded(
    base: Path, tokenizer: Any, tmp_path: Path
) -> None:
    chats = [chat(f"ask {n}", "answer " * n) for n in range(1, 8)]
    encoded = encode_conversations(chats, tokenizer)

    def part(numbers: range) -> Any:
        writer = EncodedWriter()
        for n in numbers:
            ids, spoken, why = encoded[n]
            digest = digest_of_texts(m["content"] for m in chats[n])
            columns = {"ids": ids, "spoken": spoken}
            writer.add(columns, digest=digest, language="en" if n else "zh", left_out=why, at=n)
        return writer.arrays(), writer.names(), 0

    write_encoded(tmp_path / "set", [part(range(3)), part(range(3, 3)), part(range(3, 7))])
    write_encoded(tmp_path / "once", [part(range(7))])
    for path in (tmp_path / "set").iterdir():
        assert path.read_bytes() == (tmp_path / "once" / path.name).read_bytes(), path.name
    rows = [{"set": "s", "row": n, "language": "en"} for n in (6, 0, 3)]
    sets = {"s": str(tmp_path / "set")}
    found, counts = samples_of(base, tmp_path / "run", rows, sets=sets)
    inline, same = samples_of(
        base,
        tmp_path / "inline",
        [{"messages": chats[n], "set": "s", "language": "en"} for n in (6, 0, 3)],
    )
    assert counts == same
    assert np.array_equal(found.digests, inline.digests)
    for number in range(3):
        for column, values in found[number].items():
            assert values.tolist() == inline[number][column].tolist()
    opened = EncodedSet.open(tmp_path / "set")
    assert [opened.languages[n] for n in opened.notes["language"]] == ["zh", *["en"] * 6]
    damaged = tmp_path / "set" / "spoken.npy"
    damaged.write_bytes(damaged.read_bytes()[:-1])
    with pytest.raises(DataError, match="no complete encoded set"):
        EncodedSet.open(tmp_path / "set")
