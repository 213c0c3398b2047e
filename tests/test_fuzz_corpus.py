"""What the fuzzer has found worth keeping, through the same properties; without the fuzzer."""

from __future__ import annotations

import importlib
from pathlib import Path

import pytest

CORPUS = Path(__file__).parent / "fuzz_corpus"
TARGETS = ("head", "challenge", "cookies", "url")


def inputs(target: str) -> list[Path]:
    return sorted((CORPUS / target).iterdir())


@pytest.mark.parametrize("target", TARGETS)
def test_every_input_has_all_properties(target: str) -> None:
    check = importlib.import_module(f"fuzz.{target}").check
    files = inputs(target)
    assert len(files) >= 10
    for file in files:
        try:
            check(file.read_bytes())
        except Exception as error:
            raise AssertionError(f"fuzz/{target}.py, {file.name}") from error


@pytest.mark.parametrize("target", TARGETS)
def test_inputs_that_are_stretched_cost_no_time(target: str) -> None:
    check_long = importlib.import_module(f"fuzz.{target}").check_long
    files = inputs(target)
    for file in files[:: max(len(files) // 5, 1)]:
        check_long(file.read_bytes())


@pytest.mark.parametrize("target", TARGETS)
def test_the_corpus_is_small(target: str) -> None:
    files = inputs(target)
    assert len(files) <= 110
    assert sum(file.stat().st_size for file in files) < 75 * 1024
