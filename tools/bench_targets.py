"""The targets for the results of tools/bench.py."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from ste.surrogates import TABLE

MILLION = 1 << 20
LARGE = 8 * MILLION  # from this many elements on, ops are measured on all threads too
NATIVE, PYTHON = "ste, native", "ste, python"

Row = dict[str, Any]


@dataclass(frozen=True)
class Target:
    """A promise, and the results to which it applies.

    Attributes:
        text: What is measured.
        unit: The unit of the value: for a ratio, what the time is a multiple of.
        bound: The largest value that meets the target.
        applies: Whether the target applies to a result, on any number of threads.
        relative_to: The competitor in the same race to divide by, if not the limit.
        threads: "one" thread, or "all"; "" if threads do not matter.
        faster: Whether the value is the time on all threads divided by that on one.
        overhead: Whether to compare only the time beyond the limit's.
        reason: Why the target is missed, if that is known.
    """

    text: str
    unit: str
    bound: float
    applies: Callable[[Row], bool]
    relative_to: str = ""
    threads: str = "one"
    faster: bool = False
    overhead: bool = False
    reason: str = ""

    def title(self, threads: int) -> str:
        return {"one": "one thread: ", "all": f"all {threads} threads: ", "": ""}[self.threads] + self.text

    def worst(self, rows: Sequence[Row], threads: int) -> tuple[float, Row] | None:
        on = threads if self.threads == "all" else 1
        chosen = [row for row in rows if row["threads"] == on and self.applies(row)]
        found = [(value, row) for row in chosen if (value := self.value(row, rows)) is not None]
        return max(found, key=lambda pair: pair[0], default=None)

    def value(self, row: Row, rows: Sequence[Row]) -> float | None:
        if self.faster:
            one = partner(row, rows, threads=1)
            return row["seconds"] / one["seconds"] if one and row["threads"] > 1 else None
        if not self.relative_to:
            return float(row["ratio"])
        other = partner(row, rows, competitor=self.relative_to)
        if not other:
            return None
        base = 1.0 if self.overhead else 0.0
        return float((row["ratio"] - base) / (other["ratio"] - base))


def partner(row: Row, rows: Sequence[Row], **different: Any) -> Row | None:
    """The result that differs from this one only in these fields."""
    fields = ("section", "op", "competitor", "dtype", "layout", "elements", "threads", "memory", "process")
    wanted = {field: row[field] for field in fields} | different
    return next((other for other in rows if all(other[field] == value for field, value in wanted.items())), None)


def of_one_thread(rows: Sequence[Row]) -> list[Row]:
    """With memory that the process has kept, without the size that is measured on all threads too."""
    return [row for row in rows if row["threads"] == 1 and row["memory"] == "kept" and row["elements"] != LARGE]


def of(section: str, competitor: str, op: Callable[[str], bool] = lambda _: True) -> Callable[[Row], bool]:
    return lambda row: row["section"] == section and row["competitor"] == competitor and op(row["op"])


def at(section: str, sizes: Sequence[int]) -> Callable[[Row], bool]:
    """In float32, at these sizes."""
    is_ours = of(section, NATIVE)
    return lambda row: is_ours(row) and row["dtype"] == "float32" and row["elements"] in sizes


def large(
    section: str, memory: str, op: Callable[[str], bool] = lambda _: True, dtype: str = ""
) -> Callable[[Row], bool]:
    """In every dtype or in one, at the size that is measured on all threads."""
    is_ours = of(section, NATIVE, op)
    return lambda row: (
        is_ours(row) and row["elements"] == LARGE and row["memory"] == memory and dtype in ("", row["dtype"])
    )


def is_straight_through(op: str) -> bool:
    return not op.startswith("tensor_clamp,")


TRANSCENDENTAL = [kind.name for kind in TABLE if kind.is_transcendental]


def is_transcendental(surrogate: str) -> bool:
    return surrogate in TRANSCENDENTAL


def is_rational(surrogate: str) -> bool:
    return surrogate not in TRANSCENDENTAL


def copies(op: str) -> bool:
    return op == "straight_through"


def is_full(op: str) -> bool:
    return op.endswith(", full")


# Why two threads gain less.
SHARED_MEMORY = "one thread of this machine already uses most of its memory bandwidth"
# Why the build takes longer, and its libraries are larger, than when these targets were set.
MORE_LOOPS = "the signs with their surrogates, fake_quantize_float and fake_quantize_blocks are half of the code"
NEW_PAGES = "most of it goes into zeroing new pages in the system: x.clone() gains as little, as the table shows"
# For ops that read x and two bounds of its size.
FULL_BOUNDS = "large tensors, bounds of x's size, compared with torch.addcmul, which reads as much"


def on_all_threads_with(memory: str) -> list[Target]:
    """The same targets for results in new memory, and in memory that the process has kept."""
    is_new = memory == "new"

    def target(text: str, unit: str, bound: float, applies: Callable[[Row], bool], **also: Any) -> Target:
        return Target(f"{memory} memory, {text}", unit, bound, applies, threads="all", **also)

    return [
        target(
            "large tensors, native",
            "times torch.round",
            1.05,
            large("forward", memory, lambda op: not is_full(op)),
        ),
        target(
            FULL_BOUNDS,
            "times torch.addcmul",
            1.05,
            large("forward", memory, is_full),
            relative_to="torch.addcmul",
        ),
        target(
            "straight_through, large",
            "times x.clone()",
            1.05,
            large("forward", memory, copies),
            relative_to="clone",
        ),
        *(
            target(
                f"fake_quantize, forward, {dtype}",
                "times x.clone()",
                1.15,
                large("fake_quantize", memory, dtype=dtype),
                reason="both tensors fit in the last cache, where a copy takes a fraction of the time of the divisions"
                if (memory, dtype) == ("kept", "bfloat16")
                else "",
            )
            for dtype in ("float32", "bfloat16")
        ),
        target(
            "fake_quantize, forward and backward",
            "times one thread",
            1 / 1.6,
            large("fake_quantize and backward", memory),
            faster=True,
            reason=NEW_PAGES if is_new else SHARED_MEMORY,
        ),
        target(
            "tensor_clamp, backward",
            "times one thread",
            1 / 1.3,
            large("backward", memory),
            faster=True,
            reason="" if is_new else SHARED_MEMORY,
        ),
    ]


FIRST_LAYER = (
    "the scale of the first layer's input needs the gradient of the images, which the step in float does not compute: "
    "3 to 4% of its time"
)

TARGETS = [
    Target("call, native, forward", "times torch.round", 1.10, of("call", NATIVE, is_straight_through)),
    Target(
        "call, native, forward and backward",
        "times torch.round",
        1.05,
        of("call and backward", NATIVE, is_straight_through),
    ),
    Target("call, native, tensor_clamp", "times torch.clamp", 1.10, of("call", NATIVE), "torch.clamp"),
    Target("call, Python, forward", "times a bare Function", 1.10, of("call", PYTHON, is_straight_through), "Function"),
    Target("large tensors, native", "times torch.round", 1.15, of("forward", NATIVE, lambda op: not is_full(op))),
    Target(
        "large tensors, bounds of x's size",
        "times torch.round",
        1.60,
        of("forward", NATIVE, is_full),
        reason="it passes over four tensors, as torch.addcmul does, and torch.round over two",
    ),
    Target(FULL_BOUNDS, "times torch.addcmul", 1.15, of("forward", NATIVE, is_full), "torch.addcmul"),
    Target("straight_through, large", "times x.clone()", 1.05, of("forward", NATIVE, copies), "clone"),
    Target("fake_quantize, forward", "times x.clone()", 1.80, at("fake_quantize", (65_536, MILLION))),
    *(
        Target(
            "fake_quantize, forward and backward",
            f"times {name}",
            bound,
            at("fake_quantize and backward", (MILLION,)),
            other,
            reason="its two loops, which move 20 MB through the cache, take three quarters of its time",
        )
        for other, name, bound in (
            ("learnable op of torch", "torch's learnable op", 1 / 20),
            ("composition", "the detach idiom", 1 / 15),
            ("torch.compile", "the compiled idiom", 1 / 1.5),
        )
    ),
    Target(
        "fake_quantize in bfloat16, forward and backward",
        "times float32",
        1.00,
        of("fake_quantize by dtype", f"{NATIVE}, bfloat16"),
    ),
    *(
        Target(
            "fake_quantize_float, forward",
            "times fake_quantize",
            1.25,
            of("fake_quantize_float", NATIVE),
            "fake_quantize",
            threads,
        )
        for threads in ("one", "all")
    ),
    *(
        Target(
            "fake_quantize_blocks, forward",
            f"times {name}",
            bound,
            of("fake_quantize_blocks", NATIVE),
            other,
            threads,
        )
        for threads in ("one", "all")
        for other, name, bound in (("clone", "x.clone()", 1.60), ("torch.compile", "the compiled idiom", 1 / 1.5))
    ),
    *(
        Target(f"{text}, backward", f"times {name}", bound, of("surrogate", NATIVE, is_one), other, threads)
        for threads in ("one", "all")
        for text, name, bound, is_one, other in (
            ("surrogates", "torch.mul", 1.60, is_rational, ""),
            (
                "surrogates with exp or pow",
                "torch's own backward of tanh and the like",
                1.30,
                is_transcendental,
                "torch's own",
            ),
        )
    ),
    Target("compiled quantizer", "times the idiom's", 1.02, of("compiled", NATIVE)),
    *(
        Target(f"a training step, {text}", "times the step in float", bound, applies, "", threads, reason=reason)
        for threads in ("one", "all")
        for text, bound, applies, reason in (
            ("ResNet-8", 1.09, of("step", NATIVE, lambda op: op == "ResNet-8"), FIRST_LAYER),
            ("transformer", 1.03, of("step", NATIVE, lambda op: op == "transformer"), ""),
            ("compiled", 1.05, of("step, compiled", NATIVE), FIRST_LAYER),
        )
    ),
    *(
        Target(
            "what quantization adds to a training step",
            f"times what {other} adds",
            bound,
            of("step", NATIVE),
            other,
            threads,
            overhead=True,
        )
        for threads in ("one", "all")
        for other, bound in (("Brevitas", 0.1), ("torch.ao", 0.2), ("torchao", 0.2))
    ),
    *(target for memory in ("new", "kept") for target in on_all_threads_with(memory)),
    Target("compiled quantizer", "times the idiom's", 1.05, of("compiled", NATIVE), threads="all"),
    Target("peak memory, forward and backward", "tensors", 1.02, of("memory", NATIVE, is_straight_through), "", ""),
    Target("compiled quantizer, kernels", "times the idiom's", 1.00, of("compiled kernels", NATIVE), "idiom", ""),
    Target("import ste after import torch", "ms", 40, of("import, ms", NATIVE), "", ""),
    Target("building ste-core on this machine", "s", 100, of("build, s", NATIVE), "", "", reason=MORE_LOOPS),
    Target("its libraries, stripped", "MB", 3, of("library, MB", NATIVE), "", "", reason=MORE_LOOPS),
]
