"""Measurements of the process, the library and the machine."""

import ctypes
import os
import platform
import re
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
from bench_calls import Call

ROOT = Path(__file__).parent.parent
LARGE_RESULT = 1_000_000  # bytes


def peak_tensors(call: Call, x: Any) -> float:
    """The peak growth of the process's resident memory."""
    call()
    status, clear = Path("/proc/self/status"), Path("/proc/self/clear_refs")

    def kilobytes(field: str) -> int:
        return next(int(line.split()[1]) for line in status.read_text().splitlines() if line.startswith(f"{field}:"))

    before = kilobytes("VmRSS")
    clear.write_text("5")  # resets the peak to the present value
    call()
    return float((kilobytes("VmHWM") - before) * 1024 / (x.numel() * x.element_size()))


def import_milliseconds(backend: str) -> list[float]:
    """The time that `import ste` adds to `import torch`."""
    code = "import time, torch; t = time.perf_counter(); import ste; print((time.perf_counter() - t) * 1e3)"
    environment = {**os.environ, "STE_BACKEND": backend}
    run = [sys.executable, "-c", code]
    return [float(subprocess.check_output(run, env=environment, text=True)) for _ in range(8)][1:]


def library_megabytes() -> float:
    """The libraries of the running build, stripped."""
    import ste_core

    folder = ste_core.build_for(torch.__version__).folder
    with tempfile.TemporaryDirectory() as scratch:
        sizes: list[int] = []
        for library in folder.glob("*.so"):
            stripped = Path(scratch) / library.name
            subprocess.run(["strip", "-o", stripped, library], check=True)
            sizes.append(stripped.stat().st_size)
    return sum(sizes) / 1e6


def build_seconds() -> float:
    """The time to build ste-core's wheel from scratch."""
    with tempfile.TemporaryDirectory() as scratch:
        command = [sys.executable, "-m", "pip", "wheel", "-q", "--no-build-isolation", "--no-deps", "-w", scratch]
        start = time.perf_counter()
        subprocess.run([*command, f"-Cbuild-dir={scratch}/build", ROOT / "packages" / "ste-core"], check=True)
        return time.perf_counter() - start


def machine() -> dict[str, Any]:
    cpu = re.search(r"^model name\s*: (.*)$", Path("/proc/cpuinfo").read_text(), re.MULTILINE)
    return {
        "processor": cpu[1] if cpu else platform.processor(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "instructions": torch.backends.cpu.get_cpu_capability(),
        "system": platform.system(),
        "python": platform.python_version(),
        "torch": torch.__version__,
    }


def take_memory(kind: str) -> None:
    """From here on, the process keeps freed memory ("kept"), or every large result gets new pages ("new").

    A caching allocator keeps memory. By default, it is up to chance whether most of the time for a result of some
    megabytes goes into zeroing its pages, or none. This has no effect with a C library other than glibc.
    """
    trim_threshold, mmap_threshold, mmap_max = -1, -3, -4  # as <malloc.h> numbers them
    options = {
        "kept": {mmap_max: 0, trim_threshold: 2**31 - 1},
        "new": {mmap_max: 65_536, mmap_threshold: LARGE_RESULT},
    }
    libc: Any = ctypes.CDLL(None)
    if hasattr(libc, "mallopt"):
        for option, value in options[kind].items():
            libc.mallopt(option, value)
