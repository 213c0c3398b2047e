"""What few programs use, and all would have to wait for at the import: imported and made when it is first used.

Cookies are: ``http.cookiejar`` takes longer to import than any room of ours. So are futures.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any, Optional

if TYPE_CHECKING:
    from ._cookies import Cookies


class LateCookies:
    """The cookies of one session, in a new jar unless they are given. Any thread.

    Args:
        given: those that are there from the beginning, if any.
    """

    def __init__(self, given: Optional[Cookies] = None) -> None:
        self._made = [] if given is None else [given]

    @property
    def made(self) -> Optional[Cookies]:
        """The cookies, if anybody has used them yet."""
        return self._made[0] if self._made else None

    def get(self) -> Cookies:
        """The cookies, which there are from now on."""
        if not self._made:
            from ._cookies import Cookies

            self._made.append(Cookies())  # without a lock: of two who come at once both get what is first in the list
        return self._made[0]

    def __reduce__(self) -> Any:
        raise TypeError("a session cannot be pickled: it belongs to its process")


class LateModule:
    """Stands for a module in annotations, so that ``typing.get_type_hints`` can tell what they mean.

    Args:
        name: of the module, in full.
    """

    def __init__(self, name: str) -> None:
        self._name = name

    def __getattr__(self, attribute: str) -> Any:
        return getattr(importlib.import_module(self._name), attribute)

    def __repr__(self) -> str:
        return f"<{self._name}, imported when it is used>"
