"""Who hears of a contract's events: its buyer of all, sellers and partner of what they see of the contract.

The same rules as everywhere (`rules.visibility`): an edit that changes nothing a party sees is no
event for it either, and a partner does not learn who the buyer is.
"""

from collections.abc import Sequence
from uuid import UUID

from commerce.outbox.models import OutboxEvent
from commerce.webhooks.audience import Readers, register_audience
from contracts import services
from contracts.models import Contract
from contracts.rules.fold import timeline
from contracts.rules.state import ContractState
from contracts.rules.visibility import seen_by

HIDDEN_FROM_PARTNERS = ("buyer_id",)


@register_audience("contract")
def readers(events: Sequence[OutboxEvent]) -> dict[UUID, Readers]:
    """The buyer is the one of the event: what is delivered late is not for who came later."""
    found: dict[UUID, Readers] = {}
    contracts = Contract.objects.in_bulk({UUID(event.aggregate_id) for event in events})
    for id_, contract in contracts.items():
        own = [event for event in events if event.aggregate_id == str(id_)]
        edits = services.contract_edits(id_)
        states = [step.state for step in timeline(edits)]
        sellers = {line.seller_id for state in states for line in state.lines.values()}
        partners = {partner for state in states if (partner := state.terms.settlement.partner_id)}
        seen, now = seen_by(edits, sellers | partners), _parties(contract.current)
        for event in own:
            buyers = _buyers(event)
            found[event.event_id] = dict.fromkeys(buyers, ()) | {
                party: () if party in sellers else HIDDEN_FROM_PARTNERS
                for party, part in seen.items()
                if party not in buyers
                and (
                    part.keys() & set(event.payload["edits"]) or (not event.payload["edits"] and party in now)
                )
            }
    return found


def _buyers(event: OutboxEvent) -> set[UUID]:
    """The buyer after the change, and of a transfer the one before it."""
    told = {event.payload["buyer_id"]}
    if event.type == "contract.transferred":
        told.add(event.payload["before"].get("/buyer_id", event.payload["buyer_id"]))
    return set(map(UUID, told))


def _parties(state: ContractState) -> set[UUID]:
    partner = state.terms.settlement.partner_id
    return {line.seller_id for line in state.lines.values()} | ({partner} if partner else set())
