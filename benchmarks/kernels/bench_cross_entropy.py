"""Output projection and loss: time beside the matrix products alone, and memory.

python -m benchmarks.kernels.bench_cross_entropy [--json out.json]
"""

from collections.abc import Callable
from functools import partial
from typing import Any

import torch

from benchmarks.kernels._comparison import Case, Row, candidates, run
from benchmarks.kernels._timing import Setup, seconds_per_call
from model.cost.memory import chunk_rows
from model.kernels.cross_entropy import linear_cross_entropy_triton

TIME_TARGET = 1.15
"""Upper bound of the time, as a multiple of the three matrix products'."""

MEMORY_TARGET = 1.5
"""Upper bound of the memory beside the gradients, in GiB."""

CHUNKS = (1024, 2048, 8192)


def shape(setup: Setup) -> tuple[int, int, int]:
    """Tokens, width, vocabulary: 8 x 2,048 tokens of Table 1."""
    return (64, 32, 512) if setup.tiny else (16_384, 1792, 151_936)


def cases(setup: Setup) -> list[Case]:
    """All implementations, and the Triton kernel with other sizes of chunks."""
    tokens, width, vocabulary = shape(setup)

    def make() -> tuple[torch.Tensor, ...]:
        targets = torch.randint(0, vocabulary, (tokens,), device=setup.device)
        targets[::50] = -100
        return setup.random(tokens, width), setup.random(vocabulary, width, scale=0.02), targets

    flops = 2 * tokens * width * vocabulary
    loss = Case(
        name="cross_entropy",
        operation="cross_entropy",
        candidates=candidates("cross_entropy", 0, setup),
        make=make,
        forward_flops=flops,
        notes={"chunked": "logits and sums in fp32", "eager": "all logits at once"},
    )
    if isinstance(loss.candidates["triton"], str):
        return [loss]
    chunks: dict[str, Callable[..., Any] | str] = {"by memory": linear_cross_entropy_triton}
    for rows in CHUNKS:
        chunks[str(rows)] = partial(linear_cross_entropy_triton, chunk_size=rows)
    sizes = Case(
        name="triton, chunks of", operation="", candidates=chunks, make=make, forward_flops=flops
    )
    return [loss, sizes]


def floor(setup: Setup, rows: list[Row]) -> dict[str, Any]:
    """Time of the three matrix products alone, in the same chunks, and of every candidate."""
    tokens, width, vocabulary = shape(setup)
    chunk = chunk_rows(tokens, vocabulary * setup.dtype.itemsize)
    hidden = setup.random(tokens, width, learns=False)
    weight = setup.random(vocabulary, width, scale=0.02, learns=False)
    logits = setup.random(min(chunk, tokens), vocabulary, learns=False)
    grad_hidden, grad_weight = torch.empty_like(hidden), torch.empty_like(weight)

    def products() -> None:
        for start in range(0, tokens, chunk):
            part = hidden[start : start + chunk]
            torch.mm(part, weight.t(), out=logits[: len(part)])
            torch.mm(logits[: len(part)], weight, out=grad_hidden[start : start + chunk])
            torch.mm(logits[: len(part)].t(), part, out=grad_weight)

    seconds = seconds_per_call(products, setup)
    teraflops = 6 * tokens * width * vocabulary / seconds / 1e12
    print(f"floor: {seconds * 1e3:.3f} ms for the three matrix products, {teraflops:.1f} TFLOP/s")
    gradients = (hidden.numel() + weight.numel()) * setup.dtype.itemsize / 2**30
    found = {}
    for row in rows:
        if row.what == "forward" or row.milliseconds is None:
            continue
        over = row.milliseconds / (seconds * 1e3)
        extra = None if row.extra_gibibytes is None else row.extra_gibibytes - gradients
        met = over <= TIME_TARGET and (extra is None or extra <= MEMORY_TARGET)
        found[f"{row.case} {row.candidate}"] = {
            "times_the_floor": over,
            "extra_gibibytes_beside_gradients": extra,
        }
        memory = "" if extra is None else f", {extra:.2f} GiB beside the gradients"
        outcome = "" if setup.tiny else (", meets the target" if met else ", misses the target")
        print(f"{row.case} {row.candidate}: {over:.2f} times the floor{memory}{outcome}")
    return {"floor_milliseconds": seconds * 1e3, "floor_teraflops": teraflops, "beside_it": found}


if __name__ == "__main__":
    title = __doc__.split("\n")[0]
    run(title, cases, module="benchmarks.kernels.bench_cross_entropy", more=floor)
