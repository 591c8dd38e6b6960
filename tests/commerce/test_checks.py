"""A wrong variable is a numbered check with a sentence that says what to do, and a right one is silent."""

import os
import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from django.conf import settings as project
from django.core.checks import CheckMessage, run_checks

from commerce.checks import lanes
from commerce.outbox import catalog, registry

PRODUCTION = {
    "PRODUCTION": True,
    "ENVIRONMENT": "production",
    "SECRET_KEY": "x" * 50,
    "ALLOWED_HOSTS": ["commerce.example"],
    "CLOCK_FILE": "",
    "CRASH_AT": "",
    "PUBLIC_URL": "https://commerce.example",
    "MODERN_TREASURY_BASE_URL": "https://app.moderntreasury.com",
    "OPENMETER_BASE_URL": "https://openmeter.cloud",
    "SANDBOX_URL": "",
    "MODERN_TREASURY_ORGANIZATION_ID": "o",
    "MODERN_TREASURY_API_KEY": "k",
    "MODERN_TREASURY_WEBHOOK_KEYS": ["w"],
    "MODERN_TREASURY_INTERNAL_ACCOUNT_ID": "a",
    "OPENMETER_TOKEN": "t",
    "OPENMETER_WEBHOOK_SECRETS": ["whsec_c2VjcmV0"],
}
UNREADABLE = {
    "DATABASE_URL": "mysql://a/b",
    "TICK_SECONDS": "soon",
    "POLL_SECONDS": "-1",
    "DB_POOL": "x",
    "DEBUG": "maybe",
    "BEHIND_PROXY": "2",
    "LOG_LEVEL": "LOUD",
    "SEASONING_DAYS": "-7",
    "PAYOUT_APPROVAL_LIMIT_MINOR": "1e3",
    "OUTBOX_LEASE_SECONDS": "1,5",
    "PROVIDER_TIMEOUT_SECONDS": "ten",
    "STATEMENT_TIMEOUT_MS": "1.5",
}
WRONG: list[tuple[str, dict[str, Any]]] = [
    ("E000", {"UNREADABLE": {"TICK_SECONDS": "a number"}}),
    ("E001", {"ENVIRONMENT": "prod"}),
    ("E002", {"SECRET_KEY": "short"}),
    ("E003", {"ALLOWED_HOSTS": []}),
    ("E005", {"CRASH_AT": "outbox.after_commit"}),
    ("E007", {"TICK_SECONDS": 0.0}),
    ("E007", {"POLL_SECONDS": 0.0}),
    ("E008", {"OUTBOX_LEASE_SECONDS": 0.0}),
    ("E008", {"PROVIDER_TIMEOUT_SECONDS": 0.0}),
    ("E009", {"CELERY_BROKER_URL": "localhost"}),
    ("E009", {"CELERY_BROKER_URL": "redis://localhost:port/0"}),
    ("E009", {"CELERY_BROKER_URL": "filesystem://"}),
    ("E010", {"MODERN_TREASURY_BASE_URL": "app.moderntreasury.com"}),
    ("E011", {"OPENMETER_BASE_URL": "ftp://openmeter.cloud"}),
    ("E012", {"PUBLIC_URL": "https://"}),
    ("E012", {"PUBLIC_URL": "https://[bad"}),
    ("E013", {"SANDBOX_URL": "https://host:port"}),
    ("E014", {"OUTBOX_LEASE_SECONDS": 90.0}),
    ("E020", {"MODERN_TREASURY_BASE_URL": "http://app.moderntreasury.com"}),
    ("E021", {"OPENMETER_BASE_URL": "http://8.8.8.8"}),
    ("E022", {"PUBLIC_URL": "http://commerce.example"}),
    ("E023", {"SANDBOX_URL": "http://sandbox.example"}),
    ("E030", {"OPENMETER_TOKEN": ""}),
    ("E030", {"MODERN_TREASURY_WEBHOOK_KEYS": []}),
    ("E031", {"OPENMETER_WEBHOOK_SECRETS": ["secret"]}),
    ("E031", {"OPENMETER_WEBHOOK_SECRETS": ["whsec_c2VjcmV0", "whsec_c2VjcmV"]}),
    ("E031", {"OPENMETER_WEBHOOK_SECRETS": ["whsec_not base64"]}),
]


def ours() -> list[CheckMessage]:
    return [found for found in run_checks() if str(found.id).startswith("commerce.")]


@pytest.fixture
def production(settings: Any) -> Any:
    for name, value in PRODUCTION.items():
        setattr(settings, name, value)
    return settings


def test_what_runs_here_is_right() -> None:
    assert ours() == []


def test_a_complete_production_is_right(production: Any) -> None:
    assert ours() == []


@pytest.mark.parametrize(("number", "change"), WRONG, ids=[f"{n} {next(iter(c))}" for n, c in WRONG])
def test_each_check_fires_alone_and_says_what_to_do(
    production: Any, number: str, change: dict[str, Any]
) -> None:
    for name, value in change.items():
        setattr(production, name, value)
    (found,) = ours()
    assert found.id == f"commerce.{number}"
    assert found.msg.endswith((".", "'"))
    assert found.hint
    assert found.hint.endswith(".")
    for secret in ("short", "c2VjcmV0"):
        assert secret not in f"{found.msg} {found.hint}".replace("missing or short", "")


def test_a_test_clock_has_no_place_in_production(production: Any, tmp_path: Path) -> None:
    production.CLOCK_FILE = str(tmp_path / "clock")
    assert [found.id for found in ours()] == ["commerce.E004"]


@pytest.mark.parametrize("content", ["", "tomorrow", "2027-03-01T00:00:00", None])
def test_the_test_clock_is_a_file_with_an_instant(settings: Any, tmp_path: Path, content: str | None) -> None:
    path = tmp_path / "clock"
    settings.CLOCK_FILE = str(path)
    assert ours() == [], "a file that is yet to be made is fine"
    if content is None:
        settings.CLOCK_FILE = str(tmp_path / "nowhere" / "clock")
    else:
        path.write_text(content)
    assert [found.id for found in ours()] == ["commerce.E006"]
    path.write_text("2027-03-01T00:00:00Z")
    settings.CLOCK_FILE = str(path)
    assert ours() == []


def test_an_event_that_the_catalogue_does_not_list_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    assert ours() == []
    monkeypatch.delitem(catalog._types, "invoice.issued")
    assert [(found.id, found.msg) for found in ours()] == [
        ("commerce.E040", f"{who} invoice.issued, which is not in the catalogue of events.")
        for who in ("billing.Invoice.issue emits", "billing.collection handles")
    ]


def test_a_version_that_no_function_brings_forward_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    newer = replace(catalog._types["invoice.issued"], version=3)
    monkeypatch.setitem(catalog._types, "invoice.issued", newer)
    monkeypatch.setitem(catalog._upcasters, ("invoice.issued", 1), lambda payload: payload)
    assert [(found.id, found.msg) for found in ours()] == [
        ("commerce.E041", "invoice.issued of version 2 cannot be read as version 3.")
    ]


def test_outside_production_the_deployment_check_warns(settings: Any, production: Any) -> None:
    deployment = [found.id for found in run_checks(include_deployment_checks=True)]
    assert "commerce.W001" not in deployment
    settings.PRODUCTION, settings.ENVIRONMENT = False, "development"
    assert "commerce.W001" in [found.id for found in run_checks(include_deployment_checks=True)]


def test_a_provider_without_a_queue_is_named_before_anything_starts(monkeypatch: pytest.MonkeyPatch) -> None:
    assert lanes(None) == []
    monkeypatch.setattr(registry, "_handlers", {})
    registry.on("thing.sent", group="shop.elsewhere", provider="elsewhere")(lambda event: None)
    (problem,) = lanes(None)
    assert problem.id == "commerce.E042"
    assert "shop.elsewhere" in problem.msg
    assert "provider-elsewhere" in problem.msg


def test_every_number_is_tested_here() -> None:
    source = (Path(project.BASE_DIR) / "commerce" / "checks.py").read_text()
    single = set(re.findall(r'"commerce\.(\w\d{3})"', source))
    counted = {f"E{int(n):03}" for n in re.findall(r"^ {12}\(?\s*(\d),", source, re.MULTILINE)}
    here = Path(__file__).read_text()
    assert {"E000", "E001", "E031"} <= single | counted
    assert {number for number in single | counted if number not in here} == set()


def test_what_cannot_be_read_is_named_and_no_traceback() -> None:
    check = subprocess.run(
        [sys.executable, "manage.py", "check"],
        cwd=project.BASE_DIR,
        env=os.environ | UNREADABLE,
        capture_output=True,
        text=True,
    )
    assert check.returncode == 1
    assert "Traceback" not in check.stderr
    assert set(re.findall(r"\(commerce\.E000\) (\w+) cannot be read", check.stderr)) == set(UNREADABLE)


def test_an_empty_variable_is_an_unset_one() -> None:
    names = [name for name in UNREADABLE if name != "DATABASE_URL"]
    check = subprocess.run(
        [sys.executable, "manage.py", "check"],
        cwd=project.BASE_DIR,
        env=os.environ | dict.fromkeys(names, ""),
        capture_output=True,
        text=True,
    )
    assert check.returncode == 0, check.stderr


def test_an_application_that_owns_its_tables_is_warned_of(db: None, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = {"databases": ["default"]}
    assert [found.id for found in run_checks(**asked) if found.id == "commerce.W002"] == []
    monkeypatch.setitem(project.DATABASES["default"], "USER", project.DATABASE_OWNER["USER"])
    (found,) = (found for found in run_checks(**asked) if found.id == "commerce.W002")
    assert project.DATABASE_OWNER["USER"] in found.msg
    assert found.hint
    assert ours() == [], "a plain check leaves the database alone"
