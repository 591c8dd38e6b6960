"""A settlement's arithmetic: its legs add up to the invoice, and its state follows from theirs."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from commerce.errors import FieldError, InvalidInput

PAYEE_KINDS = frozenset({"seller", "partner"})
_ENDED = frozenset({"paid_out", "reversed", "clawed_back"})


@dataclass(frozen=True)
class Share:
    """One payee's part of an invoice, in minor units."""

    kind: str
    payee_id: str
    amount_minor: int


def check_shares(total_minor: int, shares: Sequence[Share]) -> list[Share]:
    """The shares worth a leg. InvalidInput when one is negative or repeated or the sum is not the total."""
    errors = [
        FieldError(f"/legs/{i}/amount_minor", "amount_negative", "A share cannot be negative.")
        for i, share in enumerate(shares)
        if share.amount_minor < 0
    ]
    keys = [(share.kind, share.payee_id) for share in shares]
    errors += [
        FieldError(f"/legs/{i}", "duplicate_leg", f"The payee already has a {key[0]} share.")
        for i, key in enumerate(keys)
        if key in keys[:i]
    ]
    found = sum(share.amount_minor for share in shares)
    if found != total_minor:
        errors.append(FieldError("/legs", "sum_mismatch", f"The shares sum to {found}, not {total_minor}."))
    if errors:
        raise InvalidInput("The shares do not make up the invoice.", errors=errors)
    return [share for share in shares if share.amount_minor]


def settlement_status(legs: Iterable[tuple[str, str]]) -> str:
    """The state of a settlement whose legs are these (kind, status) pairs."""
    pairs = list(legs)
    statuses = {status for _, status in pairs}
    payees = {status for kind, status in pairs if kind in PAYEE_KINDS}
    if "held" in statuses:
        return "held"
    if statuses & {"pending", "funded"}:
        return "disbursing"
    if payees & {"seasoning", "releasable"}:
        return "seasoning"
    if payees and payees == {"reversed"}:
        return "reversed"
    return "completed" if payees <= _ENDED else "released"


def allocate_oldest_first(amount_minor: int, open_minor: Sequence[int]) -> list[int]:
    """How much of a payout falls on each open leg, the first being filled first."""
    parts = []
    for wanted in open_minor:
        parts.append(min(wanted, amount_minor))
        amount_minor -= parts[-1]
    return parts
