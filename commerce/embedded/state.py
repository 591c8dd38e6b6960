"""Where the embedded servers keep what is theirs, and one at a time who changes it."""

import contextlib
import fcntl
import hashlib
import importlib.util
import os
import shutil
import stat
from collections.abc import Iterator
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[2]
SOCKET_FOLDER_LIMIT = 85  # a unix socket's whole path must stay below 108 bytes
START_SECONDS = 60


class EmbeddedServerError(RuntimeError):
    """A server did not come up; the message says why and what to do."""


def state_dir() -> Path:
    """The folder of everything that is not code: clusters, sockets, logs, the test clock."""
    if configured := os.environ.get("COMMERCE_STATE"):
        folder = Path(configured).resolve()
    elif is_root():
        # PostgreSQL refuses to run as root and runs as `nobody`, who cannot enter a checkout below /root.
        folder = Path(f"/var/lib/commerce-{_digest(REPOSITORY)}")
    else:
        folder = REPOSITORY / "var"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        if is_root():
            folder.chmod(0o711)
        if not os.access(folder, os.W_OK):
            raise PermissionError(f"{folder} belongs to somebody else")
    except OSError as error:
        raise EmbeddedServerError(f"{error}: set COMMERCE_STATE to a folder you may write to.") from error
    return folder


def is_root() -> bool:
    return os.geteuid() == 0


@contextlib.contextmanager
def locked(name: str) -> Iterator[None]:
    with (state_dir() / f"{name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def wheel(module: str) -> Path:
    """The folder of an installed package, which is located and never imported: importing has side effects."""
    spec = importlib.util.find_spec(module)
    if spec is None or spec.origin is None:
        raise EmbeddedServerError(
            f"{module} is not installed. Set DATABASE_URL and REDIS_URL, or install requirements.lock."
        )
    return Path(spec.origin).parent


def socket_folder(data: Path, owner: str = "") -> Path:
    """The data's own folder, or, when a socket's path in it would be too long, a short private one."""
    if len(bytes(data)) <= SOCKET_FOLDER_LIMIT:
        return data
    short = Path("/run" if is_root() else "/tmp") / f"commerce-{os.geteuid()}-{_digest(data)}"  # noqa: S108
    short.mkdir(mode=0o700, exist_ok=True)
    found = short.lstat()
    ours = is_root() or found.st_uid == os.geteuid()
    if not (stat.S_ISDIR(found.st_mode) and stat.S_IMODE(found.st_mode) == 0o700 and ours):
        raise EmbeddedServerError(f"{short} is not our private folder: remove it or set COMMERCE_STATE.")
    if owner:
        shutil.chown(short, owner)
    return short


def _digest(path: Path) -> str:
    return hashlib.sha256(bytes(path)).hexdigest()[:10]
