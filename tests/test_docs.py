"""The pages of the site: their programs print what they show, their links lead somewhere, the reference is whole.

The programs run in this process, one after the other: that is a hundred times as fast as in processes of their own.
"""

from __future__ import annotations

import configparser
import importlib
import inspect
import pkgutil
import re
import shlex
import signal
import xml.etree.ElementTree as ElementTree
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

import clientrequest
from clientrequest._command_line import DONE, FAILED, LOCAL, REFUSED, USAGE, parse_command_line
from clientrequest._lifecycle import (
    MOVES,
    REQUEST_ENDS,
    REQUEST_EVENTS,
    RESPONSE_ENDS,
    RESPONSE_EVENTS,
    Phase,
)
from tests.support.modules import EXAMPLES, ROOT, load_example, load_module
from tests.support.pages import PROXY, SERVER, Program, dead_links, find_programs, run_here

DOCS = ROOT / "docs"
PAGES = {
    str(path.relative_to(ROOT)): path.read_text("utf-8")
    for path in (*sorted(DOCS.rglob("*.md")), ROOT / "CONTRIBUTING.md", ROOT / "SECURITY.md")
}
PROGRAMS = [program for page, text in PAGES.items() for program in find_programs(text, page)]
# What stands in the blocks of a page: Python, which is run; what it prints; commands, looked at below; Electron's side
# of a comparison; and what only Sphinx reads.
BLOCKS = {"python", "text", "sh", "js", "{toctree}", "{eval-rst}"}
# The commands that the pages show, by their beginnings.
COMMANDS = (
    "clientrequest ",
    "make ",
    "make-backup | clientrequest ",
    "pip install ",
    ".venv/bin/python docs/",
    "python examples/",
    "tar cz photos | clientrequest ",
    "UPSTREAM=http://127.0.0.1:8000 gunicorn --threads 8 --chdir examples wsgi_gateway",
)


def blocks(language: str) -> Iterator[tuple[str, str]]:
    """The page and the text of every block of a language."""
    for page, text in PAGES.items():
        for found in re.findall(rf"^```{language}\n(.*?)^```$", text, re.M | re.S):
            yield page, found


# --- the programs ---


@pytest.fixture
def places() -> Iterator[dict[str, str]]:
    with load_example("server").running_server() as server, load_example("proxy").running_proxy() as proxy:
        yield {SERVER: server.partition("//")[2], PROXY: proxy.partition("//")[2]}


def test_all_programs_are_found() -> None:
    assert len(PROGRAMS) == sum(text.count("```python") for text in PAGES.values())
    for page in PAGES:
        if page in ("docs/tutorial/tour.md", "docs/howto/command-line.md"):
            continue  # the README, and a page of commands
        if page.startswith(("docs/tutorial/", "docs/howto/")):
            assert any(program.page == page for program in PROGRAMS), page


def test_every_output_belongs_to_a_program() -> None:
    shown = sum(1 for _ in blocks("text"))
    assert shown == sum(program.output is not None for program in PROGRAMS)


@pytest.mark.parametrize("program", PROGRAMS, ids=lambda program: f"{program.page}:{program.line}")
def test_program_prints_what_its_page_shows(
    program: Program,
    places: dict[str, str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    request: pytest.FixtureRequest,
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("no_proxy", "")
    for name, test in run_here(program, places).items():
        if name.startswith("test_"):  # the tests of a page about testing, as pytest runs them
            test(**{fixture: request.getfixturevalue(fixture) for fixture in inspect.signature(test).parameters})


def test_a_program_that_prints_something_else_is_noticed() -> None:
    program = Program("page.md", 1, "print('one')\nprint('two')", "one\n")
    with pytest.raises(AssertionError):
        run_here(program, {})


@pytest.mark.parametrize(
    ("shown", "printed", "fits"),
    [
        ("a ... c\n", "a b c\n", True),
        ("a ... c\n", "a b\n", False),
        ("a ... c\n", "a\nb c\n", False),
        ("...\nlast\n", "last\n", True),
        ("...\nlast\n", "1\n2\nlast\n", True),
        ("...\nlast\n", "1\nlast\nmore\n", False),
        ("a.c\n", "abc\n", False),
    ],
)
def test_dots_stand_for_what_differs(shown: str, printed: str, fits: bool) -> None:
    program = Program("page.md", 1, "", shown)
    if fits:
        program.check_output(printed)
    else:
        with pytest.raises(AssertionError):
            program.check_output(printed)


# --- what is not run ---


def test_every_block_is_of_a_known_kind() -> None:
    for page, text in PAGES.items():
        kinds = re.findall(r"^```(\S*)$", text, re.M)
        assert set(kinds[::2]) <= BLOCKS, page
        assert set(kinds[1::2]) <= {""}, page


def test_every_command_is_a_known_one() -> None:
    makefile = (ROOT / "Makefile").read_text("utf-8")
    config = configparser.ConfigParser()  # in an sdist setuptools has written the file anew, with other white space
    config.read(ROOT / "setup.cfg", "utf-8")
    extras = set(config["options.extras_require"])
    for page, text in blocks("sh"):
        for line in text.splitlines():
            assert line.startswith(COMMANDS), f"{page}: {line}"
            for target in re.findall(r"^make ([a-z-]+)", line):
                assert re.search(rf"^{target}:", makefile, re.M), f"{page}: {line}"
            for path in re.findall(r"[\w/]+\.py\b", line):
                assert (ROOT / path).is_file(), f"{page}: {line}"
    for page, text in PAGES.items():
        for extra in re.findall(r"clientrequest\[([a-z]+)\]", text):
            assert extra in extras, f"{page}: {extra}"
    assert (EXAMPLES / "wsgi_gateway.py").is_file()


def test_the_command_understands_what_the_pages_have_it_do() -> None:
    lines = [line for _, text in blocks("sh") for line in text.splitlines()]
    commands = [line.partition("| ")[2] or line for line in lines if "clientrequest " in line]
    assert len(commands) > 8
    for command in commands:
        plan = parse_command_line(shlex.split(command)[1:])
        assert plan.options["url"].startswith("https://example.com/")


def test_the_exit_codes_are_those_of_the_command() -> None:
    codes = [int(code) for code in re.findall(r"^\| ([0-9]+) \|", PAGES["docs/howto/command-line.md"], re.M)]
    assert codes == [DONE, FAILED, USAGE, LOCAL, REFUSED, 128 + signal.SIGINT]


# --- links ---


@pytest.mark.parametrize("page", PAGES)
def test_the_links_lead_somewhere(page: str) -> None:
    assert list(dead_links(ROOT / page)) == []


def test_a_dead_link_is_noticed(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text("# A title, or 2\n[a](#a-title-or-2) [b](#b) [c](page.md#c) [d](d.md) ![e](e.svg) [f](https://f/)")
    assert list(dead_links(page)) == ["#b", "page.md#c", "d.md", "e.svg"]


def test_what_a_page_borrows_is_there() -> None:
    text = "\n".join(PAGES.values())
    borrowed = re.findall(r"^<!-- from ([\w.]+)(?:: (.+?))? -->$", text, re.M)
    assert len(borrowed) > 4
    for name, title in borrowed:
        text = (ROOT / name).read_text("utf-8")
        assert not title or f"\n## {title}\n" in text


def test_every_page_is_in_the_index() -> None:
    trees = "".join(text for _, text in blocks(re.escape("{toctree}")))
    entries = re.findall(r"[\w/*-]+(?=>?$)", trees, re.M)
    for page in PAGES:
        name = page.partition("docs/")[2].partition(".md")[0]
        if "/" in name:
            assert entries.count(name) == 1, page
    assert "*" in entries  # all others: what is added to the folder itself needs no line there


# --- the reference ---


def public_names() -> set[str]:
    """Those of the package and of its public modules, with the module that a user names."""
    names = {f"clientrequest.{name}" for name in clientrequest.__all__ if name != "__version__"}
    for module in pkgutil.iter_modules(clientrequest.__path__, "clientrequest."):
        if "._" not in module.name:
            names |= {module.name, *(f"{module.name}.{name}" for name in importlib.import_module(module.name).__all__)}
    return names


def told_names() -> Iterator[str]:
    """What the pages of the reference have Sphinx tell of."""
    for page, text in PAGES.items():
        if page.startswith("docs/reference/"):
            module = ""
            for directive, name in re.findall(r"^\.\. (auto[a-z]+|currentmodule):: ([\w.]+)(?:\(\))?$", text, re.M):
                if directive == "currentmodule":
                    module = name
                else:
                    yield name if directive == "automodule" else f"{module}.{name}"


def test_every_public_name_has_its_place_in_the_reference() -> None:
    told = list(told_names())
    assert len(told) == len(set(told))
    assert set(told) == public_names()
    assert "`__version__`" in PAGES["docs/reference/request.md"]


def test_what_the_reference_leaves_out_are_second_names() -> None:
    for owner, text in ((clientrequest.ClientRequest, "request"), (clientrequest.IncomingMessage, "response")):
        found = re.search(r":exclude-members: (.*)", PAGES[f"docs/reference/{text}.md"])
        assert found is not None
        for name in found[1].split(", "):
            ours = re.sub("[A-Z]", lambda letter: "_" + letter[0].lower(), name)
            assert inspect.getattr_static(owner, name) is inspect.getattr_static(owner, ours)


def raised_codes() -> set[tuple[str, str]]:
    """Each class of errors with each code that the package gives it, as the sources have it."""
    pairs = set()
    for path in (ROOT / "clientrequest").rglob("*.py"):
        pairs |= set(re.findall(r'\b([A-Z]\w+)(?:\(|, )\s*"(ERR_[A-Z_]+)"', path.read_text("utf-8")))
    for name in clientrequest.__all__:
        kind = getattr(clientrequest, name)
        if isinstance(kind, type) and "default_code" in vars(kind):
            pairs.add((name, kind.default_code))
    return pairs


def test_the_codes_are_those_of_the_sources() -> None:
    rows = re.findall(r"^\| `(ERR_\w+)` \| (.*?) \| .+ \|$", PAGES["docs/reference/errors.md"], re.M)
    told = {(kind, code) for code, kinds in rows for kind in re.findall(r"`(\w+)`", kinds)}
    assert sorted(code for code, _ in rows) == [code for code, _ in rows]
    sources = "".join(path.read_text("utf-8") for path in (ROOT / "clientrequest").rglob("*.py"))
    assert {code for code, _ in rows} == set(re.findall(r'"(ERR_[A-Z_]+)"', sources))
    beside = {code for _, code in raised_codes()}  # those of certificates stand beside no class
    assert {pair for pair in told if pair[1] in beside} == raised_codes()


# --- the drawings ---


@pytest.fixture
def diagrams() -> ModuleType:
    return load_module(DOCS / "diagrams.py")


def drawn(svg: str) -> ElementTree.Element:
    return ElementTree.fromstring(re.sub(r' xmlns="[^"]+"', "", svg))


@pytest.mark.parametrize("name", ["events.svg", "phases.svg"])
def test_the_drawing_is_that_of_the_tables(name: str, diagrams: ModuleType) -> None:
    """If it is not: .venv/bin/python docs/diagrams.py."""
    assert (DOCS / name).read_text("utf-8") == diagrams.DRAWINGS[name]()


def shown_ends(chart: ElementTree.Element) -> dict[str, set[str]]:
    """What may not come behind each moment, as one sees it: the bars that end there or before."""
    edges = {bar.attrib["data-event"]: int(bar.attrib["x"]) + int(bar.attrib["width"]) for bar in chart.iter("rect")}
    return {
        event: {other for other, edge in edges.items() if edge <= int(line.attrib["x1"])}
        for line in chart.iter("line")
        for event in line.attrib["data-moment"].split()
    }


@pytest.mark.parametrize(
    ("of", "events", "ends"),
    [("request", REQUEST_EVENTS, REQUEST_ENDS), ("response", RESPONSE_EVENTS, RESPONSE_ENDS)],
)
def test_the_bars_end_where_the_table_says(of: str, events: Any, ends: Any, diagrams: ModuleType) -> None:
    picture = drawn(diagrams.draw_events())
    chart = next(chart for chart in picture.iter("g") if chart.attrib["data-of"] == of)
    assert {bar.attrib["data-event"] for bar in chart.iter("rect")} == events
    shown = shown_ends(chart)
    assert shown == {event: set(others) for event, others in ends.items() if event in shown}
    once = {bar.attrib["data-event"] for bar in chart.iter("rect") if bar.attrib["class"] == "once"}
    assert once == {event for event in events if event in ends.get(event, ())}
    # What the picture leaves out ends nothing but itself.
    assert all(others == {event} for event, others in ends.items() if event not in shown)


def test_the_arrows_are_the_moves(diagrams: ModuleType) -> None:
    arrows = [path for path in drawn(diagrams.draw_phases()).iter("path") if "data-from" in path.attrib]
    shown = [(Phase[path.attrib["data-from"]], Phase[path.attrib["data-to"]]) for path in arrows]
    assert sorted(shown, key=str) == sorted(((one, other) for one in Phase for other in MOVES[one]), key=str)
    assert len({path.attrib["d"] for path in arrows}) == len(arrows)


def test_another_table_gives_another_drawing(diagrams: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    before = diagrams.draw_events()
    monkeypatch.setattr(diagrams, "REQUEST_ENDS", {**REQUEST_ENDS, "response": frozenset({"response", "finish"})})
    assert diagrams.draw_events() != before


def test_a_table_that_no_line_of_time_can_show_is_refused(diagrams: ModuleType) -> None:
    with pytest.raises(ValueError, match="neither ends all that the other ends"):
        diagrams.moments({"a": frozenset("ab"), "c": frozenset("cd")})


# --- the site ---


@pytest.fixture(scope="module")
def check_site() -> ModuleType:
    return load_module(DOCS / "check_site.py")


GOOD = """<html><head><link rel="stylesheet" href="s.css"><link rel="next" href="b/"><script src="s.js?v=1"></script>
<style>p { background: url(data:image/png;base64,AA) }</style></head><body id="top">
<a href="#top">x</a> <a href="b/index.html#%C3%A9">x</a> <a href="https://elsewhere.example/">x</a></body></html>"""


def build(folder: Path, **pages: str) -> Path:
    (folder / "b").mkdir()
    (folder / "b" / "index.html").write_text('<h1 id="é">b</h1><a href="../index.html">x</a>', "utf-8")
    (folder / "s.css").write_text("p { background: url('b/../s.js') }")
    (folder / "s.js").write_text("")
    (folder / "index.html").write_text(GOOD, "utf-8")
    for name, text in pages.items():
        (folder / f"{name}.html").write_text(text, "utf-8")
    return folder


def test_a_good_site_has_no_complaints(check_site: ModuleType, tmp_path: Path) -> None:
    assert check_site.Site(build(tmp_path)).complaints() == []


@pytest.mark.parametrize(
    ("html", "complaint"),
    [
        ('<a href="c.html">x</a>', "p.html: c.html leads nowhere"),
        ('<a href="index.html#gone">x</a>', "p.html: index.html#gone: no such place on that page"),
        ('<a href="#gone">x</a>', "p.html: #gone: no such place on that page"),
        ('<a href="../p.html">x</a>', "p.html: ../p.html leads nowhere"),
        ('<img src="gone.svg">', "p.html: gone.svg leads nowhere"),
        ('<script src="https://cdn.example/x.js"></script>', "p.html: loads https://cdn.example/x.js"),
        ('<script src="//cdn.example/x.js"></script>', "p.html: loads //cdn.example/x.js"),
        ('<link rel="stylesheet" href="http://cdn.example/x.css">', "p.html: loads http://cdn.example/x.css"),
        ("<style>@import 'https://cdn.example/x.css';</style>", "p.html: loads https://cdn.example/x.css"),
        ('<p style="background: url(https://cdn.example/x.png)">', "p.html: loads https://cdn.example/x.png"),
        ('<img srcset="https://cdn.example/x.png 2x">', "p.html: loads https://cdn.example/x.png"),
    ],
)
def test_what_is_wrong_on_a_page_is_told(check_site: ModuleType, tmp_path: Path, html: str, complaint: str) -> None:
    assert check_site.Site(build(tmp_path, p=html)).complaints() == [complaint]


def test_a_style_that_loads_from_outside_is_told(check_site: ModuleType, tmp_path: Path) -> None:
    (build(tmp_path) / "s.css").write_text("@font-face { src: url(https://fonts.example/x.woff2) }")
    assert check_site.Site(tmp_path).complaints() == ["s.css: loads https://fonts.example/x.woff2"]


def test_a_site_without_pages_is_told(check_site: ModuleType, tmp_path: Path) -> None:
    assert check_site.Site(tmp_path).complaints() == [f"{tmp_path}: no pages"]
