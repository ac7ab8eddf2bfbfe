"""Merge wheels of ste-core, each with the build for one torch, into one wheel with all of the builds.

    python tools/merge_wheels.py --into dist a.whl b.whl ...

The wheels must be of one version, one Python and one platform. What they have in common must be the same to the byte.
The merged wheel depends on the versions of torch that it carries a build for, and on no other.
"""

import argparse
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Sequence
from pathlib import Path

BUILD = re.compile(r"ste_core/torch-(\d+)\.(\d+)/")
REQUIREMENT = re.compile(r"^Requires-Dist: torch\b.*$", re.MULTILINE)

Minor = tuple[int, int]


def requirement(minors: Iterable[Minor]) -> str:
    """On torch of these minor versions.

    Example:
        >>> requirement([(2, 13), (2, 14)])
        'torch>=2.13,<2.15'
        >>> requirement([(2, 6), (2, 8)])
        'torch>=2.6,<2.9,!=2.7.*'
    """
    ordered = sorted(set(minors))
    (major, first), (last_major, last) = ordered[0], ordered[-1]
    if major != last_major:
        raise ValueError(f"builds for torch {major} and torch {last_major} do not go into one wheel")
    missing = [minor for minor in range(first, last) if (major, minor) not in ordered]
    return ",".join([f"torch>={major}.{first}", f"<{major}.{last + 1}", *(f"!={major}.{minor}.*" for minor in missing)])


def contents(root: Path) -> dict[str, bytes]:
    """The files of an unpacked wheel, but for its record, which the packing makes anew."""
    files = (path for path in root.rglob("*") if path.is_file() and path.name != "RECORD")
    return {path.relative_to(root).as_posix(): path.read_bytes() for path in files}


def merge(wheels: Sequence[Path], into: Path) -> Path:
    """The merged wheel."""
    if len({wheel.name for wheel in wheels}) != 1:
        names = ", ".join(sorted({wheel.name for wheel in wheels}))
        raise ValueError(f"wheels of one version, Python and platform are merged, not {names}")
    merged: dict[str, bytes] = {}
    minors: set[Minor] = set()
    with tempfile.TemporaryDirectory() as scratch:
        for number, wheel in enumerate(wheels):
            folder = Path(scratch, str(number))
            subprocess.run([sys.executable, "-m", "wheel", "unpack", "-d", folder, wheel], check=True)
            (root,) = folder.iterdir()
            found = contents(root)
            carried = {(int(match[1]), int(match[2])) for match in map(BUILD.match, found) if match}
            if carried & minors:
                both = ", ".join(f"{major}.{minor}" for major, minor in sorted(carried & minors))
                raise ValueError(f"two of the wheels have a build for torch {both}")
            minors |= carried
            for name, content in found.items():
                if name.endswith(".dist-info/METADATA"):
                    content = REQUIREMENT.sub("Requires-Dist: torch", content.decode()).encode()
                if merged.setdefault(name, content) != content:
                    raise ValueError(f"{name} is not the same in all of the wheels")
        together = Path(scratch, "merged", root.name)
        for name, content in merged.items():
            if name.endswith(".dist-info/METADATA"):
                content = REQUIREMENT.sub(f"Requires-Dist: {requirement(minors)}", content.decode()).encode()
            path = together / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content)
        into.mkdir(parents=True, exist_ok=True)
        subprocess.run([sys.executable, "-m", "wheel", "pack", "-d", into, together], check=True)
    return into / wheels[0].name


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("wheels", type=Path, nargs="+")
    parser.add_argument("--into", type=Path, required=True, help="the folder for the merged wheel")
    arguments = parser.parse_args()
    print(merge(arguments.wheels, arguments.into))


if __name__ == "__main__":
    main()
