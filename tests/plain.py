"""What people write instead of an op: the detach idiom, and a Python Function with the function that calls it.

All of it is generated from the expressions in the table of ops, and written to the file of a separate module:
TorchScript needs the source of what it compiles, and a spawned process imports what it unpickles.
"""

import inspect
import linecache
from collections.abc import Callable
from typing import Any

import op_table

# The Function follows PyTorch's guide to extending torch.func: setup_context and a generated vmap rule. A function
# wraps its `apply`, as people do: Dynamo of torch 2.13 does not trace an `apply` that it finds as a value.
TEMPLATE = """
def idiom_{name}{signature}:
    return x + ({expression} - x).detach()


class {name}_function(torch.autograd.Function):
    generate_vmap_rule = True

    @staticmethod
    def forward{signature}:
        return {expression}

    @staticmethod
    def setup_context(ctx, inputs, output):
        pass

    @staticmethod
    def backward(ctx, g):
        return g, None, None, None


def function_{name}{signature}:
    return {name}_function.apply({parameters})
"""


def signature(op: op_table.Op) -> inspect.Signature:
    """The same with x first."""
    return inspect.signature(op.call or op.public)


OPS = [op for op in op_table.DISTINCT_OPS if op.straight_through]
SOURCE = "import torch\n\n" + "\n".join(
    TEMPLATE.format(
        name=op.name, signature=signature(op), expression=op.expression, parameters=", ".join(signature(op).parameters)
    )
    for op in OPS
)
__file__ = "<plain>"
linecache.cache[__file__] = (len(SOURCE), None, SOURCE.splitlines(keepends=True), __file__)
exec(compile(SOURCE, __file__, "exec"), globals())

IDIOM: dict[str, Callable[..., Any]] = {op.name: globals()[f"idiom_{op.name}"] for op in OPS}
CLASSES: dict[str, Any] = {op.name: globals()[f"{op.name}_function"] for op in OPS}
FUNCTION: dict[str, Callable[..., Any]] = {op.name: globals()[f"function_{op.name}"] for op in OPS}
