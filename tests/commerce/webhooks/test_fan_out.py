"""Events become messages: exactly one per endpoint that wants and may hear, whatever is repeated or dies."""

import json
import threading
from datetime import timedelta
from typing import Any

import pytest
from django.db import connection, transaction
from django.utils import timezone

from commerce.console.models import ReviewItem
from commerce.ids import uuid7
from commerce.outbox import append, catalog
from commerce.outbox.models import OutboxStream
from commerce.webhooks import audience, services
from commerce.webhooks.fan_out import EVENTS_PER_CLAIM, LARGEST_BODY, body_of, fan_out, untold
from commerce.webhooks.invariants import forgotten_events
from commerce.webhooks.models import PendingEvent, WebhookEndpoint, WebhookMessage
from tests.commerce.webhooks.conftest import AT, ORGANIZATION_EVENT, SYSTEM, endpoint, happens, organization

pytestmark = pytest.mark.django_db
HOOK = "https://hooks.example.com/in"


def bodies(to: WebhookEndpoint) -> list[Any]:
    return [json.loads(bytes(m.body)) for m in to.messages.order_by("id")]


def test_an_event_that_nobody_wants_leaves_no_trace_but_itself(seller: Any) -> None:
    endpoint(seller, HOOK, "payout.*")
    happens(seller)
    assert not PendingEvent.objects.exists()
    assert fan_out(at=AT) == 0
    assert not WebhookMessage.objects.exists()
    assert not OutboxStream.objects.filter(group__startswith="webhook").exists()


def test_an_event_is_collected_in_its_transaction_or_not_at_all(seller: Any) -> None:
    endpoint(seller, HOOK)
    with pytest.raises(RuntimeError), transaction.atomic():
        happens(seller)
        assert PendingEvent.objects.count() == 1
        raise RuntimeError
    assert not PendingEvent.objects.exists()


@pytest.mark.parametrize("pattern", ["organization.suspended", "organization.*", "*"])
def test_an_endpoint_hears_of_a_type_by_its_name_its_kind_or_all(seller: Any, pattern: str) -> None:
    to, _ = endpoint(seller, HOOK, pattern)
    other, _ = endpoint(seller, HOOK, "organization.reactivated")
    event = happens(seller)
    assert fan_out(at=AT) == 1
    (message,) = to.messages.all()
    assert (message.event_id, message.type, message.status) == (event.event_id, event.type, "pending")
    assert not other.messages.exists()
    assert not PendingEvent.objects.exists()


def test_a_body_names_event_and_object_and_holds_the_public_fields(seller: Any) -> None:
    to, _ = endpoint(seller, HOOK)
    event = happens(seller)
    fan_out(at=AT)
    (body,) = bodies(to)
    assert set(body) == {"type", "timestamp", "data"}
    assert (body["type"], body["timestamp"]) == ("organization.suspended", "2027-03-01T00:00:00Z")
    identity = {
        "id": str(event.event_id), "object": "organization", "object_id": str(seller.pk), "sequence": 1,
    }  # fmt: skip
    assert identity.items() <= body["data"].items()
    assert set(body["data"]) == set(identity) | set(catalog.event_type(event.type).public)  # type: ignore[union-attr]


def test_nobody_hears_of_another_organization_but_the_platform(seller: Any, platform: Any) -> None:
    stranger = organization("seller")
    theirs, _ = endpoint(stranger, HOOK, "*")
    ours, _ = endpoint(platform, HOOK, "*")
    event = happens(seller)
    fan_out(at=AT)
    assert not theirs.messages.exists()
    (body,) = bodies(ours)
    assert event.payload.items() <= body["data"].items()


def test_what_the_catalogue_keeps_inside_goes_to_the_platform_alone(seller: Any, platform: Any) -> None:
    from commerce.console.services import open_review

    own, _ = endpoint(seller, HOOK, "*")
    ours, _ = endpoint(platform, HOOK, "review_item.*")
    open_review(
        kind="k", subject_type="parties.organization", subject_id=seller.pk, title="t", actor=SYSTEM, at=AT
    )
    fan_out(at=AT)
    assert not own.messages.exists()
    assert [body["type"] for body in bodies(ours)] == ["review_item.opened"]


def test_an_event_makes_one_message_per_endpoint_however_often_it_is_fanned_out(seller: Any) -> None:
    to, _ = endpoint(seller, HOOK)
    event = happens(seller)
    fan_out(at=AT)
    PendingEvent.objects.create(event_id=event.event_id, due_at=timezone.now())
    assert fan_out(at=AT) == 1
    assert to.messages.count() == 1


@pytest.mark.parametrize(
    ("only", "heard"), [(None, True), (["webhooks"], True), (["billing.openmeter"], False), ([], False)]
)
def test_a_copy_of_an_event_is_a_new_message_unless_it_is_meant_for_others(
    seller: Any, only: list[str] | None, heard: bool
) -> None:
    to, _ = endpoint(seller, HOOK)
    event = happens(seller)
    with transaction.atomic():
        copy = append(
            "organization",
            seller.pk,
            event.type,
            event.payload,
            at=AT,
            causation_id=event.event_id,
            only=only,
        )
    fan_out(at=AT)
    found = set(to.messages.values_list("event_id", flat=True))
    assert found == ({event.event_id, copy.event_id} if heard else {event.event_id})


def test_an_endpoint_is_not_told_of_what_happened_before_it_was_there(seller: Any, platform: Any) -> None:
    endpoint(platform, HOOK, "*")
    happens(seller)
    late, _ = endpoint(seller, HOOK)
    fan_out(at=AT)
    assert not late.messages.exists()


def test_a_disabled_endpoint_collects_for_thirty_days_and_a_deleted_one_nothing(seller: Any) -> None:
    waiting, _ = endpoint(seller, HOOK)
    gone, _ = endpoint(seller, HOOK)
    forgotten, _ = endpoint(seller, HOOK)
    services.disable_endpoint(endpoint=waiting, actor=SYSTEM, at=AT)
    services.delete_endpoint(endpoint=gone, actor=SYSTEM, at=AT)
    services.disable_endpoint(endpoint=forgotten, actor=SYSTEM, at=AT)
    WebhookEndpoint.objects.filter(pk=forgotten.pk).update(collects_until=timezone.now() - timedelta(days=1))
    happens(seller)
    fan_out(at=AT)
    assert waiting.messages.count() == 1
    assert not gone.messages.exists()
    assert not forgotten.messages.exists()


def test_more_events_than_one_claim_takes_all_become_messages_in_their_order(seller: Any) -> None:
    to, _ = endpoint(seller, HOOK)
    events = [happens(seller) for _ in range(EVENTS_PER_CLAIM + 5)]
    assert fan_out(at=AT) == len(events)
    found = list(to.messages.order_by("id").values_list("event_id", flat=True))
    assert found == [event.event_id for event in events]


def test_a_body_that_would_be_too_large_has_only_the_identity(seller: Any) -> None:
    event = happens(seller)
    assert "truncated" not in json.loads(body_of(event, {"text": "x" * 1000}))["data"]
    body = body_of(event, {"text": "x" * LARGEST_BODY})
    assert len(body) < LARGEST_BODY
    data = json.loads(body)["data"]
    assert data == {
        "id": str(event.event_id),
        "object": "organization",
        "object_id": str(seller.pk),
        "sequence": 1,
        "truncated": True,
    }


@pytest.fixture
def poisoned(monkeypatch: pytest.MonkeyPatch) -> set[str]:
    """Organizations whose audience cannot be found out: the registered function of their kind raises."""
    poison: set[str] = set()

    def resolver(events: Any) -> dict[Any, audience.Readers]:
        if any(event.aggregate_id in poison for event in events):
            raise RuntimeError("no idea")
        return {event.event_id: {event.payload_owner: ()} for event in map(_owned, events)}

    monkeypatch.setitem(audience._resolvers, "organization", resolver)
    return poison


def _owned(event: Any) -> Any:
    from uuid import UUID

    event.payload_owner = UUID(event.aggregate_id)
    return event


def test_an_event_that_cannot_be_handled_waits_for_a_person_and_holds_up_no_other(
    seller: Any, poisoned: set[str]
) -> None:
    other = organization("seller")
    bad, _ = endpoint(seller, HOOK)
    good, _ = endpoint(other, HOOK)
    poisoned.add(str(seller.pk))
    event = happens(seller)
    happens(other)
    fan_out(at=AT)
    assert good.messages.count() == 1
    assert not bad.messages.exists()
    row = PendingEvent.objects.get()
    assert (row.event_id, row.attempts) == (event.event_id, 1)
    assert "no idea" in row.last_error
    assert not ReviewItem.objects.filter(kind="webhook_fan_out_failed").exists()

    for _ in range(4):
        PendingEvent.objects.update(due_at=timezone.now())
        fan_out(at=AT)
    assert ReviewItem.objects.filter(kind="webhook_fan_out_failed", status="open").count() == 1
    assert "no idea" in " ".join(finding.detail for finding in forgotten_events())

    poisoned.clear()
    PendingEvent.objects.update(due_at=timezone.now())
    fan_out(at=AT)
    assert bad.messages.count() == 1


def test_an_event_of_a_type_to_come_waits_for_the_release_that_knows_it(
    seller: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """While a release is rolled out its first workers append what the last old ones do not know."""
    to, _ = endpoint(seller, HOOK)
    event = happens(seller)
    with monkeypatch.context() as older:
        older.delitem(catalog._types, ORGANIZATION_EVENT)
        fan_out(at=AT)
    row = PendingEvent.objects.get()
    assert (row.event_id, row.attempts) == (event.event_id, 1)
    assert "UnknownVersion" in row.last_error
    assert not to.messages.exists()
    PendingEvent.objects.update(due_at=timezone.now())
    fan_out(at=AT)
    assert to.messages.count() == 1


@pytest.mark.django_db(transaction=True)
def test_making_messages_locks_the_endpoints_of_who_hears_and_no_other(seller: Any) -> None:
    """However many subscribe to the type: what is asked for are those of its readers."""
    mine, _ = endpoint(seller, HOOK)
    other, _ = endpoint(organization("seller"), HOOK)
    happens(seller)
    locked = []

    def look(execute: Any, sql: str, params: Any, many: bool, context: Any) -> Any:
        found = execute(sql, params, many, context)
        if "FOR SHARE OF e" in sql:
            locked.extend(row[0] for row in context["cursor"].cursor.fetchall())
            context["cursor"].cursor.scroll(0, mode="absolute")
        return found

    with connection.execute_wrapper(look):
        fan_out(at=AT)
    assert locked == [mine.pk]
    assert mine.messages.count() == 1
    assert not other.messages.exists()


def test_verify_says_so_when_events_are_collected_no_more() -> None:
    assert not list(forgotten_events())
    with connection.cursor() as cursor:
        cursor.execute("DROP TRIGGER collect_for_webhooks ON outbox_outboxevent")
    (finding,) = forgotten_events()
    assert "collect_for_webhooks" in finding.detail


@pytest.mark.django_db(transaction=True)
def test_two_workers_fan_out_the_same_events_once() -> None:
    owner = organization("seller")
    to, _ = endpoint(owner, HOOK)
    for _ in range(300):
        happens(owner)
    barrier, done = threading.Barrier(3), []

    def work() -> None:
        try:
            barrier.wait()
            done.append(fan_out(at=AT))
        finally:
            connection.close()

    threads = [threading.Thread(target=work) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sum(done) == 300
    assert to.messages.count() == 300


def test_an_event_of_an_unknown_id_is_forgotten(seller: Any) -> None:
    PendingEvent.objects.create(event_id=uuid7(), due_at=timezone.now())
    assert fan_out(at=AT) == 1
    assert not PendingEvent.objects.exists()


def test_a_month_stays_until_everybody_was_told_of_it(seller: Any) -> None:
    endpoint(seller, HOOK)
    happens(seller)
    today = timezone.now().date()
    last_month = today.replace(day=1) - timedelta(days=1)
    assert "has not become webhook messages yet" in untold(today)
    assert untold(last_month) == ""
    fan_out(at=AT)
    assert untold(today) == ""
