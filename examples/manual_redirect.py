"""Decide about redirects yourself: with ``redirect="manual"`` the request waits for your yes or no."""

from urllib.parse import urlsplit

from server import example_server

from clientrequest import AbortedError, ClientRequest


def get(url: str) -> ClientRequest:
    request = ClientRequest(url, redirect="manual")

    @request.on("redirect")
    def decide(status: int, method: str, target: str, headers: dict[str, list[str]]) -> None:
        if urlsplit(target).netloc == urlsplit(url).netloc:
            print(status, "to", urlsplit(target).path, "is followed")
            request.follow_redirect()  # now or later, from any thread
        else:
            print(status, "to", urlsplit(target).netloc, "is refused")
            request.abort()

    return request.end()


with example_server() as url:
    print(get(url + "/redirect?to=/").get_response().text(), end="")
    try:
        get(url + "/redirect?to=http://elsewhere.example/").get_response()
    except AbortedError as error:
        print(error)
