"""Walk through the built site: every link leads somewhere, and no page needs anything from outside.

::

    python docs/check_site.py site
"""

from __future__ import annotations

import re
import sys
from html.parser import HTMLParser
from pathlib import Path
from typing import Optional
from urllib.parse import unquote, urlsplit

# What a browser fetches by itself. Where a link (<a href>) leads is for the reader to decide.
LOADED = {
    ("audio", "src"),
    ("embed", "src"),
    ("iframe", "src"),
    ("img", "src"),
    ("input", "src"),
    ("object", "data"),
    ("script", "src"),
    ("source", "src"),
    ("track", "src"),
    ("video", "poster"),
    ("video", "src"),
}
LOADED_RELATIONS = {"apple-touch-icon", "icon", "manifest", "modulepreload", "preload", "prefetch", "stylesheet"}
IN_CSS = re.compile(r"""url\(\s*['"]?([^'")]+)|@import\s+['"]([^'"]+)""")


class Page(HTMLParser):
    """One page: what it can be entered by, where it leads, and what it loads."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.ids: set[str] = set()
        self.links: list[str] = []
        self.loads: list[str] = []
        self._in_style = False
        self.feed(text)
        self.close()

    def handle_starttag(self, tag: str, pairs: list[tuple[str, Optional[str]]]) -> None:
        attributes = {name: value or "" for name, value in pairs}
        self.ids.update(attributes[name] for name in ("id", "name") if name in attributes)
        self._in_style = tag == "style"
        self.loads.extend(find_in_css(attributes.get("style", "")))
        self.loads.extend(part.split()[0] for part in attributes.get("srcset", "").split(",") if part.strip())
        if tag == "link" and LOADED_RELATIONS & set(attributes.get("rel", "").lower().split()):
            self.loads.append(attributes.get("href", ""))
        elif tag in ("a", "area", "link") and "href" in attributes:
            self.links.append(attributes["href"])
        self.loads.extend(value for name, value in attributes.items() if (tag, name) in LOADED)

    def handle_endtag(self, tag: str) -> None:
        self._in_style = False

    def handle_data(self, data: str) -> None:
        if self._in_style:
            self.loads.extend(find_in_css(data))


def find_in_css(text: str) -> list[str]:
    return [first or second for first, second in IN_CSS.findall(text)]


def is_outside(target: str) -> bool:
    parts = urlsplit(target)
    return bool(parts.netloc) or parts.scheme not in ("", "data")


class Site:
    """All of a folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder.resolve()
        paths = sorted(self.folder.rglob("*.html"))
        self.pages = {path: Page(path.read_text("utf-8")) for path in paths}

    def complaints(self) -> list[str]:
        """What is wrong, one line each."""
        if not self.pages:
            return [f"{self.folder}: no pages"]
        found = []
        for path, page in self.pages.items():
            found += [f"{self._name(path)}: loads {target}" for target in page.loads if is_outside(target)]
            for target in page.links + page.loads:
                if not is_outside(target) and not target.startswith("data:"):
                    found += self._follow(path, target)
        for path in sorted(self.folder.rglob("*.css")):
            loads = find_in_css(path.read_text("utf-8"))
            found += [f"{self._name(path)}: loads {target}" for target in loads if is_outside(target)]
        return found

    def _follow(self, path: Path, target: str) -> list[str]:
        parts = urlsplit(target)
        goal = (path.parent / unquote(parts.path)).resolve() if parts.path else path
        if goal.is_dir():
            goal /= "index.html"
        if self.folder not in goal.parents or not goal.is_file():
            return [f"{self._name(path)}: {target} leads nowhere"]
        page = self.pages.get(goal)
        if page is not None and parts.fragment and unquote(parts.fragment) not in page.ids:
            return [f"{self._name(path)}: {target}: no such place on that page"]
        return []

    def _name(self, path: Path) -> str:
        return str(path.relative_to(self.folder))


def main() -> int:
    site = Site(Path(sys.argv[1]))
    complaints = site.complaints()
    print(*complaints, sep="\n", end="\n" if complaints else "")
    print(f"{len(site.pages)} pages, {sum(len(page.links) for page in site.pages.values())} links")
    return 1 if complaints else 0


if __name__ == "__main__":
    sys.exit(main())
