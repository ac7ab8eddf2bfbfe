"""Change the packages in one place at a time, and show that the tests notice.

Changes to the registration are written by hand: wrong ways that look right (`mutants_registration.py`). Changes to the
arithmetic are a random sample of all small changes to the C++ and the Python, drawn by a seed (`mutants_draw.py`); the
quick tests have one minute to find each. If none finds it, either a test is missing, or the change has no effect that
can be observed, and `mutants_equivalent.py` says why. Any other survivor fails this script.

An interrupted run resumes where it stopped, unless a source has changed.
"""

import argparse
import hashlib
import json
import sys
from pathlib import Path
from typing import Any

import torch
from mutants_build import BUILD, Core, copy_of_ste
from mutants_change import ROOT, SEED, Change
from mutants_draw import NUMBER, draws, family_of, kind_of
from mutants_equivalent import REASONS
from mutants_registration import MUTANTS, failing_rows
from mutants_report import RESULTS, write_page
from mutants_tests import quick_tests

PARTIAL = BUILD / "results.json"

# If a change has none of these, another is drawn.
NO_MUTANT = ("does not compile", "is the same code")


def digest_of_sources() -> str:
    digest = hashlib.sha256()
    for folder in ("cmake", "packages"):
        for path in sorted((ROOT / folder).rglob("*")):
            if path.suffix in (".cpp", ".h", ".py", ".cmake", ".txt"):
                digest.update(path.read_bytes())
    return digest.hexdigest()


def tried(change: Change, core: Core) -> dict[str, Any]:
    """The record of one change to the arithmetic."""

    def changed(source: str) -> str:
        lines = source.splitlines(keepends=True)
        lines[change.line - 1] = f"{change.new}\n"
        return "".join(lines)

    family = family_of(change)
    record: dict[str, Any] = {
        "identity": change.identity,
        "file": change.file,
        "line": change.line,
        "kind": kind_of(change),
        "family": family,
        "operator": change.operator,
        "old": change.old.strip(),
        "new": change.new.strip(),
    }
    if change.file.endswith(".py"):
        verdict = quick_tests(family, change.old, [copy_of_ste(change.file, changed)], "python")
    else:
        has_effect = core.build(change.file, changed)
        if not has_effect:
            return record | {"how": NO_MUTANT[0] if has_effect is None else NO_MUTANT[1]}
        verdict = quick_tests(family, change.old, [core.site, ROOT / "packages" / "ste-py" / "src"], "native")
    return record | {"how": verdict.how, "test": verdict.test, "seconds": verdict.seconds}


class Run:
    """The results so far, saved after each mutant, so that a run of all resumes where it was interrupted."""

    def __init__(self, only: str | None) -> None:
        self.only = only
        self.core = Core()
        self.drawn: list[str] = []
        self.sources = digest_of_sources()
        path = RESULTS if only else PARTIAL
        before = json.loads(path.read_text()) if path.exists() else {}
        is_known = only is not None or before.get("sources") == self.sources
        self.arithmetic = self._kept(before["arithmetic"], "identity") if is_known and before else {}
        self.registration = self._kept(before["registration"], "name") if is_known and before else {}

    def _kept(self, records: list[dict[str, Any]], key: str) -> dict[str, dict[str, Any]]:
        return {record[key]: record for record in records if self.only is None or self.only not in record[key]}

    def _is_wanted(self, name: str) -> bool:
        return self.only is None or self.only in name

    def save(self, path: Path) -> None:
        results = {
            "torch": torch.__version__,
            "seed": SEED,
            "sources": self.sources,
            "arithmetic": [*self.arithmetic.values()],
            "registration": [*self.registration.values()],
        }
        path.write_text(json.dumps(results, indent=1) + "\n")

    def _save_part(self) -> None:
        if self.only is None:
            self.save(PARTIAL)

    def of_arithmetic(self) -> None:
        for language, draw in draws().items():
            draw.take(NUMBER[language], self._is_mutant)
        # Without those of an earlier draw.
        self.arithmetic = {
            identity: self.arithmetic[identity] for identity in self.drawn if identity in self.arithmetic
        }

    def _is_mutant(self, change: Change) -> bool:
        """Try a mutant, if it is wanted and has not been tried."""
        identity = change.identity
        self.drawn.append(identity)
        if identity not in self.arithmetic and self._is_wanted(identity):
            print(f"\n{change.file}:{change.line}\n  - {change.old.strip()}\n  + {change.new.strip()}", flush=True)
            record = self.arithmetic[identity] = tried(change, self.core)
            print(f"  {record['how'] or 'survives'} {record.get('test', '')} {record.get('seconds', '')}", flush=True)
            self._save_part()
        return self.arithmetic.get(identity, {}).get("how") not in NO_MUTANT

    def of_registration(self) -> None:
        for mutant in MUTANTS:
            if mutant.name not in self.registration and self._is_wanted(mutant.name):
                print(f"\n{mutant.name}", flush=True)
                rows = failing_rows(mutant, self.core)
                self.registration[mutant.name] = {"name": mutant.name, "rows": rows}
                print(f"  {len(rows)} rows find it", flush=True)
                self._save_part()


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", help="try the mutants again whose name, file or lines have this text")
    BUILD.mkdir(parents=True, exist_ok=True)
    run = Run(parser.parse_args().only)
    run.of_arithmetic()
    run.of_registration()
    RESULTS.parent.mkdir(exist_ok=True)
    run.save(RESULTS)
    if run.only is None:
        PARTIAL.unlink(missing_ok=True)
    write_page()
    lost = [r["identity"] for r in run.arithmetic.values() if r["how"] == "" and r["identity"] not in REASONS]
    lost += [name for name, record in run.registration.items() if not record["rows"]]
    for name in lost:
        print(f"survives: {name}")
    return bool(lost)


if __name__ == "__main__":
    sys.exit(main())
