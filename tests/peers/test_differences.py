"""The record of where libraries differ, compared with what they give now."""

import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
sys.path.append(str(ROOT / "docs" / "extensions"))

import differences  # noqa: E402 - found by the path that stands above


@pytest.mark.parametrize(
    ("name", "library"),
    [(name, library) for name, table in differences.TABLES.items() for library in table.calls if library != "ste"],
)
def test_the_record_is_what_the_library_gives(name: str, library: str) -> None:
    table = differences.TABLES[name]
    if library == "nvidia-modelopt" and differences.installed(library) is None:
        pytest.skip("nvidia-modelopt is not installed: it brings some twenty packages")
    assert differences.installed(library) == differences.record()["versions"][library]
    assert differences.rows_of(table, library) == differences.record()["rows"][name][library]
