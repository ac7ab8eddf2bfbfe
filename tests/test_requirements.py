"""tools/check_lock.py: requirements/ and the dependency groups."""

import re

import pytest
from sample_wheels import TOOLS

pytestmark = pytest.mark.repository

HASH = " \\\n    --hash=sha256:" + "0" * 64 + "\n"


@pytest.fixture(autouse=True)
def _tools(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(TOOLS)


def problems(text: str, *wanted: str, others: str = "") -> dict[str, str]:
    from check_lock import problems, read_lock
    from packaging.requirements import Requirement

    return problems("build", [Requirement(requirement) for requirement in wanted], read_lock(text), read_lock(others))


def test_it_has_what_the_group_asks_for() -> None:
    text = f"cmake==4.0{HASH}    # via (pyproject.toml:build)\n"
    text += f"backport==1 ; python_version < '3.11'{HASH}    # via cmake\n"
    assert problems(text, "cmake>=3.25") == {}
    assert problems(text, "cmake>=5") == {"requirements/build.txt has no cmake>=5": "Python 3.10 on linux_x86_64"}
    assert problems(text, "cmake", "ninja") == {"requirements/build.txt has no ninja": "Python 3.10 on linux_x86_64"}
    assert problems(text, "cmake", "backport") == {
        "requirements/build.txt has no backport": "Python 3.11 on linux_x86_64"
    }
    assert problems(text, "cmake", "backport; python_version < '3.11'") == {}
    assert "requirements/build.txt has cmake, which the group does not ask for" in problems(text)


def test_markers_of_systems() -> None:
    text = f"Patch_Elf==1 ; sys_platform == 'linux'{HASH}    # via (pyproject.toml:build)\n"
    assert problems(text, "patch-elf; sys_platform == 'linux'") == {}
    assert problems(text, "patch-elf") == {"requirements/build.txt has no patch-elf": "Python 3.10 on macosx_arm64"}


def test_one_version_of_each() -> None:
    text = f"zipp==3 ; python_version < '3.11'{HASH}zipp==4 ; python_version >= '3.11'{HASH}"
    assert problems(text) == {}
    assert problems(text, others=text) == {}
    assert problems(text.replace("< '3.11'", "< '3.12'")) == {
        "requirements/ has zipp 3 and 4": "Python 3.11 on linux_x86_64"
    }
    assert problems(text, others=f"zipp==3{HASH}") == {"requirements/ has zipp 4 and 3": "Python 3.11 on linux_x86_64"}


@pytest.mark.parametrize(
    "line", ["zipp==3\n", f"zipp>=3{HASH}", "--index-url there\n", "zipp==3 \\\n    --hash=md5:0\n"]
)
def test_nothing_without_a_version_and_a_hash(line: str) -> None:
    with pytest.raises(ValueError, match="not one version with its hashes"):
        problems(f"cmake==4.0{HASH}{line}")


def test_no_file_names_an_index() -> None:
    files = sorted((TOOLS.parent / "requirements").iterdir())
    assert [file.name for file in files] == ["build.txt", "release.txt"]
    for file in files:
        assert not re.search(r"://|index|find-links", file.read_text())


def test_links_of_the_packages_lead_somewhere_on_an_index() -> None:
    for readme in (TOOLS.parent / "packages").glob("*/README.md"):
        assert not re.findall(r"\]\((?!https://)[^)]*\)", readme.read_text())
