"""Node: its http module, and fetch, which is undici. A process beside this one, ``node.mjs``, that measures itself."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path

from basis import Client, Figures, Peer, Site, Work, WrongAnswerError, program

PROGRAM = Path(__file__).with_name("node.mjs")


def node(kind: str, way: str) -> Client:
    """It is told an amount a line, and answers each with a line of figures."""

    def client(site: Site) -> Work:
        command = [program("node"), "--no-warnings", str(PROGRAM), kind, way, site.url, site.folder]
        environment = {**os.environ, "NODE_EXTRA_CA_CERTS": site.ca} if site.ca else None
        process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment
        )  # it ends when its standard input does

        def work(amount: int) -> Figures:
            assert process.stdin is not None
            assert process.stdout is not None
            process.stdin.write(f"{amount}\n")
            process.stdin.flush()
            line = process.stdout.readline()
            figures: Figures = json.loads(line) if line else {"failed": "it has ended"}
            if "failed" in figures:
                raise WrongAnswerError(f"node: {figures['failed']}")
            return figures

        return work

    return client


def both(kind: str) -> dict[str, Client]:
    return {"http": node(kind, "http"), "fetch": node(kind, "fetch")}


PEER = Peer(
    "Node",
    [program("node"), "--version"],
    {
        "get": both("get"),
        "threads": both("threads"),
        "large writes": {"http, write()": node("large", "http")},
        "tiny writes": {"http, write()": node("tiny", "http")},
        "file": both("file"),
        "download": both("download"),
        "at once": both("once"),
        "abort waiting": {"fetch, AbortController": node("abort-waiting", "fetch")},
        "abort reading": {"fetch, AbortController": node("abort-reading", "fetch")},
        "abort writing": {"http, destroy()": node("abort-writing", "http")},
    },
)
