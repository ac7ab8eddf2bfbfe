"""Wheels as files: what their METADATA and WHEEL say, and how to unpack and pack them."""

import json
import re
import shutil
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Iterable
from email.parser import Parser
from pathlib import Path
from typing import NamedTuple

# The old names of manylinux tags, before they named a version of glibc; auditwheel writes them beside the new ones.
_GLIBC = {"manylinux1": "manylinux_2_5", "manylinux2010": "manylinux_2_12", "manylinux2014": "manylinux_2_17"}
_VERSIONED = re.compile(r"(manylinux|macosx)_(\d+)_(\d+)_(\w+)")

System = tuple[int, int]


class Identity(NamedTuple):
    """What wheels must have in common to be merged."""

    name: str
    version: str
    python: str
    abi: str
    platform: str


class Described(NamedTuple):
    """A wheel by its metadata.

    `system` is the oldest system that it runs on, a version of glibc or of macOS; None if the wheel does not say.
    `torches` are the versions of torch for which it carries a build.
    """

    identity: Identity
    system: System | None
    torches: tuple[str, ...]


def platform_of(tag: str) -> tuple[str, System | None]:
    """The platform of a tag, and the oldest system that the tag promises.

    Example:
        >>> platform_of("manylinux_2_28_x86_64"), platform_of("manylinux2014_x86_64")
        (('linux_x86_64', (2, 28)), ('linux_x86_64', (2, 17)))
        >>> platform_of("macosx_14_0_arm64"), platform_of("win_amd64")
        (('macosx_arm64', (14, 0)), ('win_amd64', None))
    """
    old_name, _, machine = tag.partition("_")
    if old_name in _GLIBC:
        tag = f"{_GLIBC[old_name]}_{machine}"
    if match := _VERSIONED.fullmatch(tag):
        return f"{match[1].removeprefix('many')}_{match[4]}", (int(match[2]), int(match[3]))
    return tag, None


def tag_of(platform: str, system: System | None) -> str:
    """The inverse of :func:`platform_of`.

    Example:
        >>> tag_of("linux_x86_64", (2, 28)), tag_of("linux_x86_64", None)
        ('manylinux_2_28_x86_64', 'linux_x86_64')
    """
    if system is None:
        return platform
    name, _, machine = platform.partition("_")
    return f"{'many' if name == 'linux' else ''}{name}_{system[0]}_{system[1]}_{machine}"


def strictest(systems: Iterable[System | None]) -> System | None:
    """The oldest system on which all wheels run: the newest of theirs, or None if one makes no promise.

    Example:
        >>> strictest([(2, 28), (2, 34)])
        (2, 34)
    """
    known = list(systems)
    return None if None in known else max(system for system in known if system is not None)


def describe(wheel: Path) -> Described:
    """What the wheel says about itself, whatever its file name."""
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
        metadata, tags = (
            Parser().parsestr(archive.read(_only(names, rf"[^/]+\.dist-info/{file}", wheel)).decode())
            for file in ("METADATA", "WHEEL")
        )
        torches = sorted(
            json.loads(archive.read(name))["torch"].partition("+")[0]
            for name in names
            if re.fullmatch(r"ste_core/torch-[^/]+/build\.json", name)
        )
    parts = [tag.split("-") for tag in tags.get_all("Tag", [])]
    found = {(python, abi, platform_of(platform)[0]) for python, abi, platform in parts}
    if len(found) != 1:
        raise ValueError(f"{wheel.name} must be for one Python and one platform, not {sorted(found)}")
    ((python, abi, platform),) = found
    # One of a wheel's tags is enough to install it, so the weakest of them is its promise.
    systems = [platform_of(part[2])[1] for part in parts]
    least = None if None in systems else min(system for system in systems if system is not None)
    identity = Identity(metadata["Name"], metadata["Version"], python, abi, platform)
    return Described(identity, least, tuple(torches))


def _only(names: Iterable[str], pattern: str, wheel: Path) -> str:
    found = [name for name in names if re.fullmatch(pattern, name)]
    if len(found) != 1:
        raise ValueError(f"{wheel.name} must have one file that matches {pattern}, and has {found or 'none'}")
    return found[0]


def unpack(wheel: Path, folder: Path) -> Path:
    """Unpack a wheel into an empty folder, and return the subfolder with its files.

    Raises:
        subprocess.CalledProcessError: A file differs from the wheel's record.
    """
    identity = describe(wheel).identity
    with tempfile.TemporaryDirectory() as scratch:
        # `wheel` looks for the metadata in the folder that the file name implies.
        named = Path(scratch, "-".join([identity.name.replace("-", "_"), *identity[1:]]) + ".whl")
        shutil.copy(wheel, named)
        subprocess.run([sys.executable, "-m", "wheel", "unpack", "-d", folder, named], check=True)
    (root,) = folder.iterdir()
    return root


def pack(root: Path, into: Path) -> Path:
    """Pack the files of a wheel, with a new record, under the name that its own metadata give it."""
    into.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as scratch:
        subprocess.run([sys.executable, "-m", "wheel", "pack", "-d", scratch, root], check=True)
        (packed,) = Path(scratch).iterdir()
        return Path(shutil.copy(packed, into))
