"""What the benchmark calls: the ops with their arguments, and what people use instead."""

import sys
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.autograd import Function
from torch.utils.benchmark import Timer

sys.path.insert(0, str(Path(__file__).parent.parent / "tests"))

# The tests are not a package: the path above finds them.
from op_table import OPS, Op
from plain import signature


def per_channel(x: Tensor, value: float) -> Tensor:
    return x.new_full((x.shape[1], 1, 1), value)


def number(x: Tensor, value: float) -> Tensor:
    return x.new_tensor(value)


# If they were integers, `x + (f(x) - x)` would be exact at this size of x.
LOW, HIGH = -0.9, 2.1
BOUNDS: dict[str, Callable[[Tensor, float], Tensor]] = {
    "a number": number,
    "per channel": per_channel,
    "full": torch.full_like,
}


def between(make: Callable[[Tensor, float], Tensor]) -> Callable[[Tensor], tuple[Any, ...]]:
    return lambda x: (make(x, LOW), make(x, HIGH))


def always(*arguments: Any) -> Callable[[Tensor], tuple[Any, ...]]:
    return lambda x: arguments


def variants() -> dict[str, tuple[Op, Callable[[Tensor], tuple[Any, ...]]]]:
    """The calls of each op in the table, and the arguments after x: some numbers, or each kind of bounds."""
    result: dict[str, tuple[Op, Callable[[Tensor], tuple[Any, ...]]]] = {}
    for op in OPS:
        has_tensors = any(callable(argument) for argument in op.arguments)
        if op.name == "straight_through":
            result[op.name] = (op, lambda x: (torch.randn_like(x),))
        elif op.name.startswith("fake_quantize") or (has_tensors and "clamp" not in op.name):
            continue  # has its own races
        elif has_tensors:
            result |= {f"{op.name}, {kind}": (op, between(make)) for kind, make in BOUNDS.items()}
        elif op.name == "scalar_clamp_ste":
            result[op.name] = (op, always(LOW, HIGH))
        else:
            optional = [name for name, p in signature(op).parameters.items() if p.default is not p.empty]
            title = ", ".join([op.name, *(f"{name}={value:g}" for name, value in zip(optional, op.arguments))])
            result.setdefault(title, (op, always(*op.arguments)))
    return result


VARIANTS = variants()


def written(op: Op, *before: str) -> Callable[..., Tensor]:
    """The op's expression as a function of these parameters and the op's own, without a wrapper."""
    scope: dict[str, Any] = {"torch": torch}
    parameters = [str(p.replace(annotation=p.empty)) for p in signature(op).parameters.values()]
    exec(f"def composition({', '.join([*before, *parameters])}): return {op.expression}", scope)
    composition: Callable[..., Tensor] = scope["composition"]
    return composition


def bare(op: Op) -> Callable[..., Tensor]:
    """The cheapest possible Function for an op."""

    class Bare(Function):
        forward = staticmethod(written(op, "ctx"))

        @staticmethod
        def backward(ctx: Any, g: Tensor) -> Any:
            return (g, None, None, None)[: len(ctx.needs_input_grad)]

    apply: Callable[..., Tensor] = Bare.apply
    return apply


@dataclass(frozen=True)
class Call:
    """A call as a user writes it and, given `g`, its backward to the first `inputs` arguments."""

    function: Callable[..., Any]
    arguments: tuple[Any, ...]
    g: Any = None
    inputs: int = 1

    def timer(self, threads: int) -> Timer:
        names = [f"a{i}" for i in range(len(self.arguments))]
        statement = f"f({', '.join(names)})"
        if self.g is not None:
            statement = f"grad({statement}, ({', '.join(names[: self.inputs])},), g)"
        scope = {"f": self.function, "g": self.g, "grad": torch.autograd.grad, **dict(zip(names, self.arguments))}
        return Timer(statement, globals=scope, num_threads=threads)

    def __call__(self) -> Any:
        y = self.function(*self.arguments)
        return y if self.g is None else torch.autograd.grad(y, self.arguments[: self.inputs], self.g)

    def with_backward(self) -> "Call":
        return replace(self, g=self.arguments[0].detach().clone())


def detached(call: Call) -> tuple[Any, ...]:
    return tuple(a.detach() if isinstance(a, Tensor) else a for a in call.arguments)
