"""What is allowed and may still surprise whoever records it: said in a preview, refused by nobody."""

from collections.abc import Iterator, Sequence
from datetime import datetime

from commerce.money import Money
from contracts.rules.document import day
from contracts.rules.fold import Edit, resolve
from contracts.rules.lines import Difference
from contracts.rules.operations.fees import monthly
from contracts.rules.periods import MONTHS
from contracts.rules.schema import instant
from contracts.rules.state import ContractState

Step = tuple[Edit, ContractState, ContractState]
"""An edit that would be recorded, with the state before and after it."""


def cautions(
    log: Sequence[Edit], steps: Sequence[Step], bills: Sequence[Difference], at: datetime
) -> list[str]:
    """In words: what the edits of `steps`, the last ones of `log`, bring about that nobody asked for."""
    (_, before, _), (_, _, after) = steps[0], steps[-1]
    found = [*_of_all(before, after, bills, at), *_still_held(steps, after)]
    for edit, was, becomes in steps:
        found += [*_hidden(log, edit, was), *_cheaper_by_more(was, becomes)]
    return list(dict.fromkeys(found))


def _of_all(
    before: ContractState, after: ContractState, bills: Sequence[Difference], at: datetime
) -> Iterator[str]:
    present = after.period(at).start
    if after.start_at and any(bill.owed.period_start < present for bill in bills):
        yield "Periods that are over change: what was billed for them is made good by memos, not rewritten."
    if after.needs_resign and not before.needs_resign:
        yield "The parties have to sign again before it goes live."
    if before.status == "suspended" and after.status == "suspended":
        yield "The contract is suspended: what changes is billed from when it is resumed."


def _hidden(log: Sequence[Edit], edit: Edit, state: ContractState) -> Iterator[str]:
    """A change by so many units counts until an edit that takes effect later says how many there are."""
    seq = edit.payload.target_seq if edit.operation == "correct" else edit.seq
    counting = resolve(log)
    place = next((i for i, one in enumerate(counting) if one.seq == seq), None)
    if place is None or counting[place].operation != "change_quantity":
        return
    change = counting[place].payload
    pins = [
        f"#{one.seq} sets {one.payload.quantity:,} from {day(instant(one.effective_at))}"
        for one in counting[place + 1 :]
        if one.operation == "change_quantity"
        and one.payload.line_id == change.line_id
        and one.payload.quantity is not None
    ]
    if change.delta is not None and pins:
        name = state.lines[change.line_id].product_code if change.line_id in state.lines else "the line"
        yield f"The change of {name} by {change.delta:+,} is hidden by what counts later: {'; '.join(pins)}."


def _cheaper_by_more(before: ContractState, after: ContractState) -> Iterator[str]:
    """Of a volume price all units cost what the tier says that they reach: a total may fall as they rise."""
    for id_, line in after.lines.items():
        was = before.lines.get(id_)
        if was is None or line.price != was.price or line.price.model != "volume" or line.kind == "usage":
            continue
        months = MONTHS[after.billing.cadence]
        costs = monthly(was, months), monthly(line, months)
        if line.live and (line.quantity - was.quantity) * (costs[1] - costs[0]) < 0:
            less, more = (Money(minor, after.currency) for minor in costs)
            yield (
                f"{was.quantity:,} of {line.product_code} cost {less} a month, {line.quantity:,} cost "
                f"{more}: a volume price is of the tier that all of them reach."
            )


def _still_held(steps: Sequence[Step], after: ContractState) -> Iterator[str]:
    if after.holds and any(edit.operation == "resume" for edit, _, _ in steps):
        others = len(after.holds)
        yield "1 other hold remains." if others == 1 else f"{others} other holds remain."
