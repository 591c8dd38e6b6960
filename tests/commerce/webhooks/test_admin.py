"""The console: endpoints and their health, the log with attempts and body, and the buttons."""

from datetime import timedelta
from typing import Any

import pytest
from django.contrib.auth.models import Group, Permission, User
from django.test import Client
from django.urls import reverse
from django.utils import timezone

from commerce.console.registry import cards
from commerce.webhooks import services
from commerce.webhooks.delivery import deliver_due
from commerce.webhooks.fan_out import fan_out
from commerce.webhooks.models import WebhookHealth
from tests.commerce.webhooks.conftest import AT, SYSTEM, Receiver, endpoint, happens

pytestmark = pytest.mark.django_db


def person(group: str) -> Client:
    user = User.objects.create_user(group, is_staff=True)
    user.groups.add(Group.objects.get(name=group))
    client = Client()
    client.force_login(user)
    return client


def press(client: Client, obj: Any, name: str, **form: Any) -> Any:
    kind = f"{obj._meta.app_label}_{obj._meta.model_name}"
    url = reverse(f"admin:{kind}_do", args=[obj.pk, name])
    page = client.get(url)
    if page.status_code != 200:
        return page
    shown = page.context["form"].initial["fingerprint"]
    return client.post(url, {"fingerprint": shown, "reason": "because", **form}, follow=True)


def page_of(client: Client, obj: Any) -> str:
    kind = f"{obj._meta.app_label}_{obj._meta.model_name}"
    return client.get(reverse(f"admin:{kind}_change", args=[obj.pk])).content.decode()


def test_an_operator_sees_how_an_endpoint_fares_and_what_was_sent(seller: Any, receiver: Receiver) -> None:
    to, secret = endpoint(seller, receiver.url)
    happens(seller)
    fan_out(at=AT)
    receiver.status, receiver.body = 500, b"out of order"
    deliver_due(at=AT)
    client = person("operator")
    text = page_of(client, to)
    for word in ("failing", "Answered 500", "organization.suspended", receiver.url):
        assert word in text
    assert secret not in text
    message = to.messages.get()
    log = page_of(client, message)
    for word in (message.webhook_id, "out of order", "500", str(seller.pk)):
        assert word in log
    assert receiver.url in client.get(reverse("admin:webhooks_webhookendpoint_changelist")).content.decode()
    listed = client.get(reverse("admin:webhooks_webhookmessage_changelist") + "?status=pending")
    assert "organization.suspended" in listed.content.decode()
    empty = client.get(reverse("admin:webhooks_webhookmessage_changelist") + "?status=failed")
    assert str(message.pk) not in empty.content.decode()


def test_an_operator_tests_rotates_disables_enables_and_resends(seller: Any, receiver: Receiver) -> None:
    to, _ = endpoint(seller, receiver.url)
    client = person("operator")
    assert "is on its way" in press(client, to, "test").content.decode()
    assert deliver_due(at=AT).delivered == 1
    message = to.messages.get()
    press(client, message, "resend")
    assert deliver_due(at=AT).delivered == 1
    answer = press(client, to, "rotate")
    assert "whsec_" in answer.content.decode()
    assert "no-store" in answer["Cache-Control"]
    assert answer.redirect_chain == []
    assert "whsec_" not in str(client.cookies), "messages travel in a cookie"
    assert "whsec_" not in page_of(client, to)
    press(client, to, "disable")
    to.refresh_from_db()
    assert to.status == "disabled"
    press(client, to, "enable")
    to.refresh_from_db()
    assert to.status == "enabled"
    to.messages.update(delivered_at=None, failed_at=timezone.now())
    assert "1 messages" in press(client, to, "resend", days=7).content.decode()
    assert deliver_due(at=AT).delivered == 1
    assert len({request.id for request in receiver.requests}) == 1


def test_a_body_is_shown_to_those_who_may_see_what_it_is_about(seller: Any) -> None:
    to, _ = endpoint(seller, "https://hooks.example.com/in")
    happens(seller)
    fan_out(at=AT)
    message = to.messages.get()
    user = User.objects.create_user("someone", is_staff=True)
    client = Client()
    client.force_login(user)
    user.user_permissions.add(Permission.objects.get(codename="view_webhookmessage"))
    shown = page_of(client, message)
    assert "You may not see" in shown
    assert seller.name not in shown
    user.user_permissions.add(Permission.objects.get(codename="view_organization"))
    assert seller.name in page_of(client, message)


def test_a_leaked_secret_is_cut_off_from_the_console(seller: Any) -> None:
    to, _ = endpoint(seller, "https://hooks.example.com/in")
    client = person("operator")
    press(client, to, "rotate")
    assert to.secrets.count() == 2
    press(client, to, "rotate", expire_now="on")
    assert to.secrets.count() == 1


def test_a_viewer_looks_and_presses_nothing(seller: Any) -> None:
    to, _ = endpoint(seller, "https://hooks.example.com/in")
    client = person("viewer")
    text = page_of(client, to)
    assert "hooks.example.com" in text
    for name in ("test", "rotate", "disable", "delete", "resend"):
        assert press(client, to, name).status_code == 403
    to.refresh_from_db()
    assert (to.status, to.version, to.messages.count()) == ("enabled", 1, 0)


def test_the_home_page_counts_failing_endpoints(seller: Any) -> None:
    (card,) = (card for card in cards() if card.key == "webhooks.failing")
    to, _ = endpoint(seller, "https://hooks.example.com/in")
    assert card.load(None).count == 0  # type: ignore[arg-type]
    since = timezone.now() - timedelta(hours=3)
    WebhookHealth.objects.filter(pk=to.pk).update(failing_since=since)
    found = card.load(None)  # type: ignore[arg-type]
    assert (found.count, found.oldest) == (1, since)
    services.disable_endpoint(endpoint=to, actor=SYSTEM, at=AT)
    assert card.load(None).count == 0  # type: ignore[arg-type]
