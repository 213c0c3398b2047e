"""What many requests at once cost, and what those cost that do nothing: memory, threads, descriptors, time.

    python benchmarks/scale.py
    python benchmarks/scale.py --requests 500 --json scale.json

Each measurement is a process of its own, and so is the server, whose memory does not count. Linux only: the figures
come from /proc.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import gc
import http.client
import json
import os
import platform
import resource
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Callable
from urllib.parse import urlsplit

HERE = Path(__file__).resolve().parent
# What is measured is the package beside this folder, installed or not.
ENVIRONMENT = {**os.environ, "PYTHONPATH": str(HERE.parent)}
LIMIT = 300.0
"""Seconds that anything may take."""
EACH = 8
"""Descriptors that one request may take, with some to spare."""

Figures = dict[str, float]


# ---- the server: it answers "/hold" when it is told to, and everything else at once ----------------


class Server:
    """Answers on one thread; told what to do by lines on its standard input."""

    def __init__(self) -> None:
        self.held: list[asyncio.StreamWriter] = []
        self.came = 0

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(asyncio.IncompleteReadError, ConnectionError):
            while True:
                head = await reader.readuntil(b"\r\n\r\n")
                if head.startswith(b"GET /hold"):
                    self.came += 1
                    self.held.append(writer)
                else:
                    self.answer(writer)
        writer.close()

    @staticmethod
    def answer(writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")

    def obey(self, order: str) -> None:
        if order == "answer":
            for writer in self.held:
                self.answer(writer)
        if order in ("answer", "forget"):
            self.held.clear()
            self.came = 0
        print(self.came, flush=True)

    async def run(self) -> None:
        listening = await asyncio.start_server(self.serve, "127.0.0.1", 0, backlog=8192)
        print(listening.sockets[0].getsockname()[1], flush=True)
        loop = asyncio.get_running_loop()

        def listen() -> None:
            for line in sys.stdin:
                loop.call_soon_threadsafe(self.obey, line.strip())
            os._exit(0)

        threading.Thread(target=listen, daemon=True).start()
        await asyncio.Event().wait()


class Remote:
    """The server, from the process that measures."""

    def __init__(self) -> None:
        command = [sys.executable, str(HERE / "scale.py"), "--serve"]
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        self.url = f"http://127.0.0.1:{self._hear()}"

    def _hear(self) -> int:
        assert self._process.stdout is not None
        return int(self._process.stdout.readline())

    def tell(self, order: str) -> int:
        assert self._process.stdin is not None
        self._process.stdin.write(order + "\n")
        self._process.stdin.flush()
        return self._hear()

    def wait_for(self, count: int) -> None:
        until(lambda: self.tell("count") >= count)

    def close(self) -> None:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.close()
        self._process.wait()
        self._process.stdout.close()


# ---- what this process takes -----------------------------------------------------------------------


def until(condition: Callable[[], bool], limit: float = LIMIT) -> None:
    deadline = time.monotonic() + limit
    while not condition():
        if time.monotonic() > deadline:
            sys.exit("It takes too long.")
        time.sleep(0.002)


def ours() -> int:
    return sum(thread.name.startswith("clientrequest") for thread in threading.enumerate())


def resident_stacks() -> int:
    """Bytes of the threads' stacks that are in memory: of mappings that have a stack's size."""
    wanted, found, size = resource.getrlimit(resource.RLIMIT_STACK)[0], 0, 0
    with open("/proc/self/smaps") as smaps:
        for line in smaps:
            name, _, rest = line.partition(":")
            if name == "Size":
                size = int(rest.split()[0]) * 1024
            elif name == "Rss" and size == wanted:
                found += int(rest.split()[0]) * 1024
    return found


class Taken:
    """What this process takes at one moment."""

    def __init__(self) -> None:
        gc.collect()
        with open("/proc/self/statm") as statm:
            size, resident = (int(number) * resource.getpagesize() for number in statm.read().split()[:2])
        self.size, self.resident = size, resident
        self.descriptors = len(os.listdir("/proc/self/fd"))
        self.threads = ours()
        self.stacks = resident_stacks()

    def since(self, before: Taken, count: int) -> Figures:
        """What each of `count` things has added."""
        return {
            "resident_bytes": (self.resident - before.resident) / count,
            "of_these_bytes_of_stack": (self.stacks - before.stacks) / count,
            "address_space_bytes": (self.size - before.size) / count,
            "descriptors": (self.descriptors - before.descriptors) / count,
            "threads": (self.threads - before.threads) / count,
        }


def allow_descriptors(count: int) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft < count:
        if hard != resource.RLIM_INFINITY and hard < count:
            sys.exit(f"{count} descriptors are needed, and {hard} can be had.")
        resource.setrlimit(resource.RLIMIT_NOFILE, (count, hard))


# ---- the measurements; each is called in a process of its own --------------------------------------


def unstarted(server: Remote, count: int) -> Figures:
    """Request objects that nothing is done with."""
    from clientrequest import ClientRequest, Session

    session = Session(proxies={})
    kept: list[Any] = [ClientRequest(server.url, session=session) for _ in range(10)]
    before, started = Taken(), time.perf_counter()
    kept += [ClientRequest(server.url, session=session) for _ in range(count)]
    took = time.perf_counter() - started
    figures = Taken().since(before, count)
    started = time.perf_counter()
    kept.clear()
    return {**figures, "seconds_to_make": took / count, "seconds_to_free": (time.perf_counter() - started) / count}


def warm_up(server: Remote, session: Any) -> None:
    """What only the first request costs: modules, pools. Nothing of it stays but that."""
    from clientrequest import ClientRequest

    assert ClientRequest(server.url, session=session).end().get_response(LIMIT).read() == b"ok"
    session.close_connections()
    until(lambda: ours() == 0)


def hold(server: Remote, session: Any, count: int) -> tuple[list[Any], Figures]:
    """So many requests that wait for their answers."""
    from clientrequest import ClientRequest

    before, started = Taken(), time.perf_counter()
    requests = [ClientRequest(f"{server.url}/hold", session=session).end() for _ in range(count)]
    called = time.perf_counter() - started
    server.wait_for(count)
    there = time.perf_counter() - started
    figures = Taken().since(before, count)
    return requests, {**figures, "seconds_of_end": called / count, "seconds_until_all_wait": there}


def in_flight(server: Remote, count: int) -> Figures:
    """Requests that wait for their answers, all at once; then they are answered, and what stays behind leaves."""
    from clientrequest import Session

    allow_descriptors(EACH * count + 100)
    session = Session(proxies={})
    warm_up(server, session)
    before = Taken()
    requests, figures = hold(server, session, count)
    started = time.perf_counter()
    server.tell("answer")
    answers = [request.get_response(LIMIT).read() for request in requests]
    assert answers == [b"ok"] * count
    figures["seconds_until_all_answered"] = time.perf_counter() - started
    answers.clear()
    requests.clear()
    figures["parked_workers_behind_it"] = ours()
    started = time.perf_counter()
    until(lambda: ours() == 0)
    figures["seconds_until_the_parked_have_left"] = time.perf_counter() - started
    session.close_connections()
    after = Taken()
    figures["descriptors_left"] = after.descriptors - before.descriptors
    figures["resident_bytes_left"] = after.resident - before.resident
    return figures


def in_flight_with_longer_turns(server: Remote, count: int) -> Figures:
    """The same with `sys.setswitchinterval(0.1)`.

    By default each thread that waits for the interpreter lock looks for it 200 times a second. Of thousands that are
    woken in the same moment most do nothing but that, whatever program it is; see `plain_threads`.
    """
    sys.setswitchinterval(0.1)
    return in_flight(server, count)


def plain_threads(server: Remote, count: int) -> Figures:
    """For comparison: as many threads of one's own, each with a connection of `http.client`."""
    allow_descriptors(EACH * count + 100)

    def get() -> None:
        connection = http.client.HTTPConnection(urlsplit(server.url).netloc)
        connection.request("GET", "/hold")
        assert connection.getresponse().read() == b"ok"
        connection.close()

    before, started = Taken(), time.perf_counter()
    threads = [threading.Thread(target=get) for _ in range(count)]
    for thread in threads:
        thread.start()
    server.wait_for(count)
    there = time.perf_counter() - started
    figures = {**Taken().since(before, count), "seconds_until_all_wait": there}
    started = time.perf_counter()
    server.tell("answer")
    for thread in threads:
        thread.join()
    figures["seconds_until_all_answered"] = time.perf_counter() - started
    return figures


def aborted(server: Remote, count: int) -> Figures:
    """Requests that wait for their answers, aborted one after the other from one thread."""
    from clientrequest import Session

    allow_descriptors(EACH * count + 100)
    session = Session(proxies={})
    warm_up(server, session)
    before = Taken()
    requests, _ = hold(server, session, count)
    closed: list[float] = []
    for request in requests:
        request.on("close", lambda: closed.append(time.perf_counter()))
    started = time.perf_counter()
    for request in requests:
        request.abort()
    called = time.perf_counter() - started
    until(lambda: len(closed) == count)
    figures = {
        "seconds_of_abort": called / count,
        "seconds_until_all_closed": max(closed) - started,
        "seconds_from_the_last_abort": max(closed) - started - called,
    }
    requests.clear()
    until(lambda: ours() == 0)
    figures["descriptors_left"] = Taken().descriptors - before.descriptors
    return figures


def sessions(server: Remote, count: int) -> Figures:
    """Sessions that nothing is done with."""
    from clientrequest import Session

    kept: list[Any] = [Session() for _ in range(3)]
    before, started = Taken(), time.perf_counter()
    kept += [Session() for _ in range(count)]
    took = time.perf_counter() - started
    return {**Taken().since(before, count), "seconds_to_make": took / count}


def used_sessions(server: Remote, count: int) -> Figures:
    """Sessions, each with the connection of one request idle."""
    from clientrequest import ClientRequest, Session

    allow_descriptors(EACH * count + 100)
    kept: list[Any] = []

    def use() -> None:
        kept.append(Session(proxies={}))
        assert ClientRequest(server.url, session=kept[-1]).end().get_response(LIMIT).read() == b"ok"

    for _ in range(3):
        use()
    before = Taken()
    for _ in range(count):
        use()
    return Taken().since(before, count)


def tls_sessions(server: Remote, count: int) -> Figures:
    """Sessions with a TLS context of their own, as the first https request makes one; certifi's authorities in it."""
    from clientrequest import Session

    kept: list[Any] = []

    def use() -> None:
        kept.append(Session())
        kept[-1]._pools._context("server")

    use()
    before, started = Taken(), time.perf_counter()
    for _ in range(count):
        use()
    took = time.perf_counter() - started
    return {**Taken().since(before, count), "seconds_to_make": took / count}


def idle_connections(server: Remote, count: int) -> Figures:
    """One session with the connections that so many requests at once left; 64 are kept for one origin."""
    from clientrequest import Session

    allow_descriptors(EACH * count + 100)
    session = Session(proxies={})
    warm_up(server, session)
    before = Taken()
    requests, _ = hold(server, session, count)
    server.tell("answer")
    for request in requests:
        request.get_response(LIMIT).read()
    requests.clear()
    until(lambda: ours() == 0)
    kept = len(session._pools.idle())
    figures = Taken().since(before, max(1, kept))
    return {"kept": kept, **figures}


MEASUREMENTS: dict[str, tuple[Callable[[Remote, int], Figures], str]] = {
    "unstarted": (unstarted, "a request object that was not started"),
    "in_flight": (in_flight, "a request that waits for its answer"),
    "in_flight_with_longer_turns": (in_flight_with_longer_turns, "the same, with a switch interval of 0.1 s"),
    "plain_threads": (plain_threads, "for comparison: a thread with http.client"),
    "aborted": (aborted, "requests that wait, aborted"),
    "sessions": (sessions, "a session"),
    "used_sessions": (used_sessions, "a session with one idle connection"),
    "tls_sessions": (tls_sessions, "a session with a TLS context"),
    "idle_1": (idle_connections, "an idle connection, of 1"),
    "idle_100": (idle_connections, "an idle connection, of 100 at once"),
}


def counts(requests: int) -> dict[str, int]:
    return {
        "unstarted": 10_000,
        "in_flight": requests,
        "in_flight_with_longer_turns": requests,
        "plain_threads": requests,
        "aborted": requests,
        "sessions": 1000,
        "used_sessions": 1000,
        "tls_sessions": 20,
        "idle_1": 1,
        "idle_100": 100,
    }


# ---- the report ------------------------------------------------------------------------------------


def measure(name: str, count: int) -> Figures:
    command = [sys.executable, str(HERE / "scale.py"), "--measure", name, "--requests", str(count)]
    done = subprocess.run(command, capture_output=True, text=True, env=ENVIRONMENT, timeout=2 * LIMIT, check=False)
    if done.returncode:
        sys.exit(f"{name}: {done.stderr}")
    figures: Figures = json.loads(done.stdout)
    return figures


def shown(name: str, value: float) -> str:
    if "bytes" in name:
        return f"{value / 1024:.1f} KiB" if abs(value) < 1 << 20 else f"{value / (1 << 20):.1f} MiB"
    if "seconds" in name:
        return f"{value:.2f} s" if value >= 1 else f"{value * 1e3:.2f} ms" if value >= 1e-3 else f"{value * 1e6:.1f} µs"
    return f"{value:.2f}".rstrip("0").rstrip(".")


def table(results: dict[str, tuple[int, Figures]]) -> Iterator[str]:
    yield f"Python {platform.python_version()}, {os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}."
    yield "| what | how many | figure | each, or in all |"
    yield "| --- | ---: | --- | ---: |"
    for name, (count, figures) in results.items():
        title = MEASUREMENTS[name][1]
        for figure, value in figures.items():
            yield f"| {title} | {count} | {figure.replace('_', ' ')} | {shown(figure, value)} |"
            title, count = "", ""  # type: ignore[assignment]


def parse_options(arguments: Sequence[str]) -> argparse.Namespace:
    form = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=form)
    parser.add_argument("--requests", type=int, default=2000, help="how many are in flight")
    parser.add_argument("--only", choices=list(MEASUREMENTS), action="append")
    parser.add_argument("--json", metavar="FILE", help="write the figures there")
    parser.add_argument("--measure", choices=list(MEASUREMENTS), help=argparse.SUPPRESS)
    parser.add_argument("--serve", action="store_true", help=argparse.SUPPRESS)
    return parser.parse_args(arguments)


def main() -> None:
    options = parse_options(sys.argv[1:])
    if options.serve:
        allow_descriptors(2 * options.requests + 100)
        asyncio.run(Server().run())
    elif options.measure:
        server = Remote()
        print(json.dumps(MEASUREMENTS[options.measure][0](server, options.requests)))
        server.close()
    else:
        planned = counts(options.requests)
        results = {name: (planned[name], measure(name, planned[name])) for name in options.only or MEASUREMENTS}
        print(*table(results), sep="\n")
        if options.json:
            content = {name: {"count": count, **figures} for name, (count, figures) in results.items()}
            Path(options.json).write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
