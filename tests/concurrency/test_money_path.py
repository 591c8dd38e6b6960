"""The whole money path at once: editors, banks, clocks and relays on the same few rows, and nobody deadlocks.

The provider's words are given to the services as they would be after a fetch; only local effects run.
"""

import json
import threading
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from itertools import count
from typing import Any
from uuid import uuid4

import pytest
from django.db import connection
from django.test import Client
from django.utils import timezone

from billing import services as billing
from billing.models import BillingAccount, Invoice, InvoiceLine, SubscriptionSync
from billing.services.invoices import apply_invoice
from billing.services.pay_ins import apply_incoming_payment
from commerce.api.services import issue_key
from commerce.outbox import drain
from commerce.outbox.models import OutboxStream
from commerce.parties.models import Organization
from commerce.providers.openmeter import Invoice as Reading
from commerce.states import transition
from contracts import services as contracts
from ledger import services as ledger
from payouts import services as payouts
from payouts.models import Payout
from tests.billing.conftest import CUT, MARCH, SYSTEM, Deal, World, findings, make_world, usd
from tests.payouts.conftest import add_account, tell

pytestmark = pytest.mark.django_db(transaction=True)

SECONDS = 8
LATER = CUT + timedelta(days=30)
LOCAL = ["billing.account", "billing.collection", "payouts.settlement", "payouts.policy"]
_numbers = count(1)


def deliver() -> int:
    OutboxStream.objects.filter(due_at__isnull=False).update(due_at=timezone.now())
    return drain(groups=LOCAL).handled


def settle_down() -> None:
    """Work off everything local, with the clock past every season and due date."""
    for _ in range(20):
        billing.check_due_accounts(actor=SYSTEM, at=LATER)
        ledger.release_due(at=LATER, actor=SYSTEM)
        if not deliver():
            return


def running(world: World, *sellers: Organization) -> Deal:
    deal = world.draft(sellers=sellers, downpayment="1,000.00")
    for stage in ("submit", "signed"):
        deal.edit("activate", {"stage": stage})
    deliver()
    deal.edit("activate", {"stage": "live"})
    deliver()
    SubscriptionSync.objects.create(
        contract=deal.contract, buyer=deal.contract.buyer, customer_key=f"contract-{deal.contract.pk}"
    )
    return deal


def verified(deal: Deal, sellers: tuple[Organization, ...]) -> Invoice:
    """A draft that has been verified, with a line of 100.00 USD net for each seller."""
    n = next(_numbers)
    net = usd("100.00") * len(sellers)
    tax = len(sellers) * usd("8.25")
    invoice = Invoice.objects.create(
        account=deal.account, contract=deal.contract, buyer_id=deal.contract.buyer_id, currency="USD",
        period_start=MARCH + timedelta(minutes=n), period_end=MARCH + timedelta(minutes=n + 1),
        net_minor=net, tax_minor=tax, total_minor=net + tax, number=f"INV-{n}", verified_at=CUT,
        provider_id=f"om-{n}", provider_status="issuing.syncing", provider_updated_at=CUT,
        provider_net_minor=net,
    )  # fmt: skip
    for seller in sellers:
        InvoiceLine.objects.create(
            invoice=invoice, line_id=uuid4(), product="h100-server", kind="recurring", seller=seller,
            quantity=1, rate=100, start=invoice.period_start, end=invoice.period_end,
            net_minor=usd("100.00"), tax_minor=usd("8.25"),
        )  # fmt: skip
    return invoice


def reading(invoice: Invoice) -> Reading:
    """OpenMeter's invoice as it waits to be paid, newer each time it is asked for."""
    return Reading(
        id=invoice.provider_id, number=str(invoice.number), status="payment_processing",
        extended_status="payment_processing.pending", failed=False, currency="USD", customer_id="c",
        customer_key=f"contract-{invoice.contract_id}", period_start=invoice.period_start,
        period_end=invoice.period_end, issued_at=CUT, due_at=None,
        updated_at=CUT + timedelta(seconds=next(_numbers)), net=Decimal(invoice.net_minor) / 100,
        taxes=Decimal(0), total=Decimal(invoice.net_minor) / 100, invoicing_app="custom_invoicing",
        validation_issues=(), lines=(), raw={},
    )  # fmt: skip


def deadlocks() -> int:
    with connection.cursor() as cursor:
        cursor.execute("SELECT pg_stat_force_next_flush()")
        cursor.execute("SELECT deadlocks FROM pg_stat_database WHERE datname = current_database()")
        return int(cursor.fetchone()[0])


class Crowd:
    """Threads that do their work again and again until time is up; what they raise is kept."""

    def __init__(self, *works: Callable[[], Any]) -> None:
        self.failures: list[str] = []
        self.rounds: dict[str, int] = {}
        self.end = time.monotonic() + SECONDS
        threads = [threading.Thread(target=self._repeat, args=[work]) for work in works]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()

    def _repeat(self, work: Callable[[], Any]) -> None:
        name = work.__name__
        try:
            while time.monotonic() < self.end:
                work()
                self.rounds[name] = self.rounds.get(name, 0) + 1
                time.sleep(0.01)
        except Exception as error:
            self.failures.append(f"{name}: {type(error).__name__}: {error}")
        finally:
            connection.close()


def test_everybody_at_once_deadlocks_nobody_and_every_cent_is_where_it_belongs(
    clock: Callable[[datetime], None], caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("ERROR")
    world = make_world()
    sellers = (world.northwind, world.southwind)
    for payee in (*sellers, world.bridge):
        add_account(payee)
    apply_incoming_payment(payment=world.payment("500,000.00"), actor=SYSTEM, at=MARCH)
    deliver()
    deals = [running(world, *pair) for pair in (sellers, sellers[::-1])]
    invoices = [verified(deal, sellers) for deal in deals for _ in range(40)]
    clock(CUT)
    _, plain = issue_key(
        organization=world.platform, scopes=["contracts:read", "contracts:write", "payouts:write"],
        label="stress", actor=SYSTEM, at=MARCH,
    )  # fmt: skip

    def post(path: str, body: dict[str, Any], **headers: str) -> None:
        answer = Client(raise_request_exception=False).post(
            f"/api/v1/{path}/", json.dumps(body), content_type="application/json",
            headers={"Authorization": f"Bearer {plain}", "Idempotency-Key": str(uuid4()), **headers},
        )  # fmt: skip
        assert answer.status_code in (201, 409, 412), answer.content

    turns = count()

    def edit_over_http() -> None:
        deal = deals[next(turns) % 2]
        deal.contract.refresh_from_db()
        delta = {"line_id": str(deal.servers), "delta": 1}
        body = {"operation": "change_quantity", "payload": delta}
        post(f"contracts/{deal.contract.pk}/operations", body, **{"If-Match": f'"{deal.contract.version}"'})

    def suspend_and_resume() -> None:
        for deal in deals:
            known = {
                "contract_id": deal.contract.pk,
                "reason_code": "maintenance",
                "actor": SYSTEM,
                "at": CUT,
            }
            contracts.suspend_contract(**known, idempotency_key=str(uuid4()))
            contracts.resume_contract(**known, idempotency_key=str(uuid4()))

    def request_over_http() -> None:
        for payee in sellers:
            post("payouts", {"payee_id": str(payee.pk), "currency": "USD"})

    def read_invoices() -> None:
        apply_invoice(provider=reading(invoices[next(turns) % len(invoices)]), actor=SYSTEM, at=CUT)

    def receive_money() -> None:
        apply_incoming_payment(payment=world.payment("10.00"), actor=SYSTEM, at=CUT)

    def look_at_accounts() -> None:
        for account_id in BillingAccount.objects.values_list("pk", flat=True):
            billing.refresh_status(account_id=account_id, actor=SYSTEM, at=CUT)

    def release_and_pay() -> None:
        ledger.release_due(at=LATER, actor=SYSTEM)
        payouts.pay_due(at=LATER, actor=SYSTEM)

    def hear_from_the_bank() -> None:
        for payout in Payout.objects.filter(status__in=["approved", "in_transit"])[:5]:
            if payout.status == "approved":
                now = datetime.now(UTC)
                payout = transition(payout, "submit", actor=SYSTEM, at=LATER, when=LATER, now=now)
            for word in ("processing", "completed", "completed"):
                tell(payout, word)
            if next(turns) % 3 == 0:
                tell(payout, "returned", code="R17")

    def relay() -> None:
        deliver()

    before = deadlocks()
    crowd = Crowd(
        edit_over_http, suspend_and_resume, request_over_http, read_invoices, receive_money,
        look_at_accounts, release_and_pay, hear_from_the_bank, relay, relay, relay,
    )  # fmt: skip
    assert crowd.failures == []
    assert len(crowd.rounds) == 9
    assert list(OutboxStream.objects.filter(parked_at__isnull=False).values_list("parked_reason")) == []
    assert deadlocks() == before
    settle_down()
    found = [item for item in findings() if "OpenMeter" not in item]
    assert found == []
    assert not OutboxStream.objects.filter(due_at__isnull=False, group__in=LOCAL).exists()
