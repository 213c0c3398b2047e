"""Keep cookies from one run of a program to the next: the partition ``persist:NAME`` has a file."""

import tempfile

from server import example_server

from clientrequest import Session


def run(url: str, folder: str) -> None:
    """As one run of a program would do it; without ``storage`` the file is in the user's folder for such data."""
    with Session("persist:visitor", storage=folder) as session:
        print("a new run; cookies:", len(session.cookies))
        for _ in range(2):
            # Cookies are sent and taken only by those who ask for it.
            request = session.request(url + "/visit", use_session_cookies=True)
            print(request.end().get_response().text(), end="")


with example_server() as url, tempfile.TemporaryDirectory() as folder:
    run(url, folder)
    run(url, folder)
