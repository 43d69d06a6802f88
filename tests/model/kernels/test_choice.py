"""Functions that a config's `kernels` gives, on this machine and on others."""

import subprocess
import sys

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode

from common.errors import ConfigError
from model.kernels import IMPLEMENTATIONS, OPERATIONS, check_choice, choose, liger, triton_support
from model.kernels.cross_entropy import linear_cross_entropy_eager
from model.kernels.rms_norm import rms_norm_torch
from model.kernels.rope import rope_eager
from tests.processes import PATIENCE_SECONDS


def test_every_implementation_has_every_function_of_its_operation() -> None:
    assert IMPLEMENTATIONS.keys() == OPERATIONS.keys()
    for operation, implementations in IMPLEMENTATIONS.items():
        assert next(iter(implementations)) == "eager"
        for functions in implementations.values():
            assert len(functions) == len(OPERATIONS[operation])


def test_choice_by_operation_leaves_the_others_on_auto() -> None:
    assert choose("auto") == choose({})
    assert choose("eager").cross_entropy is linear_cross_entropy_eager
    chosen = choose({"rope": "eager"})
    assert chosen.rope is rope_eager
    assert chosen.cross_entropy == choose("auto").cross_entropy


def test_a_library_for_everything_is_used_where_it_has_the_operation() -> None:
    chosen = choose("torch")
    assert chosen.rms_norm is rms_norm_torch
    assert chosen.rope is rope_eager
    with pytest.raises(ConfigError, match="choose among"):
        choose({"rope": "torch"})


@pytest.mark.parametrize("wrong", ["fastest", {"rope": "fastest"}, {"attention": "eager"}])
def test_unknown_choices_are_refused(wrong: str | dict[str, str]) -> None:
    with pytest.raises(ConfigError, match="choose among"):
        check_choice(wrong)


@pytest.mark.skipif(triton_support.unavailable_reason() is None, reason="Triton's kernels run here")
def test_what_this_machine_cannot_run_is_refused_when_the_model_is_built() -> None:
    check_choice("triton")  # a config written on a GPU can still be read here
    with pytest.raises(ConfigError, match=r"'triton' for rms_norm, but .*kernels: auto"):
        choose("triton")


@pytest.mark.skipif(liger.unavailable_reason() is None, reason="Liger-Kernel runs here")
def test_a_missing_library_is_refused_with_what_to_install() -> None:
    with pytest.raises(ConfigError, match=r"'liger' for swiglu, but .*(install|GPU)"):
        choose({"swiglu": "liger"})


@pytest.mark.skipif(not triton_support.INSTALLED, reason="needs the package triton")
def test_auto_goes_by_the_device_of_each_call() -> None:
    """The same functions serve a model on the CPU and, moved, on a GPU (here a pretended one)."""
    norm = choose("auto").rms_norm
    called = []

    class Watch(torch.utils._python_dispatch.TorchDispatchMode):
        def __torch_dispatch__(self, function, types, args=(), kwargs=None):  # type: ignore[no-untyped-def]
            called.append(str(function))
            return function(*args, **(kwargs or {}))

    with Watch():
        norm(torch.ones(2, 4), torch.ones(4), 1e-6)
    assert not any("steel" in name for name in called)
    with FakeTensorMode() as mode, Watch():
        x = torch.empty(2, 4, device="cuda", dtype=torch.bfloat16)
        y = norm(x, torch.empty(4, device="cuda"), 1e-6)
    assert mode is not None
    assert any("steel.rms_norm" in name for name in called)
    assert (y.shape, y.dtype, y.device.type) == ((2, 4), torch.bfloat16, "cuda")


def test_everything_imports_and_runs_without_triton() -> None:
    program = (
        "import sys; sys.modules['triton'] = None\n"
        "import torch\n"
        "from model.kernels import choose, triton_support\n"
        "assert not triton_support.INSTALLED\n"
        "assert 'not installed' in triton_support.unavailable_reason()\n"
        "y = choose('auto').swiglu(torch.ones(3), torch.ones(3))\n"
        "assert y.isfinite().all()\n"
    )
    subprocess.run([sys.executable, "-c", program], check=True, timeout=PATIENCE_SECONDS)
