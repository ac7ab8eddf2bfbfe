"""Connects a public function to the chosen backend's eager call, and makes that transparent to torch's compilers."""

from collections.abc import Callable
from types import ModuleType
from typing import Any, ParamSpec

import torch
import wrapt
from torch import Tensor
from torch.jit._builtins import _register_builtin

from ste._backend import native
from ste._schema import arguments_of, read, read_by_dynamo

if native is None:
    from ste import _fallback

P = ParamSpec("P")


def implement(public: Callable[P, Tensor], function: Any) -> Callable[P, Tensor]:
    """The callable that `public` calls in eager mode, with all of its arguments by position.

    Args:
        public: The function that users call, named as the op is.
        function: The op's autograd class.
    """
    name = public.__name__
    if native is None:
        _fallback.define(name, function)
    op = getattr(torch.ops.ste, name).default
    arguments = arguments_of(op)

    def boxed(*args: Any) -> Any:
        return op(*read(name, arguments, args))

    eager = (
        _fallback.eager_function(public, function, arguments, boxed)
        if native is None
        else native.function(name, public, boxed)
    )

    kinds = [kind for _, kind in arguments]

    def traced(*args: Any) -> Any:
        return op(*read_by_dynamo(kinds, args))

    function.traced = staticmethod(traced)

    # TorchScript compiles a call to it as a call to the op.
    _register_builtin(eager, f"ste::{name}")

    # Dynamo traces the op instead. Importing torch._dynamo takes 1.5 s, so this waits until somebody needs it.
    @wrapt.when_imported("torch._dynamo")
    def substitute(_: ModuleType) -> None:
        torch.compiler.substitute_in_graph(eager, skip_signature_check=True)(traced)

    # For torch.onnx.export(dynamo=False). The other exporter decomposes the op.
    @wrapt.when_imported("torch.onnx")
    def register_symbolic(onnx: ModuleType) -> None:
        onnx.register_custom_op_symbolic(f"ste::{name}", function.symbolic, 15)

    return eager
