"""Check that all places that state the same fact agree.

Both packages have one version, ``ste-py[native]`` pins ste-core to it, and the changelog has a section for it. The tag
of a release, given with ``--tag``, is `v` and that version. The packages name one address of the repository, and a
release must come from it: ``--repository`` gives the address. The list of what is published, tools/builds.py, agrees
with what `make wheels` builds and with the versions of Python that the packages support.
"""

import argparse
import re
import sys
from pathlib import Path

from builds import PYTHONS, TORCHES

ROOT = Path(__file__).parent.parent
CORE, PY = "packages/ste-core", "packages/ste-py"
PROJECT = r'^version = "(.*)"'
SOURCE = r'^__version__ = "(.*)"'
PYTHON = r'^  "Programming Language :: Python :: (3\.\d+)"'
ADDRESS = r"(https://github\.com/[\w.-]+/[\w.-]+)"


def stated(path: str, pattern: str) -> str:
    """What a file states; if its statements differ, all of them."""
    found = re.findall(pattern, (ROOT / path).read_text(), re.MULTILINE)
    return " ".join(dict.fromkeys(found)) or "nothing"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--tag")
    parser.add_argument("--repository")
    given = parser.parse_args()
    tag: str | None = given.tag
    repository: str | None = given.repository
    versions = {
        "ste-py": stated(f"{PY}/pyproject.toml", PROJECT),
        "ste-core": stated(f"{CORE}/pyproject.toml", PROJECT),
        "ste.__version__": stated(f"{PY}/src/ste/_backend.py", SOURCE),
        "ste_core.__version__": stated(f"{CORE}/src/ste_core/__init__.py", SOURCE),
        "ste-py[native]": stated(f"{PY}/pyproject.toml", r'^native = \["ste-core==(.*)"\]'),
        "CHANGELOG.md": stated("CHANGELOG.md", r"\A(?:.*\n)*?## (\d\S*)"),
        "CITATION.cff": stated("CITATION.cff", r"^version: (.*)"),
    }
    if tag is not None:
        versions["the tag"] = tag.removeprefix("v") if tag.startswith("v") else tag
    places = [f"{folder}/{file}" for folder in (PY, CORE) for file in ("pyproject.toml", "README.md")]
    addresses = {place: stated(place, ADDRESS) for place in [*places, "CITATION.cff"]}
    addresses["SECURITY.md"] = "https://github.com/" + stated("SECURITY.md", r"--repo (\S+)")
    if repository is not None:
        addresses["the repository"] = repository
    torches = {"tools/builds.py": " ".join(TORCHES), "the Makefile": stated("Makefile", r"^BUILDS \?= (.*)")}
    pythons = {place: stated(f"{place}/pyproject.toml", PYTHON) for place in (PY, CORE)}
    pythons["tools/builds.py"] = " ".join(PYTHONS)
    differing = [said for said in (versions, addresses, torches, pythons) if len(set(said.values())) != 1]
    for said in differing:
        for place, statement in said.items():
            print(f"{place} says {statement}")
    return 1 if differing else 0


if __name__ == "__main__":
    sys.exit(main())
