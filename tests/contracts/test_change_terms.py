"""change_terms: patches of sections, when they are allowed, who must agree, and who sees what of them."""

from dataclasses import fields, replace
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any
from uuid import uuid4

import pytest
from django.contrib.auth.models import User
from hypothesis import given
from hypothesis import strategies as st

from commerce.actor import Actor
from commerce.console.approvals import approve
from commerce.console.demo_users import ensure_demo_users
from commerce.errors import CommerceError, InvalidInput, PermissionDenied, StateConflict
from commerce.parties.models import ProviderReference
from contracts import services
from contracts.models import Contract, ContractEdit
from contracts.rules import schema
from contracts.rules.fold import timeline
from contracts.rules.operations import REGISTRY, check_allowed
from contracts.rules.operations.terms import ChangeTerms, Cycle, with_defaults
from contracts.rules.platform import PlatformDefaults
from contracts.rules.schema import Patch
from contracts.rules.state import Commitment, ContractState
from contracts.rules.terms import Payment, Renewal, SettlementTerms, Sla, SlaTier, Tax, Terms, Uplift
from contracts.rules.visibility import seen_edits, shown
from contracts.services import OperationRequest
from tests.contracts.conftest import MARCH, Parties, edit
from tests.contracts.test_recording import last_event

NAME = "change_terms"
OPERATION = REGISTRY[NAME]
APRIL = datetime(2027, 4, 1, tzinfo=UTC)
END = datetime(2028, 3, 1, tzinfo=UTC)
STATUSES = (
    *("draft", "pending_signature", "pending_activation", "active", "suspended"),
    *("expired", "terminated", "cancelled"),
)
SECTIONS: dict[str, dict[str, Any]] = {
    "payment": {"net_days": 30},
    "renewal": {"auto": True},
    "billing": {"anchor_day": 15},
    "sla": {"auto_credit": False},
    "tax": {"rate": "0.2"},
    "settlement": {"fee_rate": "0.1"},
    "references": {"po_number": "PO-1"},
}


def payload(data: dict[str, Any]) -> ChangeTerms:
    return schema.parse(ChangeTerms, data)


def running(**changes: Any) -> ContractState:
    """An active contract from March on, for a year."""
    values = {
        "status": "active", "start_at": MARCH, "term_start_at": MARCH, "end_at": END, "currency": "USD",
        **changes,
    }  # fmt: skip
    return ContractState(**values)


def refusal(state: ContractState, data: dict[str, Any], at: datetime = APRIL) -> tuple[str, str]:
    """(code, pointer) of what the rules refuse."""
    with pytest.raises(CommerceError) as refused:
        OPERATION.check(state, payload(data), at)
    [error] = refused.value.errors
    return error.code, error.pointer


# The patch


@pytest.mark.django_db
def test_only_what_is_said_changes(active: Contract) -> None:
    before = active.current.terms
    changed = edit(active, NAME, {"payment": {"net_days": 30}, "references": {"po_number": "PO-1"}})
    after = changed.contract.current.terms
    assert after.payment == replace(before.payment, net_days=30)
    assert after.references.po_number == "PO-1"
    assert replace(after, payment=before.payment, references=before.references) == before
    assert changed.edit.payload == {"payment": {"net_days": 30}, "references": {"po_number": "PO-1"}}
    event = last_event()
    assert event.type == "contract.terms_changed"
    assert event.payload["after"] == {"/terms/payment/net_days": 30, "/terms/references/po_number": "PO-1"}


def test_a_null_is_stored_as_what_the_platform_says_at_that_time(active: Contract) -> None:
    edit(active, NAME, {"payment": {"net_days": 30}, "references": {"po_number": "PO-1"}})
    back = edit(active, NAME, {"payment": {"net_days": None}, "references": {"po_number": None}})
    assert back.edit.payload == {"payment": {"net_days": 14}, "references": {"po_number": None}}
    assert back.contract.current.terms.payment.net_days == 14
    assert back.contract.current.terms.references.po_number is None


def test_a_null_section_goes_back_whole(active: Contract) -> None:
    edit(active, NAME, {"sla": {"policy": "gold", "degraded_weight": "1", "auto_credit": False}})
    back = edit(active, NAME, {"sla": None}).contract.current
    assert back.terms.sla == services.platform_terms(MARCH).sla
    assert back.terms.payment == active.current.terms.payment


def test_a_partner_goes_with_its_share(active: Contract, parties: Parties) -> None:
    gone = edit(active, NAME, {"settlement": {"partner_id": None, "partner_share": None}}).contract
    assert gone.partner_id is None
    assert gone.current.terms.settlement.partner_share == 0
    for half in ({"partner_id": str(parties.partner.pk)}, {"partner_share": "0.1"}):
        with pytest.raises(InvalidInput) as refused:
            edit(gone, NAME, {"settlement": half})
        assert refused.value.code == "partner_incomplete"


def test_terms_may_change_later_and_back_in_time(active: Contract) -> None:
    edit(active, NAME, {"payment": {"net_days": 30}}, effective_at=APRIL)
    edit(
        active, NAME, {"payment": {"net_days": 21}}, at=MARCH + timedelta(days=9),
        effective_at=MARCH + timedelta(days=4), reason="Agreed on the 5th.",
    )  # fmt: skip
    days = [step.state.terms.payment.net_days for step in timeline(services.contract_edits(active.pk))]
    assert days[-4:-1] == [14, 21, 30]


@pytest.mark.parametrize(
    ("data", "pointer", "code"),
    [
        ({"payment": {"net_days": 121}}, "/payment/net_days", "out_of_range"),
        ({"payment": {"nett": 1}}, "/payment/nett", "unknown_field"),
        ({"payment": 30}, "/payment", "invalid_type"),
        ({"payment": {"collection": "cash"}}, "/payment/collection", "invalid_choice"),
        ({"billing": {"anchor_day": 32}}, "/billing/anchor_day", "anchor_day_invalid"),
        ({"billing": {"when": "in_advance"}}, "/billing/when", "unknown_field"),
        ({"tax": {"rate": 0.2}}, "/tax/rate", "invalid_type"),
        ({"renewal": {"uplift": {"kind": "up"}}}, "/renewal/uplift/kind", "invalid_choice"),
        ({"postage": {}}, "/postage", "unknown_field"),
    ],
)
def test_what_does_not_read_is_refused_at_its_place(data: dict[str, Any], pointer: str, code: str) -> None:
    with pytest.raises(InvalidInput) as refused:
        payload(data)
    assert [(error.pointer, error.code) for error in refused.value.errors] == [(pointer, code)]


def test_saying_what_holds_already_is_refused_and_leaves_no_version(active: Contract) -> None:
    for nothing in ({}, {"payment": {}}, {"payment": {"net_days": 14}}):
        with pytest.raises(InvalidInput) as refused:
            edit(active, NAME, nothing)
        assert refused.value.code == "no_effect"
    assert ContractEdit.objects.filter(contract=active).count() == 4


def test_its_schema_lists_every_field_and_lets_each_be_null() -> None:
    described = schema.describe(ChangeTerms)["properties"]
    assert set(described) == set(SECTIONS)
    for section, kind in (("payment", Payment), ("billing", Cycle), ("settlement", SettlementTerms)):
        properties = described[section]["properties"]
        assert set(properties) == {one.name for one in fields(kind)}
        assert all(one["nullable"] for one in properties.values())


# Refusals


def test_opting_out_is_possible_until_its_last_day_and_no_longer() -> None:
    renewal = Renewal(auto=True, notice_days=60, opt_out_days=30)
    state = running(terms=Terms(renewal=renewal))
    last = END - timedelta(days=30)
    OPERATION.check(state, payload({"renewal": {"auto": False}}), last)
    late = last + timedelta(microseconds=1)
    assert refusal(state, {"renewal": {"auto": False}}, late) == ("opt_out_too_late", "/renewal/auto")
    without = {"auto": False, "opt_out_days": 0}
    assert refusal(state, {"renewal": without}, late) == ("opt_out_too_late", "/renewal/auto")


def test_what_is_not_renewed_or_has_no_end_is_never_opted_out_of_too_late() -> None:
    eve = END - timedelta(hours=1)
    auto = Terms(renewal=Renewal(auto=True, notice_days=60, opt_out_days=30))
    out = payload({"renewal": {"auto": False}})
    OPERATION.check(running(terms=auto, end_at=None), out, eve)
    OPERATION.check(running(terms=auto, status="draft"), out, eve)
    OPERATION.check(running(), payload({"renewal": {"auto": True}}), eve)
    OPERATION.check(running(terms=auto), payload({"renewal": {"uplift": {"kind": "none"}}}), eve)


@pytest.mark.parametrize(
    ("window", "mid", "boundary"),
    [
        ("period", datetime(2027, 4, 2, tzinfo=UTC), APRIL),
        ("quarter", APRIL, datetime(2027, 6, 1, tzinfo=UTC)),
        ("term", datetime(2027, 6, 1, tzinfo=UTC), MARCH),
    ],
)
def test_the_anchor_does_not_move_in_the_middle_of_a_commitments_window(
    window: Any, mid: datetime, boundary: datetime
) -> None:
    commitment = Commitment(uuid4(), "minimum_spend", "all", since=MARCH, window=window)
    state = running(commitments={commitment.commitment_id: commitment})
    for change in ({"anchor_day": 15}, {"cadence": "P3M"}):
        assert refusal(state, {"billing": change}, mid) == ("anchor_change_mid_commitment", "/billing")
        OPERATION.check(state, payload({"billing": change}), boundary)
    OPERATION.check(state, payload({"billing": {"anchor_day": 1}, "payment": {"net_days": 30}}), mid)
    OPERATION.check(replace(state, status="draft"), payload({"billing": {"anchor_day": 15}}), mid)


def test_collecting_by_card_needs_the_card() -> None:
    code = ("auto_collection_without_method", "/payment/collection")
    card = running(terms=Terms(payment=Payment(collection="card_auto", method_ref="card-1")))
    assert refusal(running(), {"payment": {"collection": "card_auto"}}) == code
    assert refusal(card, {"payment": {"method_ref": None}}) == code
    OPERATION.check(running(), payload({"payment": {"collection": "card_auto", "method_ref": "c"}}), APRIL)
    OPERATION.check(card, payload({"payment": {"collection": None, "method_ref": None}}), APRIL)


def test_an_uplift_stays_within_its_cap() -> None:
    over = {"kind": "percent", "value": "0.06", "cap": "0.05"}
    assert refusal(running(), {"renewal": {"uplift": over}}) == ("uplift_over_cap", "/renewal/uplift/value")
    OPERATION.check(running(), payload({"renewal": {"uplift": over | {"value": "0.05"}}}), APRIL)


@pytest.mark.parametrize(
    ("data", "code"),
    [
        ({"renewal": {"uplift": {"kind": "percent"}}}, "uplift_incomplete"),
        ({"renewal": {"uplift": {"kind": "none", "value": "0.1"}}}, "uplift_incomplete"),
        ({"renewal": {"auto": True, "notice_days": 5, "opt_out_days": 9}}, "notice_after_cutoff"),
        ({"sla": {"tiers": []}}, "tiers_invalid"),
        ({"settlement": {"partner_share": "0.1"}}, "partner_incomplete"),
    ],
)
def test_a_section_that_contradicts_itself_is_refused(data: dict[str, Any], code: str) -> None:
    assert refusal(running(), data)[0] == code


def test_a_section_that_does_not_change_is_not_judged_again() -> None:
    """An old contradiction, or one that came with a correction, holds up no other change."""
    old = running(terms=Terms(settlement=SettlementTerms(partner_share=Decimal("0.1"))))
    OPERATION.check(old, payload({"payment": {"net_days": 30}}), APRIL)


@pytest.mark.django_db
def test_a_contract_is_paid_with_a_method_of_its_buyers_own(active: Contract, parties: Parties) -> None:
    for owner, reference in ((parties.buyer, "own"), (parties.buyer, "not-yet"), (parties.seller, "theirs")):
        ProviderReference.objects.create(
            organization=owner, provider="modern_treasury", kind="external_account", reference=reference,
            provider_id=f"at-{reference}", requested_at=MARCH,
        )  # fmt: skip
    ProviderReference.objects.exclude(reference="not-yet").update(status="active")
    for reference in ("theirs", "not-yet", "unheard-of"):
        with pytest.raises(InvalidInput) as refused:
            edit(active, NAME, {"payment": {"collection": "card_auto", "method_ref": reference}})
        [error] = refused.value.errors
        assert (error.code, error.pointer) == ("method_not_owned", "/payload/payment/method_ref")
    assert ContractEdit.objects.filter(contract=active).count() == 4
    changed = edit(active, NAME, {"payment": {"collection": "card_auto", "method_ref": "own"}})
    assert changed.contract.current.terms.payment.method_ref == "own"


# Statuses


def allowed(status: str, sections: set[str]) -> bool:
    if status == "pending_signature":
        return False
    if status in ("terminated", "cancelled"):
        return sections <= {"references"}
    return sections <= {"payment", "references"} if status == "expired" else True


@pytest.mark.parametrize("status", STATUSES)
@pytest.mark.parametrize(
    "sections",
    [{name} for name in SECTIONS] + [{"payment", "references"}, {"references", "tax"}],
    ids=lambda names: " and ".join(sorted(names)),
)
def test_each_section_is_allowed_in_its_statuses_and_in_no_other(status: str, sections: set[str]) -> None:
    change = payload({name: SECTIONS[name] for name in sections})
    state = running(status=status)
    if allowed(status, sections):
        check_allowed(OPERATION, state, change, APRIL)
        assert OPERATION.apply(state, change, APRIL) != state
        return
    with pytest.raises(StateConflict) as refused:
        check_allowed(OPERATION, state, change, APRIL)
    assert refused.value.code == "invalid_state"


@pytest.mark.django_db
def test_an_ended_contract_takes_references_and_nothing_else(draft: Contract) -> None:
    ended = edit(draft, "terminate", {"cause": "mutual"}, reason="Enough.").contract
    with pytest.raises(StateConflict):
        edit(ended, NAME, {"payment": {"net_days": 30}})
    noted = edit(ended, NAME, {"references": {"notes": "Box 12"}}).contract
    assert (noted.status, noted.current.terms.references.notes) == ("cancelled", "Box 12")


# Two people


@pytest.mark.parametrize(
    ("data", "needed"),
    [
        ({"settlement": {"fee_rate": "0.1"}}, True),
        ({"settlement": {"seasoning_days": 1}}, True),
        ({"settlement": {"reserve_rate": "0.1"}}, True),
        ({"tax": {"rate": "0.2"}}, True),
        ({"payment": {"net_days": 15}}, True),
        ({"payment": {"grace_days": 4}}, True),
        ({"payment": {"net_days": 13, "grace_days": 2}}, False),
        ({"settlement": {"fee_rate": "0"}}, False),
        ({"renewal": {"auto": True}}, False),
        ({"billing": {"anchor_day": 15}}, False),
        ({"sla": {"auto_credit": False}}, False),
        ({"references": {"notes": "x"}}, False),
    ],
)
def test_what_divides_money_otherwise_or_gives_credit_needs_two_people(
    data: dict[str, Any], needed: bool
) -> None:
    assert bool(OPERATION.needs_approval(running(), payload(data), APRIL)) is needed
    assert OPERATION.needs_approval(running(status="draft"), payload(data), APRIL) == ""


@pytest.fixture
def people(db: None) -> dict[str, Actor]:
    ensure_demo_users()
    return {user.username: Actor.for_user(user) for user in User.objects.all()}


def test_one_person_changes_no_settlement_and_two_do(active: Contract, people: dict[str, Actor]) -> None:
    change = {"settlement": {"fee_rate": "0.2"}}
    with pytest.raises(PermissionDenied) as refused:
        edit(active, NAME, change, actor=people["operator"])
    assert refused.value.code == "approval_required"
    assert Contract.objects.get(pk=active.pk).current.terms.settlement.fee_rate == Decimal("0.125")
    asked = services.request_edits(
        contract_id=active.pk, operations=[OperationRequest(NAME, change)], expected_version=4,
        actor=people["operator"], at=MARCH, reason="Agreed.",
    )  # fmt: skip
    approve(approval=asked, actor=people["approver"], at=MARCH + timedelta(hours=1))
    after = Contract.objects.get(pk=active.pk)
    assert (after.version, after.current.terms.settlement.fee_rate) == (5, Decimal("0.2"))


def test_one_person_shortens_the_days_to_pay(active: Contract, people: dict[str, Actor]) -> None:
    changed = edit(active, NAME, {"payment": {"net_days": 7}}, actor=people["operator"])
    assert changed.contract.current.terms.payment.net_days == 7


# Parties


@pytest.mark.parametrize(
    ("data", "may"),
    [
        ({"references": {"po_number": "PO-1", "labels": ["a"]}}, True),
        ({"renewal": {"auto": False}}, True),
        ({"payment": {"collection": "bank_invoice", "method_ref": None}}, True),
        ({"payment": {"net_days": 1}}, False),
        ({"renewal": {"auto": False, "notice_days": 0}}, False),
        ({"billing": {"anchor_day": 2}}, False),
        ({"tax": {"rate": "0"}}, False),
        ({"settlement": {"fee_rate": "0"}}, False),
        ({"references": {"notes": "x"}, "sla": {"auto_credit": True}}, False),
    ],
)
def test_a_buyer_chooses_how_it_pays_and_whether_to_go_on_and_no_more(
    data: dict[str, Any], may: bool
) -> None:
    assert OPERATION.buyer_may(payload(data), running()) is may


@pytest.mark.django_db
def test_each_party_reads_its_part_of_changed_terms(active: Contract, parties: Parties) -> None:
    change = {
        "payment": {"net_days": 7},
        "settlement": {"fee_rate": "0.1", "partner_share": "0.5"},
        "billing": {"anchor_day": 15},
    }
    edit(active, NAME, change)
    edit(active, NAME, {"payment": {"net_days": 8}})
    log = services.contract_edits(active.pk)
    by = {role: seen_edits(log, getattr(parties, role).pk) for role in ("buyer", "seller", "partner")}
    assert by["buyer"][5] == {"payment": {"net_days": 7}, "billing": {"anchor_day": 15}}
    assert by["seller"][5] == {"settlement": {"fee_rate": "0.1"}, "billing": {"anchor_day": 15}}
    assert by["partner"][5] == {"settlement": {"partner_share": "0.5"}, "billing": {"anchor_day": 15}}
    assert by["buyer"][6] == {"payment": {"net_days": 8}}
    assert 6 not in by["seller"]
    assert 6 not in by["partner"]
    state = Contract.objects.get(pk=active.pk).current
    assert (shown(state, parties.seller.pk) or {})["terms"] == {
        "settlement": {"fee_rate": "0.1", "seasoning_days": 7, "reserve_rate": "0"}
    }


@pytest.mark.django_db
def test_a_correction_of_terms_shows_the_buyer_no_settlement(active: Contract, parties: Parties) -> None:
    edit(active, NAME, {"payment": {"net_days": 7}, "settlement": {"fee_rate": "0.1"}})
    new = {"payment": {"net_days": 9}, "settlement": {"fee_rate": "0.11"}}
    edit(
        active, "correct", {"target_seq": 5, "mode": "replace", "replacement": {"payload": new}},
        at=APRIL, reason="Typed wrong.",
    )  # fmt: skip
    seen = seen_edits(services.contract_edits(active.pk), parties.buyer.pk)[6]
    assert seen["replacement"]["payload"] == {"payment": {"net_days": 9}}


# Properties

share = st.integers(0, 1000).map(lambda n: Decimal(n) / 1000)
text = st.text("abc -", min_size=1, max_size=8)
uplift = st.builds(Uplift, kind=st.sampled_from(["none", "percent", "catalog"]), value=share)
values: dict[str, dict[str, st.SearchStrategy[Any]]] = {
    "payment": {
        "net_days": st.integers(0, 120),
        "grace_days": st.integers(0, 90),
        "collection": st.sampled_from(["wallet_auto", "card_auto", "bank_invoice"]),
        "method_ref": text,
    },
    "renewal": {"auto": st.booleans(), "term_months": st.integers(1, 120), "uplift": uplift},
    "billing": {"anchor_day": st.integers(1, 31), "cadence": st.sampled_from(["P1M", "P3M", "P1Y"])},
    "sla": {"policy": text, "cap": share, "tiers": st.lists(st.builds(SlaTier, share, share)).map(tuple)},
    "tax": {"rate": share, "exempt_certificate": text},
    "settlement": {"fee_rate": share, "seasoning_days": st.integers(0, 365), "partner_id": st.uuids()},
    "references": {"po_number": text, "labels": st.lists(text, max_size=3).map(tuple)},
}
patches = st.fixed_dictionaries(
    {},
    optional={
        section: st.fixed_dictionaries({}, optional={n: st.none() | one for n, one in names.items()}).map(
            Patch
        )
        for section, names in values.items()
    },
).map(lambda sections: ChangeTerms(**sections))
states = patches.map(lambda patch: OPERATION.apply(running(), patch, MARCH))


def inverse(change: ChangeTerms, before: ContractState) -> ChangeTerms:
    """What takes a change back: each of its fields as it was, null where there was nothing."""

    def was(section: str, name: str) -> Any:
        return getattr(before.billing if section == "billing" else getattr(before.terms, section), name)

    return ChangeTerms(
        **{
            section: Patch({name: was(section, name) for name in patch.values})
            for section, patch in change.sections.items()
        }
    )


@given(state=states, change=patches)
def test_a_change_and_its_inverse_are_no_change(state: ContractState, change: ChangeTerms) -> None:
    after = OPERATION.apply(state, change, APRIL)
    assert OPERATION.apply(after, inverse(change, state), APRIL) == state


@given(state=states, change=patches)
def test_a_change_done_twice_is_the_change_done_once(state: ContractState, change: ChangeTerms) -> None:
    once = OPERATION.apply(state, change, APRIL)
    assert OPERATION.apply(once, change, APRIL) == once


@given(change=patches)
def test_a_stored_change_reads_back_as_it_was(change: ChangeTerms) -> None:
    assert schema.load(ChangeTerms, schema.dump(change)) == change
    assert schema.parse(ChangeTerms, schema.dump(change)) == change


@given(state=states, change=patches)
def test_sections_that_are_not_named_stay(state: ContractState, change: ChangeTerms) -> None:
    after = OPERATION.apply(state, change, APRIL)
    for section in SECTIONS.keys() - change.sections.keys() - {"billing"}:
        assert getattr(after.terms, section) == getattr(state.terms, section)
    if not change.billing:
        assert after.billing == state.billing


@given(change=patches)
def test_a_null_becomes_the_platforms_value_and_nothing_else_moves(change: ChangeTerms) -> None:
    defaults = PlatformDefaults(
        payment=Payment(net_days=45), tax=Tax(rate=Decimal("0.3")), sla=Sla(policy="p")
    )
    completed = with_defaults(change, defaults)
    for section, patch in change.sections.items():
        new = completed.sections[section].values
        assert new.keys() == patch.values.keys()
        for name, value in patch.values.items():
            if value is not None:
                assert new[name] == value
    if "net_days" in change.payment.values and change.payment.values["net_days"] is None:
        assert completed.payment.values["net_days"] == 45
    if "method_ref" in change.payment.values and change.payment.values["method_ref"] is None:
        assert completed.payment.values["method_ref"] is None
