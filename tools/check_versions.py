"""Check that every place that states a version states the same one.

Both packages have one version, ``ste-py[native]`` pins ste-core to it, and the changelog has a section for it. A tag of
a release, given with ``--tag``, is `v` and that version.
"""

import argparse
import re
import sys
from pathlib import Path

ROOT = Path(__file__).parent.parent
PROJECT = r'^version = "(.*)"'
SOURCE = r'^__version__ = "(.*)"'


def stated(path: str, pattern: str) -> str:
    match = re.search(pattern, (ROOT / path).read_text(), re.MULTILINE)
    return match[1] if match else "nothing"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--tag")
    tag: str | None = parser.parse_args().tag
    versions = {
        "ste-py": stated("packages/ste-py/pyproject.toml", PROJECT),
        "ste-core": stated("packages/ste-core/pyproject.toml", PROJECT),
        "ste.__version__": stated("packages/ste-py/src/ste/_backend.py", SOURCE),
        "ste_core.__version__": stated("packages/ste-core/src/ste_core/__init__.py", SOURCE),
        "ste-py[native]": stated("packages/ste-py/pyproject.toml", r'^native = \["ste-core==(.*)"\]'),
        "CHANGELOG.md": stated("CHANGELOG.md", r"^## (\d\S*)"),
    }
    if tag is not None:
        versions["the tag"] = tag.removeprefix("v") if tag.startswith("v") else tag
    if len(set(versions.values())) == 1:
        return 0
    for place, version in versions.items():
        print(f"{place} says {version}")
    return 1


if __name__ == "__main__":
    sys.exit(main())
