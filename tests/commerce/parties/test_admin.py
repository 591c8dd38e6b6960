"""Organizations in the console: the pages open, and suspending goes through the service."""

from datetime import UTC, datetime
from typing import Any

import pytest
from django.contrib.auth.models import Group, User
from django.test import Client

from commerce.actor import Actor
from commerce.models import TransitionLog
from commerce.parties import services
from commerce.parties.models import Organization
from commerce.parties.vault import BankAccount

pytestmark = pytest.mark.django_db
LIST = "/admin/parties/organization/"


@pytest.fixture
def seller(db: None) -> Organization:
    return services.register_organization(
        name="Northwind",
        roles=["seller"],
        country="US",
        currency="USD",
        email="",
        bank_account=BankAccount("987654321098", "121141822"),
        actor=Actor.system("test"),
        at=datetime(2027, 3, 1, tzinfo=UTC),
    )


def browser(group: str) -> Client:
    user = User.objects.create_user(group, password="x", is_staff=True)
    user.groups.add(Group.objects.get(name=group))
    client = Client()
    client.force_login(user)
    return client


def test_lists_and_pages_open_and_show_no_number(seller: Organization) -> None:
    client = browser("viewer")
    reference = seller.references.get(kind="external_account")
    for path in (
        LIST,
        f"{LIST}?q=north",
        f"{LIST}?onboarding_status__exact=registered",
        f"{LIST}{seller.pk}/change/",
        "/admin/parties/providerreference/",
        f"/admin/parties/providerreference/{reference.pk}/change/",
    ):
        page = client.get(path)
        assert page.status_code == 200, path
        assert "Northwind" in page.content.decode(), path
        assert "987654321098" not in page.content.decode()
    page = client.get(f"{LIST}{seller.pk}/change/").content.decode()
    assert "•••• 1098" in page
    assert "counterparty, external account" in page


def test_an_operator_suspends_with_a_reason_and_a_viewer_does_not(seller: Organization) -> None:
    services.states.transition(
        seller, "activate", actor=Actor.system("test"), at=datetime(2027, 3, 1, tzinfo=UTC)
    )
    url = f"{LIST}{seller.pk}/do/suspend/"
    assert browser("viewer").get(url).status_code == 403
    client = browser("operator")
    form: Any = client.get(url).context["form"]
    data = {"reason": "Chargebacks", "fingerprint": form.initial["fingerprint"]}
    assert client.post(url, data).status_code == 302
    seller.refresh_from_db()
    assert seller.onboarding_status == "suspended"
    log = TransitionLog.objects.get(object_id=str(seller.pk), name="suspend")
    assert (log.reason, log.actor.split(":")[0]) == ("Chargebacks", "user")
    assert "Chargebacks" in client.get(f"{LIST}{seller.pk}/change/").content.decode()
