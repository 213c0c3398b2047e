"""The program; see the package."""

from __future__ import annotations

import argparse
import faulthandler
import gc
import itertools
import json
import logging
import os
import random
import signal
import subprocess
import sys
import tempfile
import threading
import time
import traceback
import warnings
from collections import Counter
from pathlib import Path
from typing import Any

import trustme

from clientrequest import ClientRequest, IncomingMessage
from clientrequest._exchange import _live
from clientrequest._workers import IDLE, crew

from .audit import MOST_SHOWN, audit
from .kinds import KINDS, LIMIT, Case, Sites, Told, World
from .meter import Sample, judge, sample

PERIOD = 10.0  # seconds between two lines of progress
MOST_WRONG = 100  # then it is given up


class Server:
    """The server's process."""

    def __init__(self, folder: Path) -> None:
        authority = trustme.CA()
        self.tls = str(folder / "ca.pem")
        authority.cert_pem.write_to_path(self.tls)
        certificate = str(folder / "server.pem")
        authority.issue_cert("127.0.0.1", "localhost").private_key_and_cert_chain_pem.write_to_path(certificate)
        self.ledger = str(folder / "server.ledger")
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.soak.server", self.ledger, certificate],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            start_new_session=True,  # Ctrl-C is not for it
        )
        assert self._process.stdout is not None
        plain, other, secure = self._process.stdout.readline().split()
        self.sites = Sites(f"http://127.0.0.1:{plain}", f"http://127.0.0.1:{other}", f"https://127.0.0.1:{secure}")

    def close(self) -> None:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.close()
        self._process.wait(LIMIT)
        self._process.stdout.close()


class Run:
    """A run: the threads that make requests, and what they found."""

    def __init__(self, world: World, seed: int, ledger: str, most: int) -> None:
        self.world = world
        self.seed = seed
        self.most = most
        self.done = 0
        self.outcomes: Counter[str] = Counter()
        self.wrong: list[str] = []
        self.stop = threading.Event()
        self._numbers = itertools.count(1)
        self._lock = threading.Lock()  # guards the counts
        self._ledger = os.open(ledger, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)

    def drive(self) -> None:
        """One request after another, until the end."""
        names = list(KINDS)
        weights = list(itertools.accumulate(KINDS.values()))
        while not self.stop.is_set():
            number = next(self._numbers)
            if number > self.most:
                return
            kind = random.Random(f"{self.seed} kind {number}").choices(names, cum_weights=weights)[0]
            self._one(kind, number)

    def _one(self, kind: Any, number: int) -> None:
        told, wrong = Told(outcome="wrong"), ""
        try:
            told = kind(Case(self.world, self.seed, number))
        except BaseException as error:
            text = "".join(traceback.format_exception(type(error), error, error.__traceback__))
            wrong = f"request {number} ({kind.__name__}): {error!r}\n{text}"
            if "limit" in str(error) or isinstance(error, TimeoutError):
                faulthandler.dump_traceback(file=sys.stderr)  # who waits for what
            del error
        line = f"{number} {kind.__name__} {told.expected if not wrong else 'wrong'} {told.digest} {told.outcome}\n"
        os.write(self._ledger, line.encode())
        with self._lock:
            self.done += 1
            self.outcomes[f"{kind.__name__}: {told.outcome}"] += 1
            if wrong:
                self.say_wrong(wrong)

    def say_wrong(self, text: str) -> None:
        print("WRONG:", text, file=sys.stderr, flush=True)
        self.wrong.append(text)
        if len(self.wrong) >= MOST_WRONG:
            self.stop.set()


class Unheard(logging.Handler):
    """What the package logs is of failures that nobody heard of, and there should be none."""

    def __init__(self, run: Run) -> None:
        super().__init__(logging.ERROR)
        self._run = run

    def emit(self, record: logging.LogRecord) -> None:
        self._run.say_wrong(f"logged: {record.getMessage()}")


def watch(run: Run, drivers: list[threading.Thread], seconds: float) -> tuple[list[Sample], bool]:
    """Sample and report until the end; gives the samples, and whether it was interrupted."""
    samples: list[Sample] = []
    started = last = time.monotonic()
    done_last, done_at = 0, started
    interrupted = False
    while any(driver.is_alive() for driver in drivers):
        try:
            time.sleep(1)
        except KeyboardInterrupt:
            print("interrupted: what is under way is seen through", file=sys.stderr)
            interrupted = True
            run.stop.set()
        now = time.monotonic()
        if not run.stop.is_set():
            samples.append(sample(run.done))
        if now - started >= seconds:
            run.stop.set()
        if now - last >= PERIOD and samples:
            one = samples[-1]
            print(
                f"{now - started:6.0f} s  {run.done:8d} requests  {(run.done - done_last) / (now - last):5.0f}/s"
                f"  {one.rss >> 10:7d} KiB, {one.heap >> 10:6d} of heap"
                f"  {one.blocks:7d} blocks  {one.objects:6d} objects"
                f"  {one.descriptors:4d} descriptors  {one.threads:4d} threads  {len(run.wrong)} wrong",
                flush=True,
            )
            if run.done > done_last:
                done_at = now
            elif now - done_at > 2 * LIMIT:
                run.say_wrong("nothing happens any more; the threads' stacks follow")
                faulthandler.dump_traceback(file=sys.stderr)
                os._exit(1)
            last, done_last = now, run.done
    return samples, interrupted


def wait_quiet() -> list[str]:
    """Wait until all requests are over and the workers have gone; what is left."""
    deadline = time.monotonic() + LIMIT
    while _live and time.monotonic() < deadline:
        time.sleep(0.05)
    left = [f"requests still alive: {len(_live)}"] if _live else []
    deadline = time.monotonic() + IDLE + 10
    while ours() and time.monotonic() < deadline:
        time.sleep(0.1)
    if ours():
        left.append(f"threads left: {ours()}; {len(crew.parked())} parked")
    return left


def ours() -> list[str]:
    return [thread.name for thread in threading.enumerate() if thread.name.startswith("clientrequest")]


def what_is_left(descriptors: int) -> list[str]:
    """What a run has left behind in this process."""
    left = []
    gc.collect()
    objects = [one for one in gc.get_objects() if isinstance(one, (ClientRequest, IncomingMessage))]
    if objects:
        left.append(f"{len(objects)} requests and responses were not freed: {objects[:3]}")
    now = len(os.listdir("/proc/self/fd"))
    if now > descriptors:
        left.append(f"{now - descriptors} descriptors were not closed")
    return left


def soak(arguments: argparse.Namespace) -> tuple[dict[str, Any], bool]:
    folder = Path(arguments.keep or tempfile.mkdtemp(prefix="soak-"))
    folder.mkdir(exist_ok=True)
    client_ledger = str(folder / "client.ledger")
    server = Server(folder)
    gc.collect()
    descriptors = len(os.listdir("/proc/self/fd")) + 1  # the client's ledger
    world = World(server.sites, server.tls)
    run = Run(world, arguments.seed, client_ledger, arguments.requests)
    logging.getLogger("clientrequest").addHandler(Unheard(run))
    started = time.monotonic()
    drivers = [
        threading.Thread(target=run.drive, name=f"soak-{number}", daemon=True) for number in range(arguments.at_once)
    ]
    for driver in drivers:
        driver.start()
    samples, interrupted = watch(run, drivers, arguments.seconds)
    took = time.monotonic() - started
    run.wrong.extend(wait_quiet())
    world.close()
    run.wrong.extend(what_is_left(descriptors))
    server.close()
    grows, grown = judge(samples)
    wrong_bodies, bodies = audit(client_ledger, server.ledger)
    wrong = run.wrong + wrong_bodies + grows
    result = {
        "seed": arguments.seed,
        "python": sys.version.split()[0],
        "at_once": arguments.at_once,
        "seconds": round(took, 1),
        "requests": run.done,
        "per_second": round(run.done / took, 1),
        "interrupted": interrupted,
        "bodies": bodies,
        "growth": {name: {**one._asdict(), "is_flat": one.is_flat} for name, one in grown.items()},
        "most": {name: max((getattr(one, name) for one in samples), default=0) for name in Sample._fields[2:]},
        "outcomes": dict(sorted(run.outcomes.items())),
        "wrong": len(wrong),
        "first_wrong": wrong[:MOST_SHOWN],
    }
    if not arguments.keep:
        for path in folder.iterdir():
            path.unlink()
        folder.rmdir()
    else:
        with open(folder / "samples.json", "w") as file:
            json.dump([one._asdict() for one in samples], file)
    return result, interrupted


def with_few_arenas() -> None:
    """Begin again with two arenas. By default glibc has one for every few threads, each of which keeps what its peaks
    took; the memory of the process then goes on growing for half an hour, and says nothing."""
    if "MALLOC_ARENA_MAX" not in os.environ:
        environment = {**os.environ, "MALLOC_ARENA_MAX": "2"}
        os.execve(sys.executable, [sys.executable, "-m", "tests.soak", *sys.argv[1:]], environment)


def main() -> int:
    # In the background of a shell it may have been started with Ctrl-C ignored.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    parser = argparse.ArgumentParser("python -m tests.soak", description=__doc__)
    parser.add_argument("--requests", type=int, default=sys.maxsize, help="how many; without this, as time allows")
    parser.add_argument("--at-once", type=int, default=64, help="how many at a time")
    parser.add_argument("--seconds", type=float, default=None, help="how long; 120 where --requests is not given")
    parser.add_argument("--seed", type=int, default=None, help="of the dice; what each request is and does")
    parser.add_argument("--keep", help="a folder for the ledgers and the samples, which are thrown away otherwise")
    arguments = parser.parse_args()
    with_few_arenas()
    if arguments.seconds is None:
        arguments.seconds = 120.0 if arguments.requests == sys.maxsize else float("inf")
    if arguments.seed is None:
        arguments.seed = random.SystemRandom().randrange(1 << 32)
    print(f"seed {arguments.seed}", flush=True)
    warnings.simplefilter("ignore", ResourceWarning)  # of requests that are dropped on purpose
    result, interrupted = soak(arguments)
    print(json.dumps(result, indent=1))
    if result["wrong"]:
        return 1
    return 130 if interrupted else 0


if __name__ == "__main__":
    sys.exit(main())
