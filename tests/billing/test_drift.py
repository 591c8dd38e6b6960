"""What OpenMeter is going to bill beside the contract: a difference has its reason, or is a question."""

import json
from collections.abc import Callable
from datetime import datetime, timedelta
from io import StringIO
from typing import Any

import pytest
from django.core.management import call_command
from django.test import Client
from django.urls import reverse

from billing import services
from billing.models import SubscriptionSync
from billing.services.rate_cards import item_key
from commerce.api.services import issue_key
from commerce.console.format import admin_url
from commerce.ids import uuid7
from commerce.parties.models import Organization
from tests.billing.conftest import CUT, MARCH, SYSTEM, Deal, OpenMeter, World, happened, now, reviews, work

pytestmark = pytest.mark.django_db

DAY = timedelta(days=1)


def check(deal: Deal) -> dict[str, list[str]]:
    """What differs now, with its reasons."""
    return {row["what"]: row["reasons"] for row in rows(deal)}


def rows(deal: Deal) -> list[dict[str, Any]]:
    return services.check_drift(sync_id=deal.sync.pk, actor=SYSTEM, at=now()).rows


def tamper(openmeter: OpenMeter, deal: Deal, *operations: dict[str, Any]) -> None:
    """Somebody edits the subscription at OpenMeter itself."""
    answer = openmeter.sandbox.om.patch(
        f"/subscriptions/{deal.sync.subscription_id}",
        json={"timing": "immediate", "customizations": operations},
    )
    assert answer.status_code == 200, answer.text


def removal(key: str) -> dict[str, Any]:
    return {"op": "remove_item", "phaseKey": "default", "itemKey": key}


def test_a_subscription_in_step_has_no_drift(openmeter: OpenMeter, world: World) -> None:
    deal = world.live()
    openmeter.at(MARCH + 10 * DAY)
    deal.use("12.5", days=3)
    deal.edit("change_quantity", {"line_id": str(deal.servers), "quantity": 3})
    work()
    assert rows(deal) == []
    assert deal.sync.checked_at == now()
    assert not deal.sync.drifts


def test_a_back_dated_quantity_is_expected_and_says_since_when(openmeter: OpenMeter, world: World) -> None:
    deal = world.live()
    openmeter.at(MARCH + 10 * DAY)
    deal.edit("change_quantity", {"line_id": str(deal.servers), "quantity": 3}, effective_at=MARCH + 2 * DAY)
    work()
    [row] = rows(deal)
    assert row["reasons"] == ["back-dated quantity from 3 March, seq 5"]
    assert (row["line_id"], row["ours_minor"] - row["theirs_minor"]) == (str(deal.servers), 1800000 * 8 // 31)
    assert deal.sync.drift == [row]
    assert not deal.sync.drifts
    assert reviews("subscription_drift") == []


def test_what_openmeter_cannot_express_is_expected(openmeter: OpenMeter, world: World) -> None:
    deal = world.live()
    fixed = {"kind": "fixed_per_period", "amount": {"amount_minor": 5000, "currency": "USD"}}
    deal.edit("apply_discount", {"discount_id": str(uuid7()), "scope": [str(deal.servers)], **fixed})
    work()
    [row] = rows(deal)
    assert row["reasons"] == ["a fixed discount"]
    assert row["theirs_minor"] - row["ours_minor"] == 5000


def test_what_is_planned_is_expected(openmeter: OpenMeter, world: World) -> None:
    deal = world.live()
    deal.edit("change_quantity", {"line_id": str(deal.servers), "quantity": 1}, effective_at=MARCH + 19 * DAY)
    work()
    [row] = rows(deal)
    assert row["reasons"] == ["quantity planned for 20 March, seq 5"]


def test_a_suspension_followed_in_time_is_no_difference(openmeter: OpenMeter, world: World) -> None:
    deal = world.live()
    for day, operation, payload in (
        (10, "suspend", {"reason": "maintenance", "billing": "stop"}),
        (20, "resume", {"reason": "maintenance"}),
    ):
        openmeter.at(MARCH + day * DAY)
        deal.edit(operation, payload)
        work()
        assert rows(deal) == []


def test_a_correction_names_what_it_corrects(openmeter: OpenMeter, world: World) -> None:
    deal = world.live()
    openmeter.at(MARCH + 5 * DAY)
    deal.edit("change_quantity", {"line_id": str(deal.servers), "quantity": 4})
    work()
    openmeter.at(MARCH + 10 * DAY)
    deal.edit("correct", {"target_seq": 5, "mode": "void"}, reason="typed wrong")
    work()
    [row] = rows(deal)
    assert row["reasons"] == ["back-dated correction of seq 5 from 6 March, seq 6"]


@pytest.mark.parametrize("how", ["removed", "dearer", "more"])
def test_an_edit_at_openmeter_itself_is_unexpected_asked_about_and_put_right(
    openmeter: OpenMeter, world: World, how: str
) -> None:
    deal = world.live()
    key = item_key(deal.servers)
    price = {"type": "flat", "amount": "1", "paymentTerm": "in_arrears"}
    card = {"type": "flat_fee", "name": "gift", "billingCadence": "P1M", "price": price}
    added = {"op": "add_item", "phaseKey": "default", "rateCard": {**card, "key": key, "featureKey": key}}
    more = {"op": "add_item", "phaseKey": "default", "rateCard": {**card, "key": "gift"}}
    operations = {"removed": [removal(key)], "dearer": [removal(key), added], "more": [more]}
    tamper(openmeter, deal, *operations[how])
    found = check(deal)
    assert [] in found.values()
    assert deal.sync.drifts
    [item] = reviews("subscription_drift")
    assert deal.contract.number in item.title
    check(deal)
    assert len(reviews("subscription_drift")) == 1, "it is asked once"
    drift = services.resync(sync_id=deal.sync.pk, actor=SYSTEM, at=now())
    assert drift.rows == []
    assert reviews("subscription_drift") == []


def test_a_difference_of_money_has_the_reasons_of_its_own_line_only(
    openmeter: OpenMeter, world: World
) -> None:
    deal = world.live()
    openmeter.at(MARCH + 10 * DAY)
    deal.edit("change_quantity", {"line_id": str(deal.servers), "quantity": 3}, effective_at=MARCH + 2 * DAY)
    work()
    tamper(openmeter, deal, removal(item_key(deal.burst)))
    deal.use("100", days=9.5)
    work()
    openmeter.at(MARCH + 20 * DAY)
    by_line = {row.get("line_id"): row["reasons"] for row in rows(deal) if "line_id" in row}
    assert by_line[str(deal.servers)] == ["back-dated quantity from 3 March, seq 5"]
    assert by_line.get(str(deal.burst), []) == []


def test_a_subscription_that_was_cancelled_there_is_missed(openmeter: OpenMeter, world: World) -> None:
    deal = world.live()
    url = f"/subscriptions/{deal.sync.subscription_id}/cancel"
    assert openmeter.sandbox.om.post(url, json={"timing": "immediate"}).status_code == 200
    assert check(deal) == {"it does not run at OpenMeter": []}
    assert services.resync(sync_id=deal.sync.pk, actor=SYSTEM, at=now()).rows == []


def test_what_was_not_followed_yet_is_expected(openmeter: OpenMeter, world: World) -> None:
    deal = world.live()
    deal.edit("change_quantity", {"line_id": str(deal.servers), "quantity": 3})
    found = check(deal)
    assert found
    assert all(found.values())
    assert ["OpenMeter has followed up to seq 4 of 5"] in found.values()


def test_an_invoice_that_differs_says_what_was_expected(openmeter: OpenMeter, world: World) -> None:
    deal = world.live()
    openmeter.at(MARCH + 10 * DAY)
    deal.edit("change_quantity", {"line_id": str(deal.servers), "quantity": 3}, effective_at=MARCH + 2 * DAY)
    work()
    openmeter.at(CUT)
    openmeter.tell()
    invoice = deal.invoice
    [difference] = invoice.differences
    assert difference["expected"] == ["back-dated quantity from 3 March, seq 5"]
    assert (invoice.status, invoice.verified_at) == ("draft", None), "money is for a person all the same"
    [item] = reviews("invoice_difference")
    assert "Expected: back-dated quantity from 3 March, seq 5." in item.detail
    assert item.evidence["differences"] == invoice.differences


def test_the_clock_looks_at_those_first_that_were_not_looked_at_for_longest(
    openmeter: OpenMeter, world: World
) -> None:
    first, second = world.live(), world.live()
    SubscriptionSync.objects.filter(contract=first.contract).update(checked_at=MARCH)
    assert services.check_due_drift(actor=SYSTEM, at=MARCH + DAY, limit=1) == 1
    assert (second.sync.checked_at, first.sync.checked_at) == (MARCH + DAY, MARCH)


def command(*arguments: str) -> tuple[int, Any]:
    out = StringIO()
    code = 0
    try:
        call_command("billing_sync", "--json", *arguments, stdout=out, stderr=StringIO())
    except SystemExit as ended:
        code = int(ended.code or 0)
    return code, json.loads(out.getvalue() or "null")


def test_the_command_compares_all_and_brings_one_in_line(openmeter: OpenMeter, world: World) -> None:
    deal, other = world.live(), world.live()
    tamper(openmeter, deal, removal(item_key(deal.servers)))
    code, found = command("--check")
    assert code == 3
    assert {row["contract"]: row["unexpected"] > 0 for row in found} == {
        deal.contract.number: True,
        other.contract.number: False,
    }
    assert command()[0] == 2
    assert command("--contract", "C-0000-0000")[0] == 2
    changes = len(openmeter.effects("subscription_change"))
    assert command("--contract", deal.contract.number)[0] == 0
    assert len(openmeter.effects("subscription_change")) == changes + 1
    assert command("--check")[0] == 0


def test_an_operator_asks_and_the_worker_does(
    openmeter: OpenMeter, world: World, clock: Callable[[datetime], None]
) -> None:
    deal = world.live()
    tamper(openmeter, deal, removal(item_key(deal.servers)))
    requests = openmeter.requests()
    services.request_sync(sync=deal.sync, actor=SYSTEM, at=now())
    assert openmeter.requests() == requests, "nothing is asked of OpenMeter while somebody waits"
    assert happened("subscription.sync_requested") == 1
    work()
    assert openmeter.items(deal) == {"contract", item_key(deal.servers), item_key(deal.burst)}
    assert deal.sync.checked_at == now()


def test_the_platform_reads_what_differs_and_why_and_the_buyer_does_not(
    openmeter: OpenMeter, world: World
) -> None:
    deal = world.live()
    openmeter.at(MARCH + 10 * DAY)
    deal.edit("change_quantity", {"line_id": str(deal.servers), "quantity": 3}, effective_at=MARCH + 2 * DAY)
    work()
    [row] = rows(deal)

    def read(organization: Organization) -> dict[str, Any]:
        _, plain = issue_key(
            organization=organization, scopes=("invoices:read",), label="test", actor=SYSTEM, at=MARCH
        )
        url = f"/api/v1/billing-accounts/{deal.account.pk}/"
        answer = Client().get(url, headers={"Authorization": f"Bearer {plain}"})
        assert answer.status_code == 200, answer.content
        return dict(answer.json()["subscription"])

    assert read(world.platform)["drift"] == [row]
    assert not {"drift", "checked_at"} & set(read(world.acme))


def test_the_console_shows_the_reason(openmeter: OpenMeter, world: World, admin_client: Client) -> None:
    deal = world.live()
    fixed = {"kind": "fixed_per_period", "amount": {"amount_minor": 5000, "currency": "USD"}}
    deal.edit("apply_discount", {"discount_id": str(uuid7()), "scope": [str(deal.servers)], **fixed})
    work()
    rows(deal)
    listed = admin_client.get(reverse("admin:billing_subscriptionsync_changelist")).content.decode()
    assert "drift: expected" in listed
    shown = admin_client.get(admin_url(deal.sync)).content.decode()
    assert "a fixed discount" in shown
    assert "no reason known" not in shown
    tamper(openmeter, deal, removal(item_key(deal.burst)))
    rows(deal)
    assert "no reason known" in admin_client.get(admin_url(deal.sync)).content.decode()
