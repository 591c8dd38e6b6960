"""Why OpenMeter bills something else than the contract says: the reasons that are expected.

OpenMeter cannot change what is past, gives no credit, and counts a metered item anew whenever the item
is replaced; what it does not express at all is in `items.apart`. A difference without a reason here is
one that nobody has an explanation for.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

from billing.rules.items import apart
from contracts.rules.fold import Edit, Instant, timeline, walk
from contracts.rules.segments import billable_segments
from contracts.rules.state import ContractState, Price

LONGEST_DELAY = timedelta(minutes=15)
_WORDS = {
    "activate": "activation",
    "add_product": "line",
    "remove_product": "removal",
    "change_quantity": "quantity",
    "change_price": "price",
    "apply_discount": "discount",
    "set_commitment": "commitment",
    "change_terms": "terms",
    "renew": "renewal",
    "suspend": "suspension",
    "resume": "end of a suspension",
    "terminate": "termination",
    "transfer_ownership": "transfer",
}
_OURS = {
    "sla_credit": "a credit for missed uptime",
    "early_fee": "an early fee",
    "principal": "an instalment",
    "interest": "an instalment",
    "financing_payoff": "a loan that was paid off",
    "financing_fee": "a loan's fee",
}


def reasons(
    edits: Sequence[Edit],
    *,
    start: datetime,
    end: datetime,
    followed: Mapping[int, datetime],
    at: datetime,
    kinds: Iterable[tuple[UUID | None, str]] = (),
    service: Iterable[tuple[UUID, datetime, datetime]] = (),
) -> dict[UUID | None, list[str]]:
    """By contract line: what explains that OpenMeter bills something else for [start, end), as of `at`.

    `followed` says when OpenMeter took each edit over, by seq. `kinds` are our lines' kinds, by line.
    `service` has a line, since when others of its units were in service, and when OpenMeter had it.
    """
    found: dict[UUID | None, dict[str, None]] = {}

    def add(line_id: UUID | None, reason: str) -> None:
        found.setdefault(line_id, {})[reason] = None

    within = [step for step in timeline(edits) if step.at < end]
    for edit, lines in _changes(edits):
        if edit.effective_at < end and (reason := _late(edit, within, start, followed.get(edit.seq), at)):
            for line_id in lines:
                add(line_id, reason)
    for line_id, since, told in service:
        if since < end and told > start and told - since > LONGEST_DELAY:
            add(line_id, f"units that came into service or left it on {since:%-d %B}, told later")
    for step in _in_force(within, start):
        for one in apart(step.state):
            add(one.line_id, one.reason)
    for line_id, reason in _cut(edits, start, end):
        add(line_id, reason)
    for whose, kind in kinds:
        if kind in _OURS:
            add(whose, _OURS[kind])
    return {line_id: list(why) for line_id, why in found.items()}


def _changes(edits: Sequence[Edit]) -> Iterator[tuple[Edit, set[UUID]]]:
    """Each edit with the lines whose billing it changes; a correction with those of its target."""
    by_seq: dict[int, set[UUID]] = {}
    for as_corrected in (False, True):
        for edit, before, after in walk(edits, as_corrected=as_corrected):
            by_seq.setdefault(edit.seq, set()).update(_touched(before, after))
            if as_corrected:
                yield edit, by_seq[edit.seq]
    for edit in edits:
        if edit.operation == "correct":
            yield edit, by_seq.get(edit.payload.target_seq, set())


def _touched(before: ContractState, after: ContractState) -> set[UUID]:
    return {id_ for id_ in after.lines if _billing(before, id_) != _billing(after, id_)}


def _billing(state: ContractState, line_id: UUID) -> Any:
    """All that a line's charges depend on."""
    line = state.lines.get(line_id)
    if line is None:
        return None
    discounts = [one for one in state.discounts.values() if one.covers(line_id)]
    commitments = [one for one in state.commitments.values() if one.covers(line_id)]
    return line, state.billing_share(line), state.billing, state.owner_epoch, discounts, commitments


def _late(
    edit: Edit, within: Sequence[Instant], start: datetime, followed: datetime | None, at: datetime
) -> str:
    """Why OpenMeter did not have the edit when it took effect; empty when it had, and that was enough."""
    what = f"{_what(edit)} from {edit.effective_at:%-d %B}, seq {edit.seq}"
    if followed is None:
        if edit.effective_at > at:
            return f"{_what(edit)} planned for {edit.effective_at:%-d %B}, seq {edit.seq}"
        return f"{what}, which OpenMeter has not followed yet"
    if followed - edit.effective_at > LONGEST_DELAY and followed > start:
        return f"back-dated {what}"
    if edit.effective_at > start and any(step.state.billing.when == "in_advance" for step in within[-1:]):
        return f"{what}, in a period that was billed in advance"
    return ""


def _what(edit: Edit) -> str:
    if edit.operation == "correct":
        return f"correction of seq {edit.payload.target_seq}"
    return _WORDS.get(edit.operation, edit.operation.replace("_", " "))


def _in_force(within: Sequence[Instant], start: datetime) -> Iterator[Instant]:
    """The states of [start, end): the one at its start, and those that follow."""
    earlier = [step for step in within if step.at <= start]
    yield from [*earlier[-1:], *(step for step in within if step.at > start)]


def _cut(edits: Sequence[Edit], start: datetime, end: datetime) -> Iterator[tuple[UUID, str]]:
    """Prices that bend, over lines that change or begin within the time."""
    pieces: dict[UUID, list[tuple[datetime, datetime, Price]]] = {}
    for one in billable_segments(edits, start=start, end=end):
        pieces.setdefault(one.line_id, []).append((one.valid_from, one.valid_to, one.price))
        if one.kind == "one_off" and len(pieces[one.line_id]) > 1:
            yield one.line_id, "units that were added to what is charged once"
    for line_id, parts in pieces.items():
        bent = [price for _, _, price in parts if _bends(price)]
        if bent and len(parts) > 1:
            yield line_id, "a count that OpenMeter begins anew whenever the line changes"
        if bent and (parts[0][0] > start or parts[-1][1] < end):
            yield line_id, "a minimum, maximum or included quantity in a part of a period"


def _bends(price: Price) -> bool:
    bounds = (price.min_minor, price.max_minor)
    return price.model not in ("unit", "flat") or bool(price.included) or any(b is not None for b in bounds)
