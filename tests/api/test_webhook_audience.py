"""What each party hears in webhooks is what it may read, and nothing of anybody else's."""

import json
from typing import Any

import pytest
from jsonschema import Draft202012Validator, FormatChecker

from commerce.outbox import catalog
from commerce.outbox.catalog_docs import webhook_schema
from commerce.outbox.models import OutboxEvent
from commerce.parties.models import Organization
from commerce.webhooks import audience, services
from commerce.webhooks.fan_out import fan_out
from commerce.webhooks.models import WebhookEndpoint
from tests.api.conftest import Deal
from tests.api.test_who_sees_what import DOWNPAYMENT, FEE, SECRET_REASON, SHARE, Shared, shared
from tests.contracts.conftest import MARCH, OPERATOR, Parties, parties, payload

__all__ = ["parties", "payload", "shared"]
pytestmark = pytest.mark.django_db


@pytest.fixture
def subscribed(parties: Parties) -> dict[Any, WebhookEndpoint]:
    """Everybody wants to hear everything."""
    everybody = (
        parties.buyer, parties.seller, parties.other_seller, parties.partner, Organization.objects.platform(),
    )  # fmt: skip
    return {
        owner.pk: services.create_endpoint(
            organization=owner,
            url="https://hooks.example.com/in",
            event_types=["*"],
            actor=OPERATOR,
            at=MARCH,
        )[0]
        for owner in everybody
    }


def heard(to: WebhookEndpoint) -> list[dict[str, Any]]:
    return [json.loads(bytes(message.body)) for message in to.messages.order_by("id")]


def versions(bodies: list[dict[str, Any]]) -> set[int]:
    return {
        body["data"]["to_version"]
        for body in bodies
        if body["data"]["object"] == "contract" and body["type"] != "contract.took_effect"
    }


def test_a_party_of_a_contract_hears_of_the_edits_that_it_sees_and_no_others(
    subscribed: dict[Any, WebhookEndpoint], shared: Shared
) -> None:
    fan_out(at=MARCH)
    for owner, to in subscribed.items():
        organization = Organization.objects.get(pk=owner)
        assert versions(heard(to)) == set(shared.edits(organization)), organization


def test_every_body_that_anybody_is_sent_satisfies_the_schema_of_its_type(
    subscribed: dict[Any, WebhookEndpoint], shared: Shared
) -> None:
    """That of a partner, too, from whom the buyer is withheld."""
    fan_out(at=MARCH)
    for to in subscribed.values():
        for body in heard(to):
            known = catalog.event_type(body["type"])
            assert known is not None
            Draft202012Validator(webhook_schema(known), format_checker=FormatChecker()).validate(body)
    assert any("buyer_id" not in body["data"] for body in heard(subscribed[shared.parties.partner.pk]))


def test_what_is_heard_of_a_contract_betrays_no_secret(
    subscribed: dict[Any, WebhookEndpoint], shared: Shared
) -> None:
    fan_out(at=MARCH)
    who = shared.parties
    strangers = {
        who.buyer.pk: (who.seller, who.other_seller, who.partner),
        who.seller.pk: (who.other_seller, who.partner),
        who.other_seller.pk: (who.seller, who.partner),
        who.partner.pk: (who.seller, who.other_seller, who.buyer),
    }
    for owner, others in strangers.items():
        text = json.dumps(heard(subscribed[owner]))
        assert "contract." in text
        hidden = [
            FEE, SHARE, "fee_rate", "17500", "18000", str(DOWNPAYMENT), SECRET_REASON, "price_hash",
            shared.contract.state_hash, *(str(other.pk) for other in others),
        ]  # fmt: skip
        for secret in hidden:
            assert secret not in text, (owner, secret)
    platform = json.dumps(heard(subscribed[Organization.objects.platform().pk]))
    assert SECRET_REASON in platform


def test_of_a_whole_deal_nobody_hears_what_is_another_ones(ours: Deal, theirs: Deal) -> None:
    events = [catalog.current(event) for event in OutboxEvent.objects.order_by("id")]
    readers = audience.audience_of(events)
    kinds: dict[Any, set[str]] = {}
    for event in events:
        for owner, withheld in readers[event.event_id].items():
            kinds.setdefault(owner, set()).add(event.aggregate_type)
            text = json.dumps(audience.public_part(event, withheld))
            mine = ours if owner in (ours.buyer.pk, ours.seller.pk, ours.partner.pk) else theirs
            other = theirs if mine is ours else ours
            for stranger in (other.buyer, other.seller, other.partner, other.contract, other.invoice):
                assert str(stranger.pk) not in text
    assert "payout" in kinds[ours.seller.pk]
    for payee in (ours.seller.pk, ours.partner.pk):
        assert not kinds[payee] & {"invoice", "pay_in", "billing_account", "settlement", "usage_batch"}
    assert not kinds[ours.buyer.pk] & {"payout", "settlement_leg", "settlement", "payee_policy"}
    inside = {"review_item", "approval", "ledger_period", "settlement"}
    assert not inside & set().union(*kinds.values())


def test_every_type_that_parties_hear_of_has_somebody_to_hear_it() -> None:
    for known in catalog.event_types():
        if known.audience:
            assert known.audience in known.example, known.name
            assert known.public, known.name
