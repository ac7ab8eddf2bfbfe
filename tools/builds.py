"""What is published: a build of ste-core for each torch, Python and platform of this list.

    python tools/builds.py >> "$GITHUB_OUTPUT"

The release creates its jobs from this list, and fails if one of the builds is missing. `make lint` compares the list
with the packages' metadata and the Makefile.
"""

import json
from collections import Counter
from collections.abc import Iterable
from itertools import product
from typing import NamedTuple

TORCHES = ("2.13.0", "2.14.1")
PYTHONS = ("3.10", "3.11", "3.12", "3.13")
# The GitHub runners on which a platform's wheels are built and tested.
RUNNERS = {"linux_x86_64": "ubuntu-latest", "macosx_arm64": "macos-latest", "win_amd64": "windows-latest"}


class Build(NamedTuple):
    """One build: the version of torch, the tag of Python and the platform."""

    torch: str
    python: str
    platform: str


def tag(python: str) -> str:
    """The tag of a version of Python in wheels.

    Example:
        >>> tag("3.10")
        'cp310'
    """
    return "cp" + python.replace(".", "")


def expected(
    torches: Iterable[str] = TORCHES, pythons: Iterable[str] = PYTHONS, platforms: Iterable[str] = tuple(RUNNERS)
) -> list[Build]:
    """The builds for all combinations."""
    return [Build(torch, tag(python), platform) for torch, python, platform in product(torches, pythons, platforms)]


def check(found: Iterable[Build], wanted: Iterable[Build]) -> None:
    """Raise an error if a build is missing, occurs twice, or is not in the list."""
    counts, asked_for = Counter(found), set(wanted)
    problems = {
        "missing": asked_for - counts.keys(),
        "there more than once": {build for build, count in counts.items() if count > 1},
        "not asked for": counts.keys() - asked_for,
    }
    told = [
        f"{problem}: " + ", ".join(f"torch {build.torch} {build.python} {build.platform}" for build in sorted(builds))
        for problem, builds in problems.items()
        if builds
    ]
    if told:
        raise ValueError("; ".join(["the builds of ste-core are not those that are published", *told]))


def main() -> None:
    print(f"torches={json.dumps(TORCHES)}")
    print(f"pythons={json.dumps(PYTHONS)}")
    print(f"runners={json.dumps(list(RUNNERS.values()))}")
    print("cibuildwheel=" + " ".join(f"{tag(python)}-*" for python in PYTHONS))


if __name__ == "__main__":
    main()
