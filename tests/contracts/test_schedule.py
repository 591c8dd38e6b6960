"""The schedule of a contract: planned with its log, done once, as of its own instants."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import Any

import pytest
from django.core.management import call_command
from django.db import connection, transaction

from commerce.console.models import ReviewItem
from commerce.errors import CommerceError, Conflict
from contracts import services
from contracts.models import Contract, LineSegment, ScheduledCommand
from contracts.services import edits, renewals, schedule
from tests.contracts.conftest import OPERATOR, edit
from tests.contracts.scheduling import day, events_of, renewing, rows, tick, tick_through


@contextmanager
def guarded(guard: Callable[..., None]) -> Iterator[None]:
    """While another app asks to be asked before each renewal."""
    services.register_renewal_guard(guard)
    try:
        yield
    finally:
        renewals._guards.remove(guard)


@contextmanager
def hooked(hook: Callable[..., None]) -> Iterator[None]:
    """While another app follows each edit."""
    services.register_edit_hook(hook)
    try:
        yield
    finally:
        edits._hooks.remove(hook)


def past_due(_: Any, __: Any, payload: Any, ___: Any) -> None:
    if payload.trigger == "auto":
        raise Conflict("Two invoices are overdue.", code="past_due_block")


def fails(*_: Any, **__: Any) -> None:
    raise ZeroDivisionError("no such luck")


def renewals_of(contract: Contract) -> list[str]:
    return [
        f"{row.effective_at:%Y-%m-%d}" for row in contract.edits.filter(operation="renew").order_by("seq")
    ]


def status_of(contract: Contract) -> str:
    return Contract.objects.get(pk=contract.pk).status


def test_a_line_that_ends_with_the_term_leaves_as_the_rest_is_renewed_at_another_price(
    payload: dict[str, Any],
) -> None:
    stays, leaves = payload["lines"]
    leaves = {**leaves, "end_at": "2027-04-01T00:00:00Z"}
    uplift = {"kind": "percent", "value": "0.03", "cap": "0.05"}
    contract = renewing({**payload, "lines": [stays, leaves]}, "2027-03-01", renewal={"uplift": uplift})
    tick_through(day("2027-03-20"), day("2027-04-10"))
    contract.refresh_from_db()
    assert (contract.status, renewals_of(contract)) == ("active", ["2027-04-01"])
    assert [str(line.line_id) for line in contract.current.live_lines] == [stays["line_id"]]
    kept = LineSegment.objects.filter(contract=contract, line_id=leaves["line_id"], known__upper_inf=True)
    assert [row.valid.upper for row in kept] == [day("2027-04-01")]


def test_monthly_terms_from_the_31st_clamp_and_return_and_downtime_loses_none(
    payload: dict[str, Any],
) -> None:
    """OW-13: down from 20 February to 5 April."""
    contract = renewing(payload)
    tick_through(day("2026-01-31"), day("2026-02-19"))
    assert rows(contract, kind="renewal") == [("renew:2", "2026-02-28", "planned")]

    assert tick(day("2026-04-05")) == 4  # each renewal after the last moment to opt out of it

    assert rows(contract, kind="renewal") == [
        ("renew:2", "2026-02-28", "done"),
        ("renew:3", "2026-03-31", "done"),
        ("renew:4", "2026-04-30", "planned"),
    ]
    assert renewals_of(contract) == ["2026-02-28", "2026-03-31"]
    contract.refresh_from_db()
    assert (contract.status, contract.end_at) == ("active", day("2026-04-30"))
    assert tick(day("2026-04-05")) == 0
    assert tick(day("2026-04-30")) == 2
    contract.refresh_from_db()
    assert contract.end_at == day("2026-05-31")


def test_activation_plans_notice_cutoff_and_renewal_and_a_draft_plans_nothing(
    payload: dict[str, Any],
) -> None:
    draft = renewing(payload, "2027-03-01", months=12, renewal={"notice_days": 30}, live=False)
    assert rows(draft) == []

    for stage in ("submit", "signed", "live"):
        edit(draft, "activate", {"stage": stage}, at=day("2027-03-01"))

    assert rows(draft, status="planned") == [
        ("notice:2", "2028-01-31", "planned"),
        ("optout:2", "2028-03-01", "planned"),
        ("renew:2", "2028-03-01", "planned"),
    ]
    assert services.run_due(at=day("2028-01-30")) == 0


def test_opting_out_withdraws_what_was_planned_and_the_contract_expires(payload: dict[str, Any]) -> None:
    contract = renewing(payload, "2027-03-01", renewal={"notice_days": 7})

    edit(contract, "change_terms", {"renewal": {"auto": False}}, at=day("2027-03-20"))

    assert rows(contract, status="planned") == []
    assert tick(day("2027-04-02")) == 0
    assert status_of(contract) == "expired"
    assert renewals_of(contract) == []


def test_opting_in_again_plans_the_same_commands_once_more(payload: dict[str, Any]) -> None:
    contract = renewing(payload, "2027-03-01")
    edit(contract, "change_terms", {"renewal": {"auto": False}}, at=day("2027-03-10"))

    edit(contract, "change_terms", {"renewal": {"auto": True}}, at=day("2027-03-11"))

    assert rows(contract, status="planned") == [
        ("optout:2", "2027-04-01", "planned"), ("renew:2", "2027-04-01", "planned")
    ]  # fmt: skip
    assert ScheduledCommand.objects.filter(kind="renewal").count() == 1
    tick(day("2027-04-01"))
    assert renewals_of(contract) == ["2027-04-01"]


def test_terminating_withdraws_what_was_planned(payload: dict[str, Any]) -> None:
    contract = renewing(payload, "2027-03-01")

    edit(contract, "terminate", {"cause": "mutual"}, at=day("2027-03-10"), reason="Enough.")

    assert {status for _, _, status in rows(contract)} == {"cancelled"}
    tick(day("2027-04-02"))
    assert status_of(contract) == "terminated"


def test_a_termination_ahead_within_the_term_leaves_no_renewal(payload: dict[str, Any]) -> None:
    contract = renewing(payload, "2027-03-01")

    edit(
        contract, "terminate", {"when": "date", "cause": "mutual"}, at=day("2027-03-05"),
        effective_at=day("2027-03-20"), reason="Enough.",
    )  # fmt: skip

    assert rows(contract, status="planned") == []


def test_a_renewal_takes_effect_where_the_term_ends_and_never_now(payload: dict[str, Any]) -> None:
    contract = renewing(payload, "2027-03-01")

    tick(day("2027-04-01") + timedelta(hours=5))

    row = contract.edits.get(operation="renew")
    assert row.effective_at == day("2027-04-01")
    assert row.idempotency_key == f"renew:{contract.pk}:2"
    command = ScheduledCommand.objects.get(key=row.idempotency_key)
    assert (command.result_seq, command.status) == (row.seq, "done")
    renewed = [event for event in events_of(contract) if event[0] == "contract.renewed"]
    assert [occurred for _, occurred, _ in renewed] == [day("2027-04-01")]
    assert not any(kind == "contract.expired" for kind, _, _ in events_of(contract))


def test_a_buyer_is_told_before_the_term_ends_and_only_once(payload: dict[str, Any]) -> None:
    contract = renewing(payload, "2027-03-01", renewal={"notice_days": 10})

    tick_through(day("2027-03-20"), day("2027-04-03"))

    told = [event for event in events_of(contract) if event[0] == "contract.renewal_due"]
    [(_, occurred, said)] = told
    assert occurred == day("2027-03-22")
    assert (said["term_no"], said["term_ends_at"]) == (2, "2027-04-01T00:00:00Z")
    assert said["opt_out_until"] == "2027-04-01T00:00:00Z"


def test_a_notice_that_came_late_postpones_the_renewal_and_keeps_the_right_to_opt_out(
    payload: dict[str, Any],
) -> None:
    contract = renewing(payload, "2027-03-01", renewal={"notice_days": 10})

    tick(day("2027-04-04"))  # the first tick since before 22 March

    assert renewals_of(contract) == []
    assert rows(contract, status="planned") == [
        ("optout:2", "2027-04-14", "planned"), ("renew:2", "2027-04-14", "planned")
    ]  # fmt: skip
    assert status_of(contract) == "active"
    edit(contract, "change_terms", {"renewal": {"auto": False}}, at=day("2027-04-10"))
    tick(day("2027-04-20"))
    assert renewals_of(contract) == []
    assert status_of(contract) == "expired"
    [ended] = [occurred for kind, occurred, _ in events_of(contract) if kind == "contract.expired"]
    assert ended == day("2027-04-10")


def test_a_postponed_renewal_still_takes_effect_where_the_term_ended(payload: dict[str, Any]) -> None:
    contract = renewing(payload, "2027-03-01", renewal={"notice_days": 10})
    tick(day("2027-04-04"))

    tick(day("2027-04-13"))
    assert renewals_of(contract) == []
    tick(day("2027-04-14"))

    assert renewals_of(contract) == ["2027-04-01"]
    contract.refresh_from_db()
    assert contract.end_at == day("2027-05-01")


def test_nobody_renews_in_the_buyers_name_while_it_may_opt_out(payload: dict[str, Any]) -> None:
    contract = renewing(payload, "2027-03-01")

    with pytest.raises(Conflict) as refused:
        edit(contract, "renew", {"term_no": 2, "trigger": "auto"}, at=day("2027-03-10"))

    assert refused.value.code == "notice_window_open"
    assert renewals_of(contract) == []


def test_a_rule_that_refuses_a_renewal_asks_a_person_and_the_end_policy_holds(
    payload: dict[str, Any],
) -> None:
    contract = renewing(payload, "2027-03-01")

    with guarded(past_due):
        tick(day("2027-04-01"))

    command = ScheduledCommand.objects.get(kind="renewal", contract=contract)
    assert (command.status, command.last_error) == ("blocked", "Two invoices are overdue.")
    item = ReviewItem.objects.get(kind="renewal_blocked")
    assert (item.subject_id, item.evidence["code"]) == (str(command.pk), "past_due_block")
    assert status_of(contract) == "expired"
    assert [kind for kind, _, _ in events_of(contract)].count("contract.expired") == 1
    assert [row.payload["mode"] for row in contract.edits.filter(operation="renew")] == ["lapse"]
    tick(day("2027-05-01"))
    assert contract.edits.filter(operation="renew").count() == 1


def test_a_blocked_renewal_is_settled_when_somebody_renews_by_hand(payload: dict[str, Any]) -> None:
    contract = renewing(payload, "2027-03-01")
    with guarded(past_due):
        tick(day("2027-04-01"))
    command = ScheduledCommand.objects.get(kind="renewal", contract=contract)
    with pytest.raises(CommerceError):
        services.retry_command(command=command, actor=OPERATOR, at=day("2027-04-02"), reason="paid")

    edit(contract, "renew", {"gap": "bill"}, at=day("2027-04-05"), reason="They have paid.")

    assert status_of(contract) == "active"
    assert rows(contract, key__startswith="renew") == [
        ("renew:2", "2027-04-01", "cancelled"), ("renew:3", "2027-05-01", "planned")
    ]  # fmt: skip
    assert not ReviewItem.objects.exclude(status="resolved").exists()


def test_a_suspension_ends_when_it_was_to_end(payload: dict[str, Any]) -> None:
    contract = renewing(payload, "2027-03-01", months=12)
    edit(contract, "suspend", {"reason": "buyer", "resume_at": "2027-04-10T00:00:00Z"}, at=day("2027-04-01"))
    assert rows(contract, kind="resume", status="planned")

    tick(day("2027-04-15"))

    row = contract.edits.get(operation="resume")
    assert row.effective_at == day("2027-04-10")
    assert status_of(contract) == "active"


def test_a_suspension_that_was_lifted_before_is_not_lifted_again(payload: dict[str, Any]) -> None:
    contract = renewing(payload, "2027-03-01", months=12)
    edit(contract, "suspend", {"reason": "buyer", "resume_at": "2027-04-10T00:00:00Z"}, at=day("2027-04-01"))

    edit(contract, "resume", {"reason": "buyer"}, at=day("2027-04-05"))

    assert rows(contract, kind="resume", status="planned") == []
    tick(day("2027-04-15"))
    assert contract.edits.filter(operation="resume").count() == 1


@pytest.mark.parametrize("ended", ["by the clock", "by a termination ahead"])
def test_a_hold_that_ends_before_its_contract_does_is_lifted(active: Contract, ended: str) -> None:
    """The state at the end of all things has no holds any more, and says nothing of those before it."""
    if ended == "by a termination ahead":
        edit(
            active,
            "terminate",
            {"cause": "mutual"},
            at=day("2027-03-02"),
            effective_at=day("2027-06-01"),
            reason="Agreed",
        )
    until = {"reason": "buyer", "resume_at": "2027-04-10T00:00:00Z"}
    edit(active, "suspend", until, at=day("2027-04-01"))

    assert [due for _, due, _ in rows(active, kind="resume", status="planned")] == ["2027-04-10"]
    tick(day("2027-04-12"))

    assert active.edits.get(operation="resume").effective_at == day("2027-04-10")
    assert status_of(active) == "active"


def test_a_hold_that_outlasts_its_contract_is_not_lifted(active: Contract) -> None:
    edit(active, "suspend", {"reason": "buyer", "resume_at": "2027-06-01T00:00:00Z"}, at=day("2027-04-01"))
    assert rows(active, kind="resume", status="planned")

    edit(
        active,
        "terminate",
        {"cause": "mutual"},
        at=day("2027-05-01"),
        effective_at=day("2027-06-01"),
        reason="Agreed",
    )

    assert rows(active, kind="resume", status="planned") == []
    tick(day("2027-07-01"))
    assert not active.edits.filter(operation="resume").exists()
    assert status_of(active) == "terminated"


def test_a_contract_that_nobody_activates_is_cancelled(payload: dict[str, Any]) -> None:
    contract = renewing(payload, "2027-03-01", live=False)
    edit(contract, "activate", {"stage": "submit"}, at=day("2027-03-05"))
    days = services.platform_terms(day("2027-03-05")).limits.activation_timeout_days

    tick(day("2027-03-05") + timedelta(days=days) - timedelta(seconds=1))
    assert status_of(contract) == "pending_signature"
    tick(day("2027-03-05") + timedelta(days=days))

    assert status_of(contract) == "cancelled"


def test_a_contract_that_goes_live_is_not_cancelled_for_having_waited(payload: dict[str, Any]) -> None:
    contract = renewing(payload, "2027-03-01", renewal={"auto": False})

    assert [status for _, _, status in rows(contract, kind="activation_timeout")] == ["cancelled"]


def test_a_crash_before_the_commit_leaves_neither_edit_nor_event_and_the_next_tick_makes_both(
    payload: dict[str, Any],
) -> None:
    contract = renewing(payload, "2027-03-01")
    told = len(events_of(contract))
    with transaction.atomic():
        services.run_due(at=day("2027-04-01"))
        assert renewals_of(contract) == ["2027-04-01"]
        transaction.set_rollback(True)
    assert renewals_of(contract) == []
    assert rows(contract, kind="renewal") == [("renew:2", "2027-04-01", "planned")]
    assert len(events_of(contract)) == told

    tick(day("2027-04-01"))

    assert renewals_of(contract) == ["2027-04-01"]
    assert [kind for kind, _, _ in events_of(contract)[told:]] == [
        "contract.opt_out_closed", "contract.renewed"
    ]  # fmt: skip


def test_a_command_whose_edit_is_in_the_log_already_is_a_no_op(payload: dict[str, Any]) -> None:
    contract = renewing(payload, "2027-03-01")
    tick(day("2027-04-01"))
    command = ScheduledCommand.objects.get(key=f"renew:{contract.pk}:2")
    seq = command.result_seq
    with connection.cursor() as cursor:
        cursor.execute("SET CONSTRAINTS ALL IMMEDIATE")
        cursor.execute("ALTER TABLE contracts_scheduledcommand DISABLE TRIGGER USER")
        cursor.execute(
            "UPDATE contracts_scheduledcommand SET status = 'planned', finished_at = NULL, result_seq = NULL"
            " WHERE id = %s",
            [command.pk],
        )
        cursor.execute("ALTER TABLE contracts_scheduledcommand ENABLE ALWAYS TRIGGER guard_status")

    tick(day("2027-04-02"))

    command.refresh_from_db()
    assert (command.status, command.result_seq) == ("done", seq)
    assert renewals_of(contract) == ["2027-04-01"]


def test_what_fails_unexpectedly_is_tried_again_and_holds_up_only_its_own_contract(
    payload: dict[str, Any],
) -> None:
    broken, sound = renewing(payload, "2027-03-01"), renewing(payload, "2027-03-01")

    def breaks(contract: Contract, *_: Any) -> None:
        if contract.pk == broken.pk:
            fails()

    with guarded(breaks):
        tick(day("2027-04-01"))

    command = ScheduledCommand.objects.get(kind="renewal", contract=broken)
    assert (command.status, command.attempts, command.last_error) == ("planned", 1, "no such luck")
    assert command.retry_at is not None
    assert renewals_of(sound) == ["2027-04-01"]
    assert renewals_of(broken) == []
    assert services.run_due(at=day("2027-04-02")) == 0
    ScheduledCommand.objects.filter(pk=command.pk).update(retry_at=None)
    tick(day("2027-04-02"))
    assert renewals_of(broken) == ["2027-04-01"]


def test_what_fails_twelve_times_is_put_before_a_person(payload: dict[str, Any]) -> None:
    contract = renewing(payload, "2027-03-01", months=12)
    edit(contract, "suspend", {"reason": "buyer", "resume_at": "2027-04-10T00:00:00Z"}, at=day("2027-04-01"))
    with hooked(fails):
        for _ in range(schedule.MAX_ATTEMPTS):
            ScheduledCommand.objects.update(retry_at=None)
            services.run_due(at=day("2027-04-10"))

    command = ScheduledCommand.objects.get(kind="resume")
    assert command.status == "blocked"
    item = ReviewItem.objects.get(kind="scheduled_command_blocked")
    services.retry_command(command=command, actor=OPERATOR, at=day("2027-04-11"), reason="The bug is gone.")
    item.refresh_from_db()
    assert item.status == "resolved"
    tick(day("2027-04-12"))
    assert contract.edits.get(operation="resume").effective_at == day("2027-04-10")


def test_a_pass_does_at_most_twelve_commands_of_one_contract(payload: dict[str, Any]) -> None:
    contract = renewing(payload, "2020-01-01")

    assert services.run_due(at=day("2027-01-01")) == 12
    assert len(renewals_of(contract)) == 6
    assert services.run_due(at=day("2027-01-01"), limit=3) == 3


def test_the_clock_does_not_run_ahead_of_what_is_scheduled(payload: dict[str, Any]) -> None:
    """A future edit that lies after a due renewal takes effect after it, as without downtime."""
    contract = renewing(payload, "2027-03-01")
    edit(
        contract, "suspend", {"reason": "buyer"}, at=day("2027-03-02"), effective_at=day("2027-04-10")
    )  # fmt: skip

    services.take_effect_due(at=day("2027-04-20"))
    assert status_of(contract) == "active"
    tick(day("2027-04-20"))

    assert status_of(contract) == "suspended"
    kinds = [kind for kind, _, _ in events_of(contract)]
    assert kinds.index("contract.renewed") < kinds.index("contract.took_effect")


def test_a_person_may_skip_a_notice_but_not_a_renewal(payload: dict[str, Any]) -> None:
    contract = renewing(payload, "2027-03-01", renewal={"notice_days": 10})
    notice, renewal = (ScheduledCommand.objects.get(kind=kind) for kind in ("notice", "renewal"))

    services.skip_command(command=notice, actor=OPERATOR, at=day("2027-03-02"), reason="We told them.")
    with pytest.raises(CommerceError):
        services.skip_command(command=renewal, actor=OPERATOR, at=day("2027-03-02"), reason="no")

    tick(day("2027-04-01"))
    assert renewals_of(contract) == ["2027-04-01"]
    assert not any(kind == "contract.renewal_due" for kind, _, _ in events_of(contract))


def test_contracts_from_before_there_was_a_schedule_are_planned_by_command(payload: dict[str, Any]) -> None:
    contract = renewing(payload, "2027-03-01")
    planned = rows(contract, status="planned")
    assert services.replan_contract(contract_id=contract.pk, actor=OPERATOR, at=day("2027-03-02")) == 0
    with connection.cursor() as cursor:
        cursor.execute("SET CONSTRAINTS ALL IMMEDIATE")
        cursor.execute("ALTER TABLE contracts_scheduledcommand DISABLE TRIGGER USER")
        cursor.execute("DELETE FROM contracts_scheduledcommand")

    call_command("contracts_schedule", "plan", contract.number)

    assert rows(contract, status="planned") == planned
