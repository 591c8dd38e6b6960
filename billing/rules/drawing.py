"""Which pocket of the wallet pays: the downpayment first, then what was committed, then the rest."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Draw:
    """Minor units taken from each pocket; `short` is what the wallet does not hold."""

    downpayment: int
    committed: int
    available: int
    short: int


def draw(total: int, *, downpayment: int, committed: int, available: int) -> Draw:
    """Split a total over what the pockets hold, in the order of the contract's terms."""
    from_downpayment = min(total, downpayment)
    from_committed = min(total - from_downpayment, committed)
    from_available = min(total - from_downpayment - from_committed, available)
    short = total - from_downpayment - from_committed - from_available
    return Draw(from_downpayment, from_committed, from_available, short)


def set_aside(*, downpayment_wanted: int, committed_wanted: int, available: int) -> tuple[int, int]:
    """How much of the wanted downpayment and commitment the wallet can set aside now, in that order."""
    downpayment = min(downpayment_wanted, available)
    return downpayment, min(committed_wanted, available - downpayment)
