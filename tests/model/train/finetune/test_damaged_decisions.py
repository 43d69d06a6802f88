"""Files of scratch that are damaged, cut, empty or missing are made again, as they were."""

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from common.errors import DataError
from model.train.finetune.build import load_tokenizer, sft_method
from model.train.finetune.preferences.method import dpo_method
from model.train.finetune.templates import training_template
from model.train.run.folder import PREPARED_FILE
from tests.model.train.finetune.recording import make_job
from tests.tiny_chat import byte_tokenizer, write_model

FAULTS: dict[str, Callable[[bytes], bytes | None]] = {
    "flipped": lambda old: (
        old[: len(old) // 2] + bytes([old[len(old) // 2] ^ 4]) + old[len(old) // 2 + 1 :]
    ),
    "cut": lambda old: old[:-40],
    "empty": lambda old: b"",
    "missing": lambda old: None,
}


@pytest.mark.parametrize(("method", "file"), [("sft", "samples.npz"), ("dpo", "pairs.npz")])
def test_decisions_are_made_again(tmp_path: Path, method: str, file: str) -> None:
    model = write_model(tmp_path / "model")
    job: Any = make_job(method, model, tmp_path / "run")
    make: Any = {"sft": sft_method, "dpo": dpo_method}[method]
    tokenizer = load_tokenizer(str(model))
    make(job, tokenizer)
    paths = Path(job.scratch) / file, Path(job.output) / PREPARED_FILE
    before = [path.read_bytes() for path in paths]
    for path, old in zip(paths, before, strict=True):
        for name, fault in FAULTS.items():
            if name == "flipped" and path.suffix == ".json":
                continue  # a number may become another one
            content = fault(old)
            if content is None:
                path.unlink()
            else:
                path.write_bytes(content)
            found = make(job, tokenizer)
            assert len(found.samples) == 11
            arrays, counts = (path.read_bytes() for path in paths)
            assert json.loads(counts) == json.loads(before[1]), (path.name, name)
            assert _without_times(arrays) == _without_times(before[0]), (path.name, name)


def _without_times(archive: bytes) -> bytes:
    """A zip archive names the second in which it was written; these are not."""
    return re.sub(rb"PK[\x01\x03].{30}", b"", archive, flags=re.DOTALL)


def test_a_template_without_marks_is_refused_by_name(tmp_path: Path) -> None:
    tokenizer = byte_tokenizer()
    tokenizer.chat_template = "{% for m in messages %}{{ m['content'] }}{% endfor %}"
    with pytest.raises(DataError, match="does not mark what the assistant says"):
        training_template(tokenizer)
