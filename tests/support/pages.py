"""Pages of Markdown: whether their programs print what the page shows, and where their links lead."""

from __future__ import annotations

import contextlib
import difflib
import io
import re
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple, Optional

from .modules import ROOT

SERVER = "127.0.0.1:8000"  # where the pages have the server of the examples
PROXY = "127.0.0.1:8080"  # and its proxy
LIMIT = 30  # seconds for one program

# A program, and the "text" block behind it if there is one: what it prints.
_PROGRAM = re.compile(r"^```python\n(.*?)^```\n(?:\n(?:It prints:\n\n)?```text\n(.*?)^```\n)?", re.M | re.S)


class Program(NamedTuple):
    """A ``python`` block."""

    page: str
    line: int
    code: str
    output: Optional[str]  # None where the page does not show it

    def check_output(self, printed: str) -> None:
        """``...`` in what the page shows stands for what differs from run to run; as a line, for any number of them."""
        shown = self.output or ""
        if not re.fullmatch("".join(map(_pattern, shown.splitlines(keepends=True))), printed):
            raise AssertionError("\n" + "".join(difflib.ndiff(shown.splitlines(True), printed.splitlines(True))))


def _pattern(line: str) -> str:
    return r"(?:.*\n)*" if line == "...\n" else ".*".join(map(re.escape, line.split("...")))


def find_programs(text: str, page: str) -> list[Program]:
    """All programs of a page."""
    return [
        Program(page, text[: match.start()].count("\n") + 1, match[1], match[2]) for match in _PROGRAM.finditer(text)
    ]


def run_alone(program: Program, places: Mapping[str, str]) -> None:
    """Run it as a user does, in a process of its own; every warning is an error.

    Args:
        places: for each host and port on the page where that server really is.
    """
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", moved(program.code, places)],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        encoding="utf-8",
        cwd=ROOT,
        timeout=LIMIT,
        check=False,
    )
    assert done.stderr == ""
    assert done.returncode == 0
    program.check_output(moved_back(done.stdout, places))


def run_here(program: Program, places: Mapping[str, str]) -> dict[str, Any]:
    """Run it in this process, in a room of its own, which it gives: some milliseconds instead of some hundred."""
    # As many lines before it as on its page, so that a traceback tells the line of the page.
    code = compile("\n" * program.line + moved(program.code, places), program.page, "exec")
    room: dict[str, Any] = {"__name__": "__main__"}
    with contextlib.redirect_stdout(io.StringIO()) as printed:
        exec(code, room)
    program.check_output(moved_back(printed.getvalue(), places))
    return room


def moved(code: str, places: Mapping[str, str]) -> str:
    """The code with the addresses that the servers really have."""
    for shown, real in places.items():
        code = code.replace(shown, real)
    return code


def moved_back(printed: str, places: Mapping[str, str]) -> str:
    """What was printed, with the addresses of the page."""
    return moved(printed, {real: shown for shown, real in places.items()})


# --- links ---


def without_blocks(text: str) -> str:
    """A page without its blocks of code, in which nothing is a title or a link."""
    return re.sub(r"^(`{3,}).*?^\1$", "", text, flags=re.M | re.S)


def anchors(text: str) -> set[str]:
    """What the titles of a page can be reached by, as GitHub and the site make it."""
    titles = re.findall(r"^#+ (.*)", without_blocks(text), re.M)
    return {re.sub(r"[^\w -]", "", title).lower().replace(" ", "-") for title in titles}


def links(text: str) -> list[str]:
    """Where the links and images of a page lead."""
    return re.findall(r"\]\(([^)\s]+)\)", without_blocks(text))


def dead_links(path: Path) -> Iterator[str]:
    """The links of a page that lead to no file, or to no title of it; those to other places are not followed."""
    for target in links(path.read_text("utf-8")):
        if re.match(r"[a-z]+:", target):
            continue
        name, _, anchor = target.partition("#")
        goal = (path.parent / name).resolve() if name else path
        if not goal.exists() or (anchor and anchor not in anchors(goal.read_text("utf-8"))):
            yield target
