"""The curl program: a new process for each amount of work, its start included."""

from __future__ import annotations

import json
import os
import subprocess
import time

from basis import SMALL, SMALL_SIZE, Client, Figures, Peer, Site, Work, children_time, expect, program


def run_curl(site: Site, *arguments: str) -> tuple[str, Figures]:
    """What it printed, and what it took."""
    command = [program("curl"), "--silent", "--show-error", "--fail", "--noproxy", "*", *arguments]
    if site.ca:
        command += ["--cacert", site.ca]
    start, used = time.perf_counter(), children_time()
    text = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout
    return text, {"wall": time.perf_counter() - start, "cpu": children_time() - used, "memory": None}


def get(site: Site) -> Work:
    def work(count: int) -> Figures:
        # The numbers make curl repeat the request; what is behind a "#" is not sent.
        url = f"{site.url}{SMALL}#[1-{count}]"
        sizes, figures = run_curl(site, "--output", os.devnull, "--write-out", "%{size_download}\n", url)
        expect(sizes, f"{SMALL_SIZE}\n" * count)
        return figures

    return work


def upload_file(site: Site) -> Work:
    def work(total: int) -> Figures:
        arguments = ["--header", "Expect:", "--upload-file", site.file_of(total)]
        answer, figures = run_curl(site, *arguments, f"{site.url}/upload")
        expect(json.loads(answer), {"bytes": total, "chunks": 0})
        return figures

    return work


def download(site: Site) -> Work:
    def work(total: int) -> Figures:
        url = f"{site.url}/bytes/{total}"
        size, figures = run_curl(site, "--output", os.devnull, "--write-out", "%{size_download}", url)
        expect(size, str(total))
        return figures

    return work


def named(client: Client) -> dict[str, Client]:
    return {"one process": client}


PEER = Peer(
    "curl",
    [program("curl"), "--version"],
    {"get": named(get), "file": named(upload_file), "download": named(download)},
)
