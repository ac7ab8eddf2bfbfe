"""A model's layers, with their weights and inputs quantized."""

import copy
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd, _ConvTransposeNd
from torch.nn.modules.linear import NonDynamicallyQuantizableLinear
from torch.nn.utils import parametrize

from ste.nn._scaled import ScaledQuantizer

__all__ = ["Quantized", "QuantizedLayer", "initialize", "quantize", "unquantize"]

_INPUT = "input_quantizer"
_MARK = "_of_weight"  # marks a quantizer among the parametrizations of a weight, whoever wrote it


class QuantizedLayer(NamedTuple):
    """A layer, and what quantizes it.

    Attributes:
        name: As in :meth:`torch.nn.Module.named_modules`.
        layer: The type of the layer, and its shape.
        weight: The quantizer of the weight, or None.
        input: The quantizer of the input, or None.
    """

    name: str
    layer: str
    weight: nn.Module | None
    input: nn.Module | None


class Quantized(list[QuantizedLayer]):
    """The layers that :func:`quantize` has quantized. Its string is a table of them."""

    def __str__(self) -> str:
        rows = [["layer", "type", "weight", "input"]]
        rows += [
            [name, layer, *("-" if q is None else repr(q) for q in quantizers)] for name, layer, *quantizers in self
        ]
        widths = [max(map(len, column)) for column in zip(*rows)]
        return "\n".join("  ".join(cell.ljust(width) for cell, width in zip(row, widths)).rstrip() for row in rows)


def quantize(
    model: nn.Module,
    weight: nn.Module | None = None,
    activation: nn.Module | None = None,
    where: Callable[[str, nn.Module], bool] | None = None,
    verbose: bool = True,
) -> Quantized:
    """Quantize a model's layers: their weights by parametrizations, their inputs by hooks.

    Each layer gets its own copies of the quantizers. The quantizer of a weight has as many channels as the weight has
    along the quantizer's axis, and takes its first values from the weight. The quantizer of an input takes them from
    the first batch in training, or from :func:`initialize`. The model keeps its layers, and :func:`unquantize` takes
    the quantizers off them. Create the optimizer afterwards, because a learned scale is a parameter.

    Args:
        model: The model, which is changed in place.
        weight: The quantizer for weights, or None: one of this module's, or any module that can parametrize a weight.
        activation: The quantizer for the layers' first inputs, or None. An embedding's indices are not quantized, and
            neither is the input of the last layer of :class:`torch.nn.MultiheadAttention`, which is never called.
        where: Says whether to quantize a layer, given its name and the layer. None chooses every linear layer,
            convolution and embedding.
        verbose: Whether to print a table.

    Returns:
        The layers, in the model's order.

    Raises:
        ValueError: Neither weight nor activation is given, no layer is chosen, or one is quantized already.

    Example:
        >>> first, last = torch.nn.Linear(8, 4), torch.nn.Linear(4, 2)
        >>> model = torch.nn.Sequential(first, torch.nn.ReLU(), last)
        >>> weight = ste.nn.BinaryQuantizer()
        >>> _ = ste.nn.quantize(model, weight, where=lambda name, layer: name == "2")
        layer  type          weight                                input
        2      Linear(4, 2)  BinaryQuantizer(surrogate='clipped')  -
    """
    if weight is None and activation is None:
        raise ValueError("quantize: give weight, activation, or both")
    chosen = [(name, layer) for name, layer in model.named_modules() if (where or _has_weights)(name, layer)]
    if not chosen:
        raise ValueError("quantize: the model has no layer to quantize")
    for name, layer in chosen:
        if _is_quantized(layer):
            raise ValueError(f"quantize: layer {name!r} is quantized already; unquantize the model first")
    done = Quantized()
    for name, layer in chosen:
        described = _described(layer)
        of_weight = None if weight is None else _quantize_weight(layer, weight)
        takes_none = isinstance(layer, (nn.Embedding, NonDynamicallyQuantizableLinear))
        of_input = None if activation is None or takes_none else _quantize_input(layer, activation)
        done.append(QuantizedLayer(name, described, of_weight, of_input))
    if verbose:
        print(done)
    return done


def unquantize(model: nn.Module, keep: str = "float") -> None:
    """Undo :func:`quantize`.

    Args:
        model: The model, which is changed in place.
        keep: What the weights become: ``"float"``, as they were trained, or ``"quantized"``, as the quantizers round
            them.

    Raises:
        ValueError: keep is neither.

    Example:
        >>> model = torch.nn.Sequential(torch.nn.Linear(8, 4))
        >>> _ = ste.nn.quantize(model, ste.nn.BlockQuantizer("mxfp4"), verbose=False)
        >>> ste.nn.unquantize(model)
        >>> model
        Sequential(
          (0): Linear(in_features=8, out_features=4, bias=True)
        )
    """
    if keep not in ("float", "quantized"):
        raise ValueError(f"unquantize: keep must be 'float' or 'quantized', got {keep!r}")
    for layer in list(model.modules()):
        if not _is_quantized(layer):
            continue
        _unquantize_weight(layer, keep == "quantized")
        if hasattr(layer, _INPUT):
            delattr(layer, _INPUT)
            for number, hook in list(layer._forward_pre_hooks.items()):
                if hook is _quantized_input:
                    del layer._forward_pre_hooks[number]
                    layer._forward_pre_hooks_with_kwargs.pop(number, None)


@torch.no_grad()
def initialize(model: nn.Module, *inputs: Any, **keywords: Any) -> None:
    """Run a model once to give its quantizers their first values, each from what reaches it.

    Call it before you compile or export a model, or give it to several processes. The model runs in its current mode:
    in training, batch norms use the statistics of the batch, as in the first step; in evaluation, their running
    averages. Only the quantizers change; the averages of batch norms do not.

    Args:
        model: A model with quantizers.
        inputs: What the model is called with. Without any, the model is not called, and only the quantizers of weights
            are initialized.
        keywords: What else the model is called with, by keyword.

    Example:
        >>> model = torch.nn.Sequential(torch.nn.Linear(8, 4))
        >>> _ = ste.nn.quantize(model, activation=ste.nn.IntegerQuantizer(8), verbose=False)
        >>> ste.nn.initialize(model, torch.randn(16, 8))
        >>> model.eval()(torch.randn(3, 8)).shape
        torch.Size([3, 4])
    """

    def take(quantizer: nn.Module, arguments: tuple[Tensor, ...]) -> None:
        assert isinstance(quantizer, ScaledQuantizer)
        quantizer.initialize(arguments[0])

    if not inputs and not keywords:
        for layer in model.modules():
            weight: Any = layer
            for step in _steps(layer):
                if isinstance(step, ScaledQuantizer):
                    step.initialize(weight.parametrizations.weight.original)
        return
    hooks, others = [], []
    for module in model.modules():
        if isinstance(module, ScaledQuantizer):
            hooks.append(module.register_forward_pre_hook(take))
        else:
            others += [(buffer, buffer.clone()) for buffer in module.buffers(recurse=False)]
    try:
        model(*inputs, **keywords)
    finally:
        for hook in hooks:
            hook.remove()
        for buffer, before in others:
            buffer.copy_(before)


def _has_weights(_name: str, layer: nn.Module) -> bool:
    return isinstance(layer, (nn.Linear, _ConvNd, nn.Embedding))


def _is_quantized(layer: nn.Module) -> bool:
    return hasattr(layer, _INPUT) or any(map(_is_quantizer, _steps(layer)))


def _is_quantizer(step: nn.Module) -> bool:
    return hasattr(step, _MARK)


def _steps(layer: nn.Module) -> list[nn.Module]:
    """The parametrizations of a weight."""
    if not parametrize.is_parametrized(layer, "weight"):
        return []
    parametrizations: Any = layer.parametrizations
    return list(parametrizations["weight"])


def _quantize_weight(layer: nn.Module, prototype: nn.Module) -> nn.Module:
    weight = layer.weight
    assert isinstance(weight, Tensor)
    quantizer = copy.deepcopy(prototype)
    if isinstance(layer, _ConvTransposeNd) and getattr(quantizer, "axis", None) == 0:
        quantizer.axis = 1  # type: ignore[assignment]  # that of the outputs; nn.Module's annotation has no int
    if isinstance(quantizer, ScaledQuantizer):
        quantizer.resize(1 if quantizer.axis is None else weight.shape[quantizer.axis])
        quantizer.to(weight.device)
        quantizer.initialize(weight)
    setattr(quantizer, _MARK, True)
    parametrize.register_parametrization(layer, "weight", quantizer)
    return quantizer


@torch.no_grad()
def _unquantize_weight(layer: Any, keeps_quantized: bool) -> None:
    steps = _steps(layer)
    ours = [step for step in steps if _is_quantizer(step)]
    if ours == steps and steps:
        parametrize.remove_parametrizations(layer, "weight", leave_parametrized=keeps_quantized)
    elif ours:  # beside others that stay, such as a weight norm
        weight = layer.weight.clone()
        for step in ours:
            del layer.parametrizations.weight[_steps(layer).index(step)]
        if keeps_quantized:
            layer.weight = weight


def _quantize_input(layer: nn.Module, prototype: nn.Module) -> nn.Module:
    quantizer = copy.deepcopy(prototype)
    weight = next(layer.parameters(), None)
    if weight is not None:
        quantizer.to(weight.device)
    layer.add_module(_INPUT, quantizer)
    layer.register_forward_pre_hook(_quantized_input, with_kwargs=True)
    return quantizer


def _quantized_input(
    layer: nn.Module, arguments: tuple[Any, ...], keywords: dict[str, Any]
) -> tuple[tuple[Any, ...], dict[str, Any]]:
    quantizer: nn.Module = getattr(layer, _INPUT)
    if arguments:
        return (quantizer(arguments[0]), *arguments[1:]), keywords
    first = next(iter(keywords))
    return arguments, {**keywords, first: quantizer(keywords[first])}


def _described(layer: nn.Module) -> str:
    names = [("in_features", "out_features"), ("in_channels", "out_channels", "kernel_size")]
    names += [("num_embeddings", "embedding_dim")]
    for group in names:
        if all(hasattr(layer, name) for name in group):
            return f"{type(layer).__name__}({', '.join(str(getattr(layer, name)) for name in group)})"
    return type(layer).__name__
