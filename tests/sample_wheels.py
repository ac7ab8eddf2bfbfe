"""Minimal wheels of ste-core with a build for one torch."""

import hashlib
import json
import sys
from collections.abc import Sequence
from pathlib import Path

from processes import TESTS, output_of

TOOLS = TESTS.parent / "tools"
LIBRARY, MODULE = "libste.so", "_C.so"


def wheel(
    folder: Path,
    torch: str = "2.13.0",
    version: str = "1.0",
    python: str = "cp311",
    platforms: Sequence[str] = ("linux_x86_64",),
    header: str = "// the ops\n",
    library: bytes = b"the ops",
) -> Path:
    """A wheel with the build for a version of torch, under the name that its metadata imply."""
    info = f"ste_core-{version}.dist-info"
    build = "ste_core/torch-" + ".".join(torch.split(".")[:2])
    libraries = {LIBRARY: library, MODULE: b"the calls"}
    sums = "".join(f"{hashlib.sha256(content).hexdigest()}  {name}\n" for name, content in libraries.items())
    files = {
        "ste_core/include/ste/ops.h": header.encode(),
        f"{build}/build.json": json.dumps({"torch": f"{torch}+cpu"}).encode(),
        f"{build}/SHA256SUMS": sums.encode(),
        **{f"{build}/{name}": content for name, content in libraries.items()},
        f"{info}/METADATA": f"Metadata-Version: 2.4\nName: ste-core\nVersion: {version}\n"
        f"Requires-Dist: torch=={torch.rpartition('.')[0]}.*\n".encode(),
        f"{info}/WHEEL": b"Wheel-Version: 1.0\nGenerator: none\nRoot-Is-Purelib: false\n"
        + "".join(f"Tag: {python}-{python}-{platform}\n" for platform in platforms).encode(),
    }
    for name, content in files.items():
        path = folder / "files" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    output_of(sys.executable, "-m", "wheel", "pack", "-d", folder, folder / "files")
    (packed,) = folder.glob("*.whl")
    return packed
