"""What is scheduled beside what people record: ahead of the term's end, after it, and about the renewal."""

from datetime import timedelta
from typing import Any

import pytest
from django.db import connection
from django.test.utils import CaptureQueriesContext

from commerce.console.models import ReviewItem
from commerce.errors import Busy, Conflict
from contracts import services
from contracts.models import Contract
from tests.contracts.conftest import OPERATOR, edit
from tests.contracts.scheduling import day, events_of, renewing, rows, tick, tick_through
from tests.contracts.test_schedule import fails, guarded, past_due, renewals_of, status_of

EXTENDING = {"reason": "legal", "billing": "stop", "term": "extend_on_resume"}


@pytest.mark.parametrize(
    ("operation", "body", "status"),
    [
        ("change_terms", {"renewal": {"auto": False}}, "expired"),
        ("terminate", {"when": "date", "cause": "mutual"}, "terminated"),
        ("suspend", EXTENDING, "suspended"),
    ],
)
def test_what_comes_after_the_term_does_not_withdraw_the_renewal_before_it(
    payload: dict[str, Any], operation: str, body: dict[str, Any], status: str
) -> None:
    """Recorded ahead or on its day, it finds the same contract."""
    ahead, on_its_day = renewing(payload, "2027-03-01"), renewing(payload, "2027-03-01")
    comes = day("2027-05-10")
    edit(ahead, operation, body, at=day("2027-03-05"), effective_at=comes, reason="Agreed")

    assert rows(ahead, status="planned") == [
        ("optout:2", "2027-04-01", "planned"), ("renew:2", "2027-04-01", "planned")
    ]  # fmt: skip
    tick_through(day("2027-03-06"), comes)
    edit(on_its_day, operation, body, at=comes, effective_at=comes, reason="Agreed")
    tick_through(comes, day("2027-07-01"))

    assert renewals_of(ahead) == renewals_of(on_its_day) == ["2027-04-01", "2027-05-01"]
    for contract in (ahead, on_its_day):
        contract.refresh_from_db()
        assert (contract.status, contract.current.term_no) == (status, 3)
    assert ahead.end_at == on_its_day.end_at
    assert rows(ahead, status="planned") == rows(on_its_day, status="planned") == []


def test_opting_out_at_the_very_end_of_the_term_calls_its_renewal_off(payload: dict[str, Any]) -> None:
    contract = renewing(payload, "2027-03-01")
    opt_out = {"renewal": {"auto": False}}

    edit(contract, "change_terms", opt_out, at=day("2027-03-05"), effective_at=day("2027-04-01"))

    assert rows(contract, status="planned") == []
    tick(day("2027-04-01"))
    assert renewals_of(contract) == []
    assert status_of(contract) == "expired"


def test_a_hold_that_extends_the_term_postpones_its_renewal_whether_or_not_its_end_is_known(
    payload: dict[str, Any],
) -> None:
    lifted = day("2027-04-10")
    uplift = {"uplift": {"kind": "percent", "value": "0.03", "cap": "0.05"}}
    by_itself, by_hand = (renewing(payload, "2027-03-01", renewal=uplift) for _ in range(2))
    until = {"resume_at": "2027-04-10T00:00:00Z"}
    edit(by_itself, "suspend", EXTENDING | until, at=day("2027-03-21"))
    edit(by_hand, "suspend", EXTENDING, at=day("2027-03-21"))

    assert rows(by_itself, kind="renewal", status="planned") == []
    tick_through(day("2027-03-21"), lifted)
    edit(by_hand, "resume", {"reason": "legal"}, at=lifted)
    tick_through(lifted, day("2027-05-10"))

    assert renewals_of(by_itself) == renewals_of(by_hand) == ["2027-04-21"]
    one, other = (Contract.objects.get(pk=contract.pk) for contract in (by_itself, by_hand))
    assert one.end_at == other.end_at == day("2027-05-21")
    period = {"start": day("2027-03-01"), "end": day("2027-06-01")}
    assert _money(one, **period) == _money(other, **period) != []


def _money(contract: Contract, **period: Any) -> list[tuple[Any, ...]]:
    lines = services.desired(contract.pk, at=period["end"], **period)
    return [(line.kind, line.start, line.net_minor) for line in lines]


@pytest.mark.parametrize(("policy", "status"), [("expire", "expired"), ("evergreen", "active")])
def test_a_renewal_that_was_voided_lapses_by_the_end_policy(
    payload: dict[str, Any], policy: str, status: str
) -> None:
    """Its key is used up: the scheduler does not make it again, and says in the log that it lapses."""
    contract = renewing(payload, "2027-03-01", end_policy=policy)
    tick(day("2027-04-01"))
    seq = contract.edits.get(operation="renew").seq

    edit(contract, "correct", {"target_seq": seq, "mode": "void"}, at=day("2027-04-03"), reason="Opted out")
    tick_through(day("2027-04-03"), day("2027-06-03"))

    *_, lapse = contract.edits.filter(operation="renew").order_by("seq")
    assert (lapse.payload["mode"], lapse.effective_at) == ("lapse", day("2027-04-01"))
    contract.refresh_from_db()
    assert (contract.status, contract.end_at) == (status, day("2027-04-01") if status == "expired" else None)
    assert rows(contract, status="planned") == []
    assert [kind for kind, _, _ in events_of(contract)].count("contract.expired") == (status == "expired")


def test_a_voided_renewal_that_cannot_lapse_is_put_before_a_person(payload: dict[str, Any]) -> None:
    contract = renewing(payload, "2027-03-01")
    tick(day("2027-04-01"))
    seq = contract.edits.get(operation="renew").seq
    edit(contract, "suspend", {"reason": "buyer"}, at=day("2027-04-02"))
    edit(contract, "correct", {"target_seq": seq, "mode": "void"}, at=day("2027-04-03"), reason="Opted out")

    tick(day("2027-04-03"))

    assert rows(contract, key__startswith="lapse") == [("lapse:2", "2027-04-01", "blocked")]
    assert ReviewItem.objects.get(kind="renewal_blocked").status == "open"
    assert not contract.edits.filter(payload__mode="lapse").exists()
    assert status_of(contract) == "suspended"


@pytest.mark.parametrize("voided", ["terminate", "resume"])
def test_what_the_clock_did_and_somebody_voided_is_put_before_a_person_and_not_repeated(
    payload: dict[str, Any], voided: str
) -> None:
    contract = renewing(payload, "2027-03-01", months=12, live=voided == "resume")
    if voided == "resume":
        hold = {"reason": "buyer", "resume_at": "2027-03-10T00:00:00Z"}
        edit(contract, "suspend", hold, at=day("2027-03-05"))
        status, instead = "suspended", ("resume", {"reason": "buyer"})
    else:
        edit(contract, "activate", {"stage": "submit"}, at=day("2027-03-05"))
        status, instead = "pending_signature", ("terminate", {"cause": "mutual"})
    tick(day("2027-06-10"))
    seq = contract.edits.get(operation=voided).seq
    assert not ReviewItem.objects.exists()

    for mode, items in (("void", 1), ("reinstate", 0), ("void", 1)):
        edit(contract, "correct", {"target_seq": seq, "mode": mode}, at=day("2027-06-11"), reason="No")
        assert ReviewItem.objects.exclude(status="resolved").count() == items
    tick(day("2028-01-10"))

    contract.refresh_from_db()
    assert (contract.status, contract.edits.filter(operation=voided).count()) == (status, 1)
    item = ReviewItem.objects.exclude(status="resolved").get()
    assert (item.kind, item.evidence["edit"]) == ("scheduled_command_undone", seq)
    edit(contract, *instead, at=day("2028-01-11"), reason="Decided")
    item.refresh_from_db()
    assert item.status == "resolved"


def test_an_edit_asks_no_more_queries_for_each_hold_that_has_ended_by_itself(payload: dict[str, Any]) -> None:
    contract = renewing(payload, "2027-03-01", months=12)
    asked = []
    for number in range(1, 7):
        hold = {"reason": "buyer", "resume_at": f"2027-03-{3 * number + 1:02}T00:00:00Z"}
        edit(contract, "suspend", hold, at=day(f"2027-03-{3 * number:02}"))
        tick(day(f"2027-03-{3 * number + 1:02}"))
        more = {"line_id": payload["lines"][0]["line_id"], "delta": 1}
        with CaptureQueriesContext(connection) as queries:
            edit(contract, "change_quantity", more, at=day(f"2027-03-{3 * number + 2:02}"))
        asked.append(len(queries))
    assert contract.edits.filter(operation="resume").count() == 6
    assert len(set(asked)) == 1, asked


def test_a_voided_renewal_that_is_reinstated_counts_again(payload: dict[str, Any]) -> None:
    contract = renewing(payload, "2027-03-01")
    tick(day("2027-04-01"))
    seq = contract.edits.get(operation="renew").seq
    at = day("2027-04-03")
    edit(contract, "correct", {"target_seq": seq, "mode": "void"}, at=at, reason="Opted out")
    assert rows(contract, status="planned") == [("lapse:2", "2027-04-01", "planned")]
    tick(at)

    lapse = contract.edits.get(payload__mode="lapse").seq
    services.record_edits(
        contract_id=contract.pk,
        operations=[
            services.OperationRequest("correct", {"target_seq": target, "mode": mode}, reason="They did not")
            for target, mode in ((lapse, "void"), (seq, "reinstate"))
        ],
        actor=OPERATOR, at=at, idempotency_key="reinstated", expected_version=None,
    )  # fmt: skip

    assert rows(contract, status="planned", kind="renewal") == [("renew:3", "2027-05-01", "planned")]
    tick(day("2027-05-01"))
    assert Contract.objects.get(pk=contract.pk).current.term_no == 3


def test_who_leaves_before_a_late_tick_leaves_the_term_that_had_begun(payload: dict[str, Any]) -> None:
    """Downtime is no way out: what was due is done before anybody's edit, as of its own instant."""
    at = day("2027-04-01") + timedelta(minutes=3)
    ticked = renewing(payload, "2027-03-01")
    tick(day("2027-04-01"))
    late = renewing(payload, "2027-03-01")

    for contract in (ticked, late):
        with pytest.raises(Conflict, match="bound for longer"):
            edit(contract, "terminate", {"cause": "convenience"}, at=at, reason="Cheaper elsewhere.")
        if contract == late:
            assert renewals_of(late) == []  # nothing is written when anything refuses
        contract.refresh_from_db()
        seen = contract.version
        edit(contract, "terminate", {"cause": "mutual"}, at=at, reason="Agreed.", expected_version=seen)
        contract.refresh_from_db()

    assert renewals_of(late) == renewals_of(ticked) == ["2027-04-01"]
    assert (late.version, late.current.term_no) == (ticked.version, ticked.current.term_no)
    assert [event[:2] for event in events_of(late)] == [event[:2] for event in events_of(ticked)]
    assert rows(late) == rows(ticked)


def test_an_edit_waits_for_what_is_due_and_cannot_be_done_yet(payload: dict[str, Any]) -> None:
    contract = renewing(payload, "2027-03-01")
    told = len(events_of(contract))

    with guarded(fails), pytest.raises(Busy) as refused:
        edit(contract, "terminate", {"cause": "mutual"}, at=day("2027-04-02"), reason="Enough.")

    assert (refused.value.code, refused.value.retryable) == ("schedule_behind", True)
    assert not contract.edits.filter(operation__in=("renew", "terminate")).exists()
    assert len(events_of(contract)) == told
    assert rows(contract, kind="renewal") == [("renew:2", "2027-04-01", "planned")]
    edit(contract, "terminate", {"cause": "mutual"}, at=day("2027-04-02"), reason="Enough.")
    assert renewals_of(contract) == ["2027-04-01"]


EXTENDED = {"mode": "extend", "term_months": 2}


def test_a_renewal_that_was_replaced_by_an_extension_comes_at_the_new_end(payload: dict[str, Any]) -> None:
    """Nobody called the renewal off: the term is only longer, and its buyer is told of its end."""
    contract = renewing(payload, "2027-03-01", renewal={"notice_days": 10})
    tick_through(day("2027-03-20"), day("2027-04-01"))
    seq = contract.edits.get(operation="renew").seq
    instead = {"target_seq": seq, "mode": "replace", "replacement": {"payload": EXTENDED}}

    edit(contract, "correct", instead, at=day("2027-04-03"), reason="Only extended")

    assert rows(contract, status="planned") == [
        ("notice:2:2027-05-22T00:00:00Z", "2027-05-22", "planned"),
        ("optout:2:2027-06-01T00:00:00Z", "2027-06-01", "planned"),
        ("renew:2:2027-06-01T00:00:00Z", "2027-06-01", "planned"),
    ]
    tick_through(day("2027-04-03"), day("2027-06-01"))
    contract.refresh_from_db()
    assert (contract.current.term_no, contract.end_at) == (2, day("2027-07-01"))
    assert [kind for kind, _, _ in events_of(contract)].count("contract.renewal_due") == 2
    assert not contract.edits.filter(payload__mode="lapse").exists()
    assert rows(contract, kind="renewal", status="planned") == [("renew:3", "2027-07-01", "planned")]


def test_the_renewal_of_an_extended_term_lapses_only_when_it_was_voided_itself(
    payload: dict[str, Any],
) -> None:
    contract = renewing(payload, "2027-03-01")
    tick(day("2027-04-01"))
    seq = contract.edits.get(operation="renew").seq
    instead = {"target_seq": seq, "mode": "replace", "replacement": {"payload": EXTENDED}}
    edit(contract, "correct", instead, at=day("2027-04-03"), reason="Only extended")
    tick(day("2027-06-01"))
    second = contract.edits.filter(operation="renew").latest("seq").seq

    edit(
        contract, "correct", {"target_seq": second, "mode": "void"}, at=day("2027-06-02"), reason="Opted out"
    )
    tick(day("2027-06-02"))

    contract.refresh_from_db()
    assert (contract.status, contract.end_at) == ("expired", day("2027-06-01"))
    assert [row.payload["mode"] for row in contract.edits.filter(operation="renew").order_by("seq")] == [
        "new_term", "new_term", "lapse"
    ]  # fmt: skip


def test_a_lapsed_term_that_is_extended_by_hand_is_renewed_at_its_new_end(payload: dict[str, Any]) -> None:
    contract = renewing(payload, "2027-03-01")
    tick(day("2027-04-01"))
    seq = contract.edits.get(operation="renew").seq
    edit(contract, "correct", {"target_seq": seq, "mode": "void"}, at=day("2027-04-03"), reason="Opted out")
    tick(day("2027-04-03"))
    assert status_of(contract) == "expired"

    edit(contract, "renew", {**EXTENDED, "gap": "bill"}, at=day("2027-04-05"), reason="They stay")

    assert rows(contract, kind="renewal", status="planned") == [
        ("renew:2:2027-06-01T00:00:00Z", "2027-06-01", "planned")
    ]
    tick(day("2027-06-01"))
    contract.refresh_from_db()
    assert (contract.status, contract.current.term_no) == ("active", 2)


def test_a_term_that_is_extended_after_its_renewal_was_refused_asks_nobody_any_more(
    payload: dict[str, Any],
) -> None:
    contract = renewing(payload, "2027-03-01")
    with guarded(past_due):
        tick(day("2027-04-01"))
    assert ReviewItem.objects.get(kind="renewal_blocked").status == "open"

    edit(contract, "renew", {**EXTENDED, "gap": "bill"}, at=day("2027-04-05"), reason="They have paid")

    assert rows(contract, kind="renewal") == [
        ("renew:2", "2027-04-01", "cancelled"), ("renew:2:2027-06-01T00:00:00Z", "2027-06-01", "planned")
    ]  # fmt: skip
    assert ReviewItem.objects.get(kind="renewal_blocked").status == "resolved"
    tick(day("2027-06-01"))
    assert Contract.objects.get(pk=contract.pk).current.term_no == 2


def test_a_buyer_who_was_told_of_one_end_is_told_of_the_later_one(payload: dict[str, Any]) -> None:
    contract = renewing(payload, "2027-03-01", renewal={"notice_days": 10})
    tick_through(day("2027-03-20"), day("2027-03-25"))

    edit(contract, "renew", EXTENDED, at=day("2027-03-26"))

    assert rows(contract, kind="notice") == [
        ("notice:2", "2027-03-22", "done"), ("notice:2:2027-05-22T00:00:00Z", "2027-05-22", "planned")
    ]  # fmt: skip
    assert rows(contract, kind="renewal") == [("renew:2", "2027-06-01", "planned")]
    tick_through(day("2027-03-26"), day("2027-06-01"))
    assert Contract.objects.get(pk=contract.pk).current.term_no == 2


def test_nobody_renews_in_the_buyers_name_without_the_terms_number_either(payload: dict[str, Any]) -> None:
    contract = renewing(payload, "2027-03-01")

    with pytest.raises(Conflict) as refused:
        edit(contract, "renew", {"trigger": "auto"}, at=day("2027-03-05"))

    assert refused.value.code == "notice_window_open"
    assert renewals_of(contract) == []
