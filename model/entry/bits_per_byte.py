"""Measure how well a model predicts texts: the program that the stage `bits_per_byte` starts.

    texts ──windows of the training's length──▶ log P ──sum / (bytes x ln 2)──▶ bits per byte

lm-eval's rolling log-likelihood, so that figures compare with its `bits_per_byte` of other models:
a text is cut into windows, each token is predicted once, from the tokens of its window before it.
Bytes do not depend on a tokenizer. A kind of text that has a result is skipped.
"""

import logging
import math
import signal
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from lm_eval.api.instance import Instance

from common.child import run_job
from common.errors import DataError
from common.files import read_json_lines, write_json
from common.processes import die_with_parent
from model.entry.evaluate import check_kernels_of, dtype_on, load_model
from model.evaluate.choice_lm import ChoiceLM
from model.evaluate.job import BitsPerByteJob
from model.train.distributed.context import distributed_context
from model.train.run.metrics import JsonlSink

log = logging.getLogger("steel.bits_per_byte")

BATCH_LOGITS = 1 << 26
"""Numbers of a batch's logits: 256 MB."""


class TextLM(ChoiceLM):
    """lm-eval's model for whole texts; control tokens that a text spells out are text."""

    def tok_encode(self, string: str, *args: Any, **kwargs: Any) -> list[int]:
        """Token ids of a text, without any that begin or end it."""
        ids: list[int] = self._encoder.encode_text(string, add_special_tokens=False)
        return ids


def measure(job: BitsPerByteJob) -> None:
    """Measure each kind of text in this process."""
    with distributed_context(timeout_minutes=120) as ranks:
        check_kernels_of(job.model, dtype_on(ranks.device, job.dtype), ranks)
        model, tokenizer = load_model(Path(job.model), job.dtype, ranks.device)
        size = max(1, BATCH_LOGITS // (job.window * len(tokenizer)))
        if getattr(model.config, "leaks", False):
            raise DataError(
                f"{job.model}: routing {model.config.routing} looks ahead, so its likelihood of a "
                "text says nothing"
            )
        lm = TextLM(model, tokenizer, batch_size=size, max_length=job.window)
        sink = JsonlSink(Path(job.metrics))
        folder = Path(job.results)
        folder.mkdir(parents=True, exist_ok=True)
        sink.resume(0)
        for step, (kind, file) in enumerate(job.texts.items(), start=1):
            result = folder / f"{kind}.json"
            if not result.exists():
                texts = [row["text"] for row in read_json_lines(Path(file))]
                write_json(result, bits_per_byte(lm, texts))
            log.info("%s: measured", kind)
            sink.log(step, {})


@torch.inference_mode()
def bits_per_byte(lm: ChoiceLM, texts: Sequence[str]) -> dict[str, Any]:
    """Total bits and bytes of texts under a model, and their ratio; see the top of the file."""
    requests = [
        Instance(request_type="loglikelihood_rolling", doc={}, arguments=(text,), idx=index)
        for index, text in enumerate(texts)
    ]
    nats: list[float] = lm.loglikelihood_rolling(requests, disable_tqdm=True)
    bits = [-value / math.log(2) for value in nats]
    sizes = [len(text.encode()) for text in texts]
    return {
        "bits_per_byte": sum(bits) / sum(sizes),
        "bits": sum(bits),
        "bytes": sum(sizes),
        "texts": len(texts),
        "bits_of_texts": bits,
        "bytes_of_texts": sizes,
    }


if __name__ == "__main__":
    die_with_parent(signal.SIGKILL)
    for noisy in ("lm_eval", "datasets", "transformers"):
        logging.getLogger(noisy).setLevel(logging.ERROR)
    sys.exit(run_job(BitsPerByteJob, measure, sys.argv[1:]))
