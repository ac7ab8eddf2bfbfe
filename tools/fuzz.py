"""Call the native ops with random tensors and compare each result with the Python backend's, to the bit.

    python tools/fuzz.py --inputs 20000 --seconds 600

This finds wrong values; a build with sanitizers also finds memory errors. The number of an input determines it:
`--first 4711 --inputs 1` repeats one.
"""

import argparse
import json
import sys
import time
import warnings
from collections import Counter
from pathlib import Path

import ste

sys.path.insert(0, str(Path(__file__).parent.parent / "tests"))
from random_calls import Input, check


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--first", type=int, default=0, help="the number of the first input")
    parser.add_argument("--inputs", type=int, required=True)
    parser.add_argument("--seconds", type=float, default=float("inf"), help="stop after this time")
    arguments = parser.parse_args()
    if ste.backend().name != "native":
        parser.error(f"this is for the native backend, and here is {ste.backend()}")
    warnings.simplefilter("ignore")
    began = time.monotonic()
    ways: Counter[str] = Counter()
    wrong = []
    for number in range(arguments.first, arguments.first + arguments.inputs):
        if time.monotonic() - began > arguments.seconds:
            break
        case = Input(number)
        # If a sanitizer ends the process, this line says on which input.
        sys.stderr.write(f"\r{number} {case}\x1b[K" if sys.stderr.isatty() else f"{number} {case}\n")
        try:
            ways[check(case)] += 1
        except AssertionError as error:
            wrong.append(number)
            print(f"{number} {case}\n{error}", flush=True)
    print(json.dumps({"inputs": sum(ways.values()) + len(wrong), "ways": dict(ways), "wrong": wrong}))
    return bool(wrong)


if __name__ == "__main__":
    sys.exit(main())
