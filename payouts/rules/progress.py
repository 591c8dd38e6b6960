"""What a payment order's state at the bank means for the payout that it pays.

The bank's word is read again and again and may arrive in any order, so progress is monotone: from
where a payout stands and what is seen there follow the missing steps, none, or a contradiction.
"""

from enum import StrEnum

_MEANING = {
    "needs_approval": "in_transit",
    "pending": "in_transit",
    "approved": "in_transit",
    "processing": "in_transit",
    "sent": "in_transit",
    "held": "in_transit",
    "completed": "paid",
    "returned": "returned",
    "failed": "failed",
    "denied": "failed",
    "cancelled": "failed",
}
_STEPS: dict[tuple[str, str], tuple[str, ...]] = {
    ("submitted", "in_transit"): ("accept",),
    ("submitted", "paid"): ("accept", "confirm"),
    ("submitted", "returned"): ("accept", "confirm", "bounce"),
    ("submitted", "failed"): ("accept", "fail"),
    ("in_transit", "in_transit"): (),
    ("in_transit", "paid"): ("confirm",),
    ("in_transit", "returned"): ("confirm", "bounce"),
    ("in_transit", "failed"): ("fail",),
    ("paid", "in_transit"): (),
    ("paid", "paid"): (),
    ("paid", "returned"): ("bounce",),
    ("returned", "in_transit"): (),
    ("returned", "paid"): (),
    ("returned", "returned"): (),
    ("failed", "in_transit"): (),
    ("failed", "failed"): (),
}
_STEPS |= {("unknown", seen): steps for (current, seen), steps in _STEPS.items() if current == "submitted"}

# Nacha: these say that the account cannot be credited; a further attempt would come back as well.
_UNUSABLE_ACCOUNT = frozenset(["R02", "R03", "R04", "R12", "R13", "R14", "R15", "R16", "R20", "R23", "R28"])


class Meaning(StrEnum):
    """What a provider status amounts to; UNCLEAR needs a person."""

    IN_TRANSIT = "in_transit"
    PAID = "paid"
    FAILED = "failed"
    RETURNED = "returned"
    UNCLEAR = "unclear"


def meaning(provider_status: str) -> Meaning:
    """Ours for Modern Treasury's payment order status; `reversed`, `stopped` and news are unclear."""
    return Meaning(_MEANING.get(provider_status, "unclear"))


def steps(current: str, seen: Meaning) -> tuple[str, ...] | None:
    """The transitions that bring a payout in state `current` to what was seen; None: they contradict."""
    return _STEPS.get((current, str(seen)))


def blocks_account(code: str) -> bool:
    return code in _UNUSABLE_ACCOUNT
