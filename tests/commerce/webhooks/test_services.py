"""What may be asked of an endpoint, by whom, and when; refused requests leave nothing behind."""

from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest
from django.contrib.auth.models import Group, Permission, User
from django.db import IntegrityError, connection, transaction
from django.test.utils import CaptureQueriesContext
from django.utils import timezone

from commerce.actor import Actor
from commerce.api.scopes import SCOPES, declared_permissions
from commerce.api.services import issue_key
from commerce.errors import Conflict, InvalidInput, PermissionDenied, StateConflict, VersionConflict
from commerce.ids import first_at, uuid7
from commerce.outbox import catalog
from commerce.webhooks import checks, delivery, event_types, services
from commerce.webhooks.delivery import cancel_of_deleted, deliver_due, status
from commerce.webhooks.fan_out import fan_out
from commerce.webhooks.models import (
    WebhookAttempt,
    WebhookEndpoint,
    WebhookHealth,
    WebhookMessage,
    WebhookSecret,
)
from commerce.webhooks.tasks import keep
from tests.commerce.webhooks.conftest import AT, SYSTEM, Receiver, endpoint, happens

pytestmark = pytest.mark.django_db
HOOK = "https://hooks.example.com/in"


def member(group: str) -> Actor:
    user = User.objects.create_user(group)
    user.groups.add(Group.objects.get(name=group))
    return Actor.for_user(User.objects.get(pk=user.pk))


@pytest.mark.parametrize(
    "types",
    [[], ["nothing.happened"], ["organization"], ["*.suspended"], ["organisation.*"], ["webhook.test"]],
)
def test_only_event_types_that_exist_can_be_subscribed_to(seller: Any, types: list[str]) -> None:
    with pytest.raises(InvalidInput) as refused:
        services.create_endpoint(organization=seller, url=HOOK, event_types=types, actor=SYSTEM, at=AT)
    assert refused.value.errors[0].pointer.startswith("/event_types")
    assert not WebhookEndpoint.objects.exists()


def test_what_stays_inside_can_be_subscribed_to_by_the_platform_alone(seller: Any, platform: Any) -> None:
    with pytest.raises(InvalidInput, match="not known"):
        endpoint(seller, HOOK, "review_item.opened")
    assert endpoint(platform, HOOK, "review_item.opened")[0].status == "enabled"


def test_an_organization_has_at_most_twenty_endpoints(seller: Any) -> None:
    made = [endpoint(seller, HOOK)[0] for _ in range(services.MOST_ENDPOINTS)]
    with pytest.raises(Conflict, match="20"):
        endpoint(seller, HOOK)
    services.delete_endpoint(endpoint=made[0], actor=SYSTEM, at=AT)
    endpoint(seller, HOOK)


def test_a_change_goes_by_the_version_that_was_seen(seller: Any) -> None:
    to, _ = endpoint(seller, HOOK)
    changed = services.update_endpoint(
        endpoint=to, expected_version=1, description="new", actor=SYSTEM, at=AT
    )
    assert (changed.version, changed.description, changed.url) == (2, "new", HOOK)
    with pytest.raises(VersionConflict):
        services.update_endpoint(endpoint=to, expected_version=1, url=HOOK + "/2", actor=SYSTEM, at=AT)
    with pytest.raises(InvalidInput):
        services.update_endpoint(endpoint=to, url="http://10.0.0.1/", actor=SYSTEM, at=AT)
    to.refresh_from_db()
    assert (to.version, to.url) == (2, HOOK)


@pytest.fixture
def key(seller: Any) -> Callable[..., Actor]:
    """A key of the seller with scopes for webhooks, and these."""

    def make(*scopes: str) -> Actor:
        given = ["webhooks:read", "webhooks:write", *scopes]
        found, _ = issue_key(organization=seller, scopes=given, label="key", actor=SYSTEM, at=AT)
        return found.actor()

    return make


@pytest.mark.parametrize(
    ("patterns", "scopes"),
    [
        (["payout.paid"], ["payouts"]),
        (["payout.*"], ["payouts"]),
        (["invoice.paid", "organization.*"], ["invoices", "organizations"]),
        (["settlement_leg.*"], ["settlements"]),
        (["*"], ["contracts", "invoices", "organizations", "payouts", "settlements", "wallets"]),
    ],
)
def test_a_key_subscribes_to_what_it_may_read(
    seller: Any, key: Any, patterns: list[str], scopes: list[str]
) -> None:
    needed = {"organization": seller, "url": HOOK, "event_types": patterns, "at": AT}
    reading = [f"{scope}:read" for scope in scopes]
    for missing in reading:
        with pytest.raises(PermissionDenied, match=missing):
            services.create_endpoint(**needed, actor=key(*(one for one in reading if one != missing)))
    assert not WebhookEndpoint.objects.exists()
    made, _ = services.create_endpoint(**needed, actor=key(*reading))
    assert made.event_types == patterns


def test_a_key_leads_what_it_may_not_read_nowhere_else(seller: Any, key: Any) -> None:
    to, _ = endpoint(seller, HOOK, "payout.*")
    for change in ({"url": HOOK + "/mine"}, {"event_types": ["organization.*"]}, {"description": "mine"}):
        with pytest.raises(PermissionDenied, match="payouts:read"):
            services.update_endpoint(endpoint=to, actor=key("organizations:read"), at=AT, **change)
    with pytest.raises(PermissionDenied, match="organizations:read"):
        services.update_endpoint(
            endpoint=to, event_types=["organization.*"], actor=key("payouts:read"), at=AT
        )
    to.refresh_from_db()
    assert (to.version, to.url, to.event_types) == (1, HOOK, ["payout.*"])
    changed = services.update_endpoint(endpoint=to, url=HOOK + "/2", actor=key("payouts:read"), at=AT)
    assert changed.url == HOOK + "/2"


def test_what_an_endpoint_was_subscribed_to_before_goes_nowhere_else_either(seller: Any, key: Any) -> None:
    """Narrowed to what the key may read, with a payout that failed for good and may be sent again."""
    to, _ = endpoint(seller, HOOK, "organization.*")
    left = WebhookMessage.objects.create(
        endpoint=to, event_id=uuid7(), type="payout.paid", body=b"{}", failed_at=timezone.now()
    )
    reader = key("organizations:read")
    with pytest.raises(PermissionDenied, match="left here"):
        services.update_endpoint(endpoint=to, url=HOOK + "/mine", actor=reader, at=AT)
    services.update_endpoint(endpoint=to, url=HOOK, description="same place", actor=reader, at=AT)
    WebhookMessage.objects.filter(pk=left.pk).update(failed_at=None, delivered_at=timezone.now())
    assert services.update_endpoint(endpoint=to, url=HOOK + "/2", actor=reader, at=AT).url == HOOK + "/2"


def test_what_is_left_is_found_without_reading_what_was_delivered(seller: Any, key: Any) -> None:
    to, _ = endpoint(seller, HOOK, "organization.*")
    ended = timezone.now()
    WebhookMessage.objects.bulk_create(
        WebhookMessage(endpoint=to, event_id=uuid7(), type="payout.paid", body=b"{}", delivered_at=ended)
        for _ in range(3000)
    )
    with connection.cursor() as cursor:
        cursor.execute("ANALYZE webhooks_webhookmessage")
    reader = key("organizations:read")
    with CaptureQueriesContext(connection) as asked:
        services.update_endpoint(endpoint=to, url=HOOK + "/2", actor=reader, at=AT)
    (query,) = (one["sql"] for one in asked if '"webhooks_webhookmessage"' in one["sql"])
    with connection.cursor() as cursor:
        cursor.execute(f"EXPLAIN {query}")
        plan = "\n".join(row[0] for row in cursor.fetchall())
    assert "BitmapOr" in plan, plan
    assert "Seq Scan" not in plan, plan
    assert "webhook_message_list" not in plan, plan


def test_an_endpoint_that_was_made_before_goes_on_hearing(seller: Any, key: Any, receiver: Receiver) -> None:
    to, _ = endpoint(seller, receiver.url, "organization.*")
    actor = key()
    services.disable_endpoint(endpoint=to, actor=actor, at=AT)
    services.enable_endpoint(endpoint=to, actor=actor, at=AT)
    happens(seller)
    fan_out(at=AT)
    assert deliver_due(at=AT).delivered == 1


def test_a_person_needs_the_permission_to_see_what_is_told(seller: Any) -> None:
    user = User.objects.create_user("someone")
    user.user_permissions.add(
        Permission.objects.get(codename="register_webhookendpoint"),
        Permission.objects.get(codename="view_payout"),
    )
    actor = Actor.for_user(User.objects.get(pk=user.pk))
    with pytest.raises(PermissionDenied, match=r"billing\.view_invoice"):
        services.create_endpoint(organization=seller, url=HOOK, event_types=["invoice.*"], actor=actor, at=AT)
    made, _ = services.create_endpoint(
        organization=seller, url=HOOK, event_types=["payout.*"], actor=actor, at=AT
    )
    assert list(WebhookEndpoint.objects.all()) == [made]


def test_of_every_type_it_is_known_who_may_read_it() -> None:
    assert {
        known.name.partition(".")[0]
        for known in catalog.event_types()
        if known.aggregate_type not in event_types._READERS
    } == {"review_item"}, "no resource shows these: they are for who may read everything"
    resources, permissions = zip(*event_types._READERS.values(), strict=True)
    assert {f"{resource}:read" for resource in resources} <= set(SCOPES)
    for permission in permissions:
        app, _, codename = permission.partition(".")
        assert codename in declared_permissions(app), permission


def test_another_url_begins_the_five_days_anew(seller: Any) -> None:
    to, _ = endpoint(seller, HOOK)
    WebhookHealth.objects.filter(pk=to.pk).update(failing_since=timezone.now() - timedelta(days=6))
    services.update_endpoint(endpoint=to, url=HOOK, description="the same", actor=SYSTEM, at=AT)
    assert WebhookHealth.objects.get(pk=to.pk).failing_since is not None
    services.update_endpoint(endpoint=to, url=HOOK + "/2", actor=SYSTEM, at=AT)
    keep()
    assert WebhookHealth.objects.get(pk=to.pk).failing_since is None
    assert WebhookEndpoint.objects.get(pk=to.pk).status == "enabled"


def test_a_change_of_event_types_is_heeded_from_then_on(seller: Any) -> None:
    to, _ = endpoint(seller, HOOK, "organization.suspended", "payout.*")
    services.update_endpoint(endpoint=to, event_types=["organization.reactivated"], actor=SYSTEM, at=AT)
    happens(seller)
    fan_out(at=AT)
    assert not to.messages.exists()
    happens(seller, "organization.reactivated")
    fan_out(at=AT)
    assert to.messages.get().type == "organization.reactivated"
    assert [row.pattern for row in to.subscriptions.all()] == ["organization.reactivated"]


def test_what_is_pending_goes_to_the_new_url(seller: Any, receiver: Receiver) -> None:
    to, _ = endpoint(seller, f"{receiver.url}/old")
    happens(seller)
    fan_out(at=AT)
    services.update_endpoint(endpoint=to, url=f"{receiver.url}/new", actor=SYSTEM, at=AT)
    deliver_due(at=AT)
    assert [request.path for request in receiver.requests] == ["/new"]


def test_a_deleted_endpoint_is_over_for_good(seller: Any, receiver: Receiver) -> None:
    to, _ = endpoint(seller, receiver.url)
    message = services.send_test_event(endpoint=to, actor=SYSTEM, at=AT)
    services.delete_endpoint(endpoint=to, actor=SYSTEM, at=AT)
    assert deliver_due(at=AT).sent == 0
    assert cancel_of_deleted() == 1
    message.refresh_from_db()
    assert message.status == "cancelled"
    assert not WebhookSecret.objects.exists()
    for verb in (services.send_test_event, services.enable_endpoint, services.disable_endpoint):
        with pytest.raises(StateConflict):
            verb(endpoint=to, actor=SYSTEM, at=AT)
    with pytest.raises(StateConflict):
        services.rotate_secret(endpoint=to, actor=SYSTEM, at=AT)
    with pytest.raises(StateConflict):
        services.resend_message(message=message, actor=SYSTEM, at=AT)
    assert receiver.requests == []


def test_a_test_event_is_signed_logged_and_says_what_it_is(seller: Any, receiver: Receiver) -> None:
    to, secret = endpoint(seller, receiver.url)
    message = services.send_test_event(endpoint=to, actor=SYSTEM, at=AT)
    deliver_due(at=AT)
    (request,) = receiver.requests
    assert request.signed_with(secret)
    assert request.id == message.webhook_id
    assert request.json["type"] == "webhook.test"
    assert request.json["data"]["object_id"] == str(to.pk)
    assert message.log.count() == 1


def test_a_disabled_endpoint_is_not_tested(seller: Any) -> None:
    to, _ = endpoint(seller, HOOK)
    services.disable_endpoint(endpoint=to, actor=SYSTEM, at=AT)
    with pytest.raises(StateConflict, match="disabled"):
        services.send_test_event(endpoint=to, actor=SYSTEM, at=AT)
    assert not WebhookMessage.objects.exists()


def test_all_that_failed_since_an_instant_is_sent_again_and_nothing_else(
    seller: Any, receiver: Receiver
) -> None:
    to, _ = endpoint(seller, receiver.url)
    old, failed, delivered = (services.send_test_event(endpoint=to, actor=SYSTEM, at=AT) for _ in range(3))
    now = timezone.now()
    ended = {"due_at": None}
    WebhookMessage.objects.filter(pk=delivered.pk).update(delivered_at=now, **ended)
    WebhookMessage.objects.filter(pk__in=[old.pk, failed.pk]).update(failed_at=now, **ended)
    WebhookMessage.objects.filter(pk=old.pk).update(created_at=now - timedelta(days=9))
    since = now - timedelta(days=7)
    assert services.resend_failed(endpoint=to, since=since, actor=SYSTEM, at=AT) == 1
    deliver_due(at=AT)
    assert [request.id for request in receiver.requests] == [failed.webhook_id]


def test_many_that_failed_are_sent_again_in_batches_and_what_fails_afterwards_is_not(
    seller: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(delivery, "BATCH", 2)
    to, _ = endpoint(seller, HOOK)
    for _ in range(5):
        services.send_test_event(endpoint=to, actor=SYSTEM, at=AT)
    to.messages.update(due_at=None, failed_at=timezone.now())
    since = timezone.now() - timedelta(days=1)
    assert services.resend_failed(endpoint=to, since=since, actor=SYSTEM, at=AT) == 2
    assert to.messages.filter(failed_at__isnull=False).count() == 3
    again = to.messages.filter(due_at__isnull=False)[0]
    WebhookMessage.objects.filter(pk=again.pk).update(due_at=None, failed_at=timezone.now())
    keep()
    assert list(to.messages.filter(failed_at__isnull=False)) == [again]
    keep()
    assert to.messages.filter(failed_at__isnull=False).count() == 1
    assert WebhookHealth.objects.get(pk=to.pk).resend_since is None


def test_enabling_makes_a_bounded_number_due_at_once(seller: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(delivery, "BATCH", 2)
    to, _ = endpoint(seller, HOOK)
    for _ in range(3):
        services.send_test_event(endpoint=to, actor=SYSTEM, at=AT)
    services.disable_endpoint(endpoint=to, actor=SYSTEM, at=AT)
    later = timezone.now() + timedelta(hours=1)
    to.messages.update(due_at=later)
    services.enable_endpoint(endpoint=to, actor=SYSTEM, at=AT)
    assert to.messages.filter(due_at__lte=timezone.now()).count() == 2
    assert to.messages.filter(due_at=later).count() == 1


def test_what_is_being_sent_is_not_sent_again_beside_it(seller: Any) -> None:
    to, _ = endpoint(seller, HOOK)
    message = services.send_test_event(endpoint=to, actor=SYSTEM, at=AT)
    WebhookMessage.objects.filter(pk=message.pk).update(
        lease_token=to.pk, due_at=timezone.now() + timedelta(seconds=30)
    )
    with pytest.raises(StateConflict, match="just now"):
        services.resend_message(message=message, actor=SYSTEM, at=AT)


def test_who_may_not_read_what_a_message_tells_of_does_not_send_it_again(seller: Any, key: Any) -> None:
    to, _ = endpoint(seller, HOOK, "payout.*")
    message = WebhookMessage.objects.create(
        endpoint=to, event_id=uuid7(), type="payout.paid", body=b"{}", failed_at=timezone.now()
    )
    user = User.objects.create_user("someone")
    user.user_permissions.add(Permission.objects.get(codename="operate_webhookendpoint"))
    for actor in (Actor.for_user(User.objects.get(pk=user.pk)), key("organizations:read")):
        with pytest.raises(PermissionDenied, match=r"payout\.paid"):
            services.resend_message(message=message, actor=actor, at=AT)
    message.refresh_from_db()
    assert (message.status, message.due_at) == ("failed", None)
    user.user_permissions.add(Permission.objects.get(codename="view_payout"))
    for actor in (Actor.for_user(User.objects.get(pk=user.pk)), key("payouts:read")):
        assert services.resend_message(message=message, actor=actor, at=AT).status == "pending"


@pytest.mark.parametrize("group", ["viewer", "approver", "admin"])
def test_who_only_looks_changes_nothing(seller: Any, group: str) -> None:
    to, _ = endpoint(seller, HOOK)
    message = services.send_test_event(endpoint=to, actor=SYSTEM, at=AT)
    actor = member(group)
    calls: list[Any] = [
        lambda: services.create_endpoint(
            organization=seller, url=HOOK, event_types=["organization.*"], actor=actor, at=AT
        ),
        lambda: services.update_endpoint(endpoint=to, description="x", actor=actor, at=AT),
        lambda: services.rotate_secret(endpoint=to, actor=actor, at=AT),
        lambda: services.disable_endpoint(endpoint=to, actor=actor, at=AT),
        lambda: services.delete_endpoint(endpoint=to, actor=actor, at=AT),
        lambda: services.send_test_event(endpoint=to, actor=actor, at=AT),
        lambda: services.resend_message(message=message, actor=actor, at=AT),
        lambda: services.resend_failed(endpoint=to, since=AT, actor=actor, at=AT),
        lambda: services.reseal_secrets(actor=actor, at=AT),
    ]
    for call in calls:
        with pytest.raises(PermissionDenied):
            call()
    assert (WebhookEndpoint.objects.get().version, WebhookSecret.objects.count()) == (1, 1)


def test_an_operator_may(seller: Any) -> None:
    to, _ = endpoint(seller, HOOK)
    operator = member("operator")
    services.disable_endpoint(endpoint=to, actor=operator, at=AT)
    services.enable_endpoint(endpoint=to, actor=operator, at=AT)
    services.rotate_secret(endpoint=to, actor=operator, at=AT)
    to.refresh_from_db()
    assert (to.status, to.version) == ("enabled", 4)


def test_messages_are_forgotten_with_their_attempts_a_while_after_their_end(
    seller: Any, settings: Any
) -> None:
    settings.WEBHOOK_LOG_DAYS = 40
    to, _ = endpoint(seller, HOOK)
    now = timezone.now()

    def message(days: int, **end: Any) -> WebhookMessage:
        made = now - timedelta(days=days)
        one = WebhookMessage.objects.create(
            id=first_at(made), endpoint=to, event_id=uuid7(), type="webhook.test", body=b"{}", **end
        )
        WebhookAttempt.objects.create(message=one, number=1, at=made, duration_ms=1)
        return one

    message(50, delivered_at=now - timedelta(days=41))
    message(60, cancelled_at=now - timedelta(days=41))
    kept = {
        message(51, failed_at=now - timedelta(days=39)).pk,
        message(52, due_at=now + timedelta(hours=1)).pk,
    }
    keep()
    assert set(WebhookMessage.objects.values_list("pk", flat=True)) == kept
    assert set(WebhookAttempt.objects.values_list("message", flat=True)) == kept


@pytest.mark.parametrize(("days", "errors"), [(30, ["webhooks.E003"]), (31, [])])
def test_a_log_shorter_than_the_database_keeps_it_is_refused(
    settings: Any, days: int, errors: list[str]
) -> None:
    settings.WEBHOOK_LOG_DAYS = days
    assert [error.id for error in checks.log_days(None)] == errors


def test_attempts_are_never_changed_nor_removed_for_a_month(seller: Any, receiver: Receiver) -> None:
    to, _ = endpoint(seller, receiver.url)
    services.send_test_event(endpoint=to, actor=SYSTEM, at=AT)
    deliver_due(at=AT)
    for statement in ("UPDATE webhooks_webhookattempt SET number = 9", "DELETE FROM webhooks_webhookattempt"):
        with pytest.raises(IntegrityError), transaction.atomic(), connection.cursor() as cursor:
            cursor.execute(statement)


def test_the_status_says_what_waits_and_who_fails(seller: Any, receiver: Receiver) -> None:
    to, _ = endpoint(seller, receiver.url)
    services.send_test_event(endpoint=to, actor=SYSTEM, at=AT)
    happens(seller)
    WebhookMessage.objects.update(due_at=timezone.now() - timedelta(minutes=1))
    now = status()
    assert (now["events_pending"], now["endpoints_enabled"], now["endpoints_failing"]) == (1, 1, 0)
    assert 50 < now["oldest_due_seconds"] < 70
    receiver.status = 500
    deliver_due(at=AT)
    fan_out(at=AT)
    now = status()
    assert (now["events_pending"], now["endpoints_failing"], now["oldest_due_seconds"]) == (0, 1, 0)
