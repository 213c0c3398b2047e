"""How Sphinx builds the site; ``make docs`` does."""

from __future__ import annotations

import os
import re
import sys
from pathlib import Path
from typing import Any

DOCS = Path(__file__).resolve().parent
ROOT = DOCS.parent
sys.path.insert(0, str(DOCS))

import diagrams  # noqa: E402

import clientrequest  # noqa: E402

project = "clientrequest"
author = "the clientrequest authors"
version = release = clientrequest.__version__
html_title = f"clientrequest {release}"

extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon"]
myst_heading_anchors = 4
html_theme = "furo"
html_show_copyright = False
html_copy_source = False

autodoc_member_order = "bysource"
autodoc_preserve_defaults = True
autodoc_mock_imports = ["opentelemetry"]  # only otel needs it, and only its docstrings are wanted
autodoc_inherit_docstrings = False
add_module_names = False
python_use_unqualified_type_names = True
python_maximum_signature_line_length = 100
napoleon_numpy_docstring = False

# Files that are not in docs/, and the pages that they are here.
PAGES = {
    ROOT / "README.md": "tutorial/tour",
    ROOT / "CHANGELOG.md": "project/changelog",
    ROOT / "CONTRIBUTING.md": "project/contributing",
    ROOT / "SECURITY.md": "project/security",
}
# "<!-- from README.md: Options -->" stands for that part of the README, without a title for all of it.
BORROWED = re.compile(r"^<!-- from ([\w.]+)(?:: (.+?))? -->$", re.M)
LINK = re.compile(r"(?<=\]\()([^)\s#]*)(#[^)\s]*)?(?=\))")


def read_source(app: Any, docname: str, source: list[str]) -> None:
    """Put in what the page borrows, and lead its links to where the files are in the site."""
    here = DOCS / docname

    def borrow(match: re.Match[str]) -> str:
        path = ROOT / match[1]
        app.env.note_dependency(str(path))
        text = path.read_text("utf-8")
        return relink(text if match[2] is None else part_of(text, match[2]), path, here, whole=match[2] is None)

    path = here.with_suffix(".md")
    source[0] = BORROWED.sub(borrow, relink(source[0], path, here, whole=True))


def part_of(text: str, title: str) -> str:
    """What stands below a title, up to the next one of its kind."""
    found = re.search(rf"^## {re.escape(title)}\n(.*?)(?=^## |\Z)", text, re.M | re.S)
    if found is None:
        raise ValueError(f"there is no part {title!r}")
    return found[1]


def relink(text: str, path: Path, here: Path, whole: bool) -> str:
    """The text of ``path`` as it has to be in the page ``here``, of which it is all or a part."""

    def replace(match: re.Match[str]) -> str:
        name, anchor = match[1], match[2] or ""
        if not name and whole:
            return match[0]
        goal = (path.parent / name).resolve() if name else path
        if not goal.is_file():
            return match[0]
        if goal in PAGES:
            goal = DOCS / f"{PAGES[goal]}.md"
        target = os.path.relpath(goal, here.parent)
        if goal.suffix == ".md" and DOCS not in goal.parents:
            return f"path:{target}"  # else MyST takes it for a page
        return target + anchor

    return LINK.sub(replace, text)


COLON = "\ue000"  # stands for a colon meanwhile


def before_napoleon(app: Any, what: str, name: str, obj: object, options: object, lines: list[str]) -> None:
    """Hide what napoleon would misread: a colon in a property's first line (it takes what stands before it for a type),
    and the stars of the last of several arguments."""
    lines[:] = [re.sub(r"(?<=, )\*\*(?=\w+: )", r"\\*\\*", line) for line in lines]
    if what == "property":
        lines[0] = lines[0].replace(":", COLON)


def behind_napoleon(app: Any, what: str, name: str, obj: object, options: object, lines: list[str]) -> None:
    lines[:] = [line.replace(COLON, ":") for line in lines]


def setup(app: Any) -> None:
    diagrams.write(DOCS)
    app.connect("source-read", read_source)
    app.connect("autodoc-process-docstring", before_napoleon, priority=400)
    app.connect("autodoc-process-docstring", behind_napoleon, priority=600)
