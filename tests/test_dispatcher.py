"""How the ops are registered, according to the dispatcher's own table."""

import inspect
import re

import pytest
import torch
from op_table import DISTINCT_OPS, OPS, Op

import ste

EVERY_OP = pytest.mark.parametrize("op", DISTINCT_OPS, ids=str)


def kernels(op: Op) -> dict[str, str]:
    """Dispatch key -> the registered kernel."""
    table = torch._C._dispatch_dump_table(f"ste::{op.name}")
    return dict(line.split(": ", 1) for line in table.strip().splitlines())


@EVERY_OP
def test_no_autograd_key_falls_to_the_composite_kernel(op: Op) -> None:
    """Otherwise autograd differentiates the composite kernel instead of the op: for a step, zero without an error."""
    fallen = {
        key.removeprefix("Autograd")
        for key, kernel in kernels(op).items()
        if key.startswith("Autograd") and "[math kernel]" in kernel
    }
    if ste.backend().name == "native":
        assert not fallen
    elif op.straight_through:
        # Python has no names for these keys. The composite kernel refuses them, which test_errors checks.
        assert fallen <= {"HIP", "MAIA", "MTIA", "VE"}
    # The fallback's tensor_clamp has only the composite kernel, whose own gradient is the right one.


@EVERY_OP
def test_the_forward_is_composite_and_batching_is_our_own(op: Op) -> None:
    table = kernels(op)
    assert "[math kernel]" in table["XLA"]
    assert "[backend fallback]" not in table["FuncTorchBatched"]


@EVERY_OP
def test_the_schema_is_that_of_the_python_backend(op: Op) -> None:
    inferred = torch.library.infer_schema(op.autograd_class.forward, mutates_args=())
    schema = re.sub(r"(=\d+\.)0\b", r"\1", f"ste::{op.name}{inferred}")
    assert str(op.overload._schema) == schema
    names = [argument.name for argument in op.overload._schema.arguments]
    # By position, as __torch_function__ receives a call. Arguments that only the function takes come last.
    assert list(inspect.signature(op.public).parameters)[: len(names)] == names
    assert (torch.Tag.pointwise in op.overload.tags) == op.autograd_class.is_pointwise


def test_every_op_is_in_the_table() -> None:
    registered = {name for name in torch._C._dispatch_get_all_op_names() if name.startswith("ste::")}
    assert registered == {f"ste::{op.name}" for op in DISTINCT_OPS}
    public = [*ste.ops_ste.__all__, *ste.ops.__all__, *ste.quantization.__all__, *ste.blocks.__all__]
    others = {"max_int", "max_uint", "min_int", "quantize", "lsq_grad_scale", "FloatFormat"}
    others |= {"BLOCK_RECIPES", "BlockRecipe", "block_scale", "block_zero_point"}
    functions = set(public) - others
    assert functions == {op.name for op in DISTINCT_OPS}
    assert {f"{op.name}_fn" for op in DISTINCT_OPS} == set(ste.autograd_ops.__all__)


@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf")  # torch 2.14's opcheck looks
@pytest.mark.parametrize("op", OPS, ids=str)
def test_opcheck(op: Op) -> None:
    """Necessary, but proves little: it passes on registrations whose gradients are zero."""
    x = torch.tensor([-3.3, 0.4], requires_grad=True)
    torch.library.opcheck(op.overload, op.in_order(x, *op.arguments_for(x.detach())))
