"""What the guides say about snntorch and spikingjelly: which of their surrogates match ours, and what differs.

`make peers` installs both and runs this on both backends. `make test` skips it.
"""

import copy
import inspect
import math
import pickle
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import snntorch
import snntorch.surrogate
import torch
from bits import assert_same_bits
from spikingjelly.activation_based import neuron as jelly_neuron
from spikingjelly.activation_based import surrogate as jelly
from torch import Tensor
from torch._dynamo.testing import CompileCounterWithBackend

import ste
from ste.surrogates import Surrogate

GUIDES = Path(__file__).parents[2] / "docs" / "guides"

Spike = Callable[[Tensor], Tensor]

# Relative to the largest value, because a difference has the error of its terms.
TOLERANCE = 1e-13
# snntorch's spikes are float32, and so are the incoming gradient and its product with the slope.
TOLERANCE_OF_SNNTORCH = 1e-6


@dataclass(frozen=True)
class Pair:
    """One of their surrogates, and ours.

    Attributes:
        theirs: Their spike, as a function of their parameter.
        default: The default of their parameter.
        ours: Our spike, as a function of the same parameter.
        times: The factor by which our gradient is multiplied.
    """

    name: str
    theirs: Callable[..., Spike]
    default: float
    ours: Callable[[float], Surrogate]
    times: Callable[[float], float] = lambda a: 1.0

    @property
    def is_of_snntorch(self) -> bool:
        return self.name.startswith("snntorch")

    @property
    def tolerance(self) -> float:
        return TOLERANCE_OF_SNNTORCH if self.is_of_snntorch else TOLERANCE


PAIRS = (
    Pair("snntorch.atan", snntorch.surrogate.atan, 2, lambda a: ste.surrogates.atan(alpha=a)),
    Pair("snntorch.fast_sigmoid", snntorch.surrogate.fast_sigmoid, 25, lambda a: ste.surrogates.fast_sigmoid(alpha=a)),
    Pair("snntorch.sigmoid", snntorch.surrogate.sigmoid, 25, lambda a: ste.surrogates.sigmoid(alpha=a)),
    Pair("Sigmoid", jelly.Sigmoid, 4, lambda a: ste.surrogates.sigmoid(alpha=a)),
    Pair("ATan", jelly.ATan, 2, lambda a: ste.surrogates.atan(alpha=a)),
    Pair("PiecewiseQuadratic", jelly.PiecewiseQuadratic, 1, lambda a: ste.surrogates.triangle(alpha=a)),
    Pair("Erf", jelly.Erf, 2, lambda a: ste.surrogates.gaussian(alpha=a)),
    Pair("SoftSign", jelly.SoftSign, 2, lambda a: ste.surrogates.fast_sigmoid(alpha=a), lambda a: a / 2),
    Pair("SuperSpike", jelly.SuperSpike, 1, lambda a: ste.surrogates.fast_sigmoid(alpha=1), lambda a: a),
    Pair("Rect", jelly.Rect, 1, lambda a: ste.surrogates.clipped(alpha=1 / (2 * a)), lambda a: a),
)
EVERY = pytest.mark.parametrize("pair", PAIRS, ids=lambda pair: pair.name)
OF_SNNTORCH = pytest.mark.parametrize("pair", [p for p in PAIRS if p.is_of_snntorch], ids=lambda pair: pair.name)
OF_SPIKINGJELLY = pytest.mark.parametrize(
    "pair", [p for p in PAIRS if not p.is_of_snntorch], ids=lambda pair: pair.name
)

SMALL = 2.0 ** -torch.arange(0.0, 60, dtype=torch.float64)
LARGE = torch.tensor([5.0, 17.0, 27.0, 1e3, 1e9, 1e30], dtype=torch.float64)
POINTS = torch.cat([torch.linspace(-4, 4, 1603, dtype=torch.float64), SMALL, -SMALL, LARGE, -LARGE])
ZEROS = torch.tensor([0.0, -0.0], dtype=torch.float64)


def run(spike: Spike, x: Tensor, g: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """Spikes, and g times the surrogate's derivative."""
    x = x.detach().requires_grad_()
    y = spike(x)
    return y.detach(), torch.autograd.grad(y, x, torch.ones_like(y) if g is None else g.to(y.dtype))[0]


def assert_near(actual: Tensor, expected: Tensor, tolerance: float = TOLERANCE) -> None:
    assert actual.dtype == expected.dtype == torch.float64
    assert ((actual - expected).abs() <= tolerance * expected.abs().max()).all()


def documentation(function: type) -> str:
    return inspect.getdoc(function) or ""


@EVERY
@pytest.mark.parametrize("a", [None, 0.3, 1.0, 1.7, 6.0, 40.0])
def test_spikes_and_gradient_are_theirs(pair: Pair, a: float | None) -> None:
    theirs = pair.theirs() if a is None else pair.theirs(a)
    a = pair.default if a is None else a
    x = torch.cat([POINTS, ZEROS])
    if pair.name == "snntorch.sigmoid":
        x = x[-a * x < 700]  # beyond these its gradient is NaN, which has its own test
    if pair.name == "Rect":
        x = x[(x.abs() * 2 * a - 1).abs() > 1e-9]  # the ends, which have their own test
    g = torch.linspace(-2, 3, x.numel())
    their_spikes, their_gradient = run(theirs, x, g)
    spikes, gradient = run(pair.ours(a), x, g)
    assert_near(gradient * pair.times(a), their_gradient, pair.tolerance)
    assert gradient.abs().max() > 0
    where = x != 0 if pair.is_of_snntorch else slice(None)  # x = 0: see below
    assert_same_bits(spikes[where], their_spikes[where].to(x.dtype))


def test_a_rectangle_has_its_ends_in_ours_alone() -> None:
    x = torch.tensor([-0.25, 0.25])
    assert run(jelly.Rect(alpha=2.0), x)[1].tolist() == [0, 0]
    assert run(ste.surrogates.clipped(alpha=1 / 4), x)[1].tolist() == [1, 1]


@EVERY
def test_snntorch_does_not_spike_at_the_threshold(pair: Pair) -> None:
    assert pair.ours(1.0)(ZEROS).tolist() == [1, 1]
    assert pair.theirs(1.0)(ZEROS).tolist() == ([0, 0] if pair.is_of_snntorch else [1, 1])


@OF_SNNTORCH
def test_snntorch_documents_a_spike_at_the_threshold(pair: Pair) -> None:
    function = {"atan": "ATan", "fast_sigmoid": "FastSigmoid", "sigmoid": "Sigmoid"}[pair.name.split(".")[1]]
    assert r"S=\begin{cases} 1 & \text{if U ≥ U$_{\rm thr}$}" in documentation(getattr(snntorch.surrogate, function))


@EVERY
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64], ids=str)
def test_snntorch_returns_float32(pair: Pair, dtype: torch.dtype) -> None:
    x = torch.tensor([-1.0, 1.0], dtype=dtype)
    assert pair.ours(1.0)(x).dtype == dtype
    assert pair.theirs(1.0)(x).dtype == (torch.float32 if pair.is_of_snntorch else dtype)


@pytest.mark.parametrize("name", ["atan", "fast_sigmoid", "sigmoid"])
def test_default_is_that_of_snntorch_but_for_the_sigmoid(name: str) -> None:
    (theirs,) = inspect.signature(getattr(snntorch.surrogate, name)).parameters.values()
    ours = getattr(ste.surrogates, name)()
    assert (theirs.default, ours.alpha) == {"atan": (2, 2), "fast_sigmoid": (25, 25), "sigmoid": (25, 4)}[name]


def test_atan_of_snntorch_is_the_derivative_and_not_what_is_documented() -> None:
    documented = documentation(snntorch.surrogate.ATan)
    assert r"S&≈\frac{1}{π}\text{arctan}(πU \frac{α}{2})" in documented  # noqa: RUF001
    assert r"\frac{∂S}{∂U}&=\frac{1}{π}\frac{1}{(1+(πU\frac{α}{2})^2)}" in documented  # noqa: RUF001
    alpha = 2.0
    _, theirs = run(snntorch.surrogate.atan(alpha=alpha), POINTS)
    _, derivative = run(lambda x: torch.atan(torch.pi * x * alpha / 2) / torch.pi, POINTS)
    assert_near(theirs, derivative)
    formula = 1 / torch.pi / (1 + (torch.pi * POINTS * alpha / 2) ** 2)
    assert_near(theirs, formula * (torch.pi * alpha / 2))  # of the same shape but another size


def test_sigmoid_of_snntorch_overflows() -> None:
    x = torch.tensor([-3.43, -3.42, -1.0, 3.43])
    _, theirs = run(snntorch.surrogate.sigmoid(slope=25), x)
    assert theirs.isnan().tolist() == [True, False, False, False]
    _, gradient = run(ste.surrogates.sigmoid(alpha=25), x)
    assert_same_bits(gradient[0], gradient[3])
    assert 0 < gradient[0] < 1e-35
    edge = (math.log(25) - math.log(torch.finfo(torch.float32).max)) / 25
    assert math.isclose(edge, -3.42, abs_tol=0.001)


@pytest.mark.parametrize("threshold", [1, 0.5])
def test_triangular_of_snntorch_is_no_triangle(threshold: float) -> None:
    x = torch.tensor([-3.0, -0.4, 0.4, 3.0])
    _, theirs = run(snntorch.surrogate.triangular(threshold), x)
    assert theirs.tolist() == [threshold, threshold, -threshold, -threshold]


def test_straight_through_estimator_of_snntorch() -> None:
    g = torch.linspace(-2, 3, POINTS.numel())
    theirs = run(snntorch.surrogate.straight_through_estimator(), POINTS, g)
    ours = run(ste.binary_sign_ste, POINTS, g)
    assert torch.equal(ours[0], theirs[0].double())
    assert torch.equal(ours[1], theirs[1])


@OF_SPIKINGJELLY
def test_gradient_of_spikingjelly_is_the_derivative_of_its_function(pair: Pair) -> None:
    x = POINTS[POINTS.abs() > 1e-9]
    smooth = pair.theirs(1.3, spiking=False)
    if pair.name == "SuperSpike":
        with pytest.raises(NotImplementedError):
            smooth(x)
    else:
        assert_near(run(pair.theirs(1.3), x)[1], run(smooth, x)[1])


def section(title: str) -> str:
    text = (GUIDES / "from_snntorch.md").read_text()
    return re.split(r"^## ", text[text.index(f"## {title}\n") + 3 :], maxsplit=1, flags=re.MULTILINE)[0]


def test_the_guide_has_every_surrogate_of_snntorch() -> None:
    functions = [
        name
        for name, value in vars(snntorch.surrogate).items()
        if inspect.isfunction(value) and value.__module__ == "snntorch.surrogate"
    ]
    assert len(functions) > 8
    text = section("From snntorch")
    assert [name for name in functions if not re.search(rf"`{name}\b", text)] == []


def test_the_guide_has_every_pair() -> None:
    text = section("From snntorch") + section("From spikingjelly")
    rows = re.findall(r"^\| `(\w+)\(\w+=\w\)` \| `\w+\(", text, flags=re.MULTILINE)
    assert sorted(rows) == sorted(pair.name.split(".")[-1] for pair in PAIRS)


def examples() -> list[Any]:
    """The programs in the guides that need one of the libraries, which are not installed when the site is built."""
    return [
        pytest.param(code, id=f"{file.stem}-{library}")
        for file in sorted(GUIDES.glob("*.md"))
        for code in re.findall(r"^```python\n(.*?)^```", file.read_text(), flags=re.MULTILINE | re.DOTALL)
        for library in ("snntorch", "spikingjelly")
        if f"import {library}" in code or f"from {library}" in code
    ]


def test_the_guides_have_an_example_of_each() -> None:
    assert sorted(example.id.split("-")[1] for example in examples()) == ["snntorch", "spikingjelly"]


@pytest.mark.parametrize("code", examples())
def test_example_of_the_guides(code: str) -> None:
    names: dict[str, Any] = {"torch": torch, "ste": ste}
    exec(compile(code, "example", "exec"), names)
    assert set(names["spikes"].unique().tolist()) <= {0.0, 1.0}
    assert names["spikes"].requires_grad


CURRENTS = torch.rand(20, 3, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(0)) * 2
WEIGHTS = torch.linspace(-1, 2, CURRENTS.numel(), dtype=torch.float64).view_as(CURRENTS)

Layer = Callable[[Tensor], tuple[Tensor, Tensor]]


def leaky(spike: Spike | None, **options: Any) -> Layer:
    """Spikes and potentials at all steps."""
    neuron = snntorch.Leaky(beta=0.5, spike_grad=spike, **options)

    def layer(currents: Tensor) -> tuple[Tensor, Tensor]:
        potential, steps = None, []
        for current in currents:
            spikes, potential = neuron(current, potential)
            steps.append((spikes, potential))
        return torch.stack([s for s, _ in steps]), torch.stack([p for _, p in steps])

    return layer


def synaptic(spike: Spike | None, **options: Any) -> Layer:
    neuron = snntorch.Synaptic(alpha=0.3, beta=0.5, spike_grad=spike, **options)

    def layer(currents: Tensor) -> tuple[Tensor, Tensor]:
        synapse, potential, steps = None, None, []
        for current in currents:
            spikes, synapse, potential = neuron(current, synapse, potential)
            steps.append((spikes, potential))
        return torch.stack([s for s, _ in steps]), torch.stack([p for _, p in steps])

    return layer


def lif(spike: Spike, **options: Any) -> Layer:
    neuron = jelly_neuron.LIFNode(surrogate_function=spike, store_v_seq=True, **options)

    def layer(currents: Tensor) -> tuple[Tensor, Tensor]:
        if neuron.step_mode == "m":
            return neuron(currents), neuron.v_seq
        steps = [(neuron(current), neuron.v) for current in currents]
        return torch.stack([s for s, _ in steps]), torch.stack([v for _, v in steps])

    return layer


def assert_same_layer(ours: Layer, theirs: Layer, tolerance: float, dtype: torch.dtype = torch.float64) -> None:
    found = []
    for layer in (ours, theirs):
        currents = CURRENTS.to(dtype, copy=True).requires_grad_()
        spikes, potentials = layer(currents)
        ((spikes + potentials) * WEIGHTS.to(dtype)).sum().backward()
        assert currents.grad is not None
        found.append((spikes.detach().to(dtype), potentials.detach(), currents.grad))
    assert torch.equal(found[0][0], found[1][0])
    assert 0.05 < found[0][0].double().mean() < 0.99
    for actual, expected in zip(found[0][1:], found[1][1:]):
        assert actual.dtype == expected.dtype == dtype
        assert_near(actual.double(), expected.double(), tolerance)


@pytest.mark.parametrize("build", [leaky, synaptic])
@pytest.mark.parametrize("reset", ["subtract", "zero", "none"])
@pytest.mark.parametrize("reset_delay", [True, False])
@OF_SNNTORCH
def test_neuron_of_snntorch(build: Callable[..., Layer], reset: str, reset_delay: bool, pair: Pair) -> None:
    options = {"reset_mechanism": reset, "reset_delay": reset_delay}
    assert_same_layer(build(pair.ours(3.0), **options), build(pair.theirs(3.0), **options), TOLERANCE_OF_SNNTORCH)


def test_neuron_of_snntorch_as_it_is_by_default() -> None:
    assert_same_layer(leaky(ste.surrogates.atan(alpha=2.0)), leaky(None), TOLERANCE_OF_SNNTORCH)


@pytest.mark.parametrize("step_mode", ["m", "s"])
@pytest.mark.parametrize("detach_reset", [False, True])
@pytest.mark.parametrize("v_reset", [0.0, None], ids=["hard", "soft"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("name", ["Sigmoid", "ATan", "PiecewiseQuadratic", "Erf"])
def test_neuron_of_spikingjelly(
    step_mode: str, detach_reset: bool, v_reset: float | None, dtype: torch.dtype, name: str
) -> None:
    (pair,) = [pair for pair in PAIRS if pair.name == name]
    options = {"step_mode": step_mode, "detach_reset": detach_reset, "v_reset": v_reset, "tau": 1.5}
    tolerance = TOLERANCE if dtype == torch.float64 else 1e-5
    assert_same_layer(lif(pair.ours(4.0), **options), lif(pair.theirs(4.0), **options), tolerance, dtype)


def test_neuron_of_spikingjelly_as_it_is_by_default() -> None:
    theirs = jelly_neuron.LIFNode().surrogate_function
    ours = ste.surrogates.sigmoid(alpha=4.0)
    assert_same_layer(lif(ours, step_mode="m"), lif(theirs, step_mode="m"), TOLERANCE)


NEURONS = [
    pytest.param(lambda spike: snntorch.Leaky(beta=0.9, spike_grad=spike, init_hidden=True), id="snntorch"),
    pytest.param(lambda spike: jelly_neuron.LIFNode(surrogate_function=spike, step_mode="s"), id="spikingjelly"),
]


def steps(neuron: Callable[[Tensor], Tensor]) -> tuple[Tensor, Tensor]:
    currents = CURRENTS.clone().requires_grad_()
    spikes = torch.stack([neuron(current) for current in currents])
    return spikes.detach(), torch.autograd.grad((spikes * WEIGHTS).sum(), currents)[0]


@pytest.mark.parametrize("build", NEURONS)
@pytest.mark.parametrize(
    "copied", [copy.deepcopy, lambda neuron: pickle.loads(pickle.dumps(neuron))], ids=["copy", "pickle"]
)
def test_neuron_with_ours_is_copied_and_pickled(build: Callable[..., Any], copied: Callable[[Any], Any]) -> None:
    neuron = build(ste.surrogates.atan(alpha=2.0))
    other = copied(neuron)
    found, expected = steps(other), steps(neuron)
    assert_same_bits(found[0], expected[0])
    assert_same_bits(found[1], expected[1])
    assert expected[1].abs().max() > 0


def test_neuron_of_snntorch_with_its_own_is_not_pickled() -> None:
    with pytest.raises((AttributeError, pickle.PicklingError), match=r"local object .*atan\.<locals>\.inner"):
        pickle.dumps(snntorch.Leaky(beta=0.9))


# torch's compiler reads the .grad of the potential that a neuron keeps.
@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf:UserWarning")
@pytest.mark.parametrize("build", NEURONS)
def test_neuron_with_ours_is_compiled(build: Callable[..., Any]) -> None:
    expected = steps(build(ste.surrogates.atan(alpha=2.0)))
    counter = CompileCounterWithBackend("aot_eager")
    found = steps(torch.compile(build(ste.surrogates.atan(alpha=2.0)), backend=counter))
    assert counter.op_count > 0
    assert_same_bits(found[0], expected[0])
    torch.testing.assert_close(found[1], expected[1], rtol=1e-12, atol=1e-12)
