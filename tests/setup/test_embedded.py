"""The embedded servers: one of each however many ask, and up again with their data after kill -9."""

import os
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest
import redis

from commerce import embedded


@pytest.fixture
def state(monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    folder = Path(tempfile.mkdtemp())  # not tmp_path: root's is closed to `nobody`, who runs PostgreSQL
    folder.chmod(0o711)
    monkeypatch.setenv("COMMERCE_STATE", str(folder))
    yield folder
    embedded.stop_redis()
    embedded.stop_postgres()
    shutil.rmtree(folder)


def _connect() -> psycopg.Connection:
    settings = embedded.ensure_postgres()
    return psycopg.connect(
        host=settings["HOST"], user=settings["USER"], dbname=settings["NAME"], autocommit=True
    )


def _postmaster() -> int:
    return int((embedded.state_dir() / "postgres" / "postmaster.pid").read_text().split()[0])


def test_many_first_users_get_one_server_of_each(state: Path) -> None:
    program = (
        "from commerce import embedded as e; print(e.ensure_postgres()['HOST'], e.ensure_redis(),"
        " (e.state_dir() / 'postgres/postmaster.pid').read_text().split()[0])"
    )
    users = [
        subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True) for _ in range(4)
    ]
    answers = {user.communicate(timeout=60)[0] for user in users}
    assert [user.returncode for user in users] == [0, 0, 0, 0]
    assert len(answers) == 1


def test_postgres_comes_back_with_its_data_after_kill_9(state: Path) -> None:
    with _connect() as connection:
        connection.execute("CREATE TABLE kept AS SELECT 7 AS number")
    os.kill(_postmaster(), signal.SIGKILL)
    with _connect() as connection:
        assert connection.execute("SELECT number FROM kept").fetchone() == (7,)


def test_postgres_comes_back_although_a_backend_is_still_busy(state: Path) -> None:
    busy = _connect()
    busy.execute("CREATE TABLE kept AS SELECT 7 AS number")
    busy.pgconn.send_query(b"SELECT count(*) FROM generate_series(1, 1000000000000)")
    os.kill(_postmaster(), signal.SIGKILL)
    with _connect() as connection:
        assert connection.execute("SELECT number FROM kept").fetchone() == (7,)
    busy.close()


def test_postgres_is_a_plain_18_that_loses_no_commit(state: Path) -> None:
    with _connect() as connection:
        names = ("fsync", "synchronous_commit", "full_page_writes", "listen_addresses", "TimeZone")
        shown = {name: connection.execute(f"SHOW {name}").fetchone()[0] for name in names}
        assert shown.pop("listen_addresses") == ""
        assert shown.pop("TimeZone") == "UTC"
        assert set(shown.values()) == {"on"}
        assert connection.info.server_version // 10000 == 18


def test_a_second_database_is_made_on_the_same_server(state: Path) -> None:
    embedded.ensure_postgres()
    first = _postmaster()
    assert embedded.ensure_postgres("another")["NAME"] == "another"
    assert embedded.ensure_postgres("another")["NAME"] == "another"
    assert _postmaster() == first


def test_redis_comes_back_with_its_data_after_kill_9(state: Path) -> None:
    with redis.Redis(unix_socket_path=str(embedded.ensure_redis())) as client:
        client.set("kept", 7)
        client.execute_command("CONFIG", "SET", "appendfsync", "always")
        client.set("kept", 8)
        os.kill(client.info("server")["process_id"], signal.SIGKILL)
    with redis.Redis(unix_socket_path=str(embedded.ensure_redis())) as client:
        assert client.get("kept") == b"8"


def test_stopped_servers_are_gone_and_stopping_twice_is_fine(state: Path) -> None:
    embedded.ensure_postgres()
    embedded.ensure_redis()
    for _ in range(2):
        embedded.stop_postgres()
        embedded.stop_redis()
    assert not embedded.postgres_is_running()
    assert not embedded.redis_is_running()


def test_data_of_another_major_version_is_left_alone(state: Path) -> None:
    embedded.ensure_postgres()
    embedded.stop_postgres()
    version = embedded.state_dir() / "postgres" / "PG_VERSION"
    version.write_text("17\n")
    with pytest.raises(embedded.EmbeddedServerError, match="made by PostgreSQL 17"):
        embedded.ensure_postgres()


def test_a_folder_too_deep_for_sockets_works(state: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COMMERCE_STATE", str(state / ("deep" * 30)))
    try:
        with _connect() as connection:
            assert len(connection.info.host) < embedded.SOCKET_FOLDER_LIMIT
        with redis.Redis(unix_socket_path=str(embedded.ensure_redis())) as client:
            assert client.ping()
    finally:
        sockets = {Path(embedded.ensure_postgres()["HOST"]), embedded.ensure_redis().parent}
        embedded.stop_redis()
        embedded.stop_postgres()
        monkeypatch.setenv("COMMERCE_STATE", str(state))
        for folder in sockets:
            folder.rmdir()
