"""tools/repair_wheel.py: what auditwheel changes, and the checksums by which ste_core knows its libraries."""

import hashlib
import shutil
import sys
import zipfile
from pathlib import Path

import pytest
from processes import CORE_SOURCE, output_of
from sample_wheels import LIBRARY, TOOLS, wheel

pytestmark = pytest.mark.repository


@pytest.fixture(autouse=True)
def _tools(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(TOOLS)


def unpacked(wheel: Path, into: Path) -> Path:
    shutil.unpack_archive(wheel, into, "zip")
    return into


@pytest.mark.skipif(sys.platform != "linux", reason="auditwheel is for Linux")
def test_repaired(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The system library that ours needs is copied into the wheel, and auditwheel changes ours to find it."""
    from repair_wheel import check_sums, repair

    needed, ours = tmp_path / "libneeded.so", tmp_path / LIBRARY
    (tmp_path / "needed.c").write_text("int needed(void) { return 1; }\n")
    (tmp_path / "ours.c").write_text("int needed(void);\nint ours(void) { return needed(); }\n")
    output_of("cc", "-shared", "-fPIC", "-o", needed, tmp_path / "needed.c")
    output_of("cc", "-shared", "-fPIC", "-o", ours, tmp_path / "ours.c", f"-L{tmp_path}", "-lneeded")
    monkeypatch.setenv("LD_LIBRARY_PATH", str(tmp_path))
    single = wheel(tmp_path / "single", library=ours.read_bytes())
    repaired = repair(single, tmp_path / "repaired")
    assert "manylinux" in repaired.name
    root = unpacked(repaired, tmp_path / "unpacked")
    assert [path.name.split("-")[0] for path in root.glob("*.libs/*")] == ["libneeded"]
    assert (root / "ste_core" / "torch-2.13" / LIBRARY).read_bytes() != ours.read_bytes()
    check_sums(root)
    with zipfile.ZipFile(repaired) as archive:
        assert archive.testzip() is None
        assert "SHA256SUMS" in archive.read("ste_core-1.0.dist-info/RECORD").decode()
    # As the loader reads the checksums.
    monkeypatch.syspath_prepend(CORE_SOURCE.parent)
    from ste_core import Build, _sums

    folder = root / "ste_core" / "torch-2.13"
    build = Build("1.0", "2.13.0", "3.11", "GNU", 1, None, folder)
    assert _sums(build)[LIBRARY] == hashlib.sha256((folder / LIBRARY).read_bytes()).hexdigest()


def test_sums_that_are_of_others(tmp_path: Path) -> None:
    from repair_wheel import SUMS, check_sums, renew_sums

    root = unpacked(wheel(tmp_path / "single"), tmp_path / "unpacked")
    folder = root / "ste_core" / "torch-2.13"
    check_sums(root)
    (folder / LIBRARY).write_bytes(b"changed")
    with pytest.raises(ValueError, match=r"torch-2\.13/SHA256SUMS is not of the libraries"):
        check_sums(root)
    renew_sums(root)
    check_sums(root)
    (folder / "another.dll").write_bytes(b"not named")
    with pytest.raises(ValueError, match="not of the libraries"):
        check_sums(root)
    (folder / "another.dll").unlink()
    (folder / SUMS).unlink()
    with pytest.raises(ValueError, match="not of the libraries"):
        check_sums(root)
