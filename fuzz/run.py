#!/usr/bin/env python3
"""Fuzz one target with Atheris, which has to be installed (``pip install atheris``):

    fuzz/run.py head|challenge|cookies|url [--long] [CORPUS...] [-libFuzzer_option=value...]

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
    words = sys.argv[1:]
    if words and words[0] in TARGETS:
        # libFuzzer passes over what begins with "--", and hands it on to the processes that it starts for -merge=1.
        words[0] = f"--target={words[0]}"
    names = [word.partition("=")[2] for word in words if word.startswith("--target=")]
    if len(names) != 1 or names[0] not in TARGETS:
        raise SystemExit(f"usage: fuzz/run.py {'|'.join(TARGETS)} [--long] [CORPUS...] [-option=value...]")
    sys.path.insert(0, str(ROOT))
    with atheris.instrument_imports(include=["clientrequest"]):
        target = importlib.import_module(f"fuzz.{names[0]}")
    logging.disable(logging.CRITICAL)
    corpus = ROOT / "tests" / "fuzz_corpus" / names[0]
    if all(word.startswith("-") for word in words) and corpus.is_dir():
        words.append(str(corpus))
    atheris.Setup([sys.argv[0], *words], target.check_long if "--long" in words else target.check)
    atheris.Fuzz()


if __name__ == "__main__":
    main()
