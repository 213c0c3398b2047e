"""The servers, each there as long as a block: the sink, and nginx for TLS."""

from __future__ import annotations

import contextlib
import importlib.util
import os
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Optional

from basis import SMALL_SIZE, Site

HERE = Path(__file__).resolve().parent
HOST = "127.0.0.1"
START_LIMIT = 20.0

# One process, in the foreground, that keeps to its folder, so that it needs no rights and leaves nothing behind.
NGINX_CONFIGURATION = """
daemon off;
master_process off;
pid {folder}/nginx.pid;
error_log {folder}/nginx.log;
events {{ worker_connections 8192; }}
http {{
    access_log off;
    sendfile on;
    keepalive_requests 1000000000;
    keepalive_timeout 600s;
    default_type application/octet-stream;
    client_body_temp_path {folder}/client; proxy_temp_path {folder}/proxy; fastcgi_temp_path {folder}/fastcgi;
    uwsgi_temp_path {folder}/uwsgi; scgi_temp_path {folder}/scgi;
    server {{
        listen {host}:{port} ssl backlog=4096;
        ssl_certificate {folder}/server.pem;
        ssl_certificate_key {folder}/server.key;
        ssl_protocols TLSv1.3;
        root {folder}/files;
    }}
}}
"""


def can_pin(*cores: int) -> bool:
    return hasattr(os, "sched_setaffinity") and set(cores) <= os.sched_getaffinity(0)


def pin(process: subprocess.Popen[str], core: Optional[int]) -> None:
    if core is not None:
        os.sched_setaffinity(process.pid, {core})


# ---- the sink ------------------------------------------------------------------------------------


def compile_sink(folder: Path) -> Path:
    names = [os.environ.get("CC", ""), "cc", "gcc", "clang"]
    compiler = next((found for name in names if name and (found := shutil.which(name))), None)
    if compiler is None:
        sys.exit("The benchmarks need a C compiler for their server: cc, gcc, clang or $CC.")
    program = folder / "sink"
    flags = ["-std=c11", "-D_GNU_SOURCE", "-O2", "-pthread"]
    subprocess.run([compiler, *flags, "-o", str(program), str(HERE / "sink.c")], check=True)
    return program


@contextlib.contextmanager
def running_sink(folder: Path, core: Optional[int] = None) -> Iterator[Site]:
    """The folder is for the program and for the files of the clients."""
    program = compile_sink(folder)
    with subprocess.Popen([program], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        pin(process, core)
        port = int(process.stdout.readline())
        try:
            yield Site(f"http://{HOST}:{port}", "", str(folder))
        finally:
            process.stdin.close()


# ---- nginx ---------------------------------------------------------------------------------------


def why_no_nginx() -> Optional[str]:
    """What is missing, or None if nothing is."""
    if find_nginx() is None:
        return "there is no nginx"
    if importlib.util.find_spec("trustme") is None:
        return "there is no trustme to make a certificate with"
    return None


def find_nginx() -> Optional[str]:
    return shutil.which("nginx") or shutil.which("nginx", path="/usr/sbin:/usr/local/sbin")


def make_certificate(folder: Path) -> Path:
    """Gives the authority's certificate."""
    import trustme

    authority = trustme.CA(organization_name="benchmarks")
    leaf = authority.issue_cert(HOST)
    leaf.private_key_pem.write_to_path(folder / "server.key")
    for blob in leaf.cert_chain_pems:
        blob.write_to_path(folder / "server.pem", append=True)
    authority.cert_pem.write_to_path(folder / "ca.pem")
    return folder / "ca.pem"


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind((HOST, 0))
        port: int = listener.getsockname()[1]
        return port


@contextlib.contextmanager
def running_nginx(folder: Path, core: Optional[int] = None) -> Iterator[Site]:
    """Serves a small file, and those that basis.make_file() makes for this site."""
    program = find_nginx()
    assert program is not None
    files = folder / "files"
    files.mkdir()
    (files / "small").write_bytes(bytes(SMALL_SIZE))
    authority = make_certificate(folder)
    port = free_port()
    configuration = folder / "nginx.conf"
    configuration.write_text(NGINX_CONFIGURATION.format(folder=folder, host=HOST, port=port), encoding="utf-8")
    log = folder / "nginx.log"
    command = [program, "-p", str(folder), "-c", str(configuration), "-e", str(log)]
    with subprocess.Popen(command, stdin=subprocess.DEVNULL, stderr=subprocess.DEVNULL, text=True) as process:
        try:
            pin(process, core)
            wait_for_port(process, port, log)
            yield Site(f"https://{HOST}:{port}", str(authority), str(files))
        finally:
            process.terminate()


def wait_for_port(process: subprocess.Popen[str], port: int, log: Path) -> None:
    end = time.monotonic() + START_LIMIT
    while process.poll() is None and time.monotonic() < end:
        with contextlib.suppress(OSError), socket.create_connection((HOST, port), 1):
            return
        time.sleep(0.02)
    sys.exit(f"nginx did not start:\n{log.read_text('utf-8') if log.exists() else ''}")
