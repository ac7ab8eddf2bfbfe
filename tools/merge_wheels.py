"""Merge wheels of ste-core, each with the build for one torch, into one wheel with all of the builds.

The wheels must have one version, one Python and one platform, according to their metadata. The files that they share
must be the same to the byte. The merged wheel depends on exactly those versions of torch for which it carries a build.
If the wheels need different systems, say glibc 2.28 and 2.34, it needs the newest.
"""

import re
import tempfile
from collections.abc import Iterable, Sequence
from pathlib import Path

from wheel_files import describe, pack, strictest, tag_of, unpack

BUILD = re.compile(r"ste_core/torch-(\d+)\.(\d+)/")
REQUIREMENT = re.compile(r"^Requires-Dist: torch\b.*$", re.MULTILINE)
TAGS = re.compile(r"(^Tag: .*\n)+", re.MULTILINE)

Minor = tuple[int, int]


def requirement(minors: Iterable[Minor]) -> str:
    """The requirement on torch of these minor versions.

    Example:
        >>> requirement([(2, 13), (2, 14)])
        'torch>=2.13,<2.15'
        >>> requirement([(2, 6), (2, 8)])
        'torch>=2.6,<2.9,!=2.7.*'
    """
    ordered = sorted(set(minors))
    (major, first), (last_major, last) = ordered[0], ordered[-1]
    if major != last_major:
        raise ValueError(f"builds for torch {major} and torch {last_major} cannot share a wheel")
    missing = [minor for minor in range(first, last) if (major, minor) not in ordered]
    return ",".join([f"torch>={major}.{first}", f"<{major}.{last + 1}", *(f"!={major}.{minor}.*" for minor in missing)])


def contents(root: Path) -> dict[str, bytes]:
    """The files of an unpacked wheel, except its record, which packing writes again."""
    files = (path for path in root.rglob("*") if path.is_file() and path.name != "RECORD")
    return {path.relative_to(root).as_posix(): path.read_bytes() for path in files}


def with_line(name: str, content: bytes, requires: str, tag: str) -> bytes:
    """A file of the wheel, with these values in the two lines of its metadata that depend on what the wheel carries."""
    if name.endswith(".dist-info/METADATA"):
        return REQUIREMENT.sub(f"Requires-Dist: {requires}", content.decode()).encode()
    if name.endswith(".dist-info/WHEEL"):
        return TAGS.sub(f"Tag: {tag}\n", content.decode(), count=1).encode()
    return content


def merge(wheels: Sequence[Path], into: Path) -> Path:
    """The merged wheel."""
    described = [describe(wheel) for wheel in wheels]
    identities = sorted({wheel.identity for wheel in described})
    if len(identities) != 1:
        several = ", ".join("-".join(identity) for identity in identities)
        raise ValueError(f"the wheels must have one version, Python and platform, not {several}")
    ((_, _, python, abi, platform),) = identities
    tag = "-".join([python, abi, tag_of(platform, strictest(wheel.system for wheel in described))])
    merged: dict[str, bytes] = {}
    minors: set[Minor] = set()
    with tempfile.TemporaryDirectory() as scratch:
        for number, wheel in enumerate(wheels):
            root = unpack(wheel, Path(scratch, str(number)))
            found = contents(root)
            carried = {(int(match[1]), int(match[2])) for match in map(BUILD.match, found) if match}
            if carried & minors:
                both = ", ".join(f"{major}.{minor}" for major, minor in sorted(carried & minors))
                raise ValueError(f"two of the wheels have a build for torch {both}")
            minors |= carried
            for name, content in found.items():
                content = with_line(name, content, "torch", tag)
                if merged.setdefault(name, content) != content:
                    raise ValueError(f"{name} is not the same in all of the wheels")
        together = Path(scratch, "merged", root.name)
        for name, content in merged.items():
            path = together / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(with_line(name, content, requirement(minors), tag))
        return pack(together, into)
