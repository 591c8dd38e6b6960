"""People of each group, and their browsers; browsers check CSRF as real ones would meet it."""

import re
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

import pytest
from django.test import Client

from commerce.actor import Actor
from commerce.console.demo_users import ensure_demo_users
from commerce.console.models import ReviewItem
from commerce.console.services import open_review
from commerce.money import Money

AT = datetime(2027, 3, 1, tzinfo=UTC)
SYSTEM = Actor.system("test")


@pytest.fixture
def passwords(db: None) -> dict[str, str]:
    return ensure_demo_users()


@pytest.fixture
def browser(passwords: dict[str, str]) -> Callable[..., Client]:
    def log_in(name: str, *, enforce_csrf: bool = False) -> Client:
        client = Client(enforce_csrf_checks=enforce_csrf)
        assert client.login(username=name, password=passwords[name])
        return client

    return log_in


@pytest.fixture
def item(db: None) -> ReviewItem:
    return open_review(
        kind="invoice_mismatch",
        subject_type="billing.Invoice",
        subject_id="1",
        title="Invoice INV-1 differs by 5.00 USD",
        detail="The provider says 105.00, we say 100.00.",
        evidence={"ours": 10000, "theirs": 10500},
        value=Money(500, "USD"),
        actor=SYSTEM,
        at=AT,
    )


def fingerprint_on(page: Any) -> str:
    found = re.search(r'name="fingerprint" value="([0-9a-f]{64})"', page.content.decode())
    assert found, page.content.decode()
    return found[1]
