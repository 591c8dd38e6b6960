"""News in an unlucky order: money collected late, and an invoice that nobody told of."""

from datetime import timedelta
from typing import Any

import pytest

from billing import services
from billing.models import Invoice
from tests.billing.conftest import CUT, SYSTEM, OpenMeter, World, findings, now, work
from tests.billing.test_collection import owe
from tests.billing.test_dunning import DAY, DUE

pytestmark = pytest.mark.django_db


def test_money_noticed_before_a_suspension_and_collected_after_it_resumes(world: World, clock: Any) -> None:
    deal = world.live(fund="0", downpayment="0")
    owe(deal)
    work()
    clock(DUE + 13 * DAY)
    noticed_at = now()
    world.tell(world.payment("200,000.00"))
    clock(DUE + 13 * DAY + timedelta(seconds=3))
    services.check_due_accounts(actor=SYSTEM, at=now())
    assert deal.status == "suspended"
    services.collect_for_buyer(buyer_id=world.acme.pk, source="test", actor=SYSTEM, at=noticed_at)
    assert deal.account.billing_status == "current"
    assert deal.status == "active"
    assert findings() == []


def test_an_invoice_whose_webhook_was_lost_is_found_although_later_ones_were_heard_of(
    openmeter: OpenMeter, world: World
) -> None:
    early = world.live()
    openmeter.at(now() + timedelta(hours=9))
    late = world.live(start=now(), fund="0")
    openmeter.at(CUT + timedelta(hours=10))
    (heard_of,) = [
        id_ for id_ in openmeter.invoice_ids() if _customer(openmeter, id_) == late.sync.customer_id
    ]
    openmeter.tell(heard_of)
    assert not Invoice.objects.filter(contract=early.contract).exists()
    services.poll_invoices(actor=SYSTEM, at=now())
    work()
    assert early.invoice.status == "paid"


def _customer(openmeter: OpenMeter, invoice_id: str) -> str:
    return str(openmeter.sandbox.om.get(f"/billing/invoices/{invoice_id}").json()["customer"]["id"])
