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
from contracts.rules.state import ContractState
from contracts.rules.visibility import roles_of, seen_edits

HIDDEN_FROM_PARTNERS = ("buyer_id",)


@register_audience("contract")
def readers(events: Sequence[OutboxEvent]) -> dict[UUID, Readers]:
    found: dict[UUID, Readers] = {}
    contracts = Contract.objects.in_bulk({UUID(event.aggregate_id) for event in events})
    for id_, contract in contracts.items():
        own = [event for event in events if event.aggregate_id == str(id_)]
        seen = _seen(contract)
        for event in own:
            found[event.event_id] = {contract.buyer_id: ()} | {
                party: () if "seller" in roles else HIDDEN_FROM_PARTNERS
                for party, (roles, edits) in seen.items()
                if not event.payload["edits"] or edits & set(event.payload["edits"])
            }
    return found


def _seen(contract: Contract) -> dict[UUID, tuple[frozenset[str], set[int]]]:
    """Of each party but the buyer: its roles, and the numbers of the edits that it sees."""
    state = contract.current
    parties = _parties(state) - {contract.buyer_id}
    edits = services.contract_edits(contract.pk) if parties else []
    return {party: (roles_of(state, party), set(seen_edits(edits, party))) for party in parties}


def _parties(state: ContractState) -> set[UUID]:
    partner = state.terms.settlement.partner_id
    return {line.seller_id for line in state.lines.values()} | ({partner} if partner else set())
