"""Which state a contract's page shows: the present one, or that of `?valid_at=&known_at=`."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

from django.http import HttpRequest

from commerce import clock
from commerce.console.as_of import asked_instants
from contracts import services
from contracts.models import Contract
from contracts.rules import fold
from contracts.rules.fold import Edit
from contracts.rules.state import ContractState


@dataclass(frozen=True)
class View:
    """The state that the page shows; `asked` when it is not the present one."""

    state: ContractState
    valid_at: datetime
    known_at: datetime | None
    asked: bool


def view_of(contract: Contract, request: HttpRequest) -> View:
    """Asked by every part of the page, folded once."""
    known: View | None = contract.__dict__.get("_view")
    if known is None:
        known = contract.__dict__["_view"] = _view(contract, request)
    return known


def edits_of(contract: Contract) -> Sequence[Edit]:
    """The contract's log, read once per page."""
    known: Sequence[Edit] | None = contract.__dict__.get("_edits")
    if known is None:
        known = contract.__dict__["_edits"] = services.contract_edits(contract.pk)
    return known


def _view(contract: Contract, request: HttpRequest) -> View:
    asked = asked_instants(request)
    if not asked:
        return View(contract.current, contract.projected_at, None, asked=False)
    valid_at, known_at = asked.get("valid_at", clock.now()), asked.get("known_at")
    state = fold.fold(edits_of(contract), valid_at=valid_at, known_at=known_at)
    return View(state, valid_at, known_at, asked=True)
