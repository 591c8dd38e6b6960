"""Another party takes a place in a contract: who, from when, with whose consent, and who sees what of it."""

from dataclasses import dataclass, replace
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from typing import Any

import pytest

from commerce.actor import Actor
from commerce.errors import CommerceError, Conflict, InvalidInput, PermissionDenied, StateConflict
from commerce.outbox.models import OutboxEvent
from commerce.parties.models import Organization
from contracts import services
from contracts.audience import readers
from contracts.models import Contract
from contracts.rules.fold import fold, timeline
from contracts.rules.segments import billable_segments
from contracts.rules.state import Financing, Lender, evolve
from contracts.rules.upcasting import load
from contracts.rules.visibility import seen_edits, seen_timeline, shown
from contracts.services import contract_edits
from tests.contracts.conftest import MARCH, OPERATOR, Parties, edit

pytestmark = pytest.mark.django_db

JUNE = datetime(2027, 6, 16, tzinfo=UTC)
DAY = timedelta(days=1)
WHY = "Acme sells its data centre to Globex."


@dataclass
class Deal:
    """An active contract, and two verified organizations that may come in."""

    contract: Contract
    parties: Parties
    globex: Organization
    eastwind: Organization

    def consents(self, *parties: Organization) -> list[dict[str, Any]]:
        return [
            {"party": str(party.pk), "name": party.name, "at": "2027-06-01T00:00:00Z"} for party in parties
        ]

    def to_globex(self, **more: Any) -> dict[str, Any]:
        consents = self.consents(self.parties.buyer, self.globex)
        return {"party": "buyer", "new_party_id": str(self.globex.pk), "consents": consents, **more}

    def to_eastwind(self, **more: Any) -> dict[str, Any]:
        consents = self.consents(self.parties.seller, self.eastwind)
        return {"party": "seller", "new_party_id": str(self.eastwind.pk), "consents": consents, **more}

    def transfer(self, payload: dict[str, Any], **given: Any) -> Contract:
        arguments = {"at": JUNE, "reason": WHY, **given}
        return edit(self.contract, "transfer_ownership", payload, **arguments).contract

    def refused(self, payload: dict[str, Any], **given: Any) -> tuple[str, str]:
        """(code, pointer) of the refusal; nothing was recorded."""
        version = Contract.objects.get(pk=self.contract.pk).version
        with pytest.raises(CommerceError) as refused:
            self.transfer(payload, **given)
        assert Contract.objects.get(pk=self.contract.pk).version == version
        error = refused.value
        return error.code, error.errors[0].pointer if error.errors else ""

    @property
    def log(self) -> list[Any]:
        return contract_edits(self.contract.pk)


@pytest.fixture
def deal(active: Contract, parties: Parties) -> Deal:
    globex, eastwind = (
        Organization.objects.create(name=name, slug=name.lower(), roles=[role])
        for name, role in (("Globex", "buyer"), ("Eastwind", "seller"))
    )
    Organization.objects.filter(pk__in=[globex.pk, eastwind.pk]).update(onboarding_status="active")
    return Deal(active, parties, globex, eastwind)


def test_another_buyer_begins_another_epoch_and_the_days_before_stay_with_the_old_one(deal: Deal) -> None:
    contract = deal.transfer(deal.to_globex())
    assert contract.buyer_id == deal.globex.pk
    before, after = (fold(deal.log, valid_at=at) for at in (JUNE - DAY, JUNE))
    assert (before.buyer_id, before.owner_epoch) == (deal.parties.buyer.pk, 1)
    assert (after.buyer_id, after.owner_epoch) == (deal.globex.pk, 2)
    [transfer] = after.transfers
    assert (transfer.old_id, transfer.new_id, transfer.at) == (deal.parties.buyer.pk, deal.globex.pk, JUNE)
    assert (transfer.unpaid, transfer.credits, transfer.prepaid) == ("stays", "stays", "stays")
    assert {signature.party for signature in after.signatures} >= {deal.parties.buyer.pk, deal.globex.pk}
    assert after.lines == before.lines
    assert after.billing == before.billing


@pytest.mark.parametrize(
    ("field", "value", "instead"),
    [("unpaid", "assumed", "paid"), ("credits", "moves", "wallet"), ("prepaid", "moves", "funds its own")],
)
def test_no_money_is_promised_to_follow_a_transfer(deal: Deal, field: str, value: str, instead: str) -> None:
    """A preview says what recording says, and the refusal what to do."""
    payload = deal.to_globex(**{field: value})
    assert deal.refused(payload) == ("not_supported", f"/payload/{field}")
    with pytest.raises(InvalidInput, match=instead):
        services.preview_edit(
            contract_id=deal.contract.pk, operation="transfer_ownership", payload=payload, reason=WHY,
            actor=OPERATOR, at=JUNE, expected_version=None,
        )  # fmt: skip
    assert fold(deal.log, valid_at=JUNE).buyer_id == deal.parties.buyer.pk


def test_a_transfer_that_was_recorded_when_money_could_be_promised_is_still_read(deal: Deal) -> None:
    deal.transfer(deal.to_globex())
    *before, transfer = deal.log
    old = load("transfer_ownership", deal.to_globex(unpaid="assumed", prepaid="moves"))
    log = [*before, replace(transfer, payload=old)]
    state = fold(log, valid_at=JUNE)
    assert (state.buyer_id, state.owner_epoch) == (deal.globex.pk, 2)
    assert state.transfers[0].unpaid == "assumed"


def test_another_seller_earns_from_the_instant_on_and_nobody_elses_lines_move(deal: Deal) -> None:
    line = {
        "line_id": "01960000-0000-7000-8000-00000000aaaa",
        "product": "h100-server",
        "seller_id": str(deal.parties.other_seller.pk),
        "price": {"model": "unit", "rate": "10.00"},
    }
    edit(deal.contract, "add_product", line)
    old = str(deal.parties.seller.pk)
    contract = deal.transfer(deal.to_eastwind(old_party_id=old))
    assert set(contract.seller_ids) == {deal.eastwind.pk, deal.parties.other_seller.pk}
    segments = billable_segments(deal.log, start=JUNE - DAY, end=JUNE + DAY)
    cut = {(s.seller_id, s.valid_from, s.valid_to) for s in segments}
    assert cut == {
        (deal.parties.seller.pk, JUNE - DAY, JUNE),
        (deal.eastwind.pk, JUNE, JUNE + DAY),
        (deal.parties.other_seller.pk, JUNE - DAY, JUNE + DAY),
    }
    assert fold(deal.log, valid_at=JUNE).owner_epoch == 1, "the buyer is the same"


def test_a_new_anchor_comes_with_the_new_owner_only_if_asked_for(deal: Deal) -> None:
    assert deal.refused(deal.to_globex(anchor="new_day")) == ("anchor_day_invalid", "/payload/anchor_day")
    assert deal.refused(deal.to_globex(anchor_day=5)) == ("anchor_day_invalid", "/payload/anchor_day")
    seller = deal.to_eastwind(anchor="new_day", anchor_day=16)
    assert deal.refused(seller) == ("anchor_day_invalid", "/payload/anchor")
    deal.transfer(deal.to_globex(anchor="new_day", anchor_day=16))
    assert fold(deal.log, valid_at=JUNE).billing.anchor_day == 16
    assert fold(deal.log, valid_at=JUNE - DAY).billing.anchor_day == 1


def test_a_new_owner_does_not_move_the_anchor_in_the_middle_of_a_commitments_window(deal: Deal) -> None:
    pledge = {
        "commitment_id": "01960000-0000-7000-8000-00000000bbbb", "kind": "minimum_spend",
        "amount_minor": 100_000, "window": "period",
    }  # fmt: skip
    edit(deal.contract, "set_commitment", pledge)
    moved = deal.to_globex(anchor="new_day", anchor_day=16)
    assert deal.refused(moved) == ("anchor_change_mid_commitment", "/payload/anchor_day")
    deal.transfer(deal.to_globex(anchor="new_day", anchor_day=1))
    assert fold(deal.log, valid_at=JUNE).owner_epoch == 2


def test_a_transfer_at_the_end_of_the_term_needs_a_contract_that_goes_on(deal: Deal) -> None:
    assert deal.refused(deal.to_globex(end_old="end_of_term"))[0] == "invalid_state"


def test_whoever_leaves_and_comes_has_consented(deal: Deal) -> None:
    for given in ([deal.parties.buyer], [deal.globex], []):
        payload = deal.to_globex(consents=deal.consents(*given))
        assert deal.refused(payload) == ("consent_missing", "/payload/consents")
    strangers = deal.consents(deal.parties.buyer, deal.globex, deal.parties.partner)
    assert deal.refused(deal.to_globex(consents=strangers)) == ("not_a_party", "/payload/consents/2/party")


def test_a_lender_agrees_to_another_debtor_or_is_paid_off(deal: Deal) -> None:
    state = fold(deal.log, valid_at=JUNE)
    bank = deal.parties.partner
    loan = Financing(
        financing_id=bank.pk, principal_minor=1, apr=0, term_months=1, first_due_on=JUNE.date(), since=MARCH,
        lender=Lender("third_party", bank.pk),
    )  # fmt: skip
    lent = evolve(state, financings={loan.financing_id: loan})
    operation = services.edits.named("transfer_ownership")

    def check(**more: Any) -> None:
        payload = services.edits.schema.parse(operation.payload, deal.to_globex(**more))
        operation.check(lent, payload, JUNE)

    with pytest.raises(Conflict) as refused:
        check()
    assert (refused.value.code, refused.value.errors[0].pointer) == ("lender_refused", "/financing")
    check(consents=deal.consents(deal.parties.buyer, deal.globex, bank))
    check(financing="payoff")


def test_nobody_takes_their_own_place_and_only_the_verified_take_any(deal: Deal) -> None:
    Organization.objects.filter(pk=deal.parties.buyer.pk).update(onboarding_status="active")
    same = deal.to_globex(new_party_id=str(deal.parties.buyer.pk))
    assert deal.refused(same) == ("same_party", "/payload/new_party_id")
    new = Organization.objects.create(name="Initech", slug="initech", roles=["buyer"])
    initech = deal.to_globex(new_party_id=str(new.pk))
    assert deal.refused(initech) == ("party_not_verified", "/payload/new_party_id")
    Organization.objects.filter(pk=deal.globex.pk).update(onboarding_status="suspended")
    assert deal.refused(deal.to_globex()) == ("buyer_blocked", "/payload/new_party_id")
    seller = deal.to_globex(new_party_id=str(deal.eastwind.pk))
    assert deal.refused(seller) == ("unknown_buyer", "/payload/new_party_id")


def test_which_seller_leaves_is_said_when_there_are_several(deal: Deal) -> None:
    stranger = str(deal.parties.other_seller.pk)
    assert deal.refused(deal.to_eastwind(old_party_id=stranger)) == ("not_a_party", "/payload/old_party_id")
    line = {
        "line_id": "01960000-0000-7000-8000-00000000aaaa",
        "product": "h100-server",
        "seller_id": stranger,
        "price": {"model": "unit", "rate": "10.00"},
    }
    edit(deal.contract, "add_product", line)
    assert deal.refused(deal.to_eastwind()) == ("old_party_required", "/payload/old_party_id")


@pytest.mark.parametrize("stage", ["draft", "suspended", "terminated"])
def test_only_a_running_contract_or_one_about_to_run_changes_hands(deal: Deal, stage: str) -> None:
    if stage == "suspended":
        edit(deal.contract, "suspend", {"reason": "buyer"}, at=JUNE)
    elif stage == "terminated":
        edit(deal.contract, "terminate", {"cause": "mutual"}, at=JUNE, reason="over")
    given = {"effective_at": MARCH - DAY} if stage == "draft" else {}
    code, _ = deal.refused(deal.to_globex(), **given)
    assert code in ("invalid_state", "effective_before_start")


def test_one_person_alone_does_not_transfer(deal: Deal, django_user_model: Any) -> None:
    alone = Actor.for_user(django_user_model.objects.create_superuser("alone"))
    with pytest.raises(PermissionDenied) as refused:
        deal.transfer(deal.to_globex(), actor=alone)
    assert refused.value.code == "approval_required"
    assert not deal.contract.edits.filter(operation="transfer_ownership").exists()


def test_a_later_edit_is_carried_to_the_new_owner(deal: Deal) -> None:
    [line_id, *_] = fold(deal.log, valid_at=JUNE).lines
    edit(
        deal.contract, "change_quantity", {"line_id": str(line_id), "quantity": 7},
        effective_at=JUNE + DAY, at=MARCH,
    )  # fmt: skip
    deal.transfer(deal.to_globex())
    later = fold(deal.log, valid_at=JUNE + DAY)
    assert (later.lines[line_id].quantity, later.buyer_id) == (7, deal.globex.pk)


def test_an_edit_of_the_old_owners_time_does_not_undo_the_transfer(deal: Deal) -> None:
    [line_id, *_] = fold(deal.log, valid_at=JUNE).lines
    deal.transfer(deal.to_globex())
    edit(
        deal.contract, "change_quantity", {"line_id": str(line_id), "quantity": 5},
        effective_at=JUNE - DAY, at=JUNE + DAY, reason="forgotten",
    )  # fmt: skip
    assert fold(deal.log, valid_at=JUNE).buyer_id == deal.globex.pk
    assert fold(deal.log, valid_at=JUNE - DAY).buyer_id == deal.parties.buyer.pk
    assert fold(deal.log, valid_at=JUNE).lines[line_id].quantity == 5


def test_each_owner_sees_its_own_time(deal: Deal) -> None:
    old, new = deal.parties.buyer.pk, deal.globex.pk
    deal.transfer(deal.to_globex(financing="payoff"))
    edit(deal.contract, "suspend", {"reason": "buyer"}, at=JUNE + DAY)
    before, after = (fold(deal.log, valid_at=at) for at in (JUNE - DAY, JUNE))
    assert shown(before, old)
    assert shown(after, old) is None
    assert shown(before, new) is None
    assert shown(after, new)
    assert {step.at >= JUNE for step in seen_timeline(deal.log, new)} == {True}
    assert {step.at < JUNE for step in seen_timeline(deal.log, old)} == {True}
    transfer, hold = deal.log[-2].seq, deal.log[-1].seq
    assert seen_edits(deal.log, old)[transfer]["financing"] == "payoff"
    assert hold not in seen_edits(deal.log, old)
    assert min(seen_edits(deal.log, new)) == transfer


def test_a_seller_learns_who_the_new_buyer_is_and_a_partner_does_not(deal: Deal) -> None:
    deal.transfer(deal.to_globex())
    transfer = deal.log[-1].seq
    seller = seen_edits(deal.log, deal.parties.seller.pk)[transfer]
    assert seller["new_party_id"] == str(deal.globex.pk)
    assert not {"unpaid", "credits", "prepaid", "financing"} & set(seller)
    assert seller["consents"] == []
    assert transfer not in seen_edits(deal.log, deal.parties.partner.pk)


def test_both_owners_hear_of_the_transfer_and_each_of_its_own_time_only(deal: Deal) -> None:
    deal.transfer(deal.to_globex())
    edit(deal.contract, "suspend", {"reason": "buyer"}, at=JUNE + DAY)
    events = list(OutboxEvent.objects.filter(aggregate_id=str(deal.contract.pk)).order_by("id"))
    heard = readers(events)
    old, new = deal.parties.buyer.pk, deal.globex.pk
    told = {event.type: {party for party in (old, new) if party in heard[event.event_id]} for event in events}
    assert told["contract.activated"] == {old}
    assert told["contract.transferred"] == {old, new}
    assert told["contract.suspended"] == {new}
    assert deal.parties.seller.pk in heard[events[-2].event_id]


def test_a_former_seller_hears_of_the_transfer_and_of_nothing_later(deal: Deal) -> None:
    deal.transfer(deal.to_eastwind())
    edit(deal.contract, "suspend", {"reason": "buyer"}, at=JUNE + DAY)
    events = list(OutboxEvent.objects.filter(aggregate_id=str(deal.contract.pk)).order_by("id"))
    heard = readers(events)
    told = {event.type for event in events if deal.parties.seller.pk in heard[event.event_id]}
    assert "contract.transferred" in told
    assert "contract.suspended" not in told


def test_the_status_never_moves_with_the_owner(deal: Deal) -> None:
    deal.transfer(deal.to_globex())
    assert {step.state.status for step in timeline(deal.log) if step.at >= JUNE} == {"active", "expired"}
    with pytest.raises((StateConflict, InvalidInput)):
        deal.transfer(deal.to_globex(), at=JUNE + 400 * DAY)


def test_a_loan_that_is_paid_off_is_owed_by_the_buyer_who_leaves(deal: Deal) -> None:
    loan = Financing(
        financing_id=deal.contract.pk, principal_minor=120000, apr=Decimal(0), term_months=12,
        first_due_on=date(2027, 4, 1), since=MARCH,
    )  # fmt: skip
    lent = evolve(fold(deal.log, valid_at=JUNE), financings={loan.financing_id: loan})
    operation = services.edits.named("transfer_ownership")
    for how, owed in (("novate", []), ("payoff", [JUNE - timedelta(microseconds=1)])):
        payload = services.edits.schema.parse(operation.payload, deal.to_globex(financing=how))
        after = operation.apply(lent, payload, JUNE)
        assert [charge.at for charge in after.charges] == owed, how
        assert (after.financings[loan.financing_id].closed_at is None) == (how == "novate")
