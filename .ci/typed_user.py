"""A user's program, never run: ``mypy --strict`` reads it against the installed wheel."""

from __future__ import annotations

import json
import shutil
import tarfile
from collections.abc import Callable
from concurrent.futures import as_completed
from typing import BinaryIO, Optional

from clientrequest import (
    AuthInfo,
    ClientRequest,
    ClientRequestError,
    ConnectError,
    IncomingMessage,
    InvalidStateError,
    MultipartForm,
    Session,
    StatusError,
    Timeout,
    UploadProgress,
    default_session,
    request,
)


def download(url: str, target: BinaryIO) -> int:
    answer = request(url).end().get_response(timeout=30)
    if answer.status_code != 200:
        raise RuntimeError(f"{answer.status_code} {answer.status_message}")
    shutil.copyfileobj(answer, target)
    return answer.tell()


def search(url: str, words: list[str]) -> list[str]:
    running = [request(url, params={"q": word, "page": 1}, json={"words": words}).end().future for word in words]
    return [future.result().raise_for_status().text() for future in as_completed(running, 30)]


def send_form(url: str, photo: BinaryIO) -> int:
    form = MultipartForm({"title": "Harbour", "tags": ["a", "b"]}).add_file("photo", photo, filename="harbour.jpg")
    with Session() as session:
        try:
            session.request(url, data=[("a", 1), ("a", None)]).end().get_response().raise_for_status()
        except StatusError as error:
            return error.status_code
        return session.request(url, method="POST").send(form).get_response().status_code


def upload(url: str, folder: str) -> str:
    sent = ClientRequest(url, method="POST", chunked_encoding=True, timeout=Timeout(connect=5, total=600))
    sent.set_header("Content-Type", "application/x-tar")
    with sent, tarfile.open(fileobj=sent, mode="w|gz") as archive:
        archive.add(folder)
    return sent.get_response().text()


def listen(url: str) -> bool:
    call = ClientRequest({"url": url, "method": "PUT"}, redirect="manual")

    def on_response(response: IncomingMessage) -> None:
        response.on("data", lambda chunk: print(len(chunk)))
        response.on("end", lambda: print(response.trailers))

    @call.on("login")
    def on_login(info: AuthInfo, answer: Callable[[Optional[str], Optional[str]], None]) -> None:
        if info.is_proxy:
            answer(None, None)
        else:
            answer("someone", "something for " + info.realm)

    @call.on("redirect")
    def on_redirect(status_code: int, method: str, url: str, headers: dict[str, list[str]]) -> None:
        print(status_code, method, url, headers.get("location"))
        call.follow_redirect()

    call.once("response", on_response)
    taken: int = call.write(json.dumps({"a": 1}), "utf-8", print)
    progress: UploadProgress = call.get_upload_progress()
    print(taken, progress.active, progress.current, progress.total)
    return call.end().wait(timeout=30)


def ported(url: str) -> None:
    """Electron's spelling is typed too."""
    call = ClientRequest(url, method="POST")
    call.chunkedEncoding = True
    call.setHeader("X-Word", "hello")
    print(call.getHeader("x-word"), call.getUploadProgress().total)
    call.removeHeader("X-Word")
    answer: IncomingMessage = call.end().get_response()
    status: int = answer.statusCode
    print(status, answer.statusMessage, answer.httpVersionMajor, answer.rawHeaders)


def fail(url: str) -> str:
    with Session("persist:typed", proxies={"http": "http://proxy.example:3128"}, timeout=Timeout(total=5)) as session:
        try:
            session.request(url).end().get_response()
        except ConnectError as error:
            return error.code
        except ClientRequestError as error:
            return f"{error.code}: {error}"
        except InvalidStateError:
            raise
    default_session().clear_auth_cache()
    print([cookie.name for cookie in default_session().cookies])
    return "no error"
