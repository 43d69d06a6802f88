"""`python -m tasks._juicer job.json`: clean the sources of one kind. Started by tasks/clean.py.

Progress goes to `<job>.progress`, an error meant for the user to `<job>.error`; the ledger is
written last, so its existence means that all outputs are complete.
"""

import contextlib
import ctypes
import json
import logging
import os
import shutil
import signal
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import IO, Any

from model.errors import SteelError
from tasks._files import complete_file, json_line
from tasks._juicer.job import Job
from tasks._juicer.lm_config import LanguageModelConfig

PROXY_TOKENIZER = "EleutherAI/pythia-6.9b-deduped"
"""The hub id that alphanumeric_filter has built in; a folder of this name is taken first."""


def main(argv: list[str]) -> int:
    """Do the job in a file; exit status 0, or 2 with a message for the user in `<job>.error`."""
    _die_with_parent()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s")
    path = Path(argv[0])
    job = Job(**json.loads(path.read_text(encoding="utf-8")))
    progress = Progress(path.with_suffix(".progress"))
    try:
        work(job, progress)
    except SteelError as error:
        path.with_suffix(".error").write_text(
            json.dumps({"type": type(error).__name__, "message": str(error)}), encoding="utf-8"
        )
        return 2
    return 0


def work(job: Job, progress: "Progress") -> None:
    """Clean every source of the job."""
    progress.say(0, 1, "loading operators")
    # Data-Juicer reads its environment while it is imported.
    os.environ["DATA_JUICER_EXTERNAL_MODELS_HOME"] = job.models
    _never_install()
    from tasks._juicer import language_model, pipeline, recipe
    from tasks._juicer.ledger import Ledger

    cleaning = recipe.load(job.recipe)
    models, notes = Path(job.models), {}
    if cleaning.needs_tokenizer:
        _place_tokenizer(job.tokenizer, models / PROXY_TOKENIZER)
    if cleaning.needs_language_model:
        (language,) = cleaning.languages
        config = LanguageModelConfig(**job.language_model)
        if config.folder is None and not (models / f"{language}.arpa.bin").exists():
            progress.say(0, 1, "training the language model")
            leading = []
            for operator in cleaning.operators:
                if operator.kind != "mapper":
                    break
                leading.append(operator)
            texts = pipeline.map_texts(pipeline.build(leading), _training_texts(job, config))
            notes["language_model"] = language_model.train(texts, models, language, config)
    operators = pipeline.build(cleaning.operators)
    ledger = Ledger(
        job.kind, [op.name for op in cleaning.operators], list(job.inputs), job.examples
    )
    with ExitStack() as stack:
        files: dict[str, IO[bytes]] = {
            source: stack.enter_context(complete_file(Path(job.output) / f"{source}.jsonl"))
            for source in job.inputs
        }
        for document in pipeline.run(operators, _documents(job, progress), ledger, Path(job.spool)):
            files[document["source"]].write(json_line(document))
    ledger.check()
    with complete_file(Path(job.ledger)) as file:
        content = {
            "rows": ledger.rows(), "statistics": ledger.statistics(), "dropped": ledger.dropped,
            "changed": ledger.changed, "notes": notes,
        }  # fmt: skip
        file.write(json_line(content))


def _documents(job: Job, progress: "Progress") -> Iterator[dict[str, Any]]:
    total = sum(Path(path).stat().st_size for path in job.inputs.values())
    done, count = 0, 0
    for source, path in job.inputs.items():
        with Path(path).open("rb") as file:
            for line in file:
                done, count = done + len(line), count + 1
                progress.say(done, total, f"{count} documents read ({source})")
                yield json.loads(line)
    progress.say(total, total, f"{count} documents: looking for duplicates, writing")


def _training_texts(job: Job, config: LanguageModelConfig) -> Iterator[str]:
    """Texts of the model's sources, up to its share of characters for each."""
    sources = [s for s in config.sources if s in job.inputs] or list(job.inputs)
    left = config.max_characters
    for position, source in enumerate(sources):
        share = left // (len(sources) - position)
        with Path(job.inputs[source]).open("rb") as file:
            for line in file:
                text = json.loads(line)["text"]
                if len(text) > share:
                    break
                share, left = share - len(text), left - len(text)
                yield text


def _place_tokenizer(source: str, folder: Path) -> None:
    """Save our tokenizer under the name that Data-Juicer looks for."""
    if (folder / "tokenizer.json").exists():
        return
    from tasks._tokenizer import configured_tokenizer

    aside = folder.with_name(f"{folder.name}.tmp")
    shutil.rmtree(aside, ignore_errors=True)
    configured_tokenizer(source).save_pretrained(aside)
    aside.replace(folder)


def _never_install() -> None:
    """Make Data-Juicer fail on a missing package instead of installing it.

    Environment variables do not suffice: an offline installer still installs from its cache.
    """
    from data_juicer.utils.lazy_loader import LazyLoader

    def refuse(cls: type, package: str, *args: Any, **kwargs: Any) -> bool:
        raise ImportError(f"{package} is not installed, and nothing is installed at run time")

    LazyLoader._install_package = classmethod(refuse)


def _die_with_parent() -> None:
    """Ask the kernel (Linux) to end this process when the one that started it is gone."""
    with contextlib.suppress(OSError, AttributeError):
        pr_set_pdeathsig = 1
        ctypes.CDLL(None).prctl(pr_set_pdeathsig, signal.SIGKILL)


class Progress:
    """How far the job is, in a small file that the parent reads."""

    EVERY = 0.5

    def __init__(self, path: Path) -> None:
        self.path, self.last = path, 0.0

    def say(self, done: int, total: int, what: str) -> None:
        """Write the file, at most every `EVERY` seconds, except at the ends."""
        now = time.monotonic()
        if now - self.last < self.EVERY and 0 < done < total:
            return
        self.last = now
        aside = self.path.with_name(f"{self.path.name}.tmp")
        aside.write_text(json.dumps([done, total, what]), encoding="utf-8")
        aside.replace(self.path)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
