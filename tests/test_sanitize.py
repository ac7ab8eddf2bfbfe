"""tools/sanitize.py: what it runs, what it refuses to call sanitized, and its page."""

from pathlib import Path
from types import ModuleType

import pytest
from processes import TESTS

pytestmark = pytest.mark.repository


@pytest.fixture
def tool(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(TESTS.parent / "tools")
    import sanitize

    return sanitize


def package(folder: Path, **libraries: bytes) -> Path:
    (folder / "ste_core" / "torch-2.13").mkdir(parents=True)
    for name, content in libraries.items():
        (folder / "ste_core" / "torch-2.13" / f"{name}.so").write_bytes(content)
    return folder


def test_the_files_of_tests_exist(tool: ModuleType) -> None:
    assert [name for name in tool.TESTS if not (TESTS / f"{name}.py").exists()] == []


def test_a_library_without_checks_is_refused(tool: ModuleType, tmp_path: Path) -> None:
    checked = b"".join(tool.CHECKS)
    assert tool.unchecked(package(tmp_path / "both", libste=checked, _C=checked)) == []
    plain = package(tmp_path / "one", libste=checked, _C=b"")
    assert tool.unchecked(plain) == ["_C.so has no __asan_report_load", "_C.so has no __asan_report_store"]
    with pytest.raises(SystemExit, match="should have the libraries libste and _C, and has \\['libste'\\]"):
        tool.unchecked(package(tmp_path / "half", libste=checked))


def test_page(tool: ModuleType) -> None:
    tests = {"passed": 4321, "skipped": 2, "seconds": 60, "failed": ""}
    fuzz = {"inputs": 20000, "ways": {"under vmap": 20000}, "seconds": 30, "failed": "ERROR: AddressSanitizer"}
    run = {
        "machine": {"torch": "2.13.0", "processor": "a processor"},
        "compiler": "g++ 12",
        "python": "3.11",
        "rows": [{"loops": "AVX2", "tests": tests, "fuzz": fuzz}],
    }
    page = tool.page([run])
    assert "| AVX2 | 4,321 passed, 2 skipped | 60 | 20,000 | 30 | 1 |" in page
    assert "- 20,000 under vmap" in page
