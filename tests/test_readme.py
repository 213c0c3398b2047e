"""The README keeps its word: its programs run and print what it shows, its tables and links name what there is."""

from __future__ import annotations

import inspect
import io
import re
from collections.abc import Iterator
from typing import Any

import pytest

import clientrequest
from clientrequest import ClientRequest, IncomingMessage, Session, Timeout, signals
from clientrequest._lifecycle import REQUEST_EVENTS, RESPONSE_EVENTS
from clientrequest._options import _KNOWN as KNOWN_OPTIONS
from clientrequest._options import BROWSER_ONLY, ELECTRON_OPTIONS
from tests.support.modules import ROOT, load_example
from tests.support.pages import SERVER, Program, dead_links, find_programs, links, moved, run_alone

README = (ROOT / "README.md").read_text("utf-8")
PROGRAMS = find_programs(README, "README.md")


@pytest.fixture
def places() -> Iterator[dict[str, str]]:
    with load_example("server").running_server() as url:
        yield {SERVER: url.partition("//")[2]}


def table(heading: str) -> list[list[str]]:
    """The rows of the first table that has ``heading`` in its first row."""
    lines = iter(README.splitlines())
    for line in lines:
        if line.startswith("|") and heading in line:
            break
    assert next(lines).startswith("| ---")
    rows = []
    for line in lines:
        if not line.startswith("|"):
            break
        rows.append([cell.strip() for cell in line.strip("|").split("|")])
    return rows


def names(cell: str) -> list[str]:
    """The names in backticks, without what a call has in its parentheses."""
    return [name.partition("(")[0] for name in re.findall(r"`([^`]+)`", cell)]


# --- the programs ---


def test_all_programs_are_found() -> None:
    assert len(PROGRAMS) == README.count("```python") >= 5
    assert sum(program.output is not None for program in PROGRAMS) == len(PROGRAMS) - 1
    assert len(PROGRAMS[0].code.splitlines()) <= 14


@pytest.mark.parametrize("program", PROGRAMS, ids=lambda program: f"line {program.line}")
def test_program_prints_what_the_readme_shows(program: Program, places: dict[str, str]) -> None:
    run_alone(program, places)


def call_application(places: dict[str, str], body: bytes, announced: int) -> tuple[list[Any], bytes]:
    program = next(program for program in PROGRAMS if "def application" in program.code)
    room: dict[str, Any] = {}
    exec(moved(program.code, places), room)
    begun: list[Any] = []
    environ = {"CONTENT_LENGTH": str(announced), "wsgi.input": io.BytesIO(body)}
    answer = room["application"](environ, lambda status, headers: begun.append((status, headers)))
    return begun, b"".join(answer)


def test_the_wsgi_application_streams_both_ways(places: dict[str, str]) -> None:
    body = bytes(range(256)) * 10_000
    begun, answer = call_application(places, body, len(body))
    assert begun == [("200 OK", [("Content-Type", "application/octet-stream")])]
    assert answer == body


def test_the_wsgi_application_passes_no_cut_body_for_a_whole_one(places: dict[str, str]) -> None:
    with pytest.raises(clientrequest.ProtocolError, match="ERR_CONTENT_LENGTH_MISMATCH"):
        call_application(places, b"cut", 10)


# --- the tables ---


def test_the_spellings_are_aliases() -> None:
    rows = table("| Electron |")
    assert len(rows) >= 8
    owner: Any = None
    for kind, electron, ours in rows:
        if kind.startswith("option"):
            break
        if kind:
            owner = clientrequest if kind == "function" else ClientRequest if "request" in kind else IncomingMessage
        if kind == "function":
            assert [hasattr(owner, name) for name in names(ours)] == [True, True]
            continue
        assert len(names(electron)) == len(names(ours)) > 0
        for one, other in zip(names(electron), names(ours)):
            assert inspect.getattr_static(owner, one) is inspect.getattr_static(owner, other), one


def test_the_options_exist() -> None:
    named = [name for row in table("| option | default |") for name in names(row[0])]
    assert len(named) == len(set(named))
    assert set(named) == KNOWN_OPTIONS
    spelled = {name for row in table("| Electron |")[-2:] for name in names(row[1])}
    assert spelled <= KNOWN_OPTIONS | set(ELECTRON_OPTIONS)
    for name in BROWSER_ONLY:
        assert f"`{name}`" in README


def test_the_defaults_are_true() -> None:
    rows = {names(row[0])[0]: row[1] for row in table("| option | default |")}
    assert rows["high_water_mark"] == rows["replay_limit"] == "1 MiB"
    assert f"`{Timeout()!r}`".replace(".0", "") in README
    parameters = inspect.signature(Session).parameters
    documented = [name for row in table("| `Session(...)` |") for name in names(row[0])]
    assert sorted(documented) == sorted(parameters)


def test_the_events_exist() -> None:
    of_request = {name for row in table("| event of the request |") for name in names(row[0])}
    of_response = {name for row in table("| event of the response |") for name in names(row[0])}
    assert of_request <= REQUEST_EVENTS
    assert of_response == RESPONSE_EVENTS
    for name in REQUEST_EVENTS:
        assert f"`{name}`" in README
    for name in signals.__all__:
        if name != "request_redirected":
            assert name in README


def test_the_errors_exist() -> None:
    documented = {names(row[0])[0] for row in table("| `ClientRequestError` (an `OSError`) |")}
    errors = {name for name in clientrequest.__all__ if name.endswith("Error") or name == "RequestTimeout"}
    assert documented == errors - {"ClientRequestError", "InvalidStateError"}


def test_what_is_only_here_is_here() -> None:
    paragraph = README.partition("\nOnly here: ")[2].partition("\n\n")[0]
    assert paragraph
    for name in names(paragraph.replace("`writable_...`", "")):
        assert hasattr(ClientRequest, name) or hasattr(IncomingMessage, name), name


def test_the_map_has_every_room() -> None:
    rooms = [name for row in table("| room |") for name in names(row[0])]
    assert sorted(rooms) == sorted(path.stem for path in (ROOT / "clientrequest").glob("*.py"))


# --- what it points to ---


def test_the_links_lead_somewhere() -> None:
    assert links(README)
    assert list(dead_links(ROOT / "README.md")) == []


def test_every_example_is_named() -> None:
    for path in (ROOT / "examples").glob("*.py"):
        if path.stem != "demo":  # "make demo"
            assert f"examples/{path.name}" in README


def test_the_commands_exist() -> None:
    makefile = (ROOT / "Makefile").read_text("utf-8")
    for target in re.findall(r"(?:^    |`)make ([a-z]+)", README, re.M):
        assert re.search(rf"^{target}:", makefile, re.M), target
    for path in re.findall(r"`(tests/\w+\.py|examples/\w+\.py)`", README):
        assert (ROOT / path).is_file(), path
