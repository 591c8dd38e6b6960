"""Modern Treasury's client against the simulator, over HTTP."""

from collections.abc import Callable
from datetime import date

import pytest

from commerce.errors import Rejected, Retryable, Unknown
from commerce.money import Money
from commerce.providers import modern_treasury
from commerce.providers.modern_treasury import Counterparty, ExternalAccount, ModernTreasury
from tests.commerce.conftest import Sandbox

USD_100 = Money(10_000, "USD")


@pytest.fixture
def bank(sandbox: Sandbox) -> ModernTreasury:
    return modern_treasury.client()


@pytest.fixture
def seller(bank: ModernTreasury) -> Counterparty:
    return bank.create_counterparty(
        external_id="seller", name="Northwind", email="ap@northwind.test", metadata={"a": "1"}, key="k-seller"
    )


@pytest.fixture
def account(bank: ModernTreasury, seller: Counterparty) -> ExternalAccount:
    return bank.create_external_account(
        external_id="account",
        counterparty_id=seller.id,
        party_name="Northwind",
        account_number="123456789",
        routing_number="121141822",
        routing_number_type="aba",
        account_type="checking",
        metadata={},
        key="k-account",
    )


@pytest.fixture
def pay(bank: ModernTreasury, account: ExternalAccount) -> Callable[..., modern_treasury.PaymentOrder]:
    def pay(reference: str = "payout-1", amount: Money = USD_100) -> modern_treasury.PaymentOrder:
        return bank.create_payment_order(
            external_id=reference, amount=amount, receiving_account_id=account.id, key=f"k-{reference}"
        )

    return pay


def test_what_was_created_is_found_by_our_reference_and_only_by_it(
    bank: ModernTreasury, seller: Counterparty, account: ExternalAccount
) -> None:
    assert bank.find_counterparty("seller") == seller
    assert bank.find_external_account("account") == account
    assert (account.last4, account.counterparty_id) == ("6789", seller.id)
    assert account.bank_name
    assert bank.find_counterparty("sell") is None
    assert bank.find_external_account("nobody") is None


def test_a_virtual_account_is_found_by_the_reference_in_its_metadata(
    bank: ModernTreasury, seller: Counterparty
) -> None:
    made = bank.create_virtual_account(
        reference="wallet-1", counterparty_id=seller.id, name="Acme", metadata={"buyer": "b"}, key="k-wallet"
    )
    assert bank.find_virtual_account("wallet-1") == made
    assert bank.find_virtual_account("wallet-2") is None


def test_a_payment_order_is_made_once_per_key(
    bank: ModernTreasury, sandbox: Sandbox, pay: Callable[..., modern_treasury.PaymentOrder]
) -> None:
    assert pay().id == pay().id
    assert bank.find_payment_order("payout-1") == bank.payment_order(pay().id)
    assert [order["amount"] for order in sandbox.effects("modern_treasury", "payment_order")] == [10_000]


def test_a_lost_answer_is_unknown_and_the_order_is_found_afterwards(
    bank: ModernTreasury, sandbox: Sandbox, pay: Callable[..., modern_treasury.PaymentOrder]
) -> None:
    sandbox.fault("modern_treasury", "POST", "payment_orders", "timeout_after_effect")
    with pytest.raises(Unknown):
        pay()
    found = bank.find_payment_order("payout-1")
    assert found
    assert found.amount == USD_100
    assert len(sandbox.effects("modern_treasury", "payment_order")) == 1


@pytest.mark.parametrize("status", [429, 500, 502, 503, 504])
def test_an_answer_that_a_key_makes_harmless_is_retryable(
    sandbox: Sandbox, pay: Callable[..., modern_treasury.PaymentOrder], status: int
) -> None:
    sandbox.fault("modern_treasury", "POST", "payment_orders", "error", status=status)
    with pytest.raises(Retryable):
        pay()
    assert sandbox.effects("modern_treasury", "payment_order") == []
    pay()


def test_one_call_is_one_request(
    sandbox: Sandbox, pay: Callable[..., modern_treasury.PaymentOrder], account: ExternalAccount
) -> None:
    sandbox.fault("modern_treasury", "POST", "payment_orders", "error", status=503, count=2)
    with pytest.raises(Retryable):
        pay()
    with pytest.raises(Retryable):
        pay()
    pay()


def test_what_is_refused_says_why(bank: ModernTreasury) -> None:
    with pytest.raises(Rejected) as refused:
        bank.create_payment_order(external_id="x", amount=USD_100, receiving_account_id="nobody", key="k")
    assert refused.value.extra["provider_status"] in (400, 404, 422)
    assert refused.value.extra["provider_code"]
    with pytest.raises(Rejected) as missing:
        bank.payment_order("00000000-0000-4000-8000-000000000000")
    assert missing.value.extra["provider_status"] == 404


def test_an_update_that_was_silently_ignored_is_refused(
    bank: ModernTreasury, sandbox: Sandbox, pay: Callable[..., modern_treasury.PaymentOrder]
) -> None:
    order = pay()
    sandbox.control("POST", "settle")
    with pytest.raises(Rejected):
        bank.update_payment_order(order.id, {"amount": 1}, key="k-update")
    assert bank.payment_order(order.id).amount == USD_100


def test_incoming_payments_are_listed_from_a_date(bank: ModernTreasury, sandbox: Sandbox) -> None:
    assert list(bank.incoming_payments(since=date(2027, 3, 1))) == []


def test_an_object_of_the_other_mode_is_refused(
    bank: ModernTreasury, pay: Callable[..., modern_treasury.PaymentOrder], settings: pytest.FixtureRequest
) -> None:
    order = pay()
    settings.PRODUCTION = True  # type: ignore[attr-defined]
    with pytest.raises(Rejected, match="test mode"):
        bank.payment_order(order.id)
