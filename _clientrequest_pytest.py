"""The pytest plugin of clientrequest: the fixture ``answer_requests``.

A module beside the package: pytest loads it in every run, and the package only where a test asks for the fixture.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Callable

import pytest

if TYPE_CHECKING:
    from clientrequest.testing import Server


@pytest.fixture
def answer_requests() -> Iterator[Callable[..., Server]]:
    """Answer clientrequest's requests from memory: ``answer_requests(handler, *origins)`` gives a ``Server``.

    It is ``clientrequest.testing.answer_all`` for the length of one test. From the beginning of the test on, no request
    gets out into the network. What a handler raises fails the test in its teardown.
    """
    from clientrequest.testing import _answering_requests

    with _answering_requests() as answer:
        yield answer
