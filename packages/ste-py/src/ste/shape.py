"""Shapes to take statistics over: pass each result to ``x.view`` or ``x.reshape``.

All of them work under TorchScript and ``torch.compile``. FX records the calls, as it does for torch's own functions:
its proxies have no number of dimensions to check.
"""

from torch import Tensor
from torch.jit import is_scripting  # type: ignore[attr-defined]
from torch.overrides import handle_torch_function, has_torch_function_unary

__all__ = [
    "over_batch_over_output_channels",
    "over_batch_over_tensor",
    "over_output_channels",
    "over_output_features",
    "over_tensor",
]


def over_tensor(x: Tensor) -> int:
    """Shape that flattens the whole of x.

    Args:
        x: Any shape.

    Returns:
        ``-1``.

    Example:
        >>> x = torch.zeros(4, 3, 2)
        >>> x.view(ste.over_tensor(x)).shape
        torch.Size([24])
    """
    return -1


def over_output_channels(x: Tensor) -> tuple[int, int]:
    """Shape with one row per output channel, the first dimension of a weight.

    Args:
        x: At least one dimension: (C, ...).

    Returns:
        ``(C, -1)``.

    Raises:
        ValueError: x has no dimension.

    Example:
        >>> weight = torch.zeros(4, 3, 5, 5)
        >>> weight.view(ste.over_output_channels(weight)).shape
        torch.Size([4, 75])
    """
    if not is_scripting() and not isinstance(x, Tensor) and has_torch_function_unary(x):  # type: ignore[unreachable]
        return handle_torch_function(over_output_channels, (x,), x)  # type: ignore[unreachable]
    _check_dim("over_output_channels", x, 1)
    return x.shape[0], -1


def over_batch_over_tensor(x: Tensor) -> tuple[int, int]:
    """Shape with one row per sample.

    Args:
        x: At least one dimension: (N, ...).

    Returns:
        ``(N, -1)``.

    Raises:
        ValueError: x has no dimension.

    Example:
        >>> x = torch.zeros(8, 3, 5, 5)
        >>> x.view(ste.over_batch_over_tensor(x)).shape
        torch.Size([8, 75])
    """
    if not is_scripting() and not isinstance(x, Tensor) and has_torch_function_unary(x):  # type: ignore[unreachable]
        return handle_torch_function(over_batch_over_tensor, (x,), x)  # type: ignore[unreachable]
    _check_dim("over_batch_over_tensor", x, 1)
    return x.shape[0], -1


def over_batch_over_output_channels(x: Tensor) -> tuple[int, int, int]:
    """Shape with one row per sample and channel.

    Args:
        x: At least two dimensions: (N, C, ...).

    Returns:
        ``(N, C, -1)``.

    Raises:
        ValueError: x has fewer than two dimensions.

    Example:
        >>> x = torch.zeros(8, 3, 5, 5)
        >>> x.view(ste.over_batch_over_output_channels(x)).shape
        torch.Size([8, 3, 25])
    """
    if not is_scripting() and not isinstance(x, Tensor) and has_torch_function_unary(x):  # type: ignore[unreachable]
        return handle_torch_function(over_batch_over_output_channels, (x,), x)  # type: ignore[unreachable]
    _check_dim("over_batch_over_output_channels", x, 2)
    return x.shape[0], x.shape[1], -1


def over_output_features(x: Tensor) -> tuple[int, int]:
    """Shape with one column per output feature, the last dimension of a linear layer's output.

    Args:
        x: At least one dimension: (..., F).

    Returns:
        ``(-1, F)``.

    Raises:
        ValueError: x has no dimension.

    Example:
        >>> x = torch.zeros(8, 16, 64)
        >>> x.view(ste.over_output_features(x)).shape
        torch.Size([128, 64])
    """
    if not is_scripting() and not isinstance(x, Tensor) and has_torch_function_unary(x):  # type: ignore[unreachable]
        return handle_torch_function(over_output_features, (x,), x)  # type: ignore[unreachable]
    _check_dim("over_output_features", x, 1)
    return -1, x.shape[-1]


def _check_dim(function: str, x: Tensor, least: int) -> None:
    if x.dim() < least:
        raise ValueError(f"{function}: x must have at least {least} dimension(s), got {x.dim()}")
