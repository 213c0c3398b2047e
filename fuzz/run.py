"""Fuzz one target with Atheris, which has to be installed (``pip install atheris``):

    python fuzz/run.py head|challenge|cookies|url [--long] [CORPUS...] [-libFuzzer_option=value...]

With ``--long`` each input is stretched, and its time taken: what is quadratic shows only there. Without a corpus
folder it begins with ``tests/fuzz_corpus/<target>``. Whatever is found is written to the working folder as
``crash-<hash>``, ``timeout-<hash>`` or ``oom-<hash>``: mend it, and add the file to the corpus.
"""

from __future__ import annotations

import importlib
import logging
import sys
from pathlib import Path

import atheris

ROOT = Path(__file__).resolve().parent.parent
TARGETS = ("head", "challenge", "cookies", "url")


def main() -> None:
    if len(sys.argv) < 2 or sys.argv[1] not in TARGETS:
        raise SystemExit(f"usage: python fuzz/run.py {'|'.join(TARGETS)} [--long] [CORPUS...] [-option=value...]")
    name, given = sys.argv[1], [word for word in sys.argv[2:] if word != "--long"]
    sys.path.insert(0, str(ROOT))
    with atheris.instrument_imports(include=["clientrequest"]):
        target = importlib.import_module(f"fuzz.{name}")
    logging.disable(logging.CRITICAL)
    corpus = ROOT / "tests" / "fuzz_corpus" / name
    if all(word.startswith("-") for word in given) and corpus.is_dir():
        given.append(str(corpus))
    atheris.Setup([sys.argv[0], *given], target.check_long if "--long" in sys.argv else target.check)
    atheris.Fuzz()


if __name__ == "__main__":
    main()
