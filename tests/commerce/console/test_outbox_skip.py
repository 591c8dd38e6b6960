"""Giving up an event: one event, by two people, kept for ever, whatever door they come through."""

from collections.abc import Iterator
from dataclasses import replace
from datetime import timedelta
from io import StringIO
from typing import Any

import pytest
from django.contrib.auth.models import User
from django.core.management import call_command
from django.db import DatabaseError, connection, transaction
from django.test import Client
from django.utils import timezone

from commerce.actor import Actor
from commerce.console import approvals
from commerce.console.demo_users import ensure_demo_users
from commerce.console.models import Approval, ApprovalStatus
from commerce.console.outbox_skip import request_skip
from commerce.errors import CommerceError, PermissionDenied, Rejected, StateConflict
from commerce.models import TransitionLog
from commerce.outbox import append, catalog, claims, drain, on, registry, services
from commerce.outbox.invariants import published_before_its_effects, sleeping_streams
from commerce.outbox.models import Circuit, OutboxArchive, OutboxEvent, OutboxSkip, OutboxStream
from tests.commerce.console.conftest import AT, SYSTEM, fingerprint_on

pytestmark = pytest.mark.django_db(transaction=True)


@pytest.fixture(autouse=True)
def handled(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[int]]:
    """Numbers that the effect was run for; the effect of 1 is refused."""
    monkeypatch.setattr(registry, "_handlers", {})
    done: list[int] = []

    @on("thing.done", group="g")
    def handle(event: OutboxEvent) -> None:
        if event.payload["n"] == 1:
            raise Rejected("no such account")
        done.append(event.payload["n"])

    return done


@pytest.fixture
def people() -> dict[str, Actor]:
    ensure_demo_users()
    User.objects.create_superuser("root", password="root")
    return {user.username: Actor.for_user(user) for user in User.objects.all()}


@pytest.fixture
def parked() -> OutboxStream:
    for n in (1, 2, 3):
        with transaction.atomic():
            append("thing", "1", "thing.done", {"n": n}, at=AT)
    drain()
    stream = OutboxStream.objects.get(group="g")
    assert stream.parked_at
    return stream


def ask(stream: OutboxStream, actor: Actor) -> Approval:
    stream.refresh_from_db()
    return request_skip(stream=stream, actor=actor, at=AT, reason="Paid by wire.")


def test_two_people_skip_one_event_and_the_stream_goes_on(
    parked: OutboxStream, people: dict[str, Actor], handled: list[int]
) -> None:
    approval = ask(parked, people["operator"])
    drain()
    assert handled == [], "skipped by one person"
    approval = approvals.approve(approval=approval, actor=people["approver"], at=AT)
    drain()
    claims.publish_left()
    assert handled == [2, 3]
    skip = OutboxSkip.objects.get()
    first = OutboxEvent.objects.get(aggregate_type="thing", sequence=1)
    assert (skip.event_id, skip.sequence, skip.reason) == (first.event_id, 1, "Paid by wire.")
    assert (skip.requested_by, skip.approved_by) == (str(people["operator"]), str(people["approver"]))
    assert "no such account" in skip.error
    assert (approval.result_type, approval.result_id) == ("outbox.outboxskip", str(skip.pk))
    assert first.published_at is not None
    assert list(published_before_its_effects()) == list(sleeping_streams()) == []


@pytest.mark.parametrize(
    ("maker", "checker"), [("operator", "operator"), ("root", "root"), ("operator", "viewer")]
)
def test_nobody_skips_alone(
    parked: OutboxStream, people: dict[str, Actor], handled: list[int], maker: str, checker: str
) -> None:
    approval = ask(parked, people[maker])
    with pytest.raises(PermissionDenied):
        approvals.approve(approval=approval, actor=people[checker], at=AT)
    drain()
    assert handled == []
    assert not OutboxSkip.objects.exists()


@pytest.mark.parametrize(
    "actor", [SYSTEM, Actor("api_key", "1", permissions=frozenset({services.PERMISSION}))]
)
def test_only_a_person_asks(parked: OutboxStream, actor: Actor) -> None:
    with pytest.raises(PermissionDenied):
        ask(parked, actor)
    assert not Approval.objects.exists()


def test_who_may_not_operate_does_not_ask(parked: OutboxStream, people: dict[str, Actor]) -> None:
    for name in ("viewer", "approver", "admin"):
        with pytest.raises(PermissionDenied):
            ask(parked, people[name])


def test_a_request_is_for_one_event_and_overtaken_when_the_stream_went_on(
    parked: OutboxStream, people: dict[str, Actor], handled: list[int]
) -> None:
    approval = ask(parked, people["operator"])
    OutboxStream.objects.filter(pk=parked.pk).update(cursor=1, parked_reason="thing.done #2: other")
    approval = approvals.approve(approval=approval, actor=people["approver"], at=AT)
    assert approval.status == ApprovalStatus.CANCELLED
    assert "past thing.done #1 already" in approval.decision
    parked.refresh_from_db()
    assert (parked.cursor, OutboxSkip.objects.count()) == (1, 0)


def test_a_stream_that_was_resumed_is_not_skipped(parked: OutboxStream, people: dict[str, Actor]) -> None:
    approval = ask(parked, people["operator"])
    services.resume_stream(stream=parked, actor=SYSTEM, at=AT)
    with pytest.raises(StateConflict, match="park it first"):
        approvals.approve(approval=approval, actor=people["approver"], at=AT)
    with pytest.raises(StateConflict, match="park it first"):
        ask(parked, people["root"])
    assert not OutboxSkip.objects.exists()


def test_a_stream_that_stands_at_nothing_has_nothing_to_skip(people: dict[str, Actor]) -> None:
    idle = OutboxStream.objects.create(
        aggregate_type="thing", aggregate_id="7", group="g", parked_at=timezone.now(), parked_reason="x"
    )
    with pytest.raises(StateConflict, match="no event"):
        ask(idle, people["operator"])
    services.resume_stream(stream=idle, actor=SYSTEM, at=AT)
    idle.refresh_from_db()
    assert (idle.parked_at, idle.due_at) == (None, None)


def test_the_database_refuses_a_skip_by_one_person_or_by_no_person(parked: OutboxStream) -> None:
    facts: dict[str, Any] = {
        "stream": parked, "sequence": 1, "type": "thing.done", "group": "g", "error": "x", "reason": "x",
        "event_id": OutboxEvent.objects.get(aggregate_type="thing", sequence=1).event_id, "skipped_at": AT,
    }  # fmt: skip
    for first, second in (("user:1", "user:1"), ("system:a", "user:1"), ("user:1", "api_key:1")):
        with pytest.raises(DatabaseError), transaction.atomic():
            OutboxSkip.objects.create(**facts, requested_by=first, approved_by=second)
    skip = OutboxSkip.objects.create(**facts, requested_by="user:1", approved_by="user:2")
    with pytest.raises(DatabaseError), transaction.atomic():
        skip.delete()


def command(*arguments: str, password: str, monkeypatch: pytest.MonkeyPatch) -> tuple[int, str]:
    out, err = StringIO(), StringIO()
    monkeypatch.setattr("sys.stdin", StringIO(f"{password}\n"))
    try:
        call_command("outbox", *arguments, stdout=out, stderr=err)
    except SystemExit as left:
        return int(str(left.code)), err.getvalue()
    return 0, out.getvalue()


def test_on_the_command_line_two_people_sign_in(
    parked: OutboxStream, people: dict[str, Actor], handled: list[int], clock: Any, monkeypatch: Any
) -> None:
    passwords = ensure_demo_users()
    asked = ("skip", str(parked.pk), "--as", "operator", "--reason", "Paid by wire.")
    assert command(*asked, password="wrong", monkeypatch=monkeypatch)[0] == 6
    assert not Approval.objects.exists()
    assert command(*asked, password=passwords["operator"], monkeypatch=monkeypatch)[0] == 0
    approval = Approval.objects.get()
    agreed = ("skip", "--approve", str(approval.pk), "--reason", "Seen.", "--as")
    code, said = command(*agreed, "operator", password=passwords["operator"], monkeypatch=monkeypatch)
    assert (code, "permission" in said) == (6, True)
    assert not OutboxSkip.objects.exists()
    code, said = command(*agreed, "approver", password=passwords["approver"], monkeypatch=monkeypatch)
    assert (code, said) == (0, "skipped; the stream goes on\n")
    drain()
    assert handled == [2, 3]


def test_a_retry_takes_no_stream_from_a_worker_and_wakes_no_idle_one(parked: OutboxStream) -> None:
    for change, sentence in (
        ({}, "resume it instead"),
        ({"parked_at": None, "due_at": None}, "Nothing waits"),
    ):
        OutboxStream.objects.filter(pk=parked.pk).update(**change)
        with pytest.raises(CommerceError, match=sentence):
            services.retry_stream(stream=parked, actor=SYSTEM, at=AT)


def archive(event: OutboxEvent) -> None:
    """Its row is gone and its month counts as archived."""
    begins = timezone.now() + timedelta(days=1)
    OutboxArchive.objects.create(
        month=event.recorded_at.date().replace(day=1), step=OutboxArchive.Step.REMOVED, horizon=begins,
        events=1, events_sha256="0" * 64, failures=0, failures_sha256="0" * 64, noted_at=AT, actor="x",
    )  # fmt: skip
    with transaction.atomic(), connection.cursor() as cursor:
        cursor.execute("ALTER TABLE outbox_outboxevent DISABLE TRIGGER guard_kept")
        cursor.execute("DELETE FROM outbox_outboxevent WHERE id = %s", [event.pk])
        cursor.execute("ALTER TABLE outbox_outboxevent ENABLE ALWAYS TRIGGER guard_kept")


def test_a_request_whose_event_was_archived_is_still_shown(
    parked: OutboxStream, people: dict[str, Actor], browser: Any
) -> None:
    first = OutboxEvent.objects.get(aggregate_type="thing", sequence=1)
    approval = ask(parked, people["operator"])
    approval = approvals.approve(approval=approval, actor=people["approver"], at=AT)
    archive(first)
    assert approvals.describe(approval) == "g without thing.done #1."
    page = browser("viewer").get(f"/admin/console/approval/{approval.pk}/change/")
    assert page.status_code == 200
    assert "g without thing.done #1." in page.content.decode()


def test_a_request_that_waits_for_an_archived_event_is_overtaken(
    parked: OutboxStream, people: dict[str, Actor], browser: Any
) -> None:
    approval = ask(parked, people["operator"])
    archive(OutboxEvent.objects.get(aggregate_type="thing", sequence=1))
    assert "is archived" in approvals.describe(approval)
    assert browser("viewer").get(f"/admin/console/approval/{approval.pk}/change/").status_code == 200
    assert approvals.close_overtaken(at=AT) == 1
    approval.refresh_from_db()
    assert (approval.status, OutboxSkip.objects.count()) == (ApprovalStatus.CANCELLED, 0)


def test_a_skip_is_in_the_log_of_its_stream(parked: OutboxStream, people: dict[str, Actor]) -> None:
    approval = ask(parked, people["operator"])
    assert not TransitionLog.objects.filter(model="outbox.outboxstream").exists()
    approvals.approve(approval=approval, actor=people["approver"], at=AT)
    done = TransitionLog.objects.get(model="outbox.outboxstream", object_id=str(parked.pk))
    assert (done.name, done.actor, done.reason) == ("skip", str(people["approver"]), "Paid by wire.")


def test_the_streams_page_shows_what_the_event_says_and_who_intervened(
    parked: OutboxStream, people: dict[str, Actor], browser: Any
) -> None:
    services.resume_stream(stream=parked, actor=people["operator"], at=AT, reason="It was opened.")
    services.park_stream(stream=parked, actor=people["operator"], at=AT, reason="A holiday.")
    page = browser("viewer").get(f"/admin/outbox/outboxstream/{parked.pk}/change/").content.decode()
    assert "&quot;n&quot;: 1" in page
    assert "It was opened." in page
    assert "A holiday." in page


def test_a_line_has_no_row_before_the_permission_was_asked_for(browser: Any) -> None:
    on("thing.paid", group="bank", provider="bank")(lambda event: None)
    url = "/admin/outbox/circuit/bank/do/pause/"
    assert browser("viewer").post(url, {"reason": "x"}).status_code == 403
    assert not Circuit.objects.exists()
    operator = browser("operator")
    answer = operator.post(url, {"reason": "Harm.", "fingerprint": fingerprint_on(operator.get(url))})
    assert answer.status_code == 302
    services.resume_lane(lane="bank", actor=SYSTEM, at=AT, reason="Over.")
    page = operator.get("/admin/outbox/circuit/bank/change/").content.decode()
    assert "Harm." in page
    assert "Over." in page


def test_the_pages_of_an_event_of_a_newer_version_say_so_and_skip_it(
    monkeypatch: pytest.MonkeyPatch, people: dict[str, Actor]
) -> None:
    """Its payload has an amount that nothing here can read."""
    on("payout.approved", group="g")(lambda event: None)
    known = catalog.event_type("payout.approved")
    assert known
    with monkeypatch.context() as newer, transaction.atomic():
        newer.setitem(catalog._types, known.name, replace(known, version=99))
        event = append("payout", str(known.example["payout_id"]), known.name, known.example, at=AT)
    drain()
    stream = OutboxStream.objects.get(aggregate_type="payout", group="g")
    assert stream.parked_reason.startswith("payout.approved #1: UnknownVersion")
    client = Client()
    client.force_login(User.objects.get(username="operator"))
    skip = client.get(f"/admin/outbox/outboxstream/{stream.pk}/do/skip/")
    assert "g is never given payout.approved #1" in skip.content.decode()
    again = client.get(f"/admin/outbox/outboxevent/{event.pk}/do/replay/")
    assert "A newer release wrote it, in version 99" in again.content.decode()
    for page in (f"outboxstream/{stream.pk}", f"outboxevent/{event.pk}"):
        assert client.get(f"/admin/outbox/{page}/change/").status_code == 200
    approval = request_skip(stream=stream, actor=people["operator"], at=AT, reason="x")
    assert approval.value_minor is None
    approvals.approve(approval=approval, actor=people["approver"], at=AT)
    stream.refresh_from_db()
    assert (stream.cursor, stream.parked_at) == (1, None)
