"""Operations commands: data on stdout, talk on stderr, and an exit code that scripts can branch on."""

import json
import threading
import zlib
from collections.abc import Iterator
from datetime import UTC, datetime
from io import StringIO
from typing import Any
from uuid import uuid4

import pytest
from django.core.management import call_command, load_command_class
from django.core.management.base import CommandError
from django.db import connection, transaction

from commerce.actor import Actor
from commerce.errors import Conflict
from commerce.invariants import REGISTRY
from commerce.management.ops import Exit, OpsCommand
from commerce.models import Heartbeat
from commerce.money import Money
from commerce.outbox import append, on, registry
from commerce.outbox.models import OutboxEvent, OutboxStream
from commerce.parties.models import Organization
from ledger.models import LedgerAccount, LedgerBalance
from ledger.rules import recipes
from ledger.services import post

AT = datetime(2027, 3, 1, tzinfo=UTC)


def run(*arguments: str, command: Any = None) -> tuple[int, Any, str]:
    """Exit code, stdout (parsed when it is JSON), stderr."""
    out, err = StringIO(), StringIO()
    code = 0
    try:
        call_command(command or arguments[0], *arguments[not command :], stdout=out, stderr=err)
    except SystemExit as left:
        code = int(str(left.code))
    text = out.getvalue()
    return code, json.loads(text) if "--json" in arguments else text, err.getvalue()


# verify


def test_verify_of_a_sound_database_is_0(db: None) -> None:
    code, data, talk = run("verify", "--json")
    assert (code, data["findings"]) == (Exit.DONE, [])
    assert set(data["checked"]) >= {"I1", "I2", "I5", "I7", "I9", "I10"}
    assert data["checks"] == len(REGISTRY)
    assert "I1 The whole ledger sums to zero per currency" in talk
    code, text, _ = run("verify")
    assert (code, text) == (Exit.DONE, f"{len(REGISTRY)} checks, 0 findings.\n")


def test_verify_of_a_planted_fault_is_3_and_names_it(db: None) -> None:
    platform = Organization.objects.platform()
    buyer = Organization.objects.create(name="Acme", slug="acme", roles=["buyer"])
    entries = recipes.fund_wallet(platform=platform.pk, buyer=buyer.pk, amount=Money(500, "USD"))
    post(entries=entries, key="k", source="s", recipe="fund_wallet", at=AT, actor=Actor.system("test"))
    account = LedgerAccount.objects.get(owner=buyer).pk
    LedgerBalance.objects.filter(account=account).update(posted=501)
    code, data, talk = run("verify", "--json")
    assert code == Exit.FINDINGS
    broken = {finding["invariant"] for finding in data["findings"]}
    assert "I7" in broken
    finding = next(finding for finding in data["findings"] if finding["invariant"] == "I7")
    assert set(finding) == {"invariant", "title", "subject", "detail", "data"}
    assert str(account) in finding["subject"]
    assert finding["subject"] in talk
    assert run("verify", "--only", "I9")[0] == Exit.DONE
    assert run("verify", "--only", "I7", "I9")[0] == Exit.FINDINGS
    assert LedgerBalance.objects.get(account=account).posted == 501, "verify reads and never repairs"


def test_verify_of_an_unknown_invariant_is_2_and_lists_the_known(db: None) -> None:
    for asked in (["I99"], ["I1", "I99"], ["ledger"]):
        code, text, talk = run("verify", "--only", *asked)
        assert (code, text) == (Exit.USAGE, "")
        assert "I1, I10, I2" in talk


# outbox


@pytest.fixture
def things(monkeypatch: pytest.MonkeyPatch, clock: Any) -> Iterator[list[int]]:
    """Events of three things; the second one's handler fails until its number is removed from the list."""
    monkeypatch.setattr(registry, "_handlers", {})
    failing = [2]

    @on("thing.done", group="g")
    def handle(event: OutboxEvent) -> None:
        if int(event.aggregate_id) in failing:
            raise ValueError("account 987654321098 is odd")
        Heartbeat.objects.update_or_create(name=event.aggregate_id, defaults={"beaten_at": AT})

    for n in (1, 2, 3):
        with transaction.atomic():
            append("thing", str(n), "thing.done", {"n": n}, at=AT)
    return failing


def stream_of(id_: str) -> OutboxStream:
    return OutboxStream.objects.get(aggregate_id=id_, group="g")


@pytest.mark.django_db(transaction=True)
def test_outbox_from_waiting_to_parked_to_delivered(things: list[int]) -> None:
    code, data, _ = run("outbox", "--json", "status")
    assert (code, data["due"], data["parked"], data["unpublished"]) == (Exit.DONE, 3, 0, 3)

    code, data, _ = run("outbox", "--json", "drain")
    assert (code, data) == (Exit.PARTIAL, {"handled": 2, "retried": 0, "parked": 1})

    code, data, _ = run("outbox", "--json", "status")
    (parked,) = data["parked_streams"]
    assert (code, data["due"], data["parked"], data["unpublished"]) == (Exit.FINDINGS, 0, 1, 1)
    assert (parked["aggregate_id"], parked["group"]) == ("2", "g")
    assert parked["parked_reason"] == "thing.done #1: ValueError: account [redacted] is odd"

    things.clear()
    code, data, _ = run("outbox", "--json", "resume", str(parked["id"]), "--reason", "repaired")
    assert (code, data) == (Exit.DONE, {"resumed": [parked["id"]]})
    assert run("outbox", "--json", "drain")[:2] == (Exit.DONE, {"handled": 1, "retried": 0, "parked": 0})
    assert sorted(Heartbeat.objects.values_list("name", flat=True)) == ["1", "2", "3"]
    assert run("outbox", "status")[0] == Exit.DONE


@pytest.mark.django_db(transaction=True)
def test_outbox_park_and_its_dry_run(things: list[int]) -> None:
    id_ = str(stream_of("1").pk)
    code, data, talk = run("outbox", "--json", "--dry-run", "park", id_, "--reason", "wait")
    assert (code, data) == (Exit.DONE, {"parked": [int(id_)]})
    assert "nothing was kept" in talk
    assert stream_of("1").parked_at is None
    assert run("outbox", "--json", "park", id_, "--reason", "wait")[0] == Exit.DONE
    assert stream_of("1").parked_reason == "system:command:outbox: wait"
    run("outbox", "drain")
    assert not Heartbeat.objects.filter(name="1").exists()


@pytest.mark.django_db(transaction=True)
def test_outbox_replay_prints_its_plan_and_appends_only_what_was_agreed_to(things: list[int]) -> None:
    things.clear()
    run("outbox", "drain")
    asked = ("replay", "--aggregate", "thing:1", "--reason", "lost at the provider")
    code, plan, talk = run("outbox", "--json", "--dry-run", *asked)
    assert (code, plan["events"], plan["lines"][0]["group"]) == (Exit.DONE, 1, "g")
    assert "thing.done → g (local): 1 events of 1 streams" in talk
    for agreed in ((), ("--yes",), ("--yes", "--expect-count", "2"), ("--plan", f"{plan['plan']}0")):
        assert run("outbox", *asked, *agreed)[0] == Exit.REFUSED, agreed
    assert OutboxEvent.objects.count() == 3
    code, data, _ = run("outbox", "--json", *asked, "--plan", plan["plan"])
    assert (code, data["appended"]) == (Exit.DONE, 1)
    copy, first = OutboxEvent.objects.filter(aggregate_id="1").order_by("-sequence")
    assert copy.headers["causation_id"] == str(first.event_id)
    assert first.published_at is not None, "history is not rewound"
    assert stream_of("1").due_at is not None
    assert stream_of("2").due_at is None
    code, data, talk = run("outbox", "--json", *asked, "--yes", "--expect-count", "1")
    assert (code, data["appended"]) == (Exit.DONE, 0)
    assert "--again NAME" in talk
    code, data, _ = run("outbox", "--json", *asked, "--yes", "--expect-count", "1", "--again", "2")
    assert (code, data["appended"]) == (Exit.DONE, 1)


@pytest.mark.django_db(transaction=True)
def test_outbox_resumes_what_is_parked_alike_when_it_is_as_many_as_expected(things: list[int]) -> None:
    things[:] = [1, 2]
    run("outbox", "drain")
    alike = ("resume", "--type", "thing.done", "--error", "is odd", "--reason", "repaired")
    code, _, talk = run("outbox", *alike)
    assert code == Exit.REFUSED
    assert "2 parked streams match" in talk
    assert run("outbox", *alike, "--expect-count", "1")[0] == Exit.REFUSED
    assert run("outbox", *alike, "--group", "other", "--expect-count", "2")[0] == Exit.REFUSED
    assert OutboxStream.objects.filter(parked_at__isnull=False).count() == 2
    things.clear()
    code, data, _ = run("outbox", "--json", *alike, "--expect-count", "2")
    assert (code, data) == (Exit.DONE, {"resumed": 2})
    assert run("outbox", "--json", "drain")[1]["handled"] == 2


@pytest.mark.django_db(transaction=True)
def test_outbox_pauses_a_providers_line_and_says_so(things: list[int]) -> None:
    called: list[str] = []
    on("thing.sent", group="far", provider="bank")(lambda event: called.append(event.aggregate_id))
    with transaction.atomic():
        append("thing", "9", "thing.sent", {}, at=AT)
    assert run("outbox", "pause", "--lane", "local", "--reason", "x")[0] == Exit.REFUSED
    assert run("outbox", "pause", "--lane", "bank", "--reason", "maintenance")[0] == Exit.DONE
    run("outbox", "drain")
    assert called == []
    code, data, _ = run("outbox", "--json", "status")
    lane = next(lane for lane in data["lanes"] if lane["lane"] == "bank")
    assert (code, lane["due"], lane["circuit"]) == (Exit.FINDINGS, 1, "paused")
    assert "bank is paused: system:command:outbox: maintenance" in run("outbox", "status")[1]
    assert run("outbox", "pause", "--lane", "bank", "--reason", "x")[0] == Exit.REFUSED
    assert run("outbox", "resume", "--lane", "bank")[0] == Exit.DONE
    run("outbox", "drain")
    assert called == ["9"]
    assert run("outbox", "resume", "--lane", "bank")[0] == Exit.REFUSED


@pytest.mark.django_db(transaction=True)
def test_outbox_shows_a_stream_and_an_event_with_their_failures(things: list[int]) -> None:
    run("outbox", "drain")
    stream = stream_of("2")
    code, data, _ = run("outbox", "--json", "show", str(stream.pk))
    assert (code, data["condition"], data["stands_at"]["sequence"]) == (Exit.DONE, "parked", 1)
    assert data["failures"][0]["error"] == "ValueError: account [redacted] is odd"
    code, data, _ = run("outbox", "--json", "show", data["stands_at"]["event_id"])
    assert data["deliveries"][0]["errors"] == ["1: ValueError: account [redacted] is odd"]
    assert (data["deliveries"][0]["state"], data["event"]["payload"]) == ("parked", {"n": 2})
    assert "condition: parked" in run("outbox", "show", str(stream.pk))[1]
    assert run("outbox", "show", "999999")[0] == run("outbox", "show", "x")[0] == Exit.REFUSED


@pytest.mark.django_db(transaction=True)
def test_outbox_tail_prints_one_event_per_line(things: list[int]) -> None:
    out = StringIO()
    call_command("outbox", "--json", "tail", "--last", "2", stdout=out)
    assert [json.loads(line)["aggregate_id"] for line in out.getvalue().splitlines()] == ["2", "3"]
    assert run("outbox", "tail", "--type", "thing.ignored")[1] == ""
    assert "thing.done thing:3 #1 pending" in run("outbox", "tail", "--aggregate", "thing:3")[1]
    assert run("outbox", "tail", "--group", "nobody")[1] == ""


@pytest.mark.django_db(transaction=True)
@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (("drain", "--dry-run"), ""),
        (("park", "999999999", "--reason", "x"), "not_found"),
        (("resume", "STREAM"), "state_conflict"),
        (("replay", "--reason", "x"), "Say which events"),
    ],
)
def test_outbox_refuses_with_6_and_changes_nothing(
    things: list[int], arguments: tuple[str, ...], sentence: str
) -> None:
    arguments = tuple(word.replace("STREAM", str(stream_of("1").pk)) for word in arguments)
    before = list(OutboxStream.objects.order_by("id").values())
    dry = [word for word in arguments if word == "--dry-run"]
    code, _, talk = run("outbox", *dry, *(word for word in arguments if word not in dry))
    assert code == Exit.REFUSED
    assert sentence in talk
    assert list(OutboxStream.objects.order_by("id").values()) == before
    assert OutboxEvent.objects.count() == 3


@pytest.mark.parametrize(
    "arguments",
    [
        (),
        ("dance",),
        ("park", "1"),
        ("park", "one", "--reason", "x"),
        ("replay", "--type", "thing.done"),
        ("replay", "--since", "2027-03-01T00:00:00", "--reason", "x"),
        ("replay", "--event", "x", "--reason", "x"),
        ("drain", "--limit", "many"),
        ("drain", "--limit", "-1"),
        ("drain", "--seconds", "nan"),
        ("tail", "--last", "0"),
    ],
)
def test_outbox_used_wrongly_is_a_usage_error(db: None, arguments: tuple[str, ...]) -> None:
    with pytest.raises(CommandError) as wrong:
        call_command("outbox", *arguments)
    assert wrong.value.returncode in (1, 2)
    assert not OutboxEvent.objects.exists()


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (("tail", "--last", "-5"), "argument --last: '-5' is no whole number above zero"),
        (("tail", "--since", "yesterday"), "argument --since: 'yesterday' is no instant with an offset"),
        (("tail", "--since", "2027-02-30T00:00:00Z"), "'2027-02-30T00:00:00Z' is no instant with an offset"),
        (("tail", "--aggregate", "contract"), "argument --aggregate: 'contract' is no type and id"),
        (("drain", "--seconds", "-1"), "argument --seconds: '-1' is no number of seconds above zero"),
    ],
)
def test_a_wrong_argument_is_named_with_what_is_wrong_about_it(
    db: None, arguments: tuple[str, ...], sentence: str
) -> None:
    with pytest.raises(CommandError) as wrong:
        call_command("outbox", *arguments)
    assert sentence in str(wrong.value)


@pytest.mark.parametrize(
    "arguments",
    [
        ("payouts_advance", "--limit", "0"),
        ("contracts_rebuild", "--workers", "-2"),
        ("contracts_rebuild", "--limit", "1.5"),
        ("contracts_schedule", "list", "--limit", "-1"),
        ("contracts_bulk", "run", "--seconds", "0"),
        ("approvals", "list", "--limit", "-1"),
        ("webhooks", "deliver", "--limit", "0"),
        (
            "apikey",
            "issue",
            "--organization",
            "x",
            "--scope",
            "contracts:read",
            "--label",
            "x",
            "--days",
            "-1",
        ),
    ],
    ids=lambda arguments: arguments[0],
)
def test_a_number_that_has_to_be_positive_is_asked_for(db: None, arguments: tuple[str, ...]) -> None:
    with pytest.raises(CommandError, match="above zero"):
        call_command(*arguments)


# the base


class Stubborn(OpsCommand):
    exclusive = True
    writes = True
    outcome: Any = Exit.DONE

    def run(self, **_: Any) -> Exit:
        Heartbeat.objects.create(name=str(uuid4()), beaten_at=AT)
        if isinstance(self.outcome, BaseException):
            raise self.outcome
        return Exit(self.outcome)


def test_a_refusal_is_6_an_interruption_130_and_the_rest_is_as_it_says(db: None) -> None:
    command = Stubborn()
    for outcome, code in (
        (Exit.DONE, 0),
        (Exit.PARTIAL, 4),
        (Conflict("No."), 6),
        (KeyboardInterrupt(), 130),
    ):
        command.outcome = outcome
        assert run(command=command)[0] == code


def test_a_dry_run_does_everything_and_keeps_nothing(db: None) -> None:
    code, _, talk = run("--dry-run", command=Stubborn())
    assert (code, Heartbeat.objects.count()) == (0, 0)
    assert "Dry run" in talk


@pytest.mark.django_db(transaction=True)
def test_a_command_that_is_running_already_is_5_and_does_nothing() -> None:
    command = Stubborn()
    taken, done = threading.Event(), threading.Event()

    def hold() -> None:
        key = [zlib.crc32(f"command:{command.name}".encode())]
        with connection.cursor() as cursor:
            cursor.execute("SELECT pg_advisory_lock(%s)", key)
            taken.set()
            done.wait(10)
            cursor.execute("SELECT pg_advisory_unlock(%s)", key)
        connection.close()

    other = threading.Thread(target=hold)
    other.start()
    try:
        assert taken.wait(10)
        code, _, talk = run(command=command)
        assert code == Exit.RUNNING
        assert "is running already" in talk
        assert not Heartbeat.objects.exists()
    finally:
        done.set()
        other.join()
    assert run(command=command)[0] == Exit.DONE
    assert run(command=command)[0] == Exit.DONE, "the lock is given back"
    assert Heartbeat.objects.count() == 2


@pytest.mark.django_db(transaction=True)
def test_the_lock_is_given_back_after_a_failure() -> None:
    command = Stubborn()
    command.outcome = ZeroDivisionError()
    with pytest.raises(ZeroDivisionError):
        run(command=command)
    command.outcome = Exit.DONE
    assert run(command=command)[0] == Exit.DONE


@pytest.mark.parametrize(
    ("app", "name"),
    [
        ("commerce", "verify"),
        ("commerce.console", "outbox"),
        ("commerce.api", "apikey"),
        ("contracts", "contracts_rebuild"),
        ("payouts", "payouts_advance"),
    ],
)
def test_every_operations_command_is_built_on_the_base(app: str, name: str) -> None:
    assert isinstance(load_command_class(app, name), OpsCommand)
