"""The arguments that the dispatcher expects of an op, and how to make them from what people pass."""

from collections.abc import Sequence
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor

from ste._arguments import check_is_bool, check_is_string, check_is_tensor, integer, number, tensor_parameter


class Argument(NamedTuple):
    """One argument of a schema. A parameter is a tensor that may be given as a number."""

    name: str
    kind: Literal["tensor", "parameter", "optional", "optional parameter", "integer", "number", "string", "bool"]


def arguments_of(op: Any) -> list[Argument]:
    return [Argument(argument.name, _kind(argument)) for argument in op._schema.arguments]


def _kind(argument: Any) -> Any:
    if isinstance(argument.type, torch.TensorType):
        return "parameter" if argument.name == "scale" else "tensor"
    if isinstance(argument.type, torch.OptionalType):
        return "optional" if argument.name in ("zero_point", "random") else "optional parameter"
    kinds = {torch.IntType: "integer", torch.NumberType: "number", torch.BoolType: "bool"}
    return kinds.get(type(argument.type), "string")


def read(op: str, arguments: Sequence[Argument], values: Sequence[Any]) -> list[Any]:
    """The values as the dispatcher takes them. Its own errors would be worded differently from the native backend's."""
    result: list[Any] = []
    for (name, kind), value in zip(arguments, values):
        if kind == "parameter" or (kind == "optional parameter" and value is not None):
            value = tensor_parameter(op, name, value, result[0])
        if kind in ("tensor", "parameter") or (kind.startswith("optional") and value is not None):
            check_is_tensor(op, name, value)
        elif kind in ("integer", "number") and not isinstance(value, (torch.SymInt, torch.SymFloat)):
            value = (integer if kind == "integer" else number)(op, name, value)
        elif kind == "string":
            check_is_string(op, name, value)
        elif kind == "bool":
            check_is_bool(op, name, value)
        result.append(value)
    return result


def read_by_dynamo(kinds: Sequence[str], values: Sequence[Any]) -> list[Any]:
    """The same, in a form that Dynamo can trace: to it, a NumPy number is an array, and a number that changes a symbol.

    The kinds are strings, because Dynamo of torch 2.6 cannot handle a named tuple that it has not seen made.
    """
    result: list[Any] = []
    for kind, value in zip(kinds, values):
        if kind.endswith("parameter") and not (value is None or isinstance(value, Tensor)):
            x = result[0]
            dtype = torch.float64 if x.dtype == torch.float64 else torch.float32
            # A product: if the number itself became a tensor, AOTAutograd would make a graph for each value.
            value = torch.ones((), dtype=dtype, device=x.device) * float(value)
        elif kind == "number" and not isinstance(value, (int, float, Tensor)):
            value = float(value)
        elif kind == "integer" and not isinstance(value, int):
            value = int(value)
        result.append(value)
    return result
