"""Who owes is not bound to another term by the clock."""

import pytest

from billing.models import BillingAccount
from billing.services.renewals import require_paid_up
from commerce.actor import Actor
from commerce.errors import Conflict
from commerce.states import transition
from contracts.models import Contract
from contracts.rules.operations.renew import Renew
from tests.contracts.conftest import MARCH, active, draft, parties, payload  # noqa: F401  (fixtures)

CLERK = Actor.system("test")


def test_a_delinquent_buyer_is_renewed_by_hand_only(active: Contract) -> None:  # noqa: F811
    account = BillingAccount.objects.create(contract=active, buyer=active.buyer, status_since=MARCH)
    auto, manual = Renew(trigger="auto"), Renew()
    for step in ("invoiced", "in_grace", "past_due"):
        account = transition(account, f"become_{step}", actor=CLERK, at=MARCH)
        require_paid_up(active, active.current, auto, MARCH)

    transition(account, "become_delinquent", actor=CLERK, at=MARCH)

    with pytest.raises(Conflict) as refused:
        require_paid_up(active, active.current, auto, MARCH)
    assert refused.value.code == "past_due_block"
    require_paid_up(active, active.current, manual, MARCH)
