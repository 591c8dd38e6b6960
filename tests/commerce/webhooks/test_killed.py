"""A worker that is killed after receivers have answered: everything arrives, under the ids it had."""

import os
import signal
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from django.db import connections
from django.utils import timezone

from commerce import crash
from commerce.webhooks import services
from commerce.webhooks.delivery import PER_ENDPOINT, deliver_due
from commerce.webhooks.invariants import lost_messages
from commerce.webhooks.models import WebhookAttempt, WebhookMessage
from tests.commerce.webhooks.conftest import AT, SYSTEM, Receiver, endpoint


@pytest.mark.django_db(transaction=True)
def test_a_worker_killed_before_it_could_note_an_answer_loses_nothing_and_sends_no_more_than_its_leases_again(
    seller: Any, receiver: Receiver, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    to, _ = endpoint(seller, receiver.url)
    ids = {services.send_test_event(endpoint=to, actor=SYSTEM, at=AT).webhook_id for _ in range(8)}
    with monkeypatch.context() as armed:
        armed.setattr(crash, "_AT", frozenset({"webhooks.after_sending"}))
        armed.setattr(crash, "_MARKERS", tmp_path)
        connections.close_all()
        worker = os.fork()
        if not worker:
            try:
                deliver_due(at=AT, seconds=5)
            finally:
                os._exit(0)
        _, status = os.waitpid(worker, 0)
    assert os.WIFSIGNALED(status)
    assert os.WTERMSIG(status) == signal.SIGKILL
    assert not WebhookAttempt.objects.exists()
    leased = WebhookMessage.objects.filter(lease_token__isnull=False)
    assert leased.count() == PER_ENDPOINT
    cut_off = {message.webhook_id for message in leased}

    assert deliver_due(at=AT, seconds=5).sent == 0, "its leases count until they end"
    leased.update(due_at=timezone.now() - timedelta(seconds=1))
    assert deliver_due(at=AT, seconds=5).delivered == len(ids)
    sent = [request.id for request in receiver.requests]
    assert set(sent) == ids
    assert {id_ for id_ in sent if sent.count(id_) > 1} <= cut_off
    assert not WebhookMessage.objects.filter(delivered_at__isnull=True).exists()
    assert not list(lost_messages())
