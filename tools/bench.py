"""Measure what the ops cost, compared with the limit and with what people use instead.

Each number is a time divided by that of torch.round, or of another call that is named: the competitors take turns in
one process, so whatever slows the machine down slows all of them. A number that is not known to within 1% is measured
for longer. `ste` chooses its backend when it is imported, so each backend has its own process. Writes the results, from
which tools/bench_report.py writes the page. Large tensors are measured on one thread and on all of torch's.
"""

import argparse
import itertools
import json
import math
import os
import random
import re
import shutil
import statistics
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from bench_calls import BOUNDS, VARIANTS, Call, bare, detached, number, per_channel, written
from bench_grids import block_formats, float_formats, learnable
from bench_race import KNOWN, SECONDS_IN_MEMORY, Result, race
from bench_steps import NETWORKS, steps
from bench_surrogates import KINDS, gradients
from bench_system import build_seconds, import_milliseconds, library_megabytes, machine, peak_tensors, take_memory
from subjects import IDIOM  # one of the tests, which bench_calls finds
from torch import Tensor
from torch.utils.benchmark import Timer

import ste

LIMIT = "torch.round"
COPIES = "straight_through"  # has a target relative to x.clone()
THREE_READS = "torch.addcmul"  # torch's own pass over three tensors
SECONDS_ON_ALL_THREADS = {"new": 3, "kept": 1.5}  # by the memory of the results
LARGE = [(1, 64, 32, 32), (1, 64, 128, 128), (1, 64, 625, 250)]  # 65,536, 1,048,576 and 10,000,000 elements
FOR_ALL_THREADS = (1, 64, 512, 256)  # 8,388,608 elements
PLACES = 9  # in memory, between which the time of the same loop differs by up to 10%
GROWTH = [10**power for power in range(9)]
CALLS = 1000  # whose instructions are counted
LAYOUTS = {"contiguous": torch.contiguous_format, "channels-last": torch.channels_last}


def somewhere(shape: Sequence[int], dtype: torch.dtype, memory_format: torch.memory_format) -> Tensor:
    """Normally distributed numbers with a standard deviation of 3, at a random offset within some pages."""
    numel = math.prod(shape)
    offset = 64 * random.randrange(256)
    flat = torch.empty(numel + offset + 64, dtype=dtype)[offset : offset + numel]
    if memory_format == torch.channels_last:
        n, c, h, w = shape
        x = flat.view(n, h, w, c).permute(0, 3, 1, 2)
    else:
        x = flat.view(shape)
    return x.copy_(torch.randn(shape) * 3)


class Bench:
    """Everything that this process, with its backend, can measure."""

    def __init__(self, peer: str, *, quick: bool, peers: bool = False) -> None:
        self.thread_counts = sorted({1, torch.get_num_threads()})
        torch.set_num_threads(1)
        torch.manual_seed(0)
        self.peer = peer
        self.peers = peers
        self.sizes = LARGE[:1] if quick else LARGE
        self.quick = quick
        self.race = partial(race, turns=3, seconds=0) if quick else race
        self.backend = ste.backend().name
        self.ours = {"native": "ste, native", "python": "ste, Python"}[self.backend]

    def competitors(self, variant: str, x: Tensor) -> dict[str, Call]:
        op, arguments = VARIANTS[variant]
        args = (x, *arguments(x.detach()))
        calls = {
            LIMIT: Call(torch.round, (x,)),
            "clone": Call(torch.clone, (x,)),
            self.ours: Call(op.function, args),
        }
        if op.straight_through:
            calls |= {"idiom": Call(IDIOM[op.name], args), "Function": Call(bare(op), args)}
        else:
            calls["torch.clamp"] = Call(torch.clamp, args)
        if self.peer:
            import brevitas.function

            if hasattr(brevitas.function, op.name) and "low" not in variant:
                calls[self.peer] = Call(getattr(brevitas.function, op.name), args)
        return calls

    def calls(self) -> Iterator[Result]:
        for variant in VARIANTS:
            calls = self.competitors(variant, torch.randn(1, 2, 2, 2, requires_grad=True))
            yield from self.race("call", variant, calls, elements=8)
            calls = {name: call.with_backward() for name, call in calls.items()}
            yield from self.race("call and backward", variant, calls, elements=8)

    def large(self) -> Iterator[Result]:
        for variant, (op, arguments) in VARIANTS.items():
            compiled = torch.compile(written(op), dynamic=True)
            cases = itertools.product(self.sizes, (torch.float32, torch.bfloat16), LAYOUTS)
            if self.backend == "python":  # its loops are torch's
                cases = itertools.product(self.sizes, (torch.float32,), ("contiguous",))
            for shape, dtype, layout in cases:
                sets = []
                for _ in range(3):
                    x = somewhere(shape, dtype, LAYOUTS[layout])
                    calls = self.competitors(variant, x)
                    if variant.endswith("full"):
                        calls[THREE_READS] = Call(torch.addcmul, (x, *arguments(x)))
                    if dtype != torch.float32 or layout != "contiguous":
                        chosen = {LIMIT, self.ours, "idiom", THREE_READS, *(["clone"] if variant == COPIES else [])}
                        calls = {name: call for name, call in calls.items() if name in chosen}
                    elif self.backend == "native":
                        calls["torch.compile"] = Call(compiled, (x, *arguments(x)))
                    sets.append(calls)
                where: dict[str, Any] = {
                    "dtype": str(dtype).removeprefix("torch."),
                    "layout": layout,
                    "elements": math.prod(shape),
                }
                yield from self.race("forward", variant, *sets, **where)

    def backward_of_tensor_clamp(self) -> Iterator[Result]:
        for kind, make in BOUNDS.items():
            for layout, memory_format in LAYOUTS.items():
                x = (torch.randn(self.sizes[-1]) * 2).contiguous(memory_format=memory_format)
                calls = self.backwards(x, make)
                yield from self.race("backward", f"tensor_clamp, {kind}", calls, elements=x.numel(), layout=layout)

    def backwards(self, x: Tensor, make: Callable[[Tensor, float], Tensor]) -> dict[str, Call]:
        calls = {}
        for title, clamp in (("torch.clamp", torch.clamp), (self.ours, ste.tensor_clamp)):
            leaves = [t.clone().requires_grad_() for t in (x, make(x, -1.0), make(x, 1.0))]
            arguments = (clamp(*leaves), leaves, torch.randn_like(x))
            calls[title] = Call(partial(torch.autograd.grad, retain_graph=True), arguments)
        return calls

    def threads(self, memory: str) -> Iterator[Result]:
        """Large tensors, on one thread and on all.

        With both kinds of memory: the thread that first writes to a new page zeroes it. Without new pages, two threads
        gain little, because one thread on a fast core already uses most of the memory bandwidth.
        """
        take_memory(memory)
        shape = self.sizes[0] if self.quick else FOR_ALL_THREADS

        def races(section: str, op: str, dtype: torch.dtype, *sets: dict[str, Call]) -> Iterator[Result]:
            where: dict[str, Any] = {"elements": math.prod(shape), "dtype": str(dtype).removeprefix("torch.")}
            seconds = 0 if self.quick else SECONDS_ON_ALL_THREADS[memory]
            for threads in self.thread_counts:
                yield from self.race(section, op, *sets, seconds=seconds, threads=threads, memory=memory, **where)

        def new_x(dtype: torch.dtype) -> Tensor:
            return somewhere(shape, dtype, torch.contiguous_format)

        for dtype, (variant, (op, arguments)) in itertools.product((torch.float32, torch.bfloat16), VARIANTS.items()):
            sets = []
            for _ in range(PLACES):
                x = new_x(dtype)
                args = (x, *arguments(x))
                calls = {LIMIT: Call(torch.round, (x,)), self.ours: Call(op.function, args)}
                if variant == COPIES:
                    calls["clone"] = Call(torch.clone, (x,))
                if variant.endswith("full"):
                    calls[THREE_READS] = Call(torch.addcmul, args)
                sets.append(calls)
            yield from races("forward", variant, dtype, *sets)
        for dtype, kind in itertools.product((torch.float32, torch.bfloat16), ("per tensor", "per channel")):
            sets = []
            for _ in range(PLACES):
                x = new_x(dtype).requires_grad_()
                scale = (number if kind == "per tensor" else per_channel)(x.detach(), 0.6).requires_grad_()
                calls = {
                    "clone": Call(torch.clone, (x,)),
                    self.ours: Call(ste.fake_quantize, (x, scale, None, -8, 7), inputs=2),
                }
                sets.append(calls)
            without_gradient = [
                {name: replace(c, arguments=detached(c)) for name, c in calls.items()} for calls in sets
            ]
            yield from races("fake_quantize", kind, dtype, *without_gradient)
            with_backward = [{name: call.with_backward() for name, call in calls.items()} for calls in sets]
            yield from races("fake_quantize and backward", kind, dtype, *with_backward)
        for kind, make in BOUNDS.items():
            yield from races(
                "backward", f"tensor_clamp, {kind}", torch.float32, self.backwards(new_x(torch.float32), make)
            )

    def surrogates(self) -> Iterator[Result]:
        """The backward of each surrogate, on a million elements."""
        shape = self.sizes[0] if self.quick else LARGE[1]
        for dtype, (name, kind) in itertools.product((torch.float32, torch.bfloat16), KINDS.items()):
            sets = [
                gradients(kind, self.ours, *(somewhere(shape, dtype, torch.contiguous_format) for _ in range(2)))
                for _ in range(3)
            ]
            where: dict[str, Any] = {"elements": math.prod(shape), "dtype": str(dtype).removeprefix("torch.")}
            for threads in self.thread_counts:
                yield from self.race("surrogate", name, *sets, threads=threads, **where)

    def fake_quantize(self) -> Iterator[Result]:
        """Four bits with a learned scale, compared with the composition and with torch's own op."""
        composition = IDIOM["fake_quantize"]
        ends = (None, -8, 7)
        for shape, kind in itertools.product(self.sizes, ("per tensor", "per channel")):
            where: dict[str, Any] = {"elements": math.prod(shape)}
            ours = {}
            for dtype in (torch.float32, torch.bfloat16):
                x = somewhere(shape, dtype, torch.contiguous_format).requires_grad_()
                torch.compiler.reset()  # it compiles a function at most eight times
                scale = (number if kind == "per tensor" else per_channel)(x.detach(), 0.6).requires_grad_()
                calls = {
                    "clone": Call(torch.clone, (x,)),
                    self.ours: Call(ste.fake_quantize, (x, scale, *ends), inputs=2),
                    "composition": Call(composition, (x, scale, *ends), inputs=2),
                    "torch.compile": Call(torch.compile(composition), (x, scale, *ends), inputs=2),
                }
                if dtype == torch.float32:
                    calls["learnable op of torch"] = learnable(x, scale)
                with_dtype: dict[str, Any] = {**where, "dtype": str(dtype).removeprefix("torch.")}
                without_gradient = {name: replace(call, arguments=detached(call)) for name, call in calls.items()}
                yield from self.race("fake_quantize", kind, without_gradient, **with_dtype)
                calls = {name: call.with_backward() for name, call in calls.items()}
                yield from self.race("fake_quantize and backward", kind, calls, **with_dtype)
                ours[f"{self.ours}, {dtype}".replace("torch.", "")] = calls[self.ours]
            for threads in self.thread_counts:
                yield from self.race("fake_quantize by dtype", kind, ours, **where, threads=threads)

    def formats(self) -> Iterator[Result]:
        """Formats of 8 bits, compared with integers of 8 bits; and blocks of 32."""
        races = [("fake_quantize_float", "e4m3fn", float_formats)]
        races += [("fake_quantize_blocks", recipe, partial(block_formats, recipe)) for recipe in ("mxfp4", "int4_32")]
        for shape, dtype in itertools.product(self.sizes[-2:], (torch.float32, torch.bfloat16)):
            where: dict[str, Any] = {"elements": math.prod(shape), "dtype": str(dtype).removeprefix("torch.")}
            for section, title, calls in races:
                torch.compiler.reset()  # it compiles a function at most eight times
                places = (somewhere(shape, dtype, torch.contiguous_format) for _ in range(3))
                sets = [calls(x, self.ours, peers=self.peers) for x in places]
                for threads in self.thread_counts:
                    yield from self.race(section, title, *sets, threads=threads, **where)

    def steps(self) -> Iterator[Result]:
        """Training steps, compared with the same step in floating point."""
        for network, compiles in itertools.product(NETWORKS, (False, True)):
            torch.compiler.reset()
            calls, elements = steps(network, self.ours, peers=self.peers, compiles=compiles)
            section = "step, compiled" if compiles else "step"
            for threads in self.thread_counts:
                yield from self.race(section, network, calls, seconds=15, elements=elements, threads=threads)

    def memory(self) -> Iterator[Result]:
        """The peak of forward and backward, in tensors of x's size."""
        for variant in VARIANTS:
            x = torch.randn(1, 64, 400, 400, requires_grad=True)
            for title, call in self.competitors(variant, x).items():
                peaks = [peak_tensors(call.with_backward(), x) for _ in range(3)]
                yield Result(
                    "memory", variant, title, statistics.median(peaks), min(peaks), max(peaks), elements=x.numel()
                )

    def compiled(self) -> Iterator[Result]:
        """A quantizer, written with the ops and with the idiom."""
        from torch._inductor.utils import run_and_get_code

        pairs = {
            "idiom": (IDIOM["round_ste"], IDIOM["scalar_clamp_ste"]),
            self.ours: (ste.round_ste, ste.scalar_clamp_ste),
        }
        for shape in self.sizes:
            torch.compiler.reset()  # it compiles a function at most eight times, each for one number of threads
            xs = [somewhere(shape, torch.float32, torch.contiguous_format).requires_grad_() for _ in range(3)]
            sets: list[dict[str, Call]] = [{} for _ in xs]
            for title, (to_integer, clamp) in pairs.items():

                def quantizer(t: Tensor, to_integer: Any = to_integer, clamp: Any = clamp) -> Any:
                    return clamp(to_integer(t / 0.1), -8.0, 7.0) * 0.1

                compiled = torch.compile(quantizer, fullgraph=True)
                for calls, x in zip(sets, xs):
                    calls[title] = Call(compiled, (x,)).with_backward()
                _, codes = run_and_get_code(sets[0][title])
                kernels = float(sum(len(re.findall(r"async_compile\.cpp", code)) for code in codes))
                if kernels:  # no later size compiles anything, if the first code was for all sizes
                    yield Result("compiled kernels", "quantizer", title, kernels, kernels, kernels, elements=x.numel())
            # More exactly than the rest: the target allows 2%.
            exactly: dict[str, Any] = {} if self.quick else {"known": KNOWN / 2, "seconds": 4 * SECONDS_IN_MEMORY}
            for threads in self.thread_counts:
                options = exactly if threads == 1 else {}
                yield from self.race("compiled", "quantizer", *sets, elements=x.numel(), threads=threads, **options)

    def growth(self) -> Iterator[Result]:
        for threads in self.thread_counts:
            for elements in GROWTH[:5] if self.quick else GROWTH:
                x = torch.randn(1, 1, 1, elements)
                for variant in ("round_ste", "ternary_sign_ste"):
                    calls = self.competitors(variant, x)
                    chosen = {name: calls[name] for name in (LIMIT, self.ours, "idiom")}
                    yield from self.race("growth", variant, chosen, turns=3, elements=elements, threads=threads)

    def exactness(self) -> Iterator[Result]:
        """The share of normally distributed elements, with a standard deviation of 3, that the idiom gets wrong."""
        for dtype in (torch.float64, torch.float32, torch.float16, torch.bfloat16):
            x = (torch.randn(LARGE[1], dtype=torch.float64) * 3).to(dtype)
            for variant, (op, _) in VARIANTS.items():
                if op.straight_through:
                    calls = self.competitors(variant, x)
                    share = (calls["idiom"]() != calls[self.ours]()).double().mean().item()
                    name = str(dtype).removeprefix("torch.")
                    yield Result("inexact", variant, "idiom", share, share, share, dtype=name, elements=x.numel())

    def instructions(self) -> Iterator[Result]:
        """Instructions of one call of torch.round and of ste.round_ste, by cause, counted by valgrind's callgrind."""
        # The timer starts another process, called python; valgrind does not support AVX-512.
        os.environ["PATH"] = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
        os.environ["ATEN_CPU_CAPABILITY"] = "avx2"
        setup = "import torch, ste; x = torch.randn(8, requires_grad=True)"
        for title, statement in ((LIMIT, "torch.round(x)"), (self.ours, "ste.round_ste(x)")):
            timer: Any = Timer(statement, setup=setup)
            stats = timer.collect_callgrind(number=CALLS, collect_baseline=False)
            counts = dict.fromkeys(CAUSES, 0.0)
            for count, function in stats.stats(inclusive=False):
                cause = next(cause for cause, pattern in CAUSES.items() if re.search(pattern, function))
                counts[cause] += count / CALLS
            for cause, count in counts.items():
                yield Result("instructions", cause, title, count, count, count, elements=8)

    def part(self, name: str) -> Iterator[Result]:
        take_memory("kept")
        yield from getattr(self, name)()

    def all(self) -> Iterator[Result]:
        take_memory("new")  # before the heap has room for anything large
        if self.backend == "native" and not self.peer:
            yield from self.memory()
            yield from self.threads("new")
            yield from self.threads("kept")
        take_memory("kept")
        yield from self.calls()
        yield from self.large()
        if self.backend == "native" and not self.peer:
            yield from self.backward_of_tensor_clamp()
            yield from self.fake_quantize()
            yield from self.formats()
            yield from self.surrogates()
            yield from self.compiled()
            yield from self.steps()
            yield from self.growth()
            yield from self.exactness()
            if shutil.which("valgrind") and not self.quick:
                yield from self.instructions()


# What an instruction of a call is spent on: the first pattern that matches the function's name and library.
CAUSES = {
    "the GIL, released and taken again, and other locks": r"_gil\b|gil_scoped|PyEval_(Save|Restore)Thread|pthread_|"
    r"PyThreadState|PyGILState|lll_lock",
    "memory: malloc and free": r"malloc|free\b|memalign|operator (new|delete)|PyObject_(Free|Malloc)|(alloc|free)_cpu",
    "the binding of ste: arguments in, result out": r"_C\.[^/]*\.so|_C\.pyd",
    "the binding of torch: arguments in, result out": r"libtorch_python",
    "the op of ste: checks, autograd kernel, node": r"libste\.",
    "the interpreter: frame, look-up of names, references": r"libpython|/Python/|/Objects/|bin/python",
    "autograd of torch: node, metadata, gradient accumulator": r"autograd|grad_accumulator",
    "the kernel and its TensorIterator": r"TensorIterator|round|OperandInfo|function_ref|SmallVector|DimVector",
    "the result: TensorImpl and storage": r"TensorImpl|Storage|empty|intrusive_ptr|libc10\.",
    "the dispatcher and thread-local state": r"Dispatch|_ops::|RecordFunction|StepCallbacks|tls_get_addr|LocalKeySet",
    "all else": r"",
}


def single(section: str, backend: str, values: list[float]) -> dict[str, Any]:
    result = Result(section, "", f"ste, {backend}", statistics.median(values), min(values), max(values))
    return {**asdict(result), "process": backend}


def write(rows: Sequence[dict[str, Any]], path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps({"machine": machine(), "results": rows}, indent=1) + "\n")


def results_of(path: Path) -> list[dict[str, Any]]:
    """The previous results, to which those of a part are added."""
    if not path.exists():
        sys.exit(f"{path} does not exist: measure everything first")
    before: dict[str, Any] = json.loads(path.read_text())
    if before["machine"] != machine():
        sys.exit(f"{path} is from another machine: {before['machine']}")
    return list(before["results"])


def replaced(before: Sequence[dict[str, Any]], rows: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """The previous results, with these instead of those of the same sections."""
    again = {(row["process"], row["section"]) for row in rows}
    return [row for row in before if (row["process"], row["section"]) not in again] + list(rows)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("results", type=Path, help="the file to write")
    parser.add_argument(
        "--peers", action="store_true", help="measure Brevitas and torchao too, which must be installed"
    )
    parser.add_argument(
        "--quick", action="store_true", help="only the smallest of the large sizes, to try this program"
    )
    parser.add_argument(
        "--only", metavar="PART", help="measure one part again, such as formats, and keep the other results"
    )
    parser.add_argument("--worker", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.worker is not None:
        bench = Bench(arguments.worker, quick=arguments.quick, peers=arguments.peers)
        for result in bench.part(arguments.only) if arguments.only else bench.all():
            print(json.dumps(asdict(result)), flush=True)
        return

    from tqdm import tqdm

    workers: list[tuple[str, str, dict[str, str]]] = [("native", "", {}), ("python", "", {})]
    if arguments.peers:
        for mode in ("0", "1"):
            title = f"Brevitas, {'JIT' if mode == '1' else 'Python'}"
            workers.append(("native", title, {"BREVITAS_JIT": mode}))
    before = []
    if arguments.only:
        before = results_of(arguments.results)
        del workers[1:]
    rows = []
    # If the output is not a terminal, every update of a progress bar adds a line to the log.
    with tqdm(unit=" results", mininterval=0.1 if sys.stderr.isatty() else 60) as progress:
        for backend, peer, environment in workers:
            progress.set_description(peer or backend, refresh=False)
            command = [sys.executable, __file__, arguments.results, "--worker", peer]
            command += ["--quick"] * arguments.quick + ["--peers"] * arguments.peers
            command += ["--only", arguments.only] if arguments.only else []
            with subprocess.Popen(
                command, stdout=subprocess.PIPE, text=True, env={**os.environ, "STE_BACKEND": backend, **environment}
            ) as process:
                assert process.stdout is not None
                for line in process.stdout:
                    row = {**json.loads(line), "process": peer or backend}
                    if not peer or row["competitor"] == peer:
                        rows.append(row)
                    progress.update()
            if process.returncode:
                unfinished = arguments.results.with_suffix(".partial.json")
                write(rows, unfinished)
                sys.exit(f"{peer or backend} stopped with {process.returncode}; its results are in {unfinished}")
        if arguments.only:
            write(replaced(before, rows), arguments.results)
            return
        progress.set_description("build and import", refresh=False)
        rows += [single("import, ms", backend, import_milliseconds(backend)) for backend in ("native", "python")]
        rows.append(single("library, MB", "native", [library_megabytes()]))
        if not arguments.quick:
            rows.append(single("build, s", "native", [build_seconds()]))
    write(rows, arguments.results)


if __name__ == "__main__":
    main()
