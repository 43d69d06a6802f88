"""Cross entropy of a projection against torch's own loss on full logits in float64."""

import pytest
import torch
from torch import Tensor

from model.kernels.cross_entropy import _run, linear_cross_entropy
from tests.model.kernels.cases import cases, close, functions, loss_inputs

SHAPES = [(1, 1, 2), (5, 7, 11), (13, 3, 123), (64, 16, 1000), (65, 33, 257)]
"""(T, d, V): odd, smaller and larger than the chunks below."""


def truth(hidden: Tensor, weight: Tensor, targets: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Loss and both gradients in float64, from torch's own functions."""
    hidden, weight = hidden.detach().double(), weight.detach().double()
    hidden.requires_grad_()
    weight.requires_grad_()
    loss = torch.nn.functional.cross_entropy(hidden @ weight.T, targets, ignore_index=-100)
    return (loss, *torch.autograd.grad(loss, (hidden, weight)))


def results(name: str, device: str, case: tuple[Tensor, ...], **options: object) -> list[Tensor]:
    """Loss and both gradients, as `truth` gives them."""
    (implementation,) = functions("cross_entropy", name)
    hidden, weight = (x.clone().to(device).requires_grad_() for x in case[:2])
    loss = implementation(hidden, weight, case[2].to(device), **options)
    assert loss.dtype == torch.float32
    loss.backward()
    assert hidden.grad is not None and weight.grad is not None
    assert hidden.grad.dtype == hidden.dtype and weight.grad.dtype == weight.dtype
    return [loss, hidden.grad, weight.grad]


@pytest.mark.parametrize(("name", "device"), cases("cross_entropy"))
@pytest.mark.parametrize("chunk_size", [None, 8])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_fp32_agrees_with_torch(
    shape: tuple[int, int, int], chunk_size: int | None, name: str, device: str
) -> None:
    case = loss_inputs(shape, torch.float32)
    found = results(name, device, case, chunk_size=chunk_size)
    for one, wanted in zip(found, truth(*case), strict=True):
        close(one, wanted, 1e-5)


def test_chunks_of_one_token() -> None:
    case = loss_inputs((13, 3, 123), torch.float32)
    for one, wanted in zip(
        results("chunked", "cpu", case, chunk_size=1), truth(*case), strict=True
    ):
        close(one, wanted, 1e-5)


@pytest.mark.parametrize(("name", "device"), cases("cross_entropy"))
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_bf16_is_as_good_as_bf16_allows(
    shape: tuple[int, int, int], name: str, device: str
) -> None:
    case = loss_inputs(shape, torch.bfloat16)
    loss, grad_hidden, grad_weight = results(name, device, case, chunk_size=16)
    wanted = truth(*case)
    # fp32 logits make the loss exact; bf16 logits are each off by up to 0.2 %.
    close(loss, wanted[0], 1e-5 if name == "chunked" else 1e-2)
    close(grad_hidden, wanted[1], 2e-2)
    close(grad_weight, wanted[2], 2e-2)


@pytest.mark.parametrize(("name", "device"), cases("cross_entropy"))
def test_huge_logits(name: str, device: str) -> None:
    hidden, weight, targets = loss_inputs((9, 4, 50), torch.float32)
    case = hidden * 1e3, weight, targets
    for one, wanted in zip(results(name, device, case), truth(*case), strict=True):
        close(one, wanted, 1e-4)


@pytest.mark.parametrize(("name", "device"), cases("cross_entropy"))
def test_nothing_kept_gives_zero_and_zero_gradients(name: str, device: str) -> None:
    hidden, weight, targets = loss_inputs((5, 7, 11), torch.float32)
    loss, *gradients = results(name, device, (hidden, weight, torch.full_like(targets, -100)))
    assert loss.item() == 0
    assert not any(gradient.any() for gradient in gradients)


@pytest.mark.parametrize(("name", "device"), cases("cross_entropy"))
def test_inputs_that_are_parts_of_others(name: str, device: str) -> None:
    (implementation,) = functions("cross_entropy", name)
    case = loss_inputs((13, 3, 123), torch.float32)
    hidden, weight, targets = (torch.stack((x, x), dim=-1).to(device)[..., 0] for x in case)
    assert not targets.is_contiguous()
    close(implementation(hidden, weight, targets, chunk_size=5), truth(*case)[0], 1e-5)


def test_no_tokens_give_zero() -> None:
    case = torch.empty(0, 7), torch.ones(11, 7), torch.empty(0, dtype=torch.long)
    loss, _, grad_weight = results("chunked", "cpu", case)
    assert loss.item() == 0
    assert not grad_weight.any()


@pytest.mark.parametrize(("name", "device"), cases("cross_entropy"))
def test_only_the_wanted_gradient_is_made(name: str, device: str) -> None:
    (implementation,) = functions("cross_entropy", name)
    case = loss_inputs((13, 3, 123), torch.float32)
    wanted = truth(*case)
    for learns in (0, 1):
        leaves = [x.clone().to(device) for x in case[:2]]
        leaves[learns].requires_grad_()
        implementation(*leaves, case[2].to(device), chunk_size=5).backward()
        assert leaves[1 - learns].grad is None
        close(leaves[learns].grad, wanted[1 + learns], 1e-5)
    with torch.no_grad():
        leaves = [x.to(device) for x in case]
        close(implementation(*leaves, chunk_size=5), wanted[0], 1e-5)


@pytest.mark.parametrize(("name", "device"), cases("cross_entropy"))
def test_gradients_summed_over_many_chunks_stay_good(name: str, device: str) -> None:
    """In bf16 the Triton way rounds dW after every chunk: the error must stay a few roundings."""
    case = loss_inputs((128, 8, 40), torch.bfloat16)
    _, _, grad_weight = results(name, device, case, chunk_size=16)
    wanted = truth(*case)[2]
    error = (grad_weight.double().cpu() - wanted).norm() / wanted.norm()
    assert error < 8e-3


@pytest.mark.parametrize(
    ("name", "device"), [c for c in cases("cross_entropy") if c.values[0].startswith("triton")]
)
def test_a_target_outside_of_the_vocabulary_is_not_read(name: str, device: str) -> None:
    hidden, weight, targets = loss_inputs((5, 7, 11), torch.float32)
    (implementation,) = functions("cross_entropy", name)
    for wrong in (11, 2**40, -1):
        targets[1] = wrong
        loss = implementation(hidden.to(device), weight.to(device), targets.to(device))
        assert loss.isnan()


def test_incoming_gradient_scales_both_gradients() -> None:
    hidden, weight, targets = loss_inputs((13, 3, 123), torch.float32)
    expected = truth(hidden, weight, targets)
    hidden.requires_grad_()
    weight.requires_grad_()
    (linear_cross_entropy(hidden, weight, targets, chunk_size=4) * -2.5).backward()
    torch.testing.assert_close(hidden.grad.double(), expected[1] * -2.5, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(weight.grad.double(), expected[2] * -2.5, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("frozen", ["hidden", "weight"])
def test_either_input_may_be_frozen(frozen: str) -> None:
    hidden, weight, targets = loss_inputs((13, 3, 123), torch.float32)
    expected = truth(hidden, weight, targets)
    learns, wanted = (weight, expected[2]) if frozen == "hidden" else (hidden, expected[1])
    learns.requires_grad_()
    linear_cross_entropy(hidden, weight, targets, chunk_size=4).backward()
    torch.testing.assert_close(learns.grad.double(), wanted, rtol=1e-5, atol=1e-6)


def test_huge_logits_do_not_overflow() -> None:
    hidden, weight, targets = loss_inputs((5, 7, 11), torch.float32)
    expected, *_ = truth(hidden * 1e4, weight, targets)
    found = linear_cross_entropy(hidden * 1e4, weight, targets)
    torch.testing.assert_close(found.double(), expected, rtol=1e-5, atol=1e-3)


def test_no_tensor_of_all_logits_is_made() -> None:
    num_tokens, vocabulary, chunk_size = 96, 501, 8
    hidden, weight, targets = loss_inputs((num_tokens, 4, vocabulary), torch.float32)
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


@pytest.mark.parametrize(("name", "device"), cases("cross_entropy"))
def test_each_tokens_loss_is_reported_without_a_gradient(name: str, device: str) -> None:
    (implementation,) = functions("cross_entropy", name)
    hidden, weight, targets = (x.to(device) for x in loss_inputs((13, 3, 123), torch.float32))
    hidden.requires_grad_()
    losses = torch.full((13,), torch.nan, device=device)
    implementation(hidden, weight, targets, chunk_size=4, token_losses=losses)
    expected = torch.nn.functional.cross_entropy(hidden @ weight.T, targets, reduction="none")
    torch.testing.assert_close(losses, expected.detach())
    assert losses[targets == -100].eq(0).all()
    assert not losses.requires_grad
