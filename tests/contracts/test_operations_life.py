"""create, activate and terminate in full: trials, dates, signatures, fees, notice, what loans become."""

from dataclasses import replace
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any
from uuid import UUID

import pytest

from commerce.errors import Conflict
from contracts.rules.fold import NOTHING, Edit, fold, timeline
from contracts.rules.operations import REGISTRY
from contracts.rules.operations.correct import Correct
from contracts.rules.segments import billable_segments
from contracts.rules.state import Charge, ContractState, Ending, Signature, Trial
from tests.contracts.operating import (
    ACTIVE,
    BUYER,
    DRAFT,
    LINES,
    NOW,
    SELLER,
    SERVERS,
    SIGNED,
    START,
    admit,
    approval,
    days,
    instant,
    parsed,
    refusal,
)

OTHER = UUID(int=77)
CREATE = {
    "buyer_id": str(BUYER),
    "currency": "USD",
    "start_at": "2027-03-01T00:00:00Z",
    "term": {"kind": "fixed", "months": 12},
}
LINE = {
    "line_id": str(SERVERS),
    "product": "h100-server",
    "seller_id": str(SELLER),
    "quantity": 1,
    "price": {"model": "unit", "rate": "18000.00"},
}
END = datetime(2028, 3, 1, tzinfo=UTC)
JULY = datetime(2027, 7, 1, tzinfo=UTC)
HASH, ANOTHER = "a" * 64, "b" * 64


def created(**payload: Any) -> Any:
    return admit(NOTHING, "create", {**CREATE, **payload}, at=START - days(9))


# create


def test_a_draft_knows_its_first_term() -> None:
    state = created()
    assert (state.term_no, state.term_start_at, state.term_months, state.end_at) == (1, START, 12, END)
    assert (state.end_policy, state.renews, state.trial) == ("expire", False, None)
    assert created(quote_ref="Q-77") == state


def test_what_comes_of_the_terms_end_is_chosen_at_the_start() -> None:
    assert created(end_policy="evergreen").end_policy == "evergreen"
    renewing = created(end_policy="renew")
    assert (renewing.end_policy, renewing.renews) == ("expire", True)
    assert created(end_policy="expire", terms={"renewal": {"auto": True}}).renews


def test_a_trial_has_days_or_an_end() -> None:
    assert created(trial={"days": 30}).trial == Trial(days=30)
    until = {"until": "2027-04-01T00:00:00Z", "on_end": "expire", "card_required": True}
    assert created(trial=until).trial == Trial(
        datetime(2027, 4, 1, tzinfo=UTC), on_end="expire", card_required=True
    )


@pytest.mark.parametrize(
    ("payload", "code", "pointer"),
    [
        ({"currency": "XXX"}, "unknown_currency", "/currency"),
        ({"billing": {"anchor_day": 32}}, "anchor_day_invalid", "/billing/anchor_day"),
        ({"term": {"kind": "fixed"}}, "term_invalid", "/term/months"),
        ({"term": {"kind": "evergreen", "months": 1}}, "term_invalid", "/term/months"),
        ({"term": {"kind": "evergreen"}, "end_policy": "renew"}, "term_invalid", "/end_policy"),
        ({"trial": {}}, "trial_invalid", "/trial/days"),
        ({"trial": {"days": 1, "until": "2027-04-01T00:00:00Z"}}, "trial_invalid", "/trial/days"),
        ({"trial": {"days": 91}}, "out_of_range", "/trial/days"),
        ({"trial": {"until": "2027-03-01T00:00:00Z"}}, "trial_invalid", "/trial/until"),
        ({"trial": {"until": "2028-03-02T00:00:00Z"}}, "trial_exceeds_term", "/trial/until"),
        ({"trial": {"days": 32}, "term": {"kind": "fixed", "months": 1}},
         "trial_exceeds_term", "/trial/days"),
        ({"terms": {"commitment": {"downpayment": {"amount_minor": 1, "currency": "EUR"}}}},
         "currency_mismatch", "/terms/commitment/downpayment/currency"),
        ({"lines": [{**LINE, "min_term_months": 13}]},
         "min_term_beyond_contract_end", "/lines/0/min_term_months"),
        ({"lines": [LINE, LINE]}, "line_id_taken", "/lines/1/line_id"),
    ],
)  # fmt: skip
def test_what_is_not_a_contract(payload: dict[str, Any], code: str, pointer: str) -> None:
    assert refusal(NOTHING, "create", {**CREATE, **payload}) == (code, pointer)


# activate


def signature(party: UUID, document: str | None = HASH) -> dict[str, Any]:
    found = {"party": str(party), "name": "N. N.", "at": "2027-03-01T00:00:00Z"}
    return {**found, "doc_sha256": document} if document else found


WAITING = replace(DRAFT, status="pending_signature")


def test_every_party_signs_one_document() -> None:
    payload = {"stage": "signed", "signatures": [signature(BUYER), signature(SELLER)]}
    after = admit(WAITING, "activate", payload)
    assert after.status == "pending_activation"
    assert after.signatures == tuple(Signature(party, "N. N.", START, HASH) for party in (BUYER, SELLER))
    assert admit(WAITING, "activate", {"stage": "signed"}).signatures == ()


@pytest.mark.parametrize(
    ("signatures", "code", "pointer"),
    [
        ([signature(BUYER)], "not_signed", "/signatures"),
        ([signature(SELLER)], "not_signed", "/signatures"),
        ([signature(BUYER), signature(SELLER, ANOTHER)], "document_differs", "/signatures/1/doc_sha256"),
        ([signature(BUYER), signature(SELLER, None)], "document_differs", "/signatures/1/doc_sha256"),
        ([signature(BUYER), signature(OTHER)], "not_a_party", "/signatures/1/party"),
    ],
)
def test_what_is_not_a_signature_of_all(signatures: Any, code: str, pointer: str) -> None:
    assert refusal(WAITING, "activate", {"stage": "signed", "signatures": signatures}) == (code, pointer)


def test_a_contract_is_live_from_the_date_that_billing_waits_for() -> None:
    dates = {"contract_effective_at": "2027-03-02T00:00:00Z", "acceptance_at": "2027-03-05T00:00:00Z"}
    live = {"stage": "live", **dates}
    assert instant(SIGNED, "activate", {**live, "bill_from": "acceptance"}) == START + days(4)
    assert instant(SIGNED, "activate", live) == START + days(1)
    assert instant(SIGNED, "activate", {"stage": "live"}) is None
    after = admit(SIGNED, "activate", {**live, "bill_from": "acceptance"}, at=START + days(4))
    assert (after.status, after.live_at) == ("active", START + days(4))


@pytest.mark.parametrize(
    ("payload", "code", "pointer"),
    [
        ({"stage": "live", "bill_from": "in_service"}, "required", "/service_activation_at"),
        ({"stage": "live", "bill_from": "acceptance"}, "required", "/acceptance_at"),
        ({"stage": "live", "signatures": [signature(BUYER)]}, "signatures_misplaced", "/signatures"),
        ({"stage": "live", "trial": {"days": 1, "until": "2028-01-01T00:00:00Z"}},
         "trial_invalid", "/trial/days"),
        ({"stage": "live", "trial": {"until": "2028-03-02T00:00:00Z"}}, "trial_exceeds_term", "/trial/until"),
        ({"stage": "live", "trial": {"days": 1, "card_required": True}}, "card_required", "/trial"),
        ({"stage": "signed", "bill_from": "in_service"}, "field_misplaced", "/bill_from"),
        ({"stage": "signed", "acceptance_at": "2028-01-01T00:00:00Z"}, "field_misplaced", "/acceptance_at"),
        ({"stage": "signed", "trial": {"days": 1}}, "field_misplaced", "/trial"),
    ],
)  # fmt: skip
def test_what_does_not_belong_to_a_stage(payload: dict[str, Any], code: str, pointer: str) -> None:
    assert refusal(SIGNED, "activate", payload) == (code, pointer)


def test_a_contract_goes_live_within_its_term_with_lines_that_were_signed() -> None:
    live = {"stage": "live"}
    early, late = ("effective_before_start", "/effective_at"), ("effective_after_end", "/effective_at")
    assert refusal(SIGNED, "activate", live, at=START - days(1)) == early
    assert refusal(SIGNED, "activate", live, at=END) == late
    assert refusal(replace(SIGNED, needs_resign=True), "activate", live) == ("not_signed", "/stage")
    assert refusal(replace(SIGNED, lines={}), "activate", live) == ("no_lines", "/stage")
    assert refusal(replace(DRAFT, lines={}), "activate", {"stage": "submit"}) == ("no_lines", "/stage")


def test_a_trial_runs_from_going_live() -> None:
    waiting = replace(SIGNED, trial=Trial(days=30, on_end="expire"))
    assert admit(waiting, "activate", {"stage": "live"}).trial == Trial(NOW + days(30), on_end="expire")
    other = {"stage": "live", "trial": {"days": 10}}
    assert admit(waiting, "activate", other).trial == Trial(NOW + days(10))
    assert admit(waiting, "activate", {"stage": "live", "trial": {"days": 0}}).trial is None
    over = replace(SIGNED, trial=Trial(until=NOW))
    assert admit(over, "activate", {"stage": "live"}).trial is None


def test_a_trial_that_asks_for_a_card_starts_with_one() -> None:
    payment = replace(SIGNED.terms.payment, method_ref="card-1")
    ready = replace(SIGNED, terms=replace(SIGNED.terms, payment=payment))
    asking = {"stage": "live", "trial": {"days": 10, "card_required": True}}
    assert admit(ready, "activate", asking).trial == Trial(NOW + days(10), card_required=True)


@pytest.mark.parametrize(
    ("on_end", "status", "billed"), [("convert", "active", True), ("expire", "terminated", False)]
)
def test_nothing_is_billed_in_a_trial_and_the_clock_ends_it(on_end: str, status: str, billed: bool) -> None:
    edits = log(trial={"days": 31, "on_end": on_end})
    over = datetime(2027, 4, 1, tzinfo=UTC)
    assert fold(edits, valid_at=over - days(1)).status == "active"
    assert fold(edits, valid_at=over).status == status
    assert billable_segments(edits, start=START, end=over) == []
    assert bool(billable_segments(edits, start=over, end=JULY)) is billed


# terminate


def test_an_ending_says_what_becomes_of_everything() -> None:
    payload = {
        "cause": "breach_seller", "unused": "forfeit", "final_usage": "skip", "commitment": "waive",
    }  # fmt: skip
    after = admit(ACTIVE, "terminate", payload)
    assert (after.status, after.end_at, after.holds) == ("terminated", NOW, ())
    assert after.ending == Ending(NOW, "breach_seller", "forfeit", "skip", "waive")
    assert after.charges == ()


@pytest.mark.parametrize("status", ["draft", "pending_signature", "pending_activation"])
def test_what_never_ran_is_cancelled_and_costs_nothing(status: str) -> None:
    loan = {"financing_id": str(OTHER), "principal_minor": 1, "term_months": 1, "fee_minor": 5,
            "first_due_on": "2027-09-01"}  # fmt: skip
    state = replace(admit(DRAFT, "attach_financing", loan), status=status)
    assert state.charges
    after = admit(state, "terminate", {})
    assert (after.status, after.charges, after.financings, after.ending) == ("cancelled", (), {}, None)


@pytest.mark.parametrize(
    ("when", "expected"), [("immediate", None), ("date", None), ("end_of_period", JULY), ("end_of_term", END)]
)
def test_a_contract_ends_now_with_the_period_or_with_the_term(when: str, expected: Any) -> None:
    assert instant(ACTIVE, "terminate", {"when": when}) == expected


def test_an_evergreen_contract_has_no_end_of_term() -> None:
    with pytest.raises(Conflict) as raised:
        instant(replace(ACTIVE, end_at=None), "terminate", {"when": "end_of_term"})
    assert raised.value.code == "term_required"


def test_half_of_the_remaining_months_is_the_fee_for_leaving_early() -> None:
    """OW-11: one server at 18,000.00 a month, seven months left, half of it: 63,000.00."""
    one = ACTIVE.with_line(replace(LINES[SERVERS], quantity=1))
    fee = {"early_fee": {"kind": "pct_remaining", "percent": "0.5"}}
    after = admit(one, "terminate", fee, at=datetime(2027, 8, 1, tzinfo=UTC))
    assert [charge.amount_minor for charge in after.charges] == [6_300_000]
    assert after.charges[0] == Charge("early_fee", "early_fee", datetime(2027, 8, 1, tzinfo=UTC), 6_300_000)


@pytest.mark.parametrize(
    ("fee", "minor"),
    [
        ({"kind": "months", "months": 1}, 3_600_000),
        ({"kind": "fixed", "amount_minor": 5}, 5),
        ({"kind": "none"}, None),
    ],
)
def test_a_fee_may_be_an_amount_some_months_or_waived_by_two_people(
    fee: dict[str, Any], minor: int | None
) -> None:
    after = admit(ACTIVE, "terminate", {"early_fee": fee})
    assert [charge.amount_minor for charge in after.charges] == ([minor] if minor else [])
    assert bool(approval(ACTIVE, "terminate", {"early_fee": fee})) is (minor is None)


@pytest.mark.parametrize(
    "free", [DRAFT, SIGNED, replace(ACTIVE, end_at=None), replace(ACTIVE, trial=Trial(NOW + days(9)))]
)
def test_a_fee_for_leaving_early_is_refused_where_nobody_does(free: ContractState) -> None:
    fee = {"cause": "mutual", "early_fee": {"kind": "fixed", "amount_minor": 5}}
    assert refusal(free, "terminate", fee) == ("fee_not_due", "/early_fee")
    assert admit(free, "terminate", {**fee, "early_fee": {"kind": "none"}}).charges == ()


def test_two_people_ask_for_less_of_a_commitment_than_was_agreed() -> None:
    spend = {"commitment_id": str(OTHER), "kind": "minimum_spend", "amount_minor": 100}
    for agreed, less, rest in (
        ("prorate", ["waive"], ["prorate", "full", None]),
        ("full", ["waive", "prorate"], ["full"]),
    ):
        state = admit(ACTIVE, "set_commitment", {**spend, "on_termination": agreed})
        for one in less:
            assert approval(state, "terminate", {"cause": "mutual", "commitment": one})
        for one in rest:
            assert not approval(state, "terminate", {"cause": "mutual", "commitment": one})
    assert not approval(ACTIVE, "terminate", {"cause": "mutual", "commitment": "waive"})


def test_leaving_a_term_for_convenience_takes_a_word_about_the_fee() -> None:
    assert refusal(ACTIVE, "terminate", {}) == ("fee_required", "/early_fee")
    unnoticed = replace(ACTIVE.terms, renewal=replace(ACTIVE.terms.renewal, notice_days=0))
    for free in (replace(ACTIVE, end_at=None, terms=unnoticed), replace(ACTIVE, trial=Trial(NOW + days(9)))):
        assert admit(free, "terminate", {}).charges == ()
        waived = {"early_fee": {"kind": "none"}}
        assert not approval(free, "terminate", waived)
    assert admit(ACTIVE, "terminate", {"when": "end_of_term"}, at=END).status == "terminated"
    bound = replace(ACTIVE, end_at=None).with_line(replace(LINES[SERVERS], min_term_until=NOW + days(1)))
    assert refusal(bound, "terminate", {}) == ("fee_required", "/early_fee")


@pytest.mark.parametrize("cause", ["breach_buyer", "breach_seller", "non_payment", "mutual", "duplicate"])
def test_who_does_not_leave_for_convenience_owes_no_fee(cause: str) -> None:
    assert admit(ACTIVE, "terminate", {"cause": cause}).charges == ()


def test_a_notice_that_is_given_is_given_in_time() -> None:
    def noticed(before: float) -> dict[str, Any]:
        return {"cause": "mutual", "notice_given_at": (NOW - days(before)).isoformat()}

    assert refusal(ACTIVE, "terminate", noticed(29.9)) == ("notice_too_short", "/notice_given_at")
    assert admit(ACTIVE, "terminate", noticed(30)).status == "terminated"


def test_who_leaves_for_convenience_gives_notice_when_it_is_recorded_if_not_before() -> None:
    evergreen, op = replace(ACTIVE, end_at=None), REGISTRY["terminate"]

    def recorded(before: float, **payload: Any) -> Any:
        return replace(parsed("terminate", payload), recorded_at=NOW - days(before))

    for late in (recorded(0), recorded(29.9), parsed("terminate", {})):
        with pytest.raises(Conflict) as raised:
            op.check(evergreen, late, NOW)
        assert raised.value.code == "notice_too_short"
    op.check(evergreen, recorded(30), NOW)
    op.check(evergreen, recorded(0, notice_given_at=(NOW - days(30)).isoformat()), NOW)
    op.check(evergreen, recorded(0, cause="breach_seller"), NOW)
    op.check(replace(ACTIVE, trial=Trial(NOW + days(9))), recorded(0), NOW)
    op.check(ACTIVE, recorded(0, early_fee={"kind": "months", "months": 1}), NOW)


def test_a_term_that_is_renewed_is_not_left_on_its_last_day() -> None:
    assert END is not None
    renewal = replace(ACTIVE.terms.renewal, auto=True)
    renewed = replace(ACTIVE, terms=replace(ACTIVE.terms, renewal=renewal))
    leaving = {"when": "end_of_term"}
    assert refusal(renewed, "terminate", leaving, at=END) == ("notice_too_short", "/notice_given_at")
    assert admit(ACTIVE, "terminate", leaving, at=END).status == "terminated"


def test_what_ended_does_not_end_again() -> None:
    ended = admit(ACTIVE, "terminate", {"cause": "mutual"})
    with pytest.raises(Conflict) as raised:
        admit(ended, "terminate", {"cause": "mutual"}, at=NOW + days(1))
    assert raised.value.code == "already_terminated"


def test_what_is_forfeited_is_billed_to_the_end_of_the_period() -> None:
    after = admit(ACTIVE, "terminate", {"cause": "mutual", "unused": "forfeit"})
    assert [line.forfeited and line.forfeited.until for line in after.lines.values()] == [JULY, None]
    edits = log(("terminate", {"cause": "mutual", "unused": "forfeit"}, NOW))
    assert [s.valid_to for s in billable_segments(edits, start=START, end=END)] == [JULY]


def test_loans_end_as_the_termination_says() -> None:
    loan = {"financing_id": str(OTHER), "principal_minor": 1_200_000, "term_months": 12,
            "first_due_on": "2027-07-10"}  # fmt: skip
    state = admit(ACTIVE, "attach_financing", loan)
    accelerated = admit(state, "terminate", {"cause": "mutual"}, at=NOW + days(30))
    assert [charge.amount_minor for charge in accelerated.charges] == [1_100_000]
    going_on = admit(state, "terminate", {"cause": "mutual", "financing": "continue"}, at=NOW + days(30))
    assert (going_on.charges, going_on.financings[OTHER].closed_at) == ((), None)


def test_a_buyer_leaves_at_its_own_cost_only_where_nothing_binds_it() -> None:
    def may(**payload: Any) -> bool:
        return REGISTRY["terminate"].buyer_may(parsed("terminate", payload), ACTIVE)

    own = ({}, {"when": "end_of_term"})
    others = (
        {"notice_given_at": (NOW - days(90)).isoformat()},
        {"early_fee": {"kind": "fixed", "amount_minor": 1}},
        {"cause": "mutual"},
        {"unused": "refund"},
        {"commitment": "waive"},
    )
    assert [may(**payload) for payload in own] == [True] * len(own)
    assert [may(**payload) for payload in others] == [False] * len(others)


# The log


def log(*steps: tuple[str, dict[str, Any], datetime], **create: Any) -> list[Edit]:
    begun = [("create", {**CREATE, "lines": [LINE], **create}, START)]
    begun += [("activate", {"stage": stage}, START) for stage in ("submit", "signed", "live")]
    return [
        Edit(seq, name, parsed(name, payload), at, at)
        for seq, (name, payload, at) in enumerate([*begun, *steps], 1)
    ]


def test_a_future_cancellation_is_undone_and_the_contract_is_worth_what_it_was() -> None:
    """ZU-04: 1,200 for the year, 1,100 when it ends on 1 December, 1,200 again when that is voided; at 300
    a month from July the year is 600 and 1,800."""
    start, end = datetime(2025, 1, 1, tzinfo=UTC), datetime(2026, 1, 1, tzinfo=UTC)
    line = {**LINE, "price": {"model": "unit", "rate": "100"}}

    def worth(*more: Edit) -> list[Decimal]:
        year = [replace(edit, effective_at=start) for edit in edits]
        found = billable_segments([*year, *more], start=start, end=end)
        return [
            segment.price.rate * ((segment.valid_to - segment.valid_from).days // 30) for segment in found
        ]

    edits = log(start_at="2025-01-01T00:00:00Z", lines=[line])
    december = datetime(2025, 12, 1, tzinfo=UTC)
    cancel = Edit(5, "terminate", parsed("terminate", {"cause": "mutual"}), december, START)
    void = Edit(6, "correct", Correct(5, "void"), december, START + days(1))
    assert worth() == [1200]
    assert worth(cancel) == [1100]
    assert worth(cancel, void) == [1200]
    price = {"line_id": str(SERVERS), "price": {"model": "unit", "rate": "300"}}
    july = Edit(7, "change_price", parsed("change_price", price), datetime(2025, 7, 1, tzinfo=UTC), START)
    assert worth(cancel, void, july) == [600, 1800]


def test_ending_with_the_term_comes_before_the_clock() -> None:
    edits = log(("terminate", {"when": "end_of_term", "unused": "refund"}, END))
    assert fold(edits, valid_at=END - days(1)).status == "active"
    assert fold(edits, valid_at=END).status == "terminated"
    assert [step.at for step in timeline(edits)][-1] == END
