"""A state change, its log line and its event are one transaction, allowed by state and by permission."""

import threading
from collections.abc import Callable
from datetime import UTC, datetime, timedelta

import pytest
from django.core.exceptions import ImproperlyConfigured
from django.db import IntegrityError, connection, transaction

from commerce.actor import Actor
from commerce.console.models import ReviewItem
from commerce.console.services import open_review
from commerce.errors import PermissionDenied, StateConflict
from commerce.models import TransitionLog
from commerce.outbox import catalog, registry
from commerce.outbox.models import OutboxEvent
from commerce.parties.models import Organization
from commerce.states import available, transition, transition_all

AT = datetime(2027, 3, 1, tzinfo=UTC)
SYSTEM = Actor.system("test")
NOBODY = Actor(
    type="api_key", id="1", label="A reading key", permissions=frozenset({"console.view_reviewitem"})
)
CLERK = Actor(
    type="api_key",
    id="2",
    label="A clerk",
    permissions=frozenset({"console.claim_reviewitem"}),
    request_id="r-1",
)

Make = Callable[..., Organization]


@pytest.fixture
def item(db: None) -> ReviewItem:
    return open_review(
        kind="test", subject_type="parties.organization", subject_id="1", title="A thing", actor=SYSTEM, at=AT
    )


def counts() -> tuple[int, int]:
    return TransitionLog.objects.count(), OutboxEvent.objects.count()


def test_the_change_the_log_and_the_event_agree(organization_of: Make) -> None:
    seller = organization_of("seller")
    fresh = transition(seller, "activate", actor=SYSTEM, at=AT, reason="ready", payload={"roles": []})
    assert fresh.onboarding_status == "active"
    assert seller.onboarding_status == "registered", "the caller's copy is not touched"
    line = TransitionLog.objects.get(object_id=str(seller.pk))
    assert (line.model, line.field, line.name) == ("parties.organization", "onboarding_status", "activate")
    assert (line.source, line.target, line.at) == ("registered", "active", AT)
    assert (line.actor, line.reason) == ("system:test", "ready")
    event = OutboxEvent.objects.get(aggregate_id=str(seller.pk))
    assert (event.type, event.aggregate_type, event.occurred_at) == (
        "organization.activated",
        "organization",
        AT,
    )
    assert event.payload == {**fresh.event_payload(), "roles": []}
    assert event.payload["onboarding_status"] == "active"
    assert event.headers["actor"] == "system:test"


def test_arguments_reach_the_method_and_a_change_without_event_writes_none(item: ReviewItem) -> None:
    events = OutboxEvent.objects.count()
    fresh = transition(item, "claim", actor=CLERK, at=AT, by="ann", claimed_at=AT)
    assert (fresh.status, fresh.assignee, fresh.claimed_at) == ("claimed", "ann", AT)
    assert OutboxEvent.objects.count() == events
    line = TransitionLog.objects.get(object_id=str(item.pk))
    assert (line.actor, line.request_id) == ("api_key:2", "r-1")


def test_without_the_permission_nothing_happens(item: ReviewItem) -> None:
    before = counts()
    with pytest.raises(
        PermissionDenied, match=r"A reading key lacks the permission console\.claim_reviewitem"
    ):
        transition(item, "claim", actor=NOBODY, at=AT, by="ann", claimed_at=AT)
    item.refresh_from_db()
    assert (item.status, item.assignee) == ("open", "")
    assert counts() == before


def test_a_state_that_does_not_allow_it_is_named_with_those_that_do(organization_of: Make) -> None:
    seller = organization_of("seller")
    before = counts()
    with pytest.raises(StateConflict) as refused:
        transition(seller, "suspend", actor=SYSTEM, at=AT)
    assert str(refused.value) == (
        f"organization {seller.pk} is registered; suspend is allowed only when active."
    )
    assert refused.value.extra == {"state": "registered", "transition": "suspend"}
    assert (refused.value.status, refused.value.code) == (409, "state_conflict")
    with pytest.raises(StateConflict, match="is active; activate is allowed only when registered, verifying"):
        transition(transition(seller, "activate", actor=SYSTEM, at=AT), "activate", actor=SYSTEM, at=AT)
    assert counts() == (before[0] + 1, before[1] + 1)


def test_the_state_that_counts_is_the_one_in_the_database(organization_of: Make) -> None:
    stale = organization_of("seller")
    transition(stale, "reject", actor=SYSTEM, at=AT)
    assert stale.onboarding_status == "registered"
    with pytest.raises(StateConflict, match="is rejected"):
        transition(stale, "activate", actor=SYSTEM, at=AT)


def test_what_is_rolled_back_leaves_nothing(organization_of: Make) -> None:
    seller = organization_of("seller")
    before = counts()
    with pytest.raises(RuntimeError), transaction.atomic():
        transition(seller, "activate", actor=SYSTEM, at=AT)
        raise RuntimeError
    seller.refresh_from_db()
    assert seller.onboarding_status == "registered"
    assert counts() == before


def test_an_event_that_cannot_be_written_takes_the_change_with_it(
    organization_of: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    seller = organization_of("seller")
    before = counts()
    monkeypatch.setattr(registry, "_handlers", {})
    monkeypatch.setattr(catalog, "_types", {})
    with pytest.raises(ImproperlyConfigured):
        transition(seller, "activate", actor=SYSTEM, at=AT)
    seller.refresh_from_db()
    assert seller.onboarding_status == "registered"
    assert counts() == before


def test_a_change_that_the_database_refuses_is_not_logged(item: ReviewItem) -> None:
    before = counts()
    with pytest.raises(IntegrityError, match="review_item_resolved_at"), transaction.atomic():
        transition(item, "resolve", actor=SYSTEM, at=AT, code="done", note="", resolved_at=None)
    item.refresh_from_db()
    assert item.status == "open"
    assert counts() == before


def test_a_method_called_past_the_choke_point_can_be_saved_only_along_declared_pairs(
    item: ReviewItem,
) -> None:
    ReviewItem.objects.filter(pk=item.pk).update(status="snoozed")
    with pytest.raises(IntegrityError, match='may not go from "snoozed" to "open"'), transaction.atomic():
        ReviewItem.objects.filter(pk=item.pk).update(status="open")


def test_what_is_possible_is_said_before_it_is_tried(organization_of: Make) -> None:
    seller = organization_of("seller")
    assert available(seller, "activate") == ""
    assert available(seller, "suspend") == "Not possible while registered."


def test_the_log_of_changes_is_never_rewritten(organization_of: Make) -> None:
    transition(organization_of("seller"), "activate", actor=SYSTEM, at=AT)
    for change in (
        lambda: TransitionLog.objects.update(actor="user:1"),
        lambda: TransitionLog.objects.all()._raw_delete("default"),  # type: ignore[attr-defined]
    ):
        with pytest.raises(IntegrityError, match="never changed or removed"), transaction.atomic():
            change()
    assert TransitionLog.objects.get().actor == "system:test"


@pytest.mark.django_db(transaction=True)
def test_of_two_at_the_same_time_one_wins_and_the_other_is_told(organization_of: Make) -> None:
    seller = organization_of("seller")
    start, outcomes = threading.Barrier(4), []

    def change(name: str) -> None:
        start.wait()
        try:
            transition(Organization.objects.get(pk=seller.pk), name, actor=SYSTEM, at=AT + timedelta(days=1))
            outcomes.append(name)
        except StateConflict as error:
            outcomes.append(error.code)
        finally:
            connection.close()

    threads = [threading.Thread(target=change, args=(name,)) for name in ("activate", "reject") * 2]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert outcomes.count("state_conflict") == 3
    assert TransitionLog.objects.filter(object_id=str(seller.pk)).count() == 1
    assert OutboxEvent.objects.filter(aggregate_id=str(seller.pk)).count() == 1


def questions(count: int) -> list[ReviewItem]:
    return [
        open_review(
            kind="test", subject_type="parties.organization", subject_id=n, title="A thing",
            actor=SYSTEM, at=AT,
        )
        for n in range(count)
    ]  # fmt: skip


def test_many_rows_move_together_and_say_what_one_would(db: None) -> None:
    items = questions(3)
    logged, told = counts()
    arguments = {item.pk: {"by": f"clerk {n}", "claimed_at": AT} for n, item in enumerate(items)}

    fresh = transition_all(items, "claim", actor=SYSTEM, at=AT, reason="ready", arguments=arguments)

    stored = ReviewItem.objects.in_bulk([item.pk for item in items])
    assert {item.status for item in fresh} == {"claimed"} == {item.status for item in stored.values()}
    assert [stored[item.pk].assignee for item in items] == ["clerk 0", "clerk 1", "clerk 2"]
    lines = TransitionLog.objects.filter(name="claim")
    assert {(line.source, line.target, line.reason) for line in lines} == {("open", "claimed", "ready")}
    assert TransitionLog.objects.count() == logged + 3
    assert OutboxEvent.objects.count() >= told


def test_of_many_rows_none_moves_when_one_may_not(db: None) -> None:
    items = questions(2)
    arguments = {item.pk: {"by": "clerk", "claimed_at": AT} for item in items}
    transition(items[1], "claim", actor=SYSTEM, at=AT, by="clerk", claimed_at=AT)
    before = counts()

    with pytest.raises(StateConflict):
        transition_all(items, "claim", actor=SYSTEM, at=AT, arguments=arguments)

    items[0].refresh_from_db()
    assert items[0].status == "open"
    assert counts() == before
    assert transition_all([], "claim", actor=SYSTEM, at=AT) == []
