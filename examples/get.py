"""GET something: the answer comes as an event."""

from server import example_server

from clientrequest import ClientRequest, IncomingMessage


def answered(response: IncomingMessage) -> None:
    print(response.status_code, response.status_message, response.headers["content-type"])
    print(response.text(), end="")


with example_server() as url:
    request = ClientRequest(url + "/")
    request.on("response", answered)
    request.on("close", lambda: print("closed"))
    request.end()  # nothing was connected before this
    request.wait()  # until it is closed; raises what went wrong, if something did
