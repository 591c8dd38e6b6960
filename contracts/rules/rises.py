"""How far the prices of a contract's lines rise without two people, counted from where two last agreed.

The parties signed them, or two people agreed to an edit; machines and renewals at the agreed uplift apply
what was agreed. Rates are compared, not what some quantity costs: included units would hide any rise.
"""

from collections.abc import Sequence
from decimal import Decimal
from uuid import UUID

from contracts.rules.charges import rises_over
from contracts.rules.fold import Edit, walk
from contracts.rules.operations.renew import Renew
from contracts.rules.state import ContractState, Price

# An expired contract may be renewed at another price.
_SIGNED = frozenset({"active", "suspended", "expired"})


def steep_rise(
    log: Sequence[Edit], new: Edit, before: ContractState, after: ContractState, limit: Decimal
) -> str:
    """Why a second person has to agree to `new`, which makes `after` of `before`; "" when nobody has to.

    A price is held against each that its line has had since two people agreed to one, so that many small
    rises are one; those count too that lie later in time and that `new` raises.
    """
    changed = [id_ for id_, line in before.lines.items() if after.lines.get(id_, line).price != line.price]
    if before.status not in _SIGNED or not changed:
        return ""
    was = {edit.seq: state for edit, _, state in walk(log)}
    agreed = {edit.seq for edit in log if edit.agreed} | _corrected_by_two(log)
    had: dict[UUID, list[Price]] = {}
    for edit, then, now in walk([*log, new]):
        for line_id in changed:
            line, old = now.lines.get(line_id), then.lines.get(line_id)
            if line is None or (old is not None and old.price == line.price):
                continue
            before_it = had.setdefault(line_id, [])
            if edit.seq in agreed or then.status not in _SIGNED or _as_agreed(edit, line_id):
                before_it.clear()
            moved = edit.seq not in was or was[edit.seq].lines[line_id].price != line.price
            if moved and any(rises_over(price, line.price, limit) for price in before_it):
                return f"{line.product_code} becomes dearer by more than {limit:%} since two people agreed."
            before_it.append(line.price)
    return ""


def _as_agreed(edit: Edit, line_id: UUID) -> bool:
    """Whether it is a renewal that raises the line's price by what the terms of renewal say."""
    payload = edit.payload
    if not isinstance(payload, Renew) or payload.uplift is not None:
        return False
    return all(one.line_id != line_id for one in payload.reprice)


def _corrected_by_two(log: Sequence[Edit]) -> set[int]:
    return {edit.payload.target_seq for edit in log if edit.operation == "correct" and edit.agreed}
