"""Signatures are those of the Standard Webhooks; secrets rotate without a gap and are never at large."""

import base64
import json
import logging
import os
from datetime import timedelta
from typing import Any

import pytest
from django.db import connection
from django.utils import timezone

from commerce.errors import StateConflict
from commerce.logs import JsonFormatter
from commerce.webhooks import services, signing
from commerce.webhooks.delivery import deliver_due, forget_expired_secrets
from commerce.webhooks.models import WebhookSecret
from tests.commerce.webhooks.conftest import AT, SYSTEM, Receiver, endpoint


def test_the_example_of_the_specification_is_signed_as_it_says() -> None:
    found = signing.signature(
        "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw",
        "msg_p5jXN8AQM9LWM0D4loKWxJek",
        1614265330,
        b'{"test": 2432232314}',
    )
    assert found == "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE="


def test_every_part_that_is_signed_changes_the_signature() -> None:
    secret = signing.new_secret()
    parts: tuple[Any, ...] = (secret, "msg_1", 1, b"{}")
    others: tuple[Any, ...] = (signing.new_secret(), "msg_2", 2, b"{ }")
    for index, other in enumerate(others):
        changed = [*parts[:index], other, *parts[index + 1 :]]
        assert signing.signature(*changed) != signing.signature(*parts)


def test_a_new_secret_is_whsec_and_the_base64_of_32_random_bytes() -> None:
    found = {signing.new_secret() for _ in range(50)}
    assert len(found) == 50
    assert {len(base64.b64decode(one.removeprefix("whsec_"), validate=True)) for one in found} == {32}


@pytest.mark.parametrize("size", [0, 23, 65])
def test_a_secret_of_another_size_than_24_to_64_bytes_signs_nothing(size: int) -> None:
    with pytest.raises(ValueError, match=r"24 to 64|base64"):
        signing.key_of("whsec_" + base64.b64encode(os.urandom(size)).decode())


@pytest.mark.django_db
def test_after_a_rotation_both_secrets_sign_for_a_day_and_then_only_the_new_one(
    receiver: Receiver, seller: Any
) -> None:
    to, old = endpoint(seller, receiver.url)
    to, new = services.rotate_secret(endpoint=to, actor=SYSTEM, at=AT)
    assert new != old
    services.send_test_event(endpoint=to, actor=SYSTEM, at=AT)
    deliver_due(at=AT)
    (both,) = receiver.requests
    assert both.signed_with(old)
    assert both.signed_with(new)
    assert len(both.headers["webhook-signature"].split(" ")) == 2

    left = WebhookSecret.objects.get(expires_at__isnull=False)
    assert timedelta(hours=23) < left.expires_at - timezone.now() <= timedelta(hours=24)
    WebhookSecret.objects.filter(pk=left.pk).update(expires_at=timezone.now())
    services.send_test_event(endpoint=to, actor=SYSTEM, at=AT)
    deliver_due(at=AT)
    only = receiver.requests[-1]
    assert only.signed_with(new)
    assert not only.signed_with(old)
    assert forget_expired_secrets() == 1
    assert to.secrets.count() == 1


@pytest.mark.django_db
def test_a_secret_is_not_in_the_database_nor_in_the_logs(
    receiver: Receiver, seller: Any, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    receiver.status, receiver.body = 500, b"no"
    to, old = endpoint(seller, receiver.url)
    to, new = services.rotate_secret(endpoint=to, actor=SYSTEM, at=AT)
    receiver.body = f"you sent {new}".encode()
    message = services.send_test_event(endpoint=to, actor=SYSTEM, at=AT)
    deliver_due(at=AT)
    lines = "\n".join(JsonFormatter().format(record) for record in caplog.records)
    assert "webhook secret rotated" in lines
    assert "webhook not delivered" in lines
    with connection.cursor() as cursor:
        cursor.execute(
            """SELECT json_agg(t)::text FROM (
                 SELECT to_jsonb(s)::text FROM webhooks_webhooksecret s UNION ALL
                 SELECT to_jsonb(a)::text FROM webhooks_webhookattempt a UNION ALL
                 SELECT to_jsonb(e)::text FROM webhooks_webhookendpoint e) t"""
        )
        kept = cursor.fetchone()[0]
    assert "redacted" in message.log.get().answer
    for secret in (old, new):
        assert secret.removeprefix("whsec_") not in lines
        assert secret.removeprefix("whsec_") not in json.dumps(kept)


@pytest.mark.django_db
def test_a_secret_outlives_a_change_of_the_secret_key_once_it_is_resealed(seller: Any, settings: Any) -> None:
    settings.WEBHOOK_ALLOWED_NETWORKS = ["127.0.0.0/8"]
    to, plain = endpoint(seller, "https://127.0.0.1:8443/")
    settings.SECRET_KEY, settings.SECRET_KEY_FALLBACKS = "n" * 60, [settings.SECRET_KEY]
    assert signing.unseal(to.secrets.get().ciphertext) == plain
    assert services.reseal_secrets(actor=SYSTEM, at=AT) == 1
    settings.SECRET_KEY_FALLBACKS = []
    assert signing.unseal(to.secrets.get().ciphertext) == plain


@pytest.mark.django_db
def test_nothing_is_sent_unsigned_when_the_secret_cannot_be_read(
    told: Any, receiver: Receiver, settings: Any
) -> None:
    message = told()
    settings.SECRET_KEY, settings.SECRET_KEY_FALLBACKS = "n" * 60, []
    with pytest.raises(StateConflict):
        signing.unseal(message.endpoint.secrets.get().ciphertext)
    assert deliver_due(at=AT).sent == 0
    assert receiver.requests == []
    message.refresh_from_db()
    assert message.status == "pending"
    assert "cannot be read" in message.last_error
