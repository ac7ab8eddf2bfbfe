"""Check that the files of requirements/ agree with the dependency groups of the same names, and with each other.

Each package of a group must be there, in a version that the group allows and with hashes, for every Python and platform
that has builds. pip itself checks that no dependency of these packages is missing: it installs nothing without a hash.
"""

import importlib
import re
import sys
from collections.abc import Iterator, Mapping
from itertools import product
from pathlib import Path
from typing import Any, NamedTuple

from builds import PYTHONS, RUNNERS
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parent.parent
GROUPS = ("build", "release")
# What markers query about a platform.
SYSTEMS = {
    "linux_x86_64": ("linux", "Linux", "posix", "x86_64"),
    "macosx_arm64": ("darwin", "Darwin", "posix", "arm64"),
    "win_amd64": ("win32", "Windows", "nt", "AMD64"),
}
PIN = re.compile(r"^(?P<pin>[\w.-]+==[^\\\n]+?) \\\n(?: +--hash=sha256:[0-9a-f]{64}(?: \\)?\n)+", re.MULTILINE)


class Lock(NamedTuple):
    """The requirements of a file, each with one version, and the packages that the group itself names."""

    pins: list[Requirement]
    asked_for: set[str]


def read_lock(text: str) -> Lock:
    """A file of requirements/.

    Raises:
        ValueError: A line does not pin one version, or has no hashes.
    """
    rest = re.sub(r"^ *#.*\n", "", PIN.sub("", text), flags=re.MULTILINE)
    if rest.strip():
        raise ValueError(f"not one version with its hashes: {rest.strip().splitlines()[0]}")
    pins: list[Requirement] = []
    asked_for: set[str] = set()
    for match, following in zip(found := list(PIN.finditer(text)), [*found[1:], None]):
        pins.append(Requirement(match["pin"]))
        comment = text[match.end() : following.start() if following else len(text)]
        if "pyproject.toml:" in comment:
            asked_for.add(canonicalize_name(pins[-1].name))
    return Lock(pins, asked_for)


def group(groups: Mapping[str, Any], name: str) -> list[Requirement]:
    """The requirements of a dependency group, with those of the groups that it includes."""
    found: list[Requirement] = []
    for entry in groups[name]:
        found += group(groups, entry["include-group"]) if isinstance(entry, dict) else [Requirement(entry)]
    return found


def environments() -> Iterator[tuple[str, dict[str, str]]]:
    """The environments in which to evaluate markers, by name."""
    for python, platform in product(PYTHONS, RUNNERS):
        system = dict(zip(("sys_platform", "platform_system", "os_name", "platform_machine"), SYSTEMS[platform]))
        implementation = {"implementation_name": "cpython", "platform_python_implementation": "CPython"}
        versions = {"python_version": python, "python_full_version": f"{python}.9"}
        yield f"Python {python} on {platform}", system | implementation | versions


def applies(requirement: Requirement, environment: dict[str, str]) -> bool:
    return requirement.marker is None or requirement.marker.evaluate(environment)


def pinned(lock: Lock, environment: dict[str, str]) -> dict[str, list[str]]:
    """The versions of each package in an environment; there should be only one."""
    found: dict[str, list[str]] = {}
    for pin in lock.pins:
        if applies(pin, environment):
            found.setdefault(canonicalize_name(pin.name), []).append(str(pin.specifier).removeprefix("=="))
    return found


def problems(name: str, wanted: list[Requirement], lock: Lock, others: Lock) -> dict[str, str]:
    """What is wrong with the file of a group, given another file whose versions it must share, and the first place."""
    found: dict[str, str] = {}
    if surplus := lock.asked_for - {canonicalize_name(requirement.name) for requirement in wanted}:
        found[f"requirements/{name}.txt has {', '.join(sorted(surplus))}, which the group does not ask for"] = "any"
    for where, environment in environments():
        versions, other_versions = pinned(lock, environment), pinned(others, environment)
        for requirement in filter(lambda wanted: applies(wanted, environment), wanted):
            if not any(map(requirement.specifier.contains, versions.get(canonicalize_name(requirement.name), []))):
                found.setdefault(f"requirements/{name}.txt has no {requirement.name}{requirement.specifier}", where)
        for package, version in versions.items():
            if len(version) > 1 or version != other_versions.get(package, version):
                several = " and ".join(dict.fromkeys([*version, *other_versions.get(package, [])]))
                found.setdefault(f"requirements/ has {package} {several}", where)
    return found


def main() -> int:
    # Before Python 3.11 it is a package, which is among the requirements because of hatchling.
    toml = importlib.import_module("tomllib" if sys.version_info >= (3, 11) else "tomli")
    groups = toml.loads((ROOT / "pyproject.toml").read_text())["dependency-groups"]
    locks = {name: read_lock((ROOT / "requirements" / f"{name}.txt").read_text()) for name in GROUPS}
    found: dict[str, str] = {}
    for name, other in zip(GROUPS, reversed(GROUPS)):
        found |= problems(name, group(groups, name), locks[name], locks[other])
    for problem, where in found.items():
        print(f"{problem}, for {where}")
    if found:
        print("`make lock` updates these files")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
