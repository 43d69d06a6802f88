"""linear_cross_entropy against torch's own loss on full logits in float64."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from model.kernels import linear_cross_entropy, linear_cross_entropy_eager
from model.kernels.cross_entropy import _run

SHAPES = [(1, 1, 2), (5, 7, 11), (13, 3, 123), (64, 16, 1000), (129, 33, 257)]
"""(T, d, V): odd, smaller and larger than the chunks below."""


def inputs(shape: tuple[int, int, int], dtype: torch.dtype, seed: int = 0) -> tuple[Tensor, ...]:
    num_tokens, width, vocabulary = shape
    generator = torch.Generator().manual_seed(seed)
    hidden = torch.randn(num_tokens, width, generator=generator).to(dtype)
    weight = (3 * torch.randn(vocabulary, width, generator=generator) / width**0.5).to(dtype)
    targets = torch.randint(0, vocabulary, (num_tokens,), generator=generator)
    if num_tokens > 2:
        targets[::3] = -100
    return hidden, weight, targets


def truth(hidden: Tensor, weight: Tensor, targets: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Loss and both gradients in float64, from torch's own functions."""
    hidden, weight = hidden.detach().double(), weight.detach().double()
    hidden.requires_grad_()
    weight.requires_grad_()
    loss = torch.nn.functional.cross_entropy(hidden @ weight.T, targets, ignore_index=-100)
    return (loss, *torch.autograd.grad(loss, (hidden, weight)))


@pytest.mark.parametrize("implementation", [linear_cross_entropy, linear_cross_entropy_eager])
@pytest.mark.parametrize("chunk_size", [1, 8, 1024])
@pytest.mark.parametrize("shape", SHAPES)
def test_fp32_agrees_with_torch(
    shape: tuple[int, int, int], chunk_size: int, implementation
) -> None:
    hidden, weight, targets = inputs(shape, torch.float32)
    expected = truth(hidden, weight, targets)
    hidden.requires_grad_()
    weight.requires_grad_()
    loss = implementation(hidden, weight, targets, chunk_size=chunk_size)
    loss.backward()
    for found, wanted in zip((loss, hidden.grad, weight.grad), expected, strict=True):
        torch.testing.assert_close(found.double(), wanted, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("shape", SHAPES)
def test_bf16_loss_is_exact_and_gradients_are_as_good_as_bf16_allows(
    shape: tuple[int, int, int],
) -> None:
    hidden, weight, targets = inputs(shape, torch.bfloat16)
    loss_64, hidden_64, weight_64 = truth(hidden, weight, targets)
    hidden.requires_grad_()
    weight.requires_grad_()
    loss = linear_cross_entropy(hidden, weight, targets, chunk_size=16)
    loss.backward()
    assert loss.dtype == torch.float32
    torch.testing.assert_close(loss.double(), loss_64, rtol=1e-5, atol=1e-6)
    for found, wanted in ((hidden.grad, hidden_64), (weight.grad, weight_64)):
        assert found.dtype == torch.bfloat16
        scale = wanted.abs().max().item()
        torch.testing.assert_close(found.double(), wanted, rtol=2e-2, atol=1e-2 * scale)


@settings(max_examples=30, deadline=None)
@given(
    num_tokens=st.integers(1, 20),
    chunk_size=st.integers(1, 25),
    ignored=st.sets(st.integers(0, 19)),
    ignore_index=st.sampled_from([-100, -1, 3]),
    seed=st.integers(0, 2**16),
)
def test_sum_over_any_chunks_and_ignored_targets(
    num_tokens: int, chunk_size: int, ignored: set[int], ignore_index: int, seed: int
) -> None:
    hidden, weight, targets = inputs((num_tokens, 6, 9), torch.float32, seed)
    targets.clamp_(min=0)
    for index in ignored:
        targets[index % num_tokens] = ignore_index
    found = linear_cross_entropy(
        hidden, weight, targets, ignore_index, chunk_size=chunk_size, reduction="sum"
    )
    expected = torch.nn.functional.cross_entropy(
        hidden @ weight.T, targets, ignore_index=ignore_index, reduction="sum"
    )
    torch.testing.assert_close(found, expected)


def test_nothing_kept_gives_zero_and_zero_gradients() -> None:
    hidden, weight, targets = inputs((5, 7, 11), torch.float32)
    hidden.requires_grad_()
    loss = linear_cross_entropy(hidden, weight, torch.full_like(targets, -100))
    loss.backward()
    assert loss.item() == 0
    assert hidden.grad is not None
    assert not hidden.grad.any()


def test_incoming_gradient_scales_both_gradients() -> None:
    hidden, weight, targets = inputs((13, 3, 123), torch.float32)
    expected = truth(hidden, weight, targets)
    hidden.requires_grad_()
    weight.requires_grad_()
    (linear_cross_entropy(hidden, weight, targets, chunk_size=4) * -2.5).backward()
    torch.testing.assert_close(hidden.grad.double(), expected[1] * -2.5, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(weight.grad.double(), expected[2] * -2.5, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("frozen", ["hidden", "weight"])
def test_either_input_may_be_frozen(frozen: str) -> None:
    hidden, weight, targets = inputs((13, 3, 123), torch.float32)
    expected = truth(hidden, weight, targets)
    learns, wanted = (weight, expected[2]) if frozen == "hidden" else (hidden, expected[1])
    learns.requires_grad_()
    linear_cross_entropy(hidden, weight, targets, chunk_size=4).backward()
    torch.testing.assert_close(learns.grad.double(), wanted, rtol=1e-5, atol=1e-6)


def test_huge_logits_do_not_overflow() -> None:
    hidden, weight, targets = inputs((5, 7, 11), torch.float32)
    expected, *_ = truth(hidden * 1e4, weight, targets)
    found = linear_cross_entropy(hidden * 1e4, weight, targets)
    torch.testing.assert_close(found.double(), expected, rtol=1e-5, atol=1e-3)


def test_no_tensor_of_all_logits_is_made() -> None:
    num_tokens, vocabulary, chunk_size = 96, 501, 8
    hidden, weight, targets = inputs((num_tokens, 4, vocabulary), torch.float32)
    largest = 0

    class Watch(torch.utils._python_dispatch.TorchDispatchMode):
        def __torch_dispatch__(self, function, types, args=(), kwargs=None):  # type: ignore[no-untyped-def]
            nonlocal largest
            result = function(*args, **(kwargs or {}))
            if isinstance(result, Tensor):
                largest = max(largest, result.numel())
            return result

    with Watch():
        # Inside of the operator, where a mode around it does not look.
        _run(hidden, weight, targets, -100, chunk_size, False, True, True)
    assert largest == max(chunk_size * vocabulary, 4 * vocabulary)


@pytest.mark.parametrize(
    ("hidden", "weight", "targets", "chunk_size"),
    [
        ((5, 3), (9, 4), (5,), 4),
        ((2, 5, 3), (9, 3), (10,), 4),
        ((5, 3), (9, 3), (4,), 4),
        ((5, 3), (9, 3), (5,), 0),
    ],
)
def test_shapes_that_do_not_fit_are_refused(
    hidden: tuple[int, ...], weight: tuple[int, ...], targets: tuple[int, ...], chunk_size: int
) -> None:
    with pytest.raises(ValueError, match="must be"):
        linear_cross_entropy(
            torch.zeros(hidden),
            torch.zeros(weight),
            torch.zeros(targets, dtype=torch.long),
            chunk_size=chunk_size,
        )


@pytest.mark.parametrize("implementation", [linear_cross_entropy, linear_cross_entropy_eager])
def test_each_tokens_loss_is_reported_without_a_gradient(implementation) -> None:
    hidden, weight, targets = inputs((13, 3, 123), torch.float32)
    hidden.requires_grad_()
    losses = torch.full((13,), torch.nan)
    implementation(hidden, weight, targets, chunk_size=4, token_losses=losses)
    expected = torch.nn.functional.cross_entropy(hidden @ weight.T, targets, reduction="none")
    torch.testing.assert_close(losses, expected.detach())
    assert losses[targets == -100].eq(0).all()
    assert not losses.requires_grad
