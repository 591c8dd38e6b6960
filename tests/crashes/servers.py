"""kill -9 of the embedded servers that this run has started for itself."""

import os
import shutil
import signal
import socket
from contextlib import suppress

import psutil

from commerce.embedded import ensure_redis, state_dir


def kill_postgres() -> None:
    """The postmaster and all that it started; stopped first, so that it starts nobody meanwhile."""
    lock = state_dir() / "postgres" / "postmaster.pid"
    postmaster = psutil.Process(int(lock.read_text().split()[0]))
    postmaster.suspend()
    for process in [postmaster, *postmaster.children(recursive=True)]:
        _kill(process.pid)  # a backend that has just ended is gone already


def wipe_redis() -> None:
    """Everything in it is gone, then the server itself, and what it wrote to disk."""
    path = str(ensure_redis())
    with socket.socket(socket.AF_UNIX) as connection:
        connection.connect(path)
        connection.sendall(b"FLUSHALL\r\nINFO server\r\n")
        said = b""
        while b"process_id:" not in said or not said.endswith(b"\r\n"):
            said += connection.recv(4096)
    pid = int(said.partition(b"process_id:")[2].split()[0])
    _kill(pid)
    psutil.wait_procs([psutil.Process(pid)] if psutil.pid_exists(pid) else [], timeout=5)
    shutil.rmtree(state_dir() / "redis")


def _kill(pid: int) -> None:
    with suppress(ProcessLookupError):
        os.kill(pid, signal.SIGKILL)
