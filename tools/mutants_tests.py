"""The quick tests for a mutant: those of its family first, until one fails or one minute is over."""

import os
import signal
import subprocess
import sys
import threading
from dataclasses import dataclass
from pathlib import Path

from mutants_build import BUILD, HAS_AVX2
from mutants_change import ROOT

_OF_FAMILY = {
    "rounding": ["test_rounding_at_random", "test_stochastic_round"],
    "signs": ["test_surrogates"],
    "clamp": ["test_layouts", "test_broadcasting"],
    "fake_quantize": ["test_rounding_at_random", "test_fake_quantize", "test_parameters"],
    "fake_quantize_float": ["test_fake_quantize_float", "test_ml_dtypes"],
    "fake_quantize_blocks": ["test_block_errors", "test_block_transforms", "test_fake_quantize_blocks"],
    "straight_through": ["test_straight_through"],
    "quantization": ["test_ranges", "test_shape", "test_errors"],
    "nn": ["test_nn", "test_nn_model", "jobs/test_state", "jobs/test_training"],
    "onnx": ["test_quantize_linear", "test_quantize_linear_formats"],
    "memory": ["test_fake_quantize", "test_layouts", "test_broadcasting", "test_threads"],
    "register": ["test_errors", "test_hooks", "test_dispatcher", "matrix/test_vmap"],
}
# For a line that writes operators for the older ONNX exporter, in any family: tests that export would come last.
_WRITES_ONNX = '.op("'
_OF_ONNX = ["test_rounding_at_random", "matrix/test_onnx"]
_EXPORTS = [r"test_onnx\[False", "test_old_exporter"]
# What the names of tests call the family's ops.
_NAMES = {
    "rounding": "round|ceil|floor|trunc",
    "signs": "sign",
    "clamp": "clamp",
    "fake_quantize": r"quantize\b",
    "fake_quantize_float": "float_|_float",
    "fake_quantize_blocks": "block",
    "straight_through": "straight",
}
_OF_ALL = [
    *["test_forward", "test_gradient", "test_layouts", "test_broadcasting", "test_errors", "test_hooks"],
    *["test_parameters", "matrix/test_vmap", "matrix/test_autograd", "test_fake_quantize", "test_backends_agree"],
]
# A sample of all values for every op, in seconds.
_FIRST = "test_every_exponent"
# It measures the time of threads, so it may fail for another reason.
_LEFT_OUT = "tests/test_threads.py::test_a_second_thread_takes_part"

# Wall-clock time, after which a process that has not ended must be hanging.
_STUCK = 600.0


@dataclass(frozen=True)
class Verdict:
    """The verdict of the tests: `how` is "" if none fails within the minute. The seconds are processor time."""

    how: str
    test: str
    seconds: float


def quick_tests(family: str, line: str, paths: list[Path], backend: str) -> Verdict:
    """Run the tests with the packages in these folders, of which one has this line changed."""
    lines = BUILD / "tests.txt"
    lines.unlink(missing_ok=True)
    environment = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join(map(str, [*paths, ROOT / "tools"])),
        "STE_BACKEND": backend,
        "STE_TEST_EXPECT": {"native": "native", "python": "absent"}[backend],
        "OMP_NUM_THREADS": "1",
        "MUTANTS_TESTS": str(lines),
        **({"ATEN_CPU_CAPABILITY": "avx2"} if HAS_AVX2 else {}),
    }
    if _WRITES_ONNX in line:
        own, first = _OF_ONNX, _EXPORTS
    else:
        own = _OF_FAMILY[family]
        first = [*own, *([_NAMES[family]] if family in _NAMES else [])]
    environment["MUTANTS_FAMILY"] = "|".join(first)
    files = [f"tests/{name}.py" for name in dict.fromkeys([_FIRST, *own, *_OF_ALL])]
    options = ["-x", "-q", "-p", "mutants_plugin", "-p", "no:cacheprovider", "-p", "no:xdist", "-m", "not slow"]
    options += ["--deselect", _LEFT_OUT, "--hypothesis-seed", "0"]
    with (BUILD / "pytest.txt").open("w") as output:
        # Use os.wait4, which reports the time that the process and its children have used.
        process = subprocess.Popen(
            [sys.executable, "-m", "pytest", *options, *files],
            cwd=ROOT,
            env=environment,
            stdout=output,
            stderr=subprocess.STDOUT,
        )
        is_stuck = threading.Timer(_STUCK, process.kill)
        is_stuck.start()
        _, status, usage = os.wait4(process.pid, 0)
        is_stuck.cancel()
    events = [line.partition(" ") for line in lines.read_text().splitlines()] if lines.exists() else []
    what, _, test = events[-1] if events else ("", "", "")
    failed = next((name for event, _, name in events if event == "fails"), None)
    if failed is not None:
        how, test = "fails", failed
    elif os.WIFSIGNALED(status):
        how = "hangs" if os.WTERMSIG(status) in (signal.SIGPROF, signal.SIGKILL) else "crashes"
    elif os.WEXITSTATUS(status) == 0 or what == "stops":
        how, test = "", ""
    else:
        how = "is not imported"
    return Verdict(how, test, round(usage.ru_utime + usage.ru_stime, 1))
