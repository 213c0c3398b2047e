"""Go through a proxy that wants a login. The one here runs in this program; it is made with ClientRequest, too."""

from typing import Callable

from proxy import PASSWORD, USER, running_proxy
from server import example_server

from clientrequest import AuthInfo, Session


def login(info: AuthInfo, callback: Callable[..., None]) -> None:
    print("the", "proxy" if info.is_proxy else "server", "asks for a login:", info.realm)
    if info.is_proxy:
        callback(USER, PASSWORD)
    else:
        callback()  # without a user name: there is no login, and the 401 is the response


# By default the proxies are those of the environment: http_proxy, https_proxy, no_proxy.
with example_server() as url, running_proxy() as proxy, Session(proxies={"http": proxy}) as session:
    request = session.request(url + "/upload", method="PUT", chunked_encoding=True)
    request.on("login", login)
    with request:
        for number in range(100_000):
            request.write(f"{number}\n")
    response = request.get_response()
    print(response.status_code, "via", response.headers["via"])
    print(response.json()["bytes"], "of", request.tell(), "bytes went through it")
