"""`torch.export` and AOTInductor."""

import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import subjects
import torch
import torch._inductor.config
from bits import assert_same_bits, special_values
from processes import run
from subjects import OPS, Op, X
from torch import Tensor
from torch.export import Dim, ExportedProgram, export

row = pytest.mark.row
EVERY_OP = pytest.mark.parametrize("op", OPS, ids=str)
MODES = pytest.mark.parametrize("mode", ["default", "strict"])
G = torch.tensor([1.0, -2.0, 3.0, 4.0])
ROWS = torch.stack([X, X / 2, X * 2 + 0.25])


class Module(torch.nn.Module):
    """op(2 x) * 3 with the op's arguments as attributes, and tensors as buffers."""

    def __init__(self, op: Op, x: Tensor) -> None:
        super().__init__()
        self.op = op
        self.arguments: list[Any] = []
        for i, argument in enumerate(op.arguments_for(x)):
            if isinstance(argument, Tensor):
                self.register_buffer(f"argument{i}", argument.clone())  # export warns about views
                argument = f"argument{i}"
            self.arguments.append(argument)

    def forward(self, x: Tensor) -> Tensor:
        arguments = [getattr(self, a, a) if isinstance(a, str) else a for a in self.arguments]
        return self.op.function(x * 2, *arguments) * 3


class OfEachBatch(torch.nn.Module):
    """The same, with tensors that are created for each x."""

    def __init__(self, op: Op) -> None:
        super().__init__()
        self.op = op

    def forward(self, x: Tensor) -> Tensor:
        return self.op(x * 2) * 3


class Every(torch.nn.Module):
    """All ops, stacked."""

    def __init__(self, x: Tensor) -> None:
        super().__init__()
        self.each = torch.nn.ModuleList(Module(op, x) for op in OPS)

    def forward(self, x: Tensor) -> Tensor:
        return torch.stack([module(x) for module in self.each])


def exported(module: torch.nn.Module, x: Tensor, **options: Any) -> ExportedProgram:
    with warnings.catch_warnings():
        # torch's own warnings about what a release deprecates in itself.
        warnings.simplefilter("ignore", FutureWarning)
        warnings.simplefilter("ignore", DeprecationWarning)
        return export(module, (x,), **options)


def check(function: Callable[[Tensor], Any], op: Op, x: Tensor) -> None:
    leaf = x.clone().requires_grad_()
    y = function(leaf)
    assert torch.equal(y, op.expected(x * 2) * 3)
    g = G.expand_as(x)
    (gradient,) = torch.autograd.grad(y, leaf, g)
    assert torch.equal(gradient, 6 * op.gradient(x * 2, g))


@row("`export(strict={strict})`, values and gradients of the program")
@EVERY_OP
@pytest.mark.parametrize("strict", [False, True])
def test_export(op: Op, strict: bool) -> None:
    check(exported(Module(op, X), X, strict=strict).module(), op, X)


@row("`export(strict={strict})`, dynamic batch")
@EVERY_OP
@pytest.mark.parametrize("strict", [False, True])
def test_dynamic_batch(op: Op, strict: bool) -> None:
    # Only bounds along the last dimension: those with x's full shape are buffers, whose batch cannot be dynamic.
    module = Module(op, X) if op.broadcasts else OfEachBatch(op)
    program = exported(module, ROWS, strict=strict, dynamic_shapes={"x": {0: Dim("batch")}})
    for x in (ROWS, ROWS[:2], torch.cat([ROWS, ROWS])):
        y = program.module()(x)
        arguments = op.arguments_for(X)
        expected = torch.stack([op.expected(row * 2) for row in x]) * 3
        assert torch.equal(y, expected), arguments


@row("`run_decompositions()`: `aten` only, the same values")
@EVERY_OP
def test_decompositions(op: Op) -> None:
    decomposed = exported(Module(op, X), X).run_decompositions()
    targets = [node.target for node in decomposed.graph.nodes if node.op == "call_function"]
    assert {getattr(target, "namespace", "aten") for target in targets} == {"aten"}
    assert torch.equal(decomposed.module()(X), op.expected(X * 2) * 3)


LOAD = """
import sys, warnings
warnings.simplefilter("ignore")
import torch
if sys.argv[4] == "ste":
    import ste
x, g = torch.load(sys.argv[2])
y = torch.export.load(sys.argv[1]).module()(x.requires_grad_())
torch.save([y.detach(), *torch.autograd.grad(y, x, g)], sys.argv[3])
"""


@row("saved, and loaded in a fresh process, `STE_BACKEND={backend}`, values and gradients")
@pytest.mark.parametrize("backend", ["auto", "python"])
def test_save_and_load(backend: str, tmp_path: Path) -> None:
    program, inputs, outputs = (tmp_path / name for name in ("program.pt2", "inputs.pt", "outputs.pt"))
    x = X.double()  # its mantissa holds a binary digit for each op
    torch.export.save(exported(Every(x), x), program)
    g = torch.stack([G.double() * 2**i for i in range(len(OPS))])
    torch.save([x, g], inputs)
    run(LOAD, program, inputs, outputs, subjects.subject, backend=backend)
    y, gradient = torch.load(outputs)
    assert torch.equal(y, torch.stack([op.expected(x * 2) * 3 for op in OPS]))
    assert torch.equal(gradient, sum((6 * op.gradient(x * 2, row) for op, row in zip(OPS, g)), torch.zeros_like(x)))


# With optimization, a C++ compiler takes a minute for the wrapper around the kernels, which tests nothing of the ops.
OPTION = "aot_inductor.compile_wrapper_opt_level"
UNOPTIMIZED = {OPTION: "O0"} if OPTION in torch._inductor.config.get_config_copy() else {}

RUN_PACKAGE = """
import sys, warnings
warnings.simplefilter("ignore")
import torch
model = torch._inductor.aoti_load_package(sys.argv[1])
torch.save(model(torch.load(sys.argv[2])), sys.argv[3])
assert "ste" not in sys.modules and "ste_core" not in sys.modules
"""


@row("AOTInductor: compiled to a package, run by a process that has no `ste`, to the bit")
@pytest.mark.slow
def test_package(tmp_path: Path) -> None:
    package, inputs, outputs = (tmp_path / name for name in ("model.pt2", "inputs.pt", "outputs.pt"))
    x = special_values(torch.float32)
    with torch.no_grad():
        program = exported(Every(x), x)
        torch._inductor.aoti_compile_and_package(program, package_path=str(package), inductor_configs=UNOPTIMIZED)
    torch.save(x, inputs)
    run(RUN_PACKAGE, package, inputs, outputs)
    for op, y in zip(OPS, torch.load(outputs)):
        expected = op.expected(x * 2) * 3
        assert_same_bits(y, expected, x)
