"""TorchScript."""

import importlib.util
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import subjects
import torch
from processes import TESTS, run
from subjects import OPS, Op, X
from torch import Tensor

row = pytest.mark.row
EVERY_OP = pytest.mark.parametrize("op", OPS, ids=str)
G = torch.tensor([1.0, -2.0, 3.0, 4.0])

# TorchScript compiles source code, so each subject is needed as such.
STEPPED = "x + ({} - x).detach()"
SOURCES: dict[str, dict[str, str]] = {
    "ste": {op.name: f"ste.{op.name}(x{{}})" for op in OPS},
    "idiom": {
        "round_ste": STEPPED.format("x.round()"),
        "ceil_ste": STEPPED.format("x.ceil()"),
        "floor_ste": STEPPED.format("x.floor()"),
        "binary_sign_ste": STEPPED.format("binary_sign(x{})"),
        "ternary_sign_ste": STEPPED.format("x.sign()"),
        "scalar_clamp_ste": STEPPED.format("clamp(x{})"),
        "tensor_clamp_ste": STEPPED.format("clamp(x{})"),
        "tensor_clamp": "clamp(x{})",
    },
    "function": {name: f"subjects.{function.__name__}.apply(x{{}})" for name, function in subjects.CLASSES.items()},
    "control": {op.name: "x.clone()" for op in OPS},
}
PREAMBLE = """\
import ste
import subjects
import torch
from torch import Tensor, clamp


def binary_sign(x: Tensor, low: float = 0.0):
    return torch.where(x >= 0, torch.ones_like(x), torch.full_like(x, low))

"""
OUTPUTS = "\n\ndef every(x: Tensor):\n    return torch.stack([{}])\n"


def module_of_calls(folder: Path) -> Any:
    """A Python module with a function `call<i>` for each op, and one, `every`, for all of them."""
    source = PREAMBLE
    for i, op in enumerate(OPS):
        arguments = ""
        for argument in op.arguments:
            # Bounds are written out, as numbers or as tensors of numbers.
            numbers = argument(X).tolist() if callable(argument) else argument
            arguments += f", torch.tensor({numbers})" if callable(argument) else f", {numbers}"
        expression = SOURCES[subjects.subject][op.name].format(arguments)
        source += f"\ndef call{i}(x: Tensor):\n    return {expression}\n\n"
    source += OUTPUTS.format(", ".join(f"call{i}(x)" for i in range(len(OPS))))
    file = folder / "calls.py"
    file.write_text(source)
    spec = importlib.util.spec_from_file_location("calls", file)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def check(function: Any, op: Op) -> None:
    for _ in range(4):  # the profiling executor changes the graph after the first calls
        x = X.clone().requires_grad_()
        y = function(x)
        assert torch.equal(y, op.expected(X))
        (gradient,) = torch.autograd.grad(y, x, G)
        assert torch.equal(gradient, op.gradient(X, G))


def call_of(op: Op, folder: Path) -> Any:
    return getattr(module_of_calls(folder), f"call{OPS.index(op)}")


@row("`torch.jit.script`")
@EVERY_OP
def test_script(op: Op, tmp_path: Path) -> None:
    check(torch.jit.script(call_of(op, tmp_path)), op)


@row("`torch.jit.script`, double backward")
@EVERY_OP
def test_double_backward(op: Op, tmp_path: Path) -> None:
    scripted: Any = torch.jit.script(call_of(op, tmp_path))
    for _ in range(4):
        x = X.clone().requires_grad_()
        (first,) = torch.autograd.grad((scripted(x) ** 2).sum(), x, create_graph=True)
        assert torch.equal(first, 2 * op.expected(X) * op.slope(X))
        (second,) = torch.autograd.grad(first, x, G)
        assert torch.equal(second, 2 * op.slope(X) * G)


@row("`torch.jit.script` of the function itself")
@EVERY_OP
def test_script_of_the_function_itself(op: Op) -> None:
    scripted = torch.jit.script(op.function)
    check(lambda x: scripted(x, *op.arguments_for(X)), op)


@row("`torch.jit.trace`, values and gradients for another x")
@EVERY_OP
def test_trace(op: Op) -> None:
    arguments = op.arguments_for(X)
    traced: Any = torch.jit.trace(lambda t: op.function(t, *arguments), X - 1)
    check(traced, op)


class Quantized(torch.nn.Module):
    def __init__(self, function: Any) -> None:
        super().__init__()
        self.function = function

    def forward(self, x: Tensor) -> Tensor:
        result: Tensor = self.function(x)
        return result


@row("`torch.jit.freeze`")
@EVERY_OP
def test_freeze(op: Op, tmp_path: Path) -> None:
    scripted = torch.jit.script(Quantized(torch.jit.script(call_of(op, tmp_path))).eval())
    check(torch.jit.freeze(scripted), op)


@row("`torch.jit.optimize_for_inference`")
@EVERY_OP
def test_optimize_for_inference(op: Op, tmp_path: Path) -> None:
    scripted = torch.jit.script(Quantized(torch.jit.script(call_of(op, tmp_path))).eval())
    optimized = torch.jit.optimize_for_inference(scripted)
    for _ in range(4):
        with torch.no_grad():
            assert torch.equal(optimized(X), op.expected(X))


def save_every_op(folder: Path) -> Tensor:
    """Saves a scripted module of all ops and its inputs; returns the gradient that comes in, a row for each op."""
    scripted = torch.jit.script(Quantized(torch.jit.script(module_of_calls(folder).every)))
    scripted.save(str(folder / "module.pt"))
    g = torch.stack([G * 2**i for i in range(len(OPS))])  # a binary digit for each op
    torch.save([X, g], folder / "inputs.pt")
    return g


def check_outputs(folder: Path, g: Tensor) -> None:
    y, gradient = torch.load(folder / "outputs.pt", weights_only=False)
    assert torch.equal(y, torch.stack([op.expected(X) for op in OPS]))
    assert torch.equal(gradient, sum((op.gradient(X, row) for op, row in zip(OPS, g)), torch.zeros(4)))


LOAD = """
import sys, warnings
warnings.simplefilter("ignore")
import torch
if sys.argv[4] == "ste":
    import ste
module = torch.jit.load(sys.argv[1])
x, g = torch.load(sys.argv[2])
y = module(x.requires_grad_())
torch.save([y.detach(), *torch.autograd.grad(y, x, g)], sys.argv[3])
"""


@row("saved, and loaded in a fresh process, `STE_BACKEND={backend}`")
@pytest.mark.parametrize("backend", ["auto", "python"])
def test_save_and_load(backend: str, tmp_path: Path) -> None:
    g = save_every_op(tmp_path)
    files = [tmp_path / name for name in ("module.pt", "inputs.pt", "outputs.pt")]
    run(LOAD, *files, subjects.subject, backend=backend)
    check_outputs(tmp_path, g)


def build_program(folder: Path) -> Path:
    """Builds the C++ program, and, for our native backend, links it with ste-core's library."""
    options = []
    if subjects.column() == "native":
        import ste_core

        minor = ".".join(torch.__version__.split(".")[:2])
        (library,) = (b.folder / "libste.so" for b in ste_core.builds() if b.torch.startswith(f"{minor}."))
        options = [f"-DSTE_LIBRARY={library}"]
    cmake = shutil.which("cmake", path=str(Path(sys.executable).parent)) or "cmake"
    configure: list[str | Path] = [
        cmake,
        "-S",
        TESTS / "cpp",
        "-B",
        folder,
        f"-DPython_EXECUTABLE={sys.executable}",
        *options,
    ]
    commands: list[list[str | Path]] = [configure, [cmake, "--build", folder]]
    for command in commands:
        built = subprocess.run(command, check=False, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        assert built.returncode == 0, built.stdout
    return folder / "run_scripted"


@row("loaded and differentiated by a C++ program that links libtorch and ste-core's library, without Python")
@pytest.mark.slow
@pytest.mark.refused(
    "a C++ program needs ste-core: without Python there is no Python backend",
    error="Unknown builtin op: ste::",
    backend="python",
)
def test_in_a_program_without_python(tmp_path: Path) -> None:
    g = save_every_op(tmp_path)
    program = build_program(tmp_path / "build")
    files = [tmp_path / name for name in ("module.pt", "inputs.pt", "outputs.pt")]
    result = subprocess.run([program, *files], capture_output=True, text=True, check=False)
    if result.returncode != 0:
        raise RuntimeError(result.stderr)
    check_outputs(tmp_path, g)
