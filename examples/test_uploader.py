"""The tests of uploader.py: without a server, and with the faults that a real one has only at night."""

import pytest
from uploader import TRIES, send_table

from clientrequest import ConnectError
from clientrequest.testing import Answer, NoConnection

URL = "https://tables.example/measurements"


def rows():
    return [["tea", 1], ["süß", 2]]


def broken_rows():
    yield ["tea", 1]
    raise ZeroDivisionError


def test_table_arrives_as_csv(answer_requests):
    server = answer_requests(lambda request: {"lines": request.body.count(b"\n")}, "https://tables.example")
    assert send_table(URL, rows) == {"lines": 2}
    assert server.requests[0].text() == "tea,1\r\nsüß,2\r\n"


def test_it_tries_again(answer_requests):
    answers = iter([503, {"lines": 2}])
    server = answer_requests(lambda request: next(answers), connections=[NoConnection.REFUSED])
    assert send_table(URL, rows) == {"lines": 2}
    assert [request.complete for request in server.requests] == [True, True]


def test_it_gives_up(answer_requests):
    server = answer_requests(lambda request: 503)
    with pytest.raises(RuntimeError, match="503"):
        send_table(URL, rows)
    assert len(server.requests) == TRIES


def test_server_that_is_down(answer_requests):
    answer_requests(lambda request: 200, connections=NoConnection.REFUSED)
    with pytest.raises(ConnectError, match="ERR_CONNECTION_REFUSED"):
        send_table(URL, rows)


def test_server_that_has_heard_enough(answer_requests):
    server = answer_requests(lambda request: Answer(413, after=1000, then="close"))
    with pytest.raises(RuntimeError, match="413"):
        send_table(URL, lambda: [["row", "x" * 1000]] * 5000)
    assert server.requests[0].size == 1000


def test_half_a_table_is_never_whole(answer_requests):
    server = answer_requests(lambda request: 200)
    with pytest.raises(ZeroDivisionError):
        send_table(URL, broken_rows)
    assert not any(request.complete for request in server.requests)
