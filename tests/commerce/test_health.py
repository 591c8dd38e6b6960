"""`/livez` touches nothing; `/readyz` says 503 and why as soon as anything it needs is missing."""

from datetime import timedelta
from typing import Any

import pytest
from django.db import connection
from django.test import Client
from django.utils import timezone

from commerce.celery import app
from commerce.models import Heartbeat
from commerce.tasks import heartbeat

NOWHERE = "redis://127.0.0.1:1/0"


@pytest.fixture
def ready(db: None) -> Client:
    heartbeat()
    return Client()


def refused(client: Client, name: str, sentence: str) -> None:
    answer = client.get("/readyz")
    assert answer.status_code == 503
    body = answer.json()
    assert body["ready"] is False
    assert sentence in body["checks"][name]
    assert {check for check, result in body["checks"].items() if result != "ok"} == {name}


@pytest.fixture
def broker_away(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(app.conf, "broker_write_url", NOWHERE)


@pytest.mark.usefixtures("broker_away")
def test_livez_touches_nothing(settings: Any) -> None:
    """No database mark on this test: a query would fail it."""
    settings.ALLOWED_HOSTS = []
    answer = Client().get("/livez", headers={"Host": "anything"})
    assert (answer.status_code, answer.content) == (200, b"alive\n")
    assert not answer.cookies


def test_readyz_is_ok_when_everything_is_there(ready: Client, settings: Any) -> None:
    settings.ALLOWED_HOSTS = []
    answer = ready.get("/readyz")
    assert answer.status_code == 200
    assert answer.json() == {
        "ready": True,
        "checks": dict.fromkeys(("database", "migrations", "guards", "rights", "broker", "heartbeat"), "ok"),
    }
    assert not answer.cookies


def test_probes_are_not_sent_away_to_https(ready: Client, settings: Any) -> None:
    settings.SECURE_SSL_REDIRECT = True
    assert ready.get("/livez").status_code == 200
    assert ready.get("/readyz").status_code == 200


def test_a_dropped_guard_is_named(ready: Client) -> None:
    with connection.cursor() as cursor:
        cursor.execute("DROP TRIGGER guard_append_only ON contracts_contractedit")
    refused(ready, "guards", "contracts_contractedit.guard_append_only")


def test_a_guard_that_replication_could_bypass_is_named(ready: Client) -> None:
    with connection.cursor() as cursor:
        cursor.execute("ALTER TABLE ledger_ledgerentry ENABLE TRIGGER guard_balanced")
    refused(ready, "guards", "ledger_ledgerentry.guard_balanced")


def test_a_migration_that_was_not_applied_is_counted(ready: Client) -> None:
    with connection.cursor() as cursor:
        newest = "SELECT max(id) FROM django_migrations WHERE app = 'payouts'"
        cursor.execute(f"DELETE FROM django_migrations WHERE id = ({newest})")
    refused(ready, "migrations", "1 migrations are not applied")


@pytest.mark.usefixtures("broker_away")
def test_a_broker_away_is_not_ready_and_no_address_is_told(ready: Client) -> None:
    refused(ready, "broker", "OperationalError while checking")
    assert "127.0.0.1" not in ready.get("/readyz").content.decode()


def test_a_heart_that_never_beat_is_not_ready(ready: Client) -> None:
    Heartbeat.objects.all().delete()
    refused(ready, "heartbeat", "beat has never run")


def test_an_old_heartbeat_is_not_ready_with_its_age(ready: Client) -> None:
    Heartbeat.objects.update(beaten_at=timezone.now() - timedelta(seconds=119))
    assert ready.get("/readyz").status_code == 200
    Heartbeat.objects.update(beaten_at=timezone.now() - timedelta(seconds=200))
    refused(ready, "heartbeat", "beat was last seen 200 s ago")
    heartbeat()
    assert ready.get("/readyz").status_code == 200


def test_the_heart_beats_in_system_time_whatever_the_test_clock_says(ready: Client, clock: Any) -> None:
    assert ready.get("/readyz").status_code == 200


def test_a_database_away_ends_the_checks_with_503() -> None:
    """No database mark: whatever touches the database fails, as it does when there is none."""
    answer = Client().get("/readyz")
    assert answer.status_code == 503
    assert list(answer.json()["checks"]) == ["database"]
    assert answer.json()["checks"]["database"].endswith("Error while checking")
