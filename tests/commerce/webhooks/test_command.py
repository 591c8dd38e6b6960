"""`manage.py webhooks`: the same services from a terminal, with the conventions of every command."""

import io
import json
from typing import Any

import pytest
from django.core.management import call_command

from commerce.webhooks import services, signing
from commerce.webhooks.models import WebhookEndpoint
from tests.commerce.webhooks.conftest import AT, SYSTEM, Receiver, endpoint, happens

pytestmark = pytest.mark.django_db
HOOK = "https://hooks.example.com/in"


def run(*arguments: str) -> tuple[int, Any]:
    out, code = io.StringIO(), 0
    try:
        call_command("webhooks", "--json", *arguments, stdout=out, stderr=io.StringIO())
    except SystemExit as ended:
        code = int(ended.code or 0)
    return code, json.loads(out.getvalue() or "null")


def test_it_sends_what_is_due_and_says_who_fails(seller: Any, receiver: Receiver) -> None:
    endpoint(seller, receiver.url)
    happens(seller)
    assert run("status")[0] == 0
    assert run("--dry-run", "deliver") == (6, None)
    assert receiver.requests == []
    receiver.statuses = [500]
    assert run("deliver") == (4, {"delivered": 0, "failed": 1, "lost": 0})
    code, now = run("status")
    assert (code, now["endpoints_failing"]) == (3, 1)


def test_an_endpoint_that_somebody_disabled_is_no_finding(seller: Any) -> None:
    services.disable_endpoint(endpoint=endpoint(seller, HOOK)[0], actor=SYSTEM, at=AT)
    assert run("status")[0] == 0
    gone, _ = endpoint(seller, HOOK)
    WebhookEndpoint.objects.filter(pk=gone.pk).update(
        status="disabled", disabled_because="gone", disabled_at=AT, collects_until=AT
    )
    code, now = run("status")
    assert (code, now["endpoints_disabled"]) == (3, 1)


def test_it_seals_the_secrets_anew(seller: Any, settings: Any) -> None:
    to, secret = endpoint(seller, HOOK)
    settings.SECRET_KEY, settings.SECRET_KEY_FALLBACKS = "n" * 60, [settings.SECRET_KEY]
    assert run("reseal") == (0, {"secrets": 1})
    settings.SECRET_KEY_FALLBACKS = []
    assert signing.unseal(to.secrets.get().ciphertext) == secret
