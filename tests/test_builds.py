"""tools/builds.py and tools/wheels.py: nothing that should be published is missing."""

import sys
from pathlib import Path

import pytest
from processes import output_of
from sample_wheels import TOOLS, wheel

pytestmark = pytest.mark.repository


@pytest.fixture(autouse=True)
def _tools(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(TOOLS)


def test_all_are_there() -> None:
    from builds import PYTHONS, RUNNERS, TORCHES, Build, check, expected

    builds = expected()
    assert len(set(builds)) == len(builds) == len(TORCHES) * len(PYTHONS) * len(RUNNERS)
    assert Build("2.14.1", "cp313", "win_amd64") in builds
    check(builds[::-1], builds)


def test_every_single_one_is_missed() -> None:
    from builds import check, expected

    builds = expected()
    for build in builds:
        with pytest.raises(ValueError, match=f"missing: torch {build.torch} {build.python} {build.platform}$"):
            check([other for other in builds if other != build], builds)


def test_what_is_too_much() -> None:
    from builds import Build, check, expected

    builds = expected()
    with pytest.raises(ValueError, match=r"more than once: torch 2\.13\.0 cp310 linux_x86_64$"):
        check([*builds, builds[0]], builds)
    with pytest.raises(ValueError, match=r"not asked for: torch 2\.13\.1 cp310 linux_x86_64$"):
        check([*builds, Build("2.13.1", "cp310", "linux_x86_64")], builds)


def test_what_the_release_reads() -> None:
    lines = output_of(sys.executable, TOOLS / "builds.py").splitlines()
    read = dict(line.split("=", 1) for line in lines)
    assert read["torches"] == '["2.13.0", "2.14.1"]'
    assert read["runners"] == '["ubuntu-latest", "macos-latest", "windows-latest"]'
    assert read["cibuildwheel"] == "cp310-* cp311-* cp312-* cp313-*"
    workflow = (TOOLS.parent / ".github" / "workflows" / "release.yml").read_text()
    for name in read:
        assert f"needs.plan.outputs.{name}" in workflow


def test_merged_by_python_and_platform(tmp_path: Path) -> None:
    """One merged wheel for each Python and platform, in any order; none if a build is missing."""
    from builds import expected
    from wheels import merge_all

    wanted = expected(["2.13.0", "2.14.1"], ["3.10", "3.11"], ["win_amd64"])
    wheels = [
        wheel(tmp_path / torch / python, torch, python=python, platforms=["win_amd64"])
        for torch in ("2.14.1", "2.13.0")
        for python in ("cp311", "cp310")
    ]
    into = tmp_path / "merged"
    into.mkdir()
    with pytest.raises(ValueError, match=r"missing: torch 2\.13\.0 cp310 win_amd64$"):
        merge_all(wheels[:-1], wanted, into)
    assert not list(into.iterdir())
    merge_all(wheels, wanted, into)
    assert sorted(path.name for path in into.iterdir()) == [
        f"ste_core-1.0-cp3{minor}-cp3{minor}-win_amd64.whl" for minor in (10, 11)
    ]
