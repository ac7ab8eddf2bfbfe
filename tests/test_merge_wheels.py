"""tools/merge_wheels.py: several builds of ste-core in one wheel, according to the wheels' metadata."""

import zipfile
from pathlib import Path

import pytest
from sample_wheels import TOOLS, wheel

pytestmark = pytest.mark.repository


@pytest.fixture(autouse=True)
def _tools(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(TOOLS)


def read(wheel: Path, name: str) -> str:
    with zipfile.ZipFile(wheel) as archive:
        return archive.read(name).decode()


def test_merged(tmp_path: Path) -> None:
    from merge_wheels import merge

    wheels = [wheel(tmp_path / "a", "2.13.0"), wheel(tmp_path / "b", "2.6.0", library=b"for another torch")]
    merged = merge(wheels, tmp_path / "merged")
    assert merged == tmp_path / "merged" / "ste_core-1.0-cp311-cp311-linux_x86_64.whl"
    with zipfile.ZipFile(merged) as archive:
        names = archive.namelist()
    assert read(merged, "ste_core/torch-2.6/libste.so") == "for another torch"
    assert read(merged, "ste_core/torch-2.13/libste.so") == "the ops"
    assert len(set(names)) == len(names) == 12
    missing = ",".join(f"!=2.{minor}.*" for minor in range(7, 13))
    metadata = read(merged, "ste_core-1.0.dist-info/METADATA")
    assert metadata.endswith(f"Requires-Dist: torch>=2.6,<2.14,{missing}\n")
    record = read(merged, "ste_core-1.0.dist-info/RECORD")
    assert all(name in record for name in names)


def test_file_names_mean_nothing(tmp_path: Path) -> None:
    from merge_wheels import merge

    first = wheel(tmp_path / "a", "2.13.0")
    second = wheel(tmp_path / "b", "2.14.0").rename(tmp_path / "another-2.0-cp39-cp39-any.whl")
    assert merge([first, second], tmp_path / "merged").name == first.name
    alike = wheel(tmp_path / "c", "2.14.0", version="1.1").rename(tmp_path / first.name)
    with pytest.raises(ValueError, match=r"not ste-core-1\.0-cp311-cp311-linux_x86_64, ste-core-1\.1-"):
        merge([first, alike], tmp_path / "merged")


@pytest.mark.parametrize(
    ("first", "second", "merged"),
    [
        # auditwheel writes two tags for the same system: either is enough to install the wheel, so the older counts.
        (["manylinux_2_17_x86_64", "manylinux2014_x86_64"], ["manylinux_2_34_x86_64"], "manylinux_2_34_x86_64"),
        (["manylinux_2_28_x86_64"], ["manylinux_2_4_x86_64"], "manylinux_2_28_x86_64"),
        (["manylinux_2_28_x86_64", "manylinux_2_35_x86_64"], ["manylinux_2_31_x86_64"], "manylinux_2_31_x86_64"),
        (["manylinux_2_28_x86_64"], ["linux_x86_64"], "linux_x86_64"),
        (["macosx_11_0_arm64"], ["macosx_14_0_arm64"], "macosx_14_0_arm64"),
        (["win_amd64"], ["win_amd64"], "win_amd64"),
    ],
)
def test_the_newest_system_of_those_they_need(tmp_path: Path, first: list[str], second: list[str], merged: str) -> None:
    from merge_wheels import merge

    wheels = [wheel(tmp_path / "a", "2.13.0", platforms=first), wheel(tmp_path / "b", "2.14.0", platforms=second)]
    found = merge(wheels, tmp_path / "merged")
    assert found.name == f"ste_core-1.0-cp311-cp311-{merged}.whl"
    lines = read(found, "ste_core-1.0.dist-info/WHEEL").splitlines()
    assert [line for line in lines if line.startswith("Tag")] == [f"Tag: cp311-cp311-{merged}"]


def test_torch_that_is_required() -> None:
    from merge_wheels import requirement

    assert requirement([(2, 14)]) == "torch>=2.14,<2.15"
    assert requirement([(2, 14), (2, 13)]) == "torch>=2.13,<2.15"
    with pytest.raises(ValueError, match="torch 2 and torch 3"):
        requirement([(2, 14), (3, 0)])


def test_what_does_not_belong_together(tmp_path: Path) -> None:
    from merge_wheels import merge

    first = wheel(tmp_path / "a", "2.13.0")
    with pytest.raises(ValueError, match=r"two of the wheels have a build for torch 2\.13"):
        merge([first, wheel(tmp_path / "b", "2.13.1")], tmp_path)
    with pytest.raises(ValueError, match=r"ops\.h is not the same"):
        merge([first, wheel(tmp_path / "c", "2.14.0", header="// others\n")], tmp_path)
    others = [
        wheel(tmp_path / "d", "2.14.0", version="1.1"),
        wheel(tmp_path / "e", "2.14.0", python="cp312"),
        wheel(tmp_path / "f", "2.14.0", platforms=["linux_aarch64"]),
        wheel(tmp_path / "g", "2.14.0", platforms=["win_amd64"]),
    ]
    for other in others:
        with pytest.raises(ValueError, match="one version, Python and platform"):
            merge([first, other], tmp_path)


def test_a_wheel_for_two_platforms(tmp_path: Path) -> None:
    from wheel_files import describe

    with pytest.raises(ValueError, match="one Python and one platform"):
        describe(wheel(tmp_path, platforms=["linux_x86_64", "win_amd64"]))
