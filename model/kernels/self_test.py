"""Self-test of kernels: chosen implementations against the eager reference, on the device itself.

    python -m model.kernels.self_test JOB.json      in a process of its own: a wrong kernel may end
                                                    it, hang it, or spoil its CUDA context
    JOB.jsonl   {"state": "ready"} {"operation": "rope", "state": "begun"} {…, "state": "passed"}
                {"operation": "swiglu", "state": "failed", "reason": "… differs by …"}

It ends with the first operation that fails, since nothing on that device can be trusted then; the
one who started it starts another for the rest (model/train/distributed/tested_kernels.py).

Each case calls a function of `Kernels` as the model does, on small odd shapes and on a few tokens
of the model's own widths, which decide about a kernel's blocks. The reference is the eager function
in fp32 on the CPU, of the same rounded inputs: it shares neither device nor precision with what it
judges. All results and all gradients, of a random weighting of the results, are compared.
"""

import json
import sys
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from common.child import run_job
from common.processes import die_with_parent
from model.kernels import IMPLEMENTATIONS, OPERATIONS

OF_TORCH = ("eager", "torch", "chunked")
"""Implementations made of torch's own operations: nothing of ours or of a library to be tested."""

TOLERANCE = {torch.float32: 1e-4, torch.bfloat16: 2e-2}
"""Largest error of a result, relative to its norm: three times that of right kernels in bf16, which
keeps 8 bits, and more in fp32 (docs/adr/0084). One element of a row that is missing is more."""

ELEMENT = 10.0
"""Largest error of one element: this many tolerances of its own size and of a typical one."""

TOKENS = 7
"""Tokens of a case with the model's own widths: odd, and few."""

EPSILON = 1e-6
"""Of RMSNorm."""

IGNORED = -100
"""Target that does not count."""


@dataclass(frozen=True, kw_only=True)
class Widths:
    """Sizes of a model that decide how its kernels are compiled."""

    hidden: int
    """Hidden size d."""
    heads: int
    """Query heads."""
    key_heads: int
    """Key and value heads."""
    head_dim: int
    """Width of a head, even."""
    experts: int
    """Experts n; 1 for a model without."""
    inner: int
    """Width h of an expert."""
    slots: int
    """Slots of all experts."""
    vocabulary: int
    """Rows of the output projection V."""


ODD = Widths(
    hidden=37, heads=3, key_heads=1, head_dim=10, experts=3, inner=5, slots=6, vocabulary=131
)
"""Small odd sizes: every block has a rest."""


@dataclass(frozen=True, kw_only=True)
class SelfTestJob:
    """Implementations to be tested, and where."""

    implementations: dict[str, str]
    """Operation -> implementation, in this order."""
    device: str
    """Torch's name of the device."""
    dtype: str
    """Torch's name of the training's dtype."""
    widths: Widths
    """Sizes of the model."""
    merged: list[str]
    """Merged products of the model, whose functions are tested, too (model/merged_products.py)."""
    results: str
    """File of results, a line each."""


@dataclass(frozen=True, kw_only=True)
class Case:
    """A call of one function of an operation."""

    name: str
    """Function of `Kernels`, and its shapes in words."""
    function: int
    """Number of the function among those of its operation."""
    inputs: tuple[Tensor, ...]
    """Numbers in fp64 that gradients are taken of."""
    dtypes: tuple[torch.dtype, ...]
    """Type of each in the model."""
    call: Callable[..., tuple[Tensor, ...]]
    """Calls a function with the inputs and `others`; returns all results."""
    others: tuple[Tensor, ...] = field(default=())
    """Further arguments of `call`, without gradient."""
    products: tuple[str, ...] = ()
    """Merged products, one of which a model must have to call this function; empty: all call it."""


def needs_test(implementations: dict[str, str]) -> dict[str, str]:
    """Those of operation -> implementation that a self-test is for."""
    return {name: chosen for name, chosen in implementations.items() if chosen not in OF_TORCH}


def compare(
    operation: str,
    name: str,
    *,
    device: torch.device,
    dtype: torch.dtype,
    widths: Widths,
    merged: Collection[str] = (),
) -> str:
    """Compare an implementation with the reference, for a model with these merged products.

    Returns the first difference in words; "" where there is none. Raises what the kernel raises.
    """
    for sizes, tokens in ((ODD, 33), (widths, TOKENS)):
        for case in CASES[operation](sizes, tokens, dtype):
            if case.products and not set(case.products) & set(merged):
                continue
            found = _run(IMPLEMENTATIONS[operation][name], case, device, case.dtypes)
            wide = (torch.float32,) * len(case.dtypes)
            reference = IMPLEMENTATIONS[operation]["eager"]
            wanted = _run(reference, case, torch.device("cpu"), wide)
            for what, tensor in wanted.items():
                if problem := _difference(found[what], tensor, TOLERANCE[dtype]):
                    return f"{case.name}: {what} {problem}"
    return ""


def _run(
    functions: tuple[Callable[..., Any], ...],
    case: Case,
    device: torch.device,
    dtypes: tuple[torch.dtype, ...],
) -> dict[str, Tensor | None]:
    """Results and gradients of a case, by their names, on the CPU."""
    rounded = [x.to(dtype) for x, dtype in zip(case.inputs, case.dtypes, strict=True)]
    leaves = [
        x.to(device, dtype).requires_grad_() for x, dtype in zip(rounded, dtypes, strict=True)
    ]
    # Copies: some implementations write into what they are given.
    results = case.call(
        functions[case.function],
        *(leaf.clone() for leaf in leaves),
        *(other.to(device) for other in case.others),
    )
    weighted = [
        (y.float() * _normal(*y.shape, seed=90 + number).to(y.device, torch.float32)).sum()
        for number, y in enumerate(results)
        if y.requires_grad
    ]
    torch.stack(weighted).sum().backward()  # type: ignore[no-untyped-call]
    values = {f"result {number}": y.detach().cpu() for number, y in enumerate(results, 1)}
    gradients = {
        f"gradient {number}": None if leaf.grad is None else leaf.grad.cpu()
        for number, leaf in enumerate(leaves, 1)
    }
    return {**values, **gradients}


def _difference(found: Tensor | None, wanted: Tensor | None, limit: float) -> str:
    """Say how a result differs; "" where it is as close as its type allows."""
    assert wanted is not None, "the reference has a gradient of every input"
    if found is None:
        return "is missing"
    if found.shape != wanted.shape:
        return f"has shape {list(found.shape)} instead of {list(wanted.shape)}"
    found, wanted = found.double(), wanted.double()
    if not found.isfinite().all():
        return "has a NaN or an infinity"
    error, norm = (found - wanted).abs(), float(wanted.norm())
    if float(error.norm()) > limit * norm:
        share = float(error.norm()) / max(norm, 1e-30)
        return f"differs by {share:.2g} of its norm ({limit:g} is allowed)"
    typical = norm / max(wanted.numel(), 1) ** 0.5
    allowed = ELEMENT * limit * (wanted.abs() + typical)
    if (error > allowed).any():
        place = int((error - allowed).argmax())
        one, other = float(found.flatten()[place]), float(wanted.flatten()[place])
        return f"is {one:.4g} instead of {other:.4g} at element {place}"
    return ""


# ── cases ────────────────────────────────────────────────────────────────────────────────────────


def _normal(*shape: int, seed: int = 0) -> Tensor:
    """Normal numbers in fp64."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(shape, generator=generator, dtype=torch.float64)


def _one(function: Callable[..., Tensor], *arguments: Any) -> tuple[Tensor, ...]:
    return (function(*arguments),)


def _norms(sizes: Widths, tokens: int, dtype: torch.dtype) -> Iterator[Case]:
    d = sizes.hidden
    x, residual, weight = _normal(tokens, d), _normal(tokens, d, seed=1), _normal(d, seed=2)
    shape = f"[{tokens}, {d}]"
    yield Case(
        name=f"rms_norm {shape}",
        function=0,
        inputs=(x, weight),
        dtypes=(dtype, dtype),
        call=lambda f, x, w: (f(x, w, EPSILON),),
    )
    yield Case(
        name=f"add_rms_norm {shape}",
        function=1,
        inputs=(x, residual, weight),
        dtypes=(dtype, dtype, dtype),
        call=lambda f, x, r, w: f(x, r, w, EPSILON),
    )


def _rope(sizes: Widths, tokens: int, dtype: torch.dtype) -> Iterator[Case]:
    """Query and key lie in memory as projections write them, [B, M, heads, width]."""

    def call(function: Callable[..., Any], *given: Tensor) -> tuple[Tensor, ...]:
        query, key, cos, sin = given
        rotated: tuple[Tensor, ...] = function(query.transpose(1, 2), key.transpose(1, 2), cos, sin)
        return rotated

    half = sizes.head_dim // 2
    for rows in (1, 2):  # angles of one row for all, or of each
        angles = _normal(rows, 1, tokens, half, seed=2).float() * 3
        query = _normal(2, tokens, sizes.heads, 2 * half)
        key = _normal(2, tokens, sizes.key_heads, 2 * half, seed=1)
        yield Case(
            name=f"rope {list(query.shape)}",
            function=0,
            inputs=(query, key),
            dtypes=(dtype, dtype),
            call=call,
            others=(angles.cos(), angles.sin()),
        )
        product = _normal(2, tokens, (sizes.heads + 2 * sizes.key_heads) * 2 * half)
        yield Case(
            name=f"rope_qkv {list(product.shape)}",
            function=1,
            inputs=(product,),
            dtypes=(dtype,),
            call=lambda f, x, cos, sin: f(x, sizes.key_heads, cos, sin),
            others=(angles.cos(), angles.sin()),
            products=("qkv",),
        )


def _swiglu(sizes: Widths, tokens: int, dtype: torch.dtype) -> Iterator[Case]:
    shape = (tokens, sizes.experts * sizes.inner)
    yield Case(
        name=f"swiglu {list(shape)}",
        function=0,
        inputs=(_normal(*shape), _normal(*shape, seed=1)),
        dtypes=(dtype, dtype),
        call=_one,
    )
    yield Case(
        name=f"swiglu_halves {list(shape)}",
        function=1,
        inputs=(_normal(tokens, 2 * shape[1]),),
        dtypes=(dtype,),
        call=_one,
        products=("ffn_in", "ffn_out"),
    )


def _soft_moe(sizes: Widths, tokens: int, dtype: torch.dtype) -> Iterator[Case]:
    d, n, h = sizes.hidden, sizes.experts, sizes.inner
    yield Case(
        name=f"route [{tokens}, {d}] to {sizes.slots}",
        function=0,
        inputs=(_normal(tokens, d), _normal(sizes.slots, d, seed=1)),
        dtypes=(dtype, torch.float32),
        call=_one,
    )
    weights = _normal(tokens, n, seed=3).softmax(dim=-1)
    second = (_normal(n, h, d, seed=1) / h**0.5, _normal(n, h, d, seed=2) / h**0.5)
    yield Case(
        name=f"combine [{tokens}, {n} x {h}] to {d}",
        function=1,
        inputs=(_normal(tokens, n * h), *second, weights),
        dtypes=(dtype, dtype, dtype, torch.float32),
        call=_one,
    )
    yield Case(
        name=f"combine_halves [{tokens}, {n} x {h}] to {d}",
        function=2,
        inputs=(_normal(tokens, n * h), torch.cat(second, dim=-1), weights),
        dtypes=(dtype, dtype, torch.float32),
        call=_one,
        products=("ffn_out",),
    )


def _cross_entropy(sizes: Widths, tokens: int, dtype: torch.dtype) -> Iterator[Case]:
    """Every third target does not count. Of the hidden size the kernels see nothing."""

    def call(function: Callable[..., Any], *given: Tensor) -> tuple[Tensor, ...]:
        hidden, weight, targets = given
        losses = torch.zeros(len(targets), dtype=torch.float32, device=targets.device)
        total = function(
            hidden, weight, targets, ignore_index=IGNORED, reduction="sum", token_losses=losses
        )
        return total, losses

    width, generator = 16, torch.Generator().manual_seed(2)
    targets = torch.randint(0, sizes.vocabulary, (tokens,), generator=generator)
    targets[::3] = IGNORED
    yield Case(
        name=f"cross_entropy [{tokens}, {sizes.vocabulary}]",
        function=0,
        inputs=(_normal(tokens, width), _normal(sizes.vocabulary, width, seed=1) * 0.75),
        dtypes=(dtype, dtype),
        call=call,
        others=(targets,),
    )


CASES: dict[str, Callable[[Widths, int, torch.dtype], Iterator[Case]]] = {
    "rms_norm": _norms,
    "rope": _rope,
    "swiglu": _swiglu,
    "soft_moe": _soft_moe,
    "cross_entropy": _cross_entropy,
}
"""Operation -> its cases for (sizes, tokens, dtype)."""

assert CASES.keys() == OPERATIONS.keys(), "every operation has its cases"


# ── the child ────────────────────────────────────────────────────────────────────────────────────


def run(job: SelfTestJob) -> None:
    """Test one implementation after the other, up to the first that fails."""
    die_with_parent()
    device, dtype = torch.device(job.device), getattr(torch, job.dtype)
    if device.type == "cuda":
        torch.cuda.set_device(device)
    with Path(job.results).open("a", encoding="utf-8") as file:
        told = partial(_tell, file)
        # A device that computes nothing is no kernel's fault: it is not ready then.
        assert float(torch.ones(3, device=device).sum()) == 3
        told(state="ready")
        for operation, name in job.implementations.items():
            told(operation=operation, state="begun")
            try:
                reason = compare(
                    operation,
                    name,
                    device=device,
                    dtype=dtype,
                    widths=job.widths,
                    merged=job.merged,
                )
            except Exception as error:  # whatever a compiler, a driver or a library raises
                if "out of memory" in str(error):
                    raise  # others have it: nothing is known of the kernel
                reason = f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"
            if reason:
                told(operation=operation, state="failed", reason=reason)
                return
            told(operation=operation, state="passed")


def _tell(file: Any, **line: str) -> None:
    file.write(json.dumps(line) + "\n")
    file.flush()


def main(argv: list[str]) -> int:
    """Run the job in the JSON file `argv[0]`; returns the exit code."""
    return run_job(SelfTestJob, run, argv)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
