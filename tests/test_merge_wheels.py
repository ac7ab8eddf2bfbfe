"""tools/merge_wheels.py: several builds of ste-core in one wheel."""

import importlib.util
import sys
import zipfile
from pathlib import Path
from types import ModuleType

import pytest
from processes import TESTS, output_of

pytestmark = pytest.mark.repository


@pytest.fixture(scope="module")
def tool() -> ModuleType:
    spec = importlib.util.spec_from_file_location("merge_wheels", TESTS.parent / "tools" / "merge_wheels.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def wheel(folder: Path, minor: str, version: str = "1.0", header: str = "// the ops\n") -> Path:
    """One with the build for a minor version of torch."""
    info = f"ste_core-{version}.dist-info"
    files = {
        "ste_core/include/ste/ops.h": header,
        f"ste_core/torch-{minor}/libste.so": f"built for {minor}",
        f"{info}/METADATA": f"Metadata-Version: 2.4\nName: ste-core\nVersion: {version}\n"
        f"Requires-Dist: torch=={minor}.*\n",
        f"{info}/WHEEL": "Wheel-Version: 1.0\nGenerator: none\nRoot-Is-Purelib: false\nTag: cp311-cp311-linux_x86_64\n",
    }
    for name, content in files.items():
        path = folder / "files" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content)
    output_of(sys.executable, "-m", "wheel", "pack", "-d", folder, folder / "files")
    (packed,) = folder.glob("*.whl")
    return packed


def test_merged(tool: ModuleType, tmp_path: Path) -> None:
    merged = tool.merge([wheel(tmp_path / "a", "2.13"), wheel(tmp_path / "b", "2.6")], tmp_path / "merged")
    assert merged == tmp_path / "merged" / "ste_core-1.0-cp311-cp311-linux_x86_64.whl"
    with zipfile.ZipFile(merged) as archive:
        names = archive.namelist()
        assert archive.read("ste_core/torch-2.6/libste.so") == b"built for 2.6"
        metadata = archive.read("ste_core-1.0.dist-info/METADATA").decode()
        record = archive.read("ste_core-1.0.dist-info/RECORD").decode()
    assert len(set(names)) == len(names) == 6
    missing = ",".join(f"!=2.{minor}.*" for minor in range(7, 13))
    assert metadata.endswith(f"Requires-Dist: torch>=2.6,<2.14,{missing}\n")
    assert all(name in record for name in names)


def test_torch_that_is_required(tool: ModuleType) -> None:
    assert tool.requirement([(2, 14)]) == "torch>=2.14,<2.15"
    assert tool.requirement([(2, 14), (2, 13)]) == "torch>=2.13,<2.15"
    with pytest.raises(ValueError, match="torch 2 and torch 3"):
        tool.requirement([(2, 14), (3, 0)])


def test_what_does_not_belong_together(tool: ModuleType, tmp_path: Path) -> None:
    first = wheel(tmp_path / "a", "2.13")
    with pytest.raises(ValueError, match=r"two of the wheels have a build for torch 2\.13"):
        tool.merge([first, wheel(tmp_path / "b", "2.13")], tmp_path)
    with pytest.raises(ValueError, match=r"ops\.h is not the same"):
        tool.merge([first, wheel(tmp_path / "c", "2.14", header="// others\n")], tmp_path)
    with pytest.raises(ValueError, match="one version, Python and platform"):
        tool.merge([first, wheel(tmp_path / "d", "2.14", version="1.1")], tmp_path)
