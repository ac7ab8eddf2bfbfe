"""What a training step costs, compared with one in floating point: two networks, and libraries that quantize them."""

import copy
from collections.abc import Callable
from typing import Any

import torch
from bench_calls import Call
from torch import Tensor, nn
from torch.nn import functional as F

import ste

BITS = 4
FLOAT = "float"  # the limit


class Residual(nn.Module):
    def __init__(self, width: int, stride: int, inputs: int) -> None:
        super().__init__()
        self.first = nn.Conv2d(inputs, width, 3, stride, padding=1, bias=False)
        self.second = nn.Conv2d(width, width, 3, padding=1, bias=False)
        self.norms = nn.ModuleList(nn.BatchNorm2d(width) for _ in range(2))
        self.skip = nn.Identity() if stride == 1 else nn.Conv2d(inputs, width, 1, stride, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        y = F.relu(self.norms[0](self.first(x)))
        z: Tensor = self.norms[1](self.second(y)) + self.skip(x)
        return F.relu(z)


def resnet() -> tuple[nn.Module, Tensor, Tensor]:
    """ResNet-8 for images of CIFAR's size, with a batch of 32."""
    blocks = [Residual(16, 1, 16), Residual(32, 2, 16), Residual(64, 2, 32)]
    stem = [nn.Conv2d(3, 16, 3, padding=1, bias=False), nn.BatchNorm2d(16), nn.ReLU()]
    model = nn.Sequential(*stem, *blocks, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(64, 10))
    return model, torch.randn(32, 3, 32, 32), torch.randint(10, (32,))


class Block(nn.Module):
    def __init__(self, width: int = 256, heads: int = 4) -> None:
        super().__init__()
        self.heads = heads
        self.norms = nn.ModuleList(nn.LayerNorm(width) for _ in range(2))
        self.qkv, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.up, self.down = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = self.qkv(self.norms[0](x)).unflatten(-1, (3, self.heads, -1)).movedim(2, 0).transpose(2, 3)
        x = x + self.out(F.scaled_dot_product_attention(q, k, v, is_causal=True).transpose(1, 2).flatten(2))
        y: Tensor = self.down(F.gelu(self.up(self.norms[1](x))))
        return x + y


def transformer() -> tuple[nn.Module, Tensor, Tensor]:
    """One block, with a batch of 8 sequences of length 128."""
    model = nn.Sequential(Block(), nn.Linear(256, 64))
    return model, torch.randn(8, 128, 256), torch.randint(64, (8, 128))


NETWORKS: dict[str, Callable[[], tuple[nn.Module, Tensor, Tensor]]] = {"ResNet-8": resnet, "transformer": transformer}


def by_ste(model: nn.Module) -> nn.Module:
    weight = ste.nn.IntegerQuantizer(BITS, narrow_range=True, axis=0)
    ste.nn.quantize(model, weight, ste.nn.IntegerQuantizer(BITS), verbose=False)
    return model


def by_torch_ao(model: nn.Module) -> nn.Module:
    """torch.ao's FakeQuantize, attached by the same parametrizations and hooks."""
    from torch.ao.quantization import FakeQuantize, MovingAverageMinMaxObserver, MovingAveragePerChannelMinMaxObserver

    class Weight(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.quantizer = FakeQuantize(
                MovingAveragePerChannelMinMaxObserver,
                quant_min=-8,
                quant_max=7,
                dtype=torch.qint8,
                qscheme=torch.per_channel_symmetric,
                ch_axis=0,
            )

        def forward(self, x: Tensor) -> Any:
            return self.quantizer(x)

    activation = FakeQuantize(MovingAverageMinMaxObserver, quant_min=0, quant_max=15, dtype=torch.quint8)
    ste.nn.quantize(model, Weight(), activation, verbose=False)
    return model


def by_brevitas(model: nn.Module) -> nn.Module:
    """Brevitas' layers instead of torch's, with learned scales."""
    import brevitas.nn
    from brevitas.quant import Int8ActPerTensorFloat, Int8WeightPerChannelFloat

    options = {
        "weight_quant": Int8WeightPerChannelFloat,
        "weight_bit_width": BITS,
        "input_quant": Int8ActPerTensorFloat,
        "input_bit_width": BITS,
    }
    for parent in list(model.modules()):
        for name, layer in list(parent.named_children()):
            bias = getattr(layer, "bias", None) is not None
            if isinstance(layer, nn.Linear):
                made = brevitas.nn.QuantLinear(layer.in_features, layer.out_features, bias=bias, **options)
            elif isinstance(layer, nn.Conv2d):
                sizes = (layer.in_channels, layer.out_channels, layer.kernel_size, layer.stride, layer.padding)
                made = brevitas.nn.QuantConv2d(*sizes, bias=bias, **options)
            else:
                continue
            setattr(parent, name, made)
    return model


def by_torchao(model: nn.Module) -> nn.Module:
    """Only linear layers: torchao's quantization-aware training has no others."""
    from torchao.quantization import quantize_
    from torchao.quantization.qat import IntxFakeQuantizeConfig, QATConfig

    activation = IntxFakeQuantizeConfig(torch.int8, "per_token", is_symmetric=False)
    weight = IntxFakeQuantizeConfig(torch.int4, "per_channel")  # type: ignore[attr-defined]  # made at import
    quantize_(model, QATConfig(activation_config=activation, weight_config=weight, step="prepare"))
    return model


PEERS = {"Brevitas": by_brevitas, "torchao": by_torchao}


def step(model: nn.Module, forward: Callable[[Tensor], Tensor], x: Tensor, target: Tensor) -> Call:
    """Forward, backward and an update."""
    optimizer = torch.optim.SGD(model.parameters(), 1e-4)

    def call() -> None:
        optimizer.zero_grad()
        F.cross_entropy(forward(x).flatten(0, -2), target.flatten()).backward()
        optimizer.step()

    for _ in range(2):
        call()
    return Call(call, ())


def steps(network: str, ours: str, *, peers: bool, compiles: bool) -> tuple[dict[str, Call], int]:
    """The step of each library, from the same weights and batch, and the number of elements in a batch."""
    torch.manual_seed(0)
    model, x, target = NETWORKS[network]()
    kinds = {FLOAT: lambda m: m, ours: by_ste}
    if not compiles:
        kinds |= {"torch.ao": by_torch_ao} | (PEERS if peers else {})
    calls = {}
    for name, by in kinds.items():
        if by is by_torchao and network == "ResNet-8":
            continue
        of_kind = by(copy.deepcopy(model))
        of_kind(x)  # the first batch
        calls[name] = step(of_kind, torch.compile(of_kind) if compiles else of_kind, x, target)
    return calls, x.numel()
