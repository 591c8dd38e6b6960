"""Maker and checker: who asks never decides, what was asked never changes, and both commit or neither."""

import json
import re
import threading
from collections.abc import Callable
from datetime import timedelta
from io import StringIO
from typing import Any
from uuid import UUID, uuid4

import pytest
from django.contrib.auth.models import User
from django.core.exceptions import ImproperlyConfigured
from django.core.management import call_command
from django.db import DatabaseError, connection, transaction
from django.test import Client

from commerce.actor import Actor
from commerce.api.services import issue_key
from commerce.console import approvals, panels, registry
from commerce.console.approvals import Operation, approve, cancel, reject, request_approval
from commerce.console.demo_users import ensure_demo_users
from commerce.console.groups import permissions_by_group
from commerce.console.models import Approval, ReviewItem
from commerce.console.services import open_review
from commerce.errors import CommerceError, Conflict, InvalidInput, NotFound, PermissionDenied, StateConflict
from commerce.invariants import REGISTRY
from commerce.models import TransitionLog
from commerce.money import Money
from commerce.outbox.models import OutboxEvent
from commerce.parties.models import Organization
from commerce.tasks import expire_approvals
from tests.commerce.console.conftest import AT, SYSTEM, fingerprint_on

Browser = Callable[..., Client]
SOON = AT + timedelta(hours=1)


def note(*, approval: Approval, actor: Actor, at: Any) -> ReviewItem:
    """The operation of these tests leaves a review item, unless it is asked for what cannot be."""
    item = open_review(
        kind="noted",
        subject_type=approval.subject_type,
        subject_id=approval.subject_id,
        title=approval.arguments["title"],
        actor=actor,
        at=at,
    )
    if approval.arguments.get("impossible"):
        raise Conflict("The books are closed.")
    return item


NOTE = Operation(
    "test.note",
    "Leave a note",
    maker="console.claim_reviewitem",
    checker="payouts.approve_payout",
    run=note,
    describe=lambda approval: f"A note <{approval.arguments['title']}> is left.",
)


@pytest.fixture(autouse=True)
def _own_operations(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(approvals, "_operations", {})
    approvals.register_operation(NOTE)


@pytest.fixture
def people(db: None) -> dict[str, Actor]:
    ensure_demo_users()
    User.objects.create_superuser("root", password="root")
    User.objects.create_superuser("other", password="other")
    return {user.username: Actor.for_user(user) for user in User.objects.all()}


@pytest.fixture
def maker(people: dict[str, Actor]) -> Actor:
    return people["operator"]


@pytest.fixture
def checker(people: dict[str, Actor]) -> Actor:
    return people["approver"]


def ask(actor: Actor, **more: Any) -> Approval:
    given: dict[str, Any] = {
        "operation": "test.note",
        "arguments": {"title": "Look here", "amount_minor": 500},
        "subject_type": "billing.Invoice",
        "subject_id": "1",
        "reason": "A customer called.",
        "at": AT,
    }
    return request_approval(**given | {"actor": actor} | more)


@pytest.fixture
def approval(maker: Actor) -> Approval:
    return ask(maker)


def status(approval: Approval) -> str:
    return Approval.objects.get(pk=approval.pk).status


def nothing_was_done(approval: Approval, still: str = "pending") -> bool:
    return status(approval) == still and not ReviewItem.objects.exists()


def events() -> list[str]:
    return list(OutboxEvent.objects.order_by("id").values_list("type", flat=True))


def refused_by_the_database(change: str, approval: Approval) -> str:
    """The SQLSTATE with which the database refuses a change to the row; "" when it does not."""
    try:
        with transaction.atomic(), connection.cursor() as cursor:
            cursor.execute(f"UPDATE console_approval SET {change} WHERE id = %s", [approval.pk])
    except DatabaseError as error:
        return str(getattr(error.__cause__, "sqlstate", "?"))
    return ""


def forge(change: str, approval: Approval) -> None:
    """What somebody can do who owns the database."""
    with connection.cursor() as cursor:
        cursor.execute("ALTER TABLE console_approval DISABLE TRIGGER USER")
        cursor.execute(f"UPDATE console_approval SET {change} WHERE id = %s", [approval.pk])
        cursor.execute("ALTER TABLE console_approval ENABLE TRIGGER USER")
        cursor.execute("SELECT tgname FROM pg_trigger WHERE tgrelid = 'console_approval'::regclass")
        for (name,) in cursor.fetchall():
            cursor.execute(f"ALTER TABLE console_approval ENABLE ALWAYS TRIGGER {name}")


def findings(code: str) -> list[str]:
    found = [finding for inv in REGISTRY if inv.code == code for finding in inv.check()]
    return [finding.detail for finding in found if finding.subject.startswith("approval:")]


# Requesting


def test_a_request_is_kept_with_its_hash_and_does_nothing(maker: Actor) -> None:
    approval = ask(maker, value=Money(500, "USD"))
    approval.refresh_from_db()
    assert nothing_was_done(approval)
    assert approvals.is_bound(approval)
    assert (approval.maker, approval.maker_name, approval.checker) == (str(maker), "operator", "")
    assert (approval.title, approval.subject_type) == ("Leave a note", "billing.invoice")
    assert approval.expires_at == AT + timedelta(days=7)
    assert approval.value == Money(500, "USD")
    assert events() == ["approval.requested"]


def test_who_may_not_request_requests_nothing(people: dict[str, Actor]) -> None:
    for name in ("viewer", "approver"):
        with pytest.raises(PermissionDenied):
            ask(people[name])
    assert not Approval.objects.exists()
    assert events() == []


def test_the_order_of_the_arguments_does_not_matter_and_all_else_does() -> None:
    subject = {"operation": "a", "subject_type": "b", "subject_id": "c"}
    one = approvals.digest(**subject, arguments={"x": 1, "y": {"p": 1, "q": 2}})
    assert one == approvals.digest(**subject, arguments={"y": {"q": 2, "p": 1}, "x": 1})
    others = [
        approvals.digest(**subject | {"operation": "z"}, arguments={"x": 1, "y": {"p": 1, "q": 2}}),
        approvals.digest(**subject | {"subject_id": "z"}, arguments={"x": 1, "y": {"p": 1, "q": 2}}),
        approvals.digest(**subject, arguments={"x": "1", "y": {"p": 1, "q": 2}}),
        approvals.digest(**subject, arguments={"x": 1, "y": {"p": 2, "q": 1}}),
    ]
    assert len({one, *others}) == 5


@pytest.mark.parametrize(
    "odd", [1.5, 1.0, float("nan"), UUID(int=7), (1, 2), {1: 2}, "a\x00b", "\ud800"], ids=repr
)
def test_arguments_that_would_not_come_back_as_they_are_are_refused(maker: Actor, odd: Any) -> None:
    with pytest.raises(InvalidInput) as refusal:
        ask(maker, arguments={"title": "x", "odd": odd})
    assert refusal.value.errors[0].pointer == "/arguments"
    assert not Approval.objects.exists()


def test_arguments_come_back_as_they_were(maker: Actor) -> None:
    arguments = {"title": "ä “x” \\u0000", "n": 2**53 - 1, "list": [1, "a", None, True, {"z": 1, "a": 2}]}
    approval = ask(maker, arguments=arguments)
    approval.refresh_from_db()
    assert approval.arguments == arguments
    assert approvals.is_bound(approval)


def test_a_request_says_why_and_expires_later(maker: Actor) -> None:
    for wrong in ({"reason": "  "}, {"expires_at": AT}):
        with pytest.raises(InvalidInput):
            ask(maker, **wrong)
    assert not Approval.objects.exists()


def test_the_same_waits_once(maker: Actor, approval: Approval, people: dict[str, Actor]) -> None:
    with pytest.raises(Conflict, match="requested by operator") as refusal:
        ask(people["root"], reason="Another reason.")
    assert refusal.value.code == "approval_pending"
    assert refusal.value.extra["approval_id"] == str(approval.pk)
    assert Approval.objects.count() == 1
    assert ask(maker, arguments={"title": "Another"}) != approval
    assert ask(maker, subject_id="2") != approval


def test_what_was_decided_or_has_expired_may_be_requested_again(maker: Actor, checker: Actor) -> None:
    first = ask(maker)
    reject(approval=first, actor=checker, at=SOON, reason="No.")
    second = ask(maker)
    later = second.expires_at
    third = ask(maker, at=later)
    assert (status(first), status(second), status(third)) == ("rejected", "expired", "pending")


def test_a_key_repeated_is_the_first_request(maker: Actor, checker: Actor) -> None:
    first = ask(maker, key="call-17")
    assert ask(maker, key="call-17") == first
    reject(approval=first, actor=checker, at=SOON, reason="No.")
    assert ask(maker, key="call-17") == first
    with pytest.raises(Conflict) as refusal:
        ask(maker, key="call-17", subject_id="2")
    assert refusal.value.code == "key_reused"
    assert Approval.objects.count() == 1
    assert events() == ["approval.requested", "approval.rejected"]


def test_an_operation_is_known_once(maker: Actor) -> None:
    approvals.register_operation(NOTE)
    with pytest.raises(ImproperlyConfigured):
        approvals.register_operation(
            Operation("test.note", "Another", "x.request_y", "x.approve_y", run=note, describe=str)
        )
    with pytest.raises(NotFound):
        ask(maker, operation="test.unknown")
    assert not Approval.objects.exists()


# Deciding


def test_approving_does_it_as_the_checker(approval: Approval, checker: Actor) -> None:
    done = approve(approval=approval, actor=checker, at=SOON, reason="Agreed.")
    item = ReviewItem.objects.get()
    assert (done.status, done.checker, done.checker_name) == ("approved", str(checker), "approver")
    assert (done.result_type, done.result_id) == ("console.reviewitem", str(item.pk))
    assert (done.decided_at, done.decision) == (SOON, "Agreed.")
    assert item.title == "Look here"
    assert events() == ["approval.requested", "review_item.opened", "approval.approved"]
    assert {event.headers["actor"] for event in OutboxEvent.objects.all()[1:]} == {str(checker)}
    log = TransitionLog.objects.get()
    assert (log.model, log.actor, log.reason) == ("console.approval", str(checker), "Agreed.")
    assert findings("I4") == []


def test_a_maker_cannot_decide_on_their_own_request(people: dict[str, Actor]) -> None:
    approval = ask(people["root"])
    for decide in (approve, reject):
        with pytest.raises(PermissionDenied, match="somebody else must"):
            decide(approval=approval, actor=people["root"], at=SOON, reason="Mine.")
    assert nothing_was_done(approval)
    decided = "status = 'approved', checker = maker, decided_at = now() - interval '9 years'"
    assert refused_by_the_database(decided, approval) == "23514"
    approve(approval=approval, actor=people["other"], at=SOON)
    assert status(approval) == "approved"


def test_a_system_may_request_and_decides_nothing(checker: Actor) -> None:
    approval = ask(SYSTEM)
    for decide in (approve, reject):
        with pytest.raises(PermissionDenied, match="a person must"):
            decide(approval=approval, actor=Actor.system("another"), at=SOON, reason="x")
    assert nothing_was_done(approval)
    decided = "status = 'approved', checker = 'system:x', decided_at = now() - interval '9 years'"
    assert refused_by_the_database(decided, approval) == "23514"
    approve(approval=approval, actor=checker, at=SOON)
    assert status(approval) == "approved"


def test_who_lacks_the_permission_decides_nothing(approval: Approval, people: dict[str, Actor]) -> None:
    for name in ("viewer", "operator", "admin"):
        for decide in (approve, reject):
            with pytest.raises(PermissionDenied):
                decide(approval=approval, actor=people[name], at=SOON, reason="x")
    for name in ("viewer", "approver", "admin"):
        with pytest.raises(PermissionDenied):
            cancel(approval=approval, actor=people[name], at=SOON)
    assert nothing_was_done(approval)
    assert not TransitionLog.objects.exists()


def test_when_the_service_refuses_nothing_is_approved(maker: Actor, checker: Actor) -> None:
    approval = ask(maker, arguments={"title": "x", "impossible": True})
    with pytest.raises(Conflict, match="books are closed"):
        approve(approval=approval, actor=checker, at=SOON)
    assert nothing_was_done(approval)
    assert events() == ["approval.requested"]
    assert not TransitionLog.objects.exists()


@pytest.mark.parametrize(("decide", "state"), [(reject, "rejected"), (cancel, "cancelled")])
def test_a_refused_or_withdrawn_request_does_nothing_ever(
    approval: Approval, people: dict[str, Actor], decide: Any, state: str
) -> None:
    decide(approval=approval, actor=people["other"], at=SOON, reason="Not now.")
    assert nothing_was_done(approval, state)
    for again in (approve, reject, cancel):
        with pytest.raises(StateConflict):
            again(approval=approval, actor=people["root"], at=SOON, reason="x")
    assert nothing_was_done(approval, state)
    assert events() == ["approval.requested", f"approval.{state}"]


def test_an_approval_counts_until_the_instant_it_expires(maker: Actor, checker: Actor) -> None:
    late, early = ask(maker), ask(maker, subject_id="2")
    with pytest.raises(StateConflict, match="expired on 2027-03-08"):
        approve(approval=late, actor=checker, at=late.expires_at)
    assert nothing_was_done(late)
    approve(approval=early, actor=checker, at=early.expires_at - timedelta(microseconds=1))
    assert status(early) == "approved"


def test_the_tick_expires_what_is_overdue_and_no_more(maker: Actor, clock: Any) -> None:
    due = ask(maker, expires_at=SOON)
    rest = ask(maker, subject_id="2")
    assert expire_approvals() == 0
    clock(SOON)
    assert expire_approvals() == 1
    assert (status(due), status(rest)) == ("expired", "pending")
    assert nothing_was_done(due, "expired")
    assert events().count("approval.expired") == 1
    assert expire_approvals() == 0


# What the database keeps


@pytest.mark.parametrize(
    "change",
    ["arguments = '{}'", "maker = 'user:0'", "operation = 'x'", "subject_id = '2'", "sha256 = ''",
     "expires_at = now() + interval '9 years'", "reason = 'x'", "requested_at = now()", "value_minor = 1"],
)  # fmt: skip
def test_what_was_requested_never_changes(approval: Approval, change: str) -> None:
    assert refused_by_the_database(change, approval) == "23001"


@pytest.mark.parametrize(
    "change",
    ["checker = 'user:0'", "decision = 'x'", "result_id = 'x'", "decided_at = now()", "status = 'pending'"],
)
def test_what_was_decided_never_changes(approval: Approval, checker: Actor, change: str) -> None:
    approve(approval=approval, actor=checker, at=SOON)
    assert refused_by_the_database(change, approval) == "23514"


@pytest.mark.parametrize(
    "change",
    ["status = 'approved'", "status = 'approved', decided_at = expires_at - interval '1 second'",
     "status = 'approved', checker = 'user:0', decided_at = expires_at",
     "status = 'rejected', decided_at = now()", "status = 'cancelled'", "decided_at = now()",
     "result_type = 'a.b', result_id = '1'"],
)  # fmt: skip
def test_half_a_decision_is_none(approval: Approval, change: str) -> None:
    assert refused_by_the_database(change, approval) == "23514"


def test_an_approval_bound_to_something_else_is_refused_and_found(approval: Approval, checker: Actor) -> None:
    assert findings("I4") == []
    forge("""arguments = '{"title": "Another"}'""", approval)
    with pytest.raises(Conflict) as refusal:
        approve(approval=approval, actor=checker, at=SOON)
    assert refusal.value.code == "approval_tampered"
    assert nothing_was_done(approval)
    assert findings("I4") == ["Leave a note: changed after it was requested."]


@pytest.mark.parametrize("forged", ["operation = 'test.other'", "subject_id = '9'", "subject_type = 'a.b'"])
def test_a_request_that_was_moved_to_another_subject_is_found(approval: Approval, forged: str) -> None:
    forge(forged, approval)
    assert findings("I4") != []


def test_an_approval_that_nobody_gave_is_found(approval: Approval) -> None:
    forge("status = 'approved', checker = 'user:99', decided_at = requested_at", approval)
    assert findings("I4") == [
        f"Leave a note: requested by {approval.maker}, approved by user:99, not as the rules ask."
    ]


def test_a_request_that_should_have_expired_is_found(approval: Approval, clock: Any) -> None:
    clock(approval.expires_at + timedelta(hours=23))
    assert findings("I5") == []
    clock(approval.expires_at + timedelta(hours=25))
    assert findings("I5") == ["Leave a note should have expired and has not."]


# At the same time


def together(*works: Callable[[], Any]) -> list[Any]:
    barrier, results = threading.Barrier(len(works)), [None] * len(works)

    def run(number: int) -> None:
        try:
            connection.ensure_connection()
            barrier.wait()
            results[number] = works[number]()
        except BaseException as error:
            results[number] = error
        finally:
            connection.close()

    workers = [threading.Thread(target=run, args=(number,)) for number in range(len(works))]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join(timeout=60)
    return results


@pytest.mark.django_db(transaction=True)
def test_two_checkers_at_once_do_it_once(people: dict[str, Actor]) -> None:
    approval = ask(people["operator"])
    names = ("approver", "root", "other")
    found = together(
        *(lambda n=n: approve(approval=approval, actor=people[n], at=SOON, reason=n) for n in names)
    )
    assert [type(result) for result in found].count(Approval) == 1
    assert [type(result) for result in found].count(StateConflict) == 2
    assert ReviewItem.objects.count() == 1
    assert TransitionLog.objects.count() == 1


@pytest.mark.django_db(transaction=True)
def test_the_same_requested_at_once_waits_once(people: dict[str, Actor]) -> None:
    makers = [people["operator"], people["root"], people["other"]]
    found = together(*(lambda m=m: ask(m) for m in makers))
    assert [type(result) for result in found].count(Approval) == 1
    assert all(isinstance(result, Approval | Conflict) for result in found)
    keyed = together(*(lambda: ask(makers[0], key="once", subject_id="2") for _ in range(3)))
    assert len({result.pk for result in keyed}) == 1
    assert Approval.objects.count() == 2


# In the console


def press(client: Client, approval: Approval, action: str, **fields: str) -> Any:
    url = f"/admin/console/approval/{approval.pk}/do/{action}/"
    shown = client.get(url)
    assert shown.status_code == 200, shown.status_code
    return client.post(url, {"reason": "test", "fingerprint": fingerprint_on(shown), **fields})


def page(client: Client, path: str) -> str:
    answer = client.get(path)
    assert answer.status_code == 200, answer.status_code
    return re.sub(r"\s+", " ", answer.content.decode())


def place(approval: Approval) -> str:
    return f"/admin/console/approval/{approval.pk}/change/"


@pytest.fixture
def root(people: dict[str, Actor]) -> Client:
    client = Client()
    assert client.login(username="root", password="root")
    return client


def test_the_page_says_who_asked_for_what_and_what_it_does(approval: Approval, browser: Browser) -> None:
    shown = page(browser("viewer"), place(approval))
    for fact in ("operator", "A customer called.", approval.sha256, "matches", "8 Mar 2027", "Look here"):
        assert fact in shown
    assert "A note &lt;Look here&gt; is left." in shown
    assert "/do/" not in shown


def test_the_checker_sees_the_consequences_then_approves(
    approval: Approval, browser: Browser, clock: Any
) -> None:
    approver = browser("approver")
    confirmation = page(approver, f"/admin/console/approval/{approval.pk}/do/approve/")
    assert "A note &lt;Look here&gt; is left." in confirmation
    assert "Requested by operator: A customer called." in confirmation
    assert nothing_was_done(approval)
    assert press(approver, approval, "approve").status_code == 302
    assert status(approval) == "approved"
    item = ReviewItem.objects.get()
    assert f"/admin/console/reviewitem/{item.pk}/change/" in page(approver, place(approval))


def test_the_maker_has_no_button_to_approve(approval: Approval, browser: Browser, clock: Any) -> None:
    operator = browser("operator")
    shown = page(operator, place(approval))
    assert "do/cancel" in shown
    assert "do/approve" not in shown
    assert operator.get(f"/admin/console/approval/{approval.pk}/do/approve/").status_code == 403
    assert press(operator, approval, "cancel").status_code == 302
    assert nothing_was_done(approval, "cancelled")


def test_a_maker_who_may_approve_others_is_told_why_not_this(
    people: dict[str, Actor], root: Client, browser: Browser, clock: Any
) -> None:
    approval = ask(people["root"])
    assert "somebody else must" in page(root, place(approval))
    seen = browser("approver").get(f"/admin/console/approval/{approval.pk}/do/approve/")
    posted = {"reason": "x", "fingerprint": fingerprint_on(seen)}
    answer = root.post(f"/admin/console/approval/{approval.pk}/do/approve/", posted)
    assert answer.status_code == 409
    assert nothing_was_done(approval)


def test_a_refusal_is_a_sentence_on_the_page(maker: Actor, browser: Browser, clock: Any) -> None:
    approval = ask(maker, arguments={"title": "x", "impossible": True})
    answer = press(browser("approver"), approval, "approve")
    assert answer.status_code == 409
    assert "The books are closed." in answer.content.decode()
    assert nothing_was_done(approval)


def test_an_expired_request_offers_no_approval(approval: Approval, browser: Browser, clock: Any) -> None:
    clock(approval.expires_at)
    shown = page(browser("approver"), place(approval))
    assert "It expired on 2027-03-08 at 00:00 UTC." in shown
    assert "do/approve" not in shown


def test_an_operation_that_is_gone_leaves_a_page_and_no_buttons(
    approval: Approval, root: Client, monkeypatch: pytest.MonkeyPatch, clock: Any
) -> None:
    monkeypatch.setattr(approvals, "_operations", {})
    shown = page(root, place(approval))
    assert "There is no operation" in shown
    assert "/do/" not in shown


def test_home_counts_what_waits_for_this_very_person(
    people: dict[str, Actor], browser: Browser, root: Client, clock: Any, rf: Any
) -> None:
    ask(people["operator"], value=Money(500, "USD"))
    ask(people["root"], subject_id="2", value=Money(70, "USD"))
    ask(people["root"], subject_id="3", expires_at=SOON)
    card = next(card for card in registry.cards() if card.key == "console.approval")

    def waiting(name: str) -> Any:
        request = rf.get("/")
        request.user = User.objects.get(username=name)
        value = card.load(request)
        return value.count, value.oldest, value.value

    assert waiting("approver") == (3, AT, {"USD": 570})
    assert waiting("root") == (1, AT, {"USD": 500})
    assert waiting("operator") == (0, None, {})
    clock(SOON)
    assert waiting("approver")[0] == 2
    assert "Nothing waits for your approval." in page(browser("operator"), "/admin/")
    assert "Nothing waits for your approval." not in page(browser("approver"), "/admin/")
    assert "Leave a note" in page(browser("approver"), card.href)


def test_arguments_read_as_tables_with_money() -> None:
    shown = panels.readable(
        {
            "currency": "USD",
            "amount_minor": 123456,
            "notify": True,
            "tags": ["a", "<b>"],
            "entries": [{"account": "cash", "amount_minor": -5}, {"account": "fees", "note": None}],
            "limit": {"amount_minor": 700, "currency": "EUR"},
        }
    )
    for part in ("1,234.56", "yes", "a, &lt;b&gt;", "−0.05", "cash", "7.00", "EUR", ">entries<"):
        assert part in shown
    assert "<b>" not in shown


def test_a_subjects_page_may_show_what_was_requested_about_it(approval: Approval) -> None:
    assert "Leave a note" in panels.approvals_of("billing.Invoice", 1)
    assert panels.approvals_of("billing.invoice", 2) == ""


# On the command line


def run(*arguments: str) -> tuple[int, Any, str]:
    out, err = StringIO(), StringIO()
    code = 0
    try:
        call_command("approvals", *arguments, stdout=out, stderr=err)
    except SystemExit as left:
        code = int(str(left.code))
    text = out.getvalue()
    return code, json.loads(text) if "--json" in arguments and text else text, err.getvalue()


@pytest.fixture
def typed(monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    return lambda password: monkeypatch.setattr("sys.stdin", StringIO(f"{password}\n"))


def test_the_command_lists_what_waits(approval: Approval) -> None:
    code, rows, _ = run("--json", "list")
    assert (code, [row["id"] for row in rows]) == (0, [str(approval.pk)])
    assert rows[0]["consequences"] == "A note is left."
    assert rows[0]["arguments"] == approval.arguments
    _, text, _ = run("list")
    assert f"{approval.pk}  Leave a note, requested by operator, expires 2027-03-08" in text
    assert run("list", "--status", "approved")[1] == "nothing is approved\n"


def test_the_command_approves_as_the_person_who_signs_in(approval: Approval, typed: Any, clock: Any) -> None:
    arguments = (str(approval.pk), "--as", "approver", "--reason", "Agreed.")
    typed("approver-demo-2027")
    assert run("--dry-run", "approve", *arguments)[0] == 0
    assert nothing_was_done(approval)
    typed("approver-demo-2027")
    code, text, _ = run("approve", *arguments)
    assert code == 0
    assert text.startswith("Leave a note: approved, made console.reviewitem ")
    assert Approval.objects.get().checker == f"user:{User.objects.get(username='approver').pk}"
    assert ReviewItem.objects.count() == 1


@pytest.mark.parametrize(
    ("person", "password", "code"),
    [
        ("approver", "a guess", "not_signed_in"),
        ("nobody", "x", "not_signed_in"),
        ("operator", "operator-demo-2027", "permission_denied"),
        ("root", "root", "own_approval"),
    ],
)
def test_the_command_approves_for_nobody_else(
    people: dict[str, Actor], typed: Any, clock: Any, person: str, password: str, code: str
) -> None:
    approval = ask(people["root"])
    typed(password)
    left, text, talk = run("approve", str(approval.pk), "--as", person, "--reason", "x")
    assert (left, text) == (6, "")
    assert code in talk
    assert nothing_was_done(approval)


def test_the_command_rejects_and_cancels(maker: Actor, typed: Any, clock: Any) -> None:
    first, second = ask(maker), ask(maker, subject_id="2")
    typed("approver-demo-2027")
    assert run("reject", str(first.pk), "--as", "approver", "--reason", "No.")[0] == 0
    typed("operator-demo-2027")
    assert run("cancel", str(second.pk), "--as", "operator", "--reason", "Mistake.")[0] == 0
    assert (status(first), status(second)) == ("rejected", "cancelled")
    assert not ReviewItem.objects.exists()
    assert run("reject", str(uuid4()), "--as", "approver", "--reason", "No.")[0] == 6


# Over HTTP


def call(organization: Organization, scopes: list[str], path: str) -> Any:
    _, plain = issue_key(organization=organization, scopes=scopes, label="x", actor=SYSTEM, at=AT)
    return Client().get(f"/api/v1/{path}", headers={"Authorization": f"Bearer {plain}"})


def test_a_key_of_the_platform_reads_approvals(maker: Actor, approval: Approval) -> None:
    platform = Organization.objects.platform()
    staked = ask(maker, subject_id="2", value=Money(500, "USD"))
    answer = call(platform, ["approvals:read"], "approvals/").json()
    assert [item["id"] for item in answer["items"]] == [str(staked.pk), str(approval.pk)]
    assert [item["value"] for item in answer["items"]] == [{"amount_minor": 500, "currency": "USD"}, None]
    for query in ("subject=billing.invoice:1", "status=pending&subject=billing.Invoice:1"):
        found = call(platform, ["approvals:read"], f"approvals/?{query}").json()["items"]
        assert [item["id"] for item in found] == [str(approval.pk)]
    one = call(platform, ["approvals:read"], f"approvals/{approval.pk}/").json()
    assert (one["status"], one["sha256"], one["arguments"]) == (
        "pending",
        approval.sha256,
        approval.arguments,
    )
    assert call(platform, ["payouts:read"], "approvals/").status_code == 403


def test_nobody_else_may_have_such_a_key(db: None) -> None:
    buyer = Organization.objects.create(name="Acme", slug="acme", roles=["buyer"])
    with pytest.raises(InvalidInput, match="Only the platform's own keys"):
        call(buyer, ["approvals:read"], "approvals/")


# What applications register


def test_operators_make_and_approvers_check(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.undo()
    groups = permissions_by_group()
    for operation in approvals.operations():
        assert operation.maker in groups["operator"], operation.name
        assert operation.checker in groups["approver"], operation.name
        for name, permissions in groups.items():
            assert not {operation.maker, operation.checker} <= permissions, (operation.name, name)


def test_errors_name_themselves(approval: Approval, checker: Actor, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(approvals, "_operations", {})
    assert approvals.describe(approval) == "There is no operation 'test.note' to approve."
    with pytest.raises(CommerceError) as refusal:
        approve(approval=approval, actor=checker, at=SOON)
    assert refusal.value.code == "unknown_operation"
    assert nothing_was_done(approval)
