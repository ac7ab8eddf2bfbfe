r"""Surrogate gradients of the signs: the table of them, and each as a callable.

:func:`ste.binary_sign_ste` and :func:`ste.ternary_sign_ste` take a surrogate by name. If a library asks for a function
from the membrane potential to the spike, as snntorch (``spike_grad=``) and spikingjelly (``surrogate_function=``) do,
give it one from this module. They are small, and can be pickled.

Example:
    >>> spike = ste.surrogates.atan(alpha=2.0)
    >>> x = torch.tensor([-0.5, 0.0, 0.5], requires_grad=True)
    >>> y = spike(x)
    >>> y.tolist()
    [0.0, 1.0, 1.0]
    >>> y.sum().backward()
    >>> x.grad
    tensor([0.2884, 1.0000, 0.2884])
"""

from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor

from ste._surrogates import BY_NAME, TABLE, Definition
from ste.ops_ste import binary_sign_ste

__all__ = [
    "TABLE",
    "Definition",
    "Surrogate",
    "atan",
    "clipped",
    "fast_sigmoid",
    "gaussian",
    "polynomial",
    "reste",
    "sigmoid",
    "swish",
    "tanh",
    "triangle",
]


@dataclass(frozen=True)
class Surrogate:
    """A sign with a surrogate gradient, as a function of x.

    Attributes:
        name: The surrogate's name.
        alpha: The surrogate's parameter. None uses the value of its source.
        low: The result below zero: 0 for spikes, -1 for signs.
    """

    name: str
    alpha: Tensor | float | None = None
    low: float = 0.0

    def __call__(self, x: Tensor) -> Tensor:
        """:func:`ste.binary_sign_ste` of x."""
        return binary_sign_ste(x, self.low, self.name, self.alpha)


def _documented(function: Callable[..., Surrogate]) -> Callable[..., Surrogate]:
    """Adds to the docstring what the table says of the surrogate."""
    definition = BY_NAME[function.__name__]
    function.__doc__ = rf"""{function.__doc__}

    .. math:: \frac{{\partial y}}{{\partial x}} = h(x) = {definition.formula}

    Source: {definition.source}.

    Args:
        alpha: A positive number, or a tensor that broadcasts to x's shape.
        low: The result below zero: 0 for spikes, -1 for signs.

    Returns:
        A function of x, :func:`ste.binary_sign_ste` with this surrogate.

    Example:
        >>> spike = ste.surrogates.{definition.name}()
        >>> spike(torch.tensor([-0.5, 0.0, 0.5])).tolist()
        [0.0, 1.0, 1.0]
    """
    return function


@_documented
def clipped(alpha: Tensor | float = 1.0, low: float = 0.0) -> Surrogate:
    """1 within alpha of 0, and 0 outside: the surrogate of binarized neural networks."""
    return Surrogate("clipped", alpha, low)


@_documented
def polynomial(alpha: Tensor | float = 1.0, low: float = 0.0) -> Surrogate:
    """A triangle of height 2 / alpha, which ends at alpha: the surrogate of Bi-Real Net."""
    return Surrogate("polynomial", alpha, low)


@_documented
def swish(alpha: Tensor | float = 5.0, low: float = 0.0) -> Surrogate:
    """The derivative of a sign built from swish: the surrogate of BNN+."""
    return Surrogate("swish", alpha, low)


@_documented
def tanh(alpha: Tensor | float = 1.0, low: float = 0.0) -> Surrogate:
    """The derivative of a hyperbolic tangent, as IR-Net scales it."""
    return Surrogate("tanh", alpha, low)


@_documented
def sigmoid(alpha: Tensor | float = 4.0, low: float = 0.0) -> Surrogate:
    """The derivative of the sigmoid of alpha x."""
    return Surrogate("sigmoid", alpha, low)


@_documented
def atan(alpha: Tensor | float = 2.0, low: float = 0.0) -> Surrogate:
    """The derivative of an arctangent."""
    return Surrogate("atan", alpha, low)


@_documented
def fast_sigmoid(alpha: Tensor | float = 25.0, low: float = 0.0) -> Surrogate:
    """The derivative of a sigmoid without exp: the surrogate of SuperSpike."""
    return Surrogate("fast_sigmoid", alpha, low)


@_documented
def triangle(alpha: Tensor | float = 1.0, low: float = 0.0) -> Surrogate:
    """A triangle of height alpha, which ends at 1 / alpha."""
    return Surrogate("triangle", alpha, low)


@_documented
def gaussian(alpha: Tensor | float = 2.0, low: float = 0.0) -> Surrogate:
    """The derivative of the error function."""
    return Surrogate("gaussian", alpha, low)


@_documented
def reste(alpha: Tensor | float = 1.0, low: float = 0.0) -> Surrogate:
    """The derivative of a power of x: the surrogate of ReSTE."""
    return Surrogate("reste", alpha, low)
