"""TorchScript."""

import importlib.util
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import subjects
import torch
from plain import signature
from processes import output_of, program_built_in, run
from subjects import CLASSES, DISTINCT_OPS, OPS, Op, X
from torch import Tensor

row = pytest.mark.row
EVERY_OP = pytest.mark.parametrize("op", OPS, ids=str)
G = torch.tensor([1.0, -2.0, 3.0, 4.0])
RUNS = 4  # the profiling executor changes the graph after the first run


# TorchScript compiles source code, so the alternatives to the ops must be source code too.
def expression(op: Op) -> str:
    if subjects.subject == "control":
        return "x.clone()"
    if subjects.subject == "function":
        function = CLASSES[op.name]
        return f"{function.__module__}.{function.__name__}.apply({', '.join(signature(op).parameters)})"
    return f"x + ({op.expression} - x).detach()" if op.straight_through else op.expression


def definition(op: Op) -> str:
    if subjects.subject == "ste":
        return f"from {'op_table' if op.call else 'ste'} import {op.name}\n"
    return f"def {op.name}{signature(op)}:\n    return {expression(op)}\n"


def call(op: Op) -> str:
    """The call of an op with its bounds written out, as numbers or as tensors of numbers."""
    arguments = "".join(f", torch.tensor({a(X).tolist()})" if callable(a) else f", {a!r}" for a in op.arguments)
    return f"{op.name}(x{arguments})"


def written_to(folder: Path) -> Any:
    """A Python module with the functions themselves, a `call<i>` for each op, and `every` for all of them."""
    parts = ["import plain\nimport subjects\nimport torch\n", *map(definition, DISTINCT_OPS)]
    calls = {f"call{i}": call(op) for i, op in enumerate(OPS)}
    calls["every"] = f"torch.stack([{', '.join(calls.values())}])"
    parts += [f"def {name}(x: torch.Tensor):\n    return {body}\n" for name, body in calls.items()]
    file = folder / "calls.py"
    file.write_text("\n\n".join(parts))
    spec = importlib.util.spec_from_file_location("calls", file)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


class Calls(torch.nn.Module):
    def __init__(self, function: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.function = function

    def forward(self, x: Tensor) -> Tensor:
        return self.function(x)


def scripted_module(function: Callable[[Tensor], Tensor]) -> Any:
    return torch.jit.script(Calls(torch.jit.script(function)).eval())


def traced(function: Callable[[Tensor], Tensor]) -> Any:
    return torch.jit.trace(function, X - 1)  # an x other than that of the checks


def with_arguments(op: Op) -> Callable[[Tensor], Tensor]:
    arguments = op.arguments_for(X)
    return lambda x: op.function(x, *arguments)


def every_op_traced() -> Any:
    functions = [with_arguments(op) for op in OPS]
    return traced(lambda x: torch.stack([function(x) for function in functions]))


def check(function: Callable[[Tensor], Tensor], op: Op) -> None:
    for _ in range(RUNS):
        x = X.clone().requires_grad_()
        y = function(x)
        assert torch.equal(y, op.expected(X))
        (gradient,) = torch.autograd.grad(y, x, G)
        assert torch.equal(gradient, op.gradient(X, G))


def check_double_backward(function: Callable[[Tensor], Tensor], op: Op) -> None:
    for _ in range(RUNS):
        x = X.clone().requires_grad_()
        (first,) = torch.autograd.grad((function(x) ** 2).sum(), x, create_graph=True)
        assert torch.equal(first, 2 * op.expected(X) * op.slope(X))
        (second,) = torch.autograd.grad(first, x, G)
        assert torch.equal(second, 2 * op.slope(X) * G)


FORMS: dict[str, Callable[[Op, Path], Any]] = {
    "script": lambda op, folder: torch.jit.script(getattr(written_to(folder), f"call{OPS.index(op)}")),
    "trace": lambda op, _: traced(with_arguments(op)),
    "freeze": lambda op, folder: torch.jit.freeze(scripted_module(getattr(written_to(folder), f"call{OPS.index(op)}"))),
}


@row("`torch.jit.{form}`")
@EVERY_OP
@pytest.mark.parametrize("form", FORMS)
def test_first_derivative(op: Op, form: str, tmp_path: Path) -> None:
    check(FORMS[form](op, tmp_path), op)


@row("`torch.jit.{form}`, double backward")
@EVERY_OP
@pytest.mark.parametrize("form", FORMS)
def test_double_backward(op: Op, form: str, tmp_path: Path) -> None:
    check_double_backward(FORMS[form](op, tmp_path), op)


@row("`torch.jit.script` of the function itself")
@EVERY_OP
def test_script_of_the_function_itself(op: Op, tmp_path: Path) -> None:
    function: Any = torch.jit.script(getattr(written_to(tmp_path), op.name))
    check(lambda x: function(x, *op.arguments_for(X)), op)


@row("`torch.jit.optimize_for_inference`")
@EVERY_OP
def test_optimize_for_inference(op: Op, tmp_path: Path) -> None:
    optimized = torch.jit.optimize_for_inference(FORMS["freeze"](op, tmp_path))
    for _ in range(RUNS):
        with torch.no_grad():
            assert torch.equal(optimized(X), op.expected(X))


FILES = ("module.pt", "inputs.pt", "outputs.pt")
# In float64, whose mantissa holds all the digits.
WIDE = X.double()
DIGITS = torch.stack([G.double() * 2**i for i in range(len(OPS))])  # the incoming gradients, one for each op


def save(module: Any, folder: Path) -> None:
    module.save(str(folder / "module.pt"))
    torch.save([WIDE, DIGITS], folder / "inputs.pt")


def check_outputs(folder: Path) -> None:
    outputs: Sequence[Tensor] = torch.load(folder / "outputs.pt", weights_only=False)
    assert len(outputs) == 3 * RUNS
    first = sum((op.gradient(WIDE, g) for op, g in zip(OPS, DIGITS)), torch.zeros_like(WIDE))
    for i in range(0, len(outputs), 3):
        assert torch.equal(outputs[i], torch.stack([op.expected(WIDE) for op in OPS]))
        assert torch.equal(outputs[i + 1], first)
        assert torch.equal(outputs[i + 2], 2 * first)  # every slope is 0 or 1, and so is its square


LOAD = f"""
import sys
import torch
if sys.argv[4] == "ste":
    import ste
    print("backend:", ste.backend().name)
module = torch.jit.load(sys.argv[1])
inputs, g = torch.load(sys.argv[2])
outputs = []
for _ in range({RUNS}):
    x = inputs.clone().requires_grad_()
    y = module(x)
    outputs += [y.detach(), *torch.autograd.grad(y, x, g, retain_graph=True)]
    (first,) = torch.autograd.grad((y * y * g).sum(), x, create_graph=True)
    outputs += torch.autograd.grad(first.sum(), x)
torch.save(outputs, sys.argv[3])
"""


@row("`torch.jit.{form}`, saved, and loaded in a fresh process, `STE_BACKEND={backend}`")
@pytest.mark.parametrize("backend", ["auto", "python"])
@pytest.mark.parametrize("form", ["script", "trace"])
def test_save_and_load(form: str, backend: str, tmp_path: Path) -> None:
    save(scripted_module(written_to(tmp_path).every) if form == "script" else every_op_traced(), tmp_path)
    printed = run(LOAD, *(tmp_path / name for name in FILES), subjects.subject, backend=backend)
    if subjects.subject == "ste" and (backend == "python" or subjects.column() == "native"):
        assert f"backend: {'python' if backend == 'python' else 'native'}" in printed
    check_outputs(tmp_path)


def linked_with_ste_core() -> Sequence[str]:
    """For our native backend: the flags that link the program with ste-core's library."""
    if subjects.column() != "native":
        return ()
    import ste_core

    return (f"-DSTE_LIBRARY={ste_core.build_for(torch.__version__).library}",)


@row("loaded and differentiated by a C++ program that links libtorch and ste-core's library, without Python")
@pytest.mark.slow
@pytest.mark.refused(
    "a C++ program needs ste-core: without Python there is no Python backend",
    error="Unknown builtin op: ste::",
    backend="python",
)
def test_in_a_program_without_python(tmp_path: Path) -> None:
    save(scripted_module(written_to(tmp_path).every), tmp_path)
    program = program_built_in(tmp_path / "build", "run_scripted", *linked_with_ste_core())
    assert not re.search(r"lib(torch_)?python", output_of("ldd", program))
    output_of(program, *(tmp_path / name for name in FILES), str(RUNS))
    check_outputs(tmp_path)
