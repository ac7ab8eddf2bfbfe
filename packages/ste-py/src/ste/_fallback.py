"""The Python backend: the ops, registered with PyTorch's dispatcher from Python as ste-core registers them from C++.

The schemas are the same, so what was compiled, exported or scripted under one backend runs under the other. A call in
plain eager mode bypasses the dispatcher: it goes straight to the op's autograd Function.

The Function alone would not do. torch.compile of torch.func.grad, vmap(grad), jvp or hessian over a Python Function
gives zeros without an error, and refuses a Function that has a jvp; and a Function exports as its forward, without its
gradient.
"""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch._C import (
    _after_autograd_keyset,
    _are_functorch_transforms_active,
    _AutoDispatchBelowAutograd,
    _get_tracing_state,
    _is_fwd_grad_enabled,
    _is_torch_function_mode_enabled,
    _len_torch_dispatch_stack,
)
from torch._functorch.autograd_function import enable_single_level_autograd_function  # type: ignore[attr-defined]
from torch.autograd import Function
from torch.autograd.forward_ad import _set_fwd_grad_enabled
from torch.autograd.function import _SingleLevelFunction
from torch.overrides import handle_torch_function, has_torch_function

from ste._function import ElementwiseFunction, Rule, StraightThrough, without_gradient_to_bounds
from ste._schema import Argument

_library = torch.library.Library("ste", "FRAGMENT")
_PLAIN_TENSORS = frozenset((Tensor, torch.nn.Parameter))
_PLAIN = _PLAIN_TENSORS | {float, int, bool, str, type(None)}


def eager_function(
    overridable: Callable[..., Tensor],
    function: type[ElementwiseFunction],
    arguments: Sequence[Argument],
    boxed: Callable[..., Any],
) -> Callable[..., Tensor]:
    """The eager call of an op.

    Args:
        overridable: The function that ``__torch_function__`` gets.
        function: The op's autograd class.
        arguments: The op's arguments.
        boxed: Calls the op through the dispatcher.
    """
    # Function.apply binds default arguments with inspect.signature at every call, and takes 11 times as long as
    # torch.round; the C++ method behind it takes 4 times as long.
    apply = super(Function, function).apply  # type: ignore[misc]
    kinds = [kind for _, kind in arguments]
    # Whether there are tensors that get no gradient.
    has_constants = "random" in (name for name, _ in arguments) or (
        issubclass(function, StraightThrough) and (kinds.count("tensor") > 1 or "optional parameter" in kinds)
    )

    def apply_without_gradient(*args: Any) -> Any:
        return apply(*function.differentiated(*args))

    run = apply_without_gradient if has_constants else apply

    def eager(*args: Any) -> Any:
        if (
            _PLAIN.issuperset(map(type, args))
            and not _are_functorch_transforms_active()
            and not _len_torch_dispatch_stack()
            and not _is_torch_function_mode_enabled()
            and _get_tracing_state() is None
        ):
            return run(*args)
        if has_torch_function(args):
            return handle_torch_function(overridable, args, *args)
        return boxed(*args)

    # The same for three tensors, but cheaper; the bounds get no gradient.
    def eager_between(x: Any, min_val: Any, max_val: Any) -> Any:
        if (
            type(x) in _PLAIN_TENSORS
            and type(min_val) in _PLAIN_TENSORS
            and type(max_val) in _PLAIN_TENSORS
            and not _are_functorch_transforms_active()
            and not _len_torch_dispatch_stack()
            and not _is_torch_function_mode_enabled()
            and _get_tracing_state() is None
        ):
            if min_val.requires_grad or max_val.requires_grad:
                return apply(*without_gradient_to_bounds(x, min_val, max_val))
            return apply(x, min_val, max_val)
        return eager(x, min_val, max_val)

    return eager_between if has_constants and kinds.count("tensor") == 3 else eager


def define(name: str, function: type[ElementwiseFunction]) -> None:
    """Define an op."""
    if hasattr(torch.ops.ste, name):  # another package may have loaded ste-core's library itself
        return
    composite = getattr(function, "decomposition", function.forward)
    schema = torch.library.infer_schema(function.forward, mutates_args=())
    tags = [torch.Tag.pt2_compliant_tag] + ([torch.Tag.pointwise] if function.is_pointwise else [])
    _library.define(f"{name}{schema}", tags=tags)
    op = getattr(torch.ops.ste, name).default

    if issubclass(function, StraightThrough):
        unreachable = _register_autograd(name, _straight_through(op, function))
        composite = _refusing(name, composite, unreachable)
    # Otherwise the composite kernel has the right gradient already.
    _library.impl(name, composite, "CompositeImplicitAutograd")

    def batching_rule(info: Any, in_dims: tuple[int | None, ...], *args: Any) -> tuple[Tensor, int]:
        return function.call_batched(op, info.batch_size, in_dims, args), 0

    torch.library.register_vmap(op, batching_rule, lib=_library)


class _Redispatch(_SingleLevelFunction):
    """The autograd node of one level: functorch's own kind of Function, which a kernel may apply."""

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, below: Callable[[], Tensor], rule_of: Callable[[Tensor], tuple[Rule, tuple[Tensor, ...]]]
    ) -> Tensor:
        y = below()  # which checks the arguments
        ctx.dtype = y.dtype
        ctx.rule, saved = rule_of(x)
        ctx.save_for_backward(*saved)
        ctx.save_for_forward(*saved)
        return y

    @staticmethod
    def _compiled_autograd_key(ctx: Any) -> tuple[int]:
        return (ctx._autograd_function_id,)  # as Function has it

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> tuple[Tensor, None, None]:
        return g if ctx.rule is None else ctx.rule(g, *ctx.saved_tensors), None, None

    @staticmethod
    def jvp(ctx: Any, x_tangent: Tensor, *_: None) -> Tensor:
        if ctx.rule is None:
            return x_tangent.to(ctx.dtype)
        x, *others = ctx.saved_tensors
        # Forward mode is off here, and outer levels would take that for their own mode; and x has its own tangent.
        with _set_fwd_grad_enabled(True):
            tangent: Tensor = ctx.rule(x_tangent, torch.ops.aten._fw_primal(x, 0), *others)
        return tangent


def _straight_through(op: Any, function: type[StraightThrough]) -> Callable[..., Any]:
    """The autograd kernel: records a node, and redispatches to the op itself, so that the next level sees the op."""
    place = function.place

    def kernel(keyset: Any, *args: Any) -> Any:
        grad_mode, forward_mode = torch.is_grad_enabled(), _is_fwd_grad_enabled()

        def below() -> Any:
            # A Function's forward runs with both modes off, and the levels below would take that for their own modes.
            with _AutoDispatchBelowAutograd(), torch.set_grad_enabled(grad_mode), _set_fwd_grad_enabled(forward_mode):
                return op.redispatch(keyset & _after_autograd_keyset, *args)

        def rule_of(x: Tensor) -> tuple[Rule, tuple[Tensor, ...]]:
            return function.rule(*args[:place], x, *args[place + 1 :])

        with enable_single_level_autograd_function():
            return _Redispatch.apply(args[place], below, rule_of)  # type: ignore[attr-defined]

    return kernel


def _register_autograd(name: str, kernel: Callable[..., Tensor]) -> set[str]:
    """Register at every autograd key that Python can name; return the device types of those that it cannot."""
    unreachable = set()
    for key in torch._C.DispatchKey.__members__:
        if key.startswith("Autograd") and key not in ("Autograd", "AutogradFunctionality"):
            try:
                _library.impl(name, kernel, key, with_keyset=True)
            except RuntimeError:  # "could not parse dispatch key": torch 2.14 has no name for three of them
                unreachable.add(key.removeprefix("Autograd").lower())
    return unreachable


def _refusing(name: str, composite: Callable[..., Tensor], devices: set[str]) -> Callable[..., Tensor]:
    """The composite kernel, which raises where autograd would differentiate through it: that gradient would be zero."""

    def kernel(*args: Any) -> Tensor:
        for tensor in args:
            if isinstance(tensor, Tensor) and tensor.requires_grad and torch.is_grad_enabled():
                device = tensor.device.type
                if device in devices:
                    raise NotImplementedError(f"{name}: the Python backend has no gradient on {device}; ste-core has")
        return composite(*args)

    return kernel
