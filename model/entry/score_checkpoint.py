"""Measure one checkpoint of a pretraining: the program that `steel evaluate-checkpoints` starts.

    exported checkpoint ──loaded once──▶ benchmarks by letters and as a cloze (files of answers)
                                    └──▶ bits per byte of held-out texts, by source

It stands back for the training: the lowest priority there is, few threads. What has answers, or a
result, is skipped, so a second start goes on.
"""

import logging
import os
import signal
import sys
from pathlib import Path

import torch

from common.child import run_job
from common.files import read_json_lines, write_json
from common.processes import NICENESS, die_with_parent
from model.entry import evaluate
from model.entry.bits_per_byte import BATCH_LOGITS, TextLM, bits_per_byte
from model.evaluate.job import CheckpointJob, resolved_dtype
from model.train.distributed.context import distributed_context

log = logging.getLogger("steel.score_checkpoint")


def score(job: CheckpointJob) -> None:
    """Measure in this process, alone."""
    os.nice(NICENESS)
    torch.set_num_threads(job.threads)
    with distributed_context(timeout_minutes=60) as ranks:
        scored = job.evaluate
        evaluate.check_kernels_of(scored.model, resolved_dtype(scored.dtype), ranks)
        lm = evaluate.load(scored, ranks.device)
        evaluate.run(scored, lm, ranks)
        network, tokenizer = lm.model, lm.tokenizer
        size = max(1, BATCH_LOGITS // (job.window * len(tokenizer)))
        texts = TextLM(network, tokenizer, batch_size=size, max_length=job.window)
        folder = Path(job.results)
        folder.mkdir(parents=True, exist_ok=True)
        for source, file in job.texts.items():
            result = folder / f"{source}.json"
            if not result.exists():
                write_json(
                    result,
                    bits_per_byte(texts, [row["text"] for row in read_json_lines(Path(file))]),
                )
            log.info("%s: measured", source)


if __name__ == "__main__":
    die_with_parent(signal.SIGKILL)
    for noisy in ("lm_eval", "datasets", "transformers"):
        logging.getLogger(noisy).setLevel(logging.ERROR)
    sys.exit(run_job(CheckpointJob, score, sys.argv[1:]))
