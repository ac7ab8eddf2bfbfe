"""The native and the Python backend give the same bits and the same error messages."""

from pathlib import Path

import pytest
import torch
from bits import assert_same_bits, values
from op_table import FLOATING, INTEGER, OPS, Op
from processes import run

import ste

EVERY_OP = pytest.mark.parametrize("op", OPS, ids=str)


@EVERY_OP
@pytest.mark.parametrize("dtype", FLOATING, ids=str)
def test_functions_and_autograd_classes(op: Op, dtype: torch.dtype, device: str) -> None:
    """Whichever backend the functions use, the classes are the Python backend."""
    x = values(dtype, device)
    arguments = op.arguments_for(x)
    results = []
    for call in (op.public, op.autograd_class.apply):
        leaf = x.clone().requires_grad_()
        y = call(*op.in_order(leaf, *arguments))
        (gradient,) = torch.autograd.grad(y, leaf, torch.linspace(-3, 3, x.numel(), device=device).to(dtype))
        results.append((y, gradient))
    (y, gradient), (y_of_class, gradient_of_class) = results
    assert_same_bits(y, y_of_class, x)
    assert_same_bits(gradient, gradient_of_class, x)


# Everything that a backend returns: results and gradients of every op on every value, from the eager call and through
# the dispatcher, the gradients of bounds, and every error.
RECORD = """
import sys, warnings
warnings.simplefilter("ignore")
import torch, ste
torch.set_num_threads(2)
from bits import values
from op_table import BOUNDS, FLOATING, INTEGER, OPS
from test_errors import CASES

recorded = {}

def record(key, function, *args):
    try:
        args = [a.clone().requires_grad_(a.is_floating_point()) if isinstance(a, torch.Tensor) else a for a in args]
        y = function(*args)
        leaves = [a for a in args if isinstance(a, torch.Tensor) and a.requires_grad]
        # Multiples of 1/4: a sum of them is exact in whatever order.
        g = (torch.linspace(-12, 12, y.numel(), dtype=torch.float64).round() / 4).reshape(y.shape).to(y.dtype)
        gradients = torch.autograd.grad(y, leaves, g, allow_unused=True) if y.requires_grad else []
        recorded[key] = [y.detach(), *gradients]
    except (RuntimeError, TypeError, ValueError) as error:
        recorded[key] = f"{type(error).__name__}: {error}"

for op in OPS:
    for dtype in FLOATING + INTEGER:
        x = values(dtype)
        for name, function in (("eager", op.public), ("dispatcher", op.overload)):
            record((str(op), str(dtype), name), function, *op.in_order(x, *op.arguments_for(x)))
for bounds in BOUNDS:
    for dtype in FLOATING + INTEGER:
        x = values(dtype)
        record((str(bounds), str(dtype), "scalar"), ste.scalar_clamp_ste, x, *bounds)
        for bounds_dtype in (torch.float64, torch.float32, torch.bfloat16):
            if dtype.is_floating_point or not any(b != b for b in bounds):  # NaN for an integer is unspecified
                tensors = [torch.tensor(b, dtype=torch.float64).to(bounds_dtype) for b in bounds]
                for clamp in (ste.tensor_clamp, ste.tensor_clamp_ste):
                    record((clamp.__name__, str(bounds), str(dtype), str(bounds_dtype)), clamp, x, *tensors)
for name, (_, call, _) in CASES.items():
    record(name, call)
torch.save(recorded, sys.argv[1])
print(ste.backend().name)
"""


@pytest.mark.skipif(ste.backend().name != "native", reason="one backend has nothing to agree with")
def test_everything(tmp_path: Path) -> None:
    recorded = {}
    for backend in ("native", "python"):
        assert run(RECORD, tmp_path / backend, backend=backend) == f"{backend}\n"
        recorded[backend] = torch.load(tmp_path / backend)
    native, python = recorded["native"], recorded["python"]
    assert native.keys() == python.keys()
    assert len(native) > len(OPS) * len(FLOATING + INTEGER)
    for key, result in native.items():
        if isinstance(result, str):
            assert result == python[key], key
            continue
        assert len(result) == len(python[key]), key
        for i, (ours, theirs) in enumerate(zip(result, python[key])):
            assert (ours is None) == (theirs is None), key
            if "fake_quantize" in str(key) and i > 1:  # of the scale and the zero point: sums, each in its own order
                torch.testing.assert_close(ours, theirs, equal_nan=True, msg=str(key))
            elif ours is not None:
                if (
                    "clamp" in str(key) and key[-1] != "scalar"
                ):  # the sign of a zero at a bound of the other is unspecified
                    ours, theirs = (torch.where(t == 0, 0.0, t).to(t.dtype) for t in (ours, theirs))
                try:
                    assert_same_bits(ours, theirs)
                except AssertionError as error:
                    raise AssertionError(f"{key}: {error}") from None
