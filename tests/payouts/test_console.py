"""The console: a settlement shows every leg and a proof, buttons run services, cards count what waits."""

import re
from collections.abc import Callable

import pytest
from django.contrib.admin.models import LogEntry
from django.test import Client
from django.urls import reverse

from commerce.console.demo_users import ensure_demo_users
from commerce.console.registry import cards, searches
from payouts import services
from payouts.models import PayeePolicy, Payout
from tests.payouts.conftest import PAID, SEASONED, SYSTEM, holds, usd

pytestmark = pytest.mark.django_db


@pytest.fixture
def browser(db) -> Callable[[str], Client]:
    passwords = ensure_demo_users()

    def log_in(name: str) -> Client:
        client = Client()
        assert client.login(username=name, password=passwords[name])
        return client

    return log_in


@pytest.fixture
def released(world):
    world.settle()
    world.release()
    return world


def page_of(obj) -> str:
    return reverse(f"admin:payouts_{obj._meta.model_name}_change", args=[obj.pk])


def press(client: Client, obj, action: str, **fields):
    """Open the confirmation, then confirm it."""
    url = reverse(f"admin:payouts_{obj._meta.model_name}_do", args=[obj.pk, action])
    shown = client.get(url)
    assert shown.status_code == 200, shown.status_code
    seen = re.search(r'name="fingerprint" value="([0-9a-f]{64})"', shown.content.decode())
    return client.post(url, {"reason": "test", "fingerprint": seen[1], **fields})


def text(response) -> str:
    assert response.status_code == 200, response.status_code
    return re.sub(r"\s+", " ", re.sub(r"<[^>]+>", " ", response.content.decode()))


@pytest.mark.parametrize("model", ["settlement", "settlementleg", "payout", "payeepolicy"])
def test_every_list_opens_with_few_queries(released, browser, django_assert_max_num_queries, model):
    client = browser("viewer")
    url = reverse(f"admin:payouts_{model}_changelist")
    client.get(url)
    with django_assert_max_num_queries(14):
        assert client.get(url).status_code == 200


def test_the_stepper_proves_that_what_came_in_went_somewhere(released, browser):
    payout = released.paid_through("completed")
    shown = browser("viewer").get(page_of(payout.items.get().leg.settlement))
    page = text(shown)
    assert "In = out + fees and tax + held ✓" in page
    assert "39,186.50 USD = 31,675.00 USD out + 7,285.25 USD fees and tax + 226.25 USD held" in page
    assert payout.provider_id in shown.content.decode()
    assert "seller leg" in page


def test_a_failed_leg_says_why_and_how_often_it_was_tried(released, browser):
    payout = released.paid_through("completed", "returned", code="R03")
    page = text(browser("viewer").get(page_of(payout.items.get().leg.settlement)))
    assert "R03 No Account" in page
    assert "31,901.25 USD held" in page


def test_an_approver_sends_what_a_viewer_can_only_look_at(world, browser, settings):
    settings.PAYOUT_APPROVAL_LIMIT_MINOR = 0
    world.settle()
    world.release()
    payout = world.payout()
    url = reverse("admin:payouts_payout_do", args=[payout.pk, "approve"])
    assert browser("viewer").get(url).status_code == 403
    assert browser("operator").post(url, {"reason": "x"}).status_code == 403
    approver = browser("approver")
    assert "31,675.00 USD is sent to Northwind" in text(approver.get(url))
    payout.refresh_from_db()
    assert payout.status == "needs_approval"
    assert press(approver, payout, "approve").status_code == 302
    payout.refresh_from_db()
    assert payout.status == "approved"
    assert LogEntry.objects.filter(object_id=str(payout.pk)).count() == 1


def test_an_operator_requests_by_hand_and_somebody_else_rejects(world, browser):
    services.set_policy(organization=world.northwind, mode="on_request", actor=SYSTEM, at=PAID)
    world.settle()
    world.release()
    policy = PayeePolicy.objects.get(organization=world.northwind)
    assert press(browser("operator"), policy, "request", currency="USD", amount="100.00").status_code == 302
    payout = world.payout()
    assert (payout.amount, payout.status) == (usd("100.00"), "needs_approval")
    assert press(browser("approver"), payout, "reject").status_code == 302
    assert holds(world.northwind, "PAYABLE") == usd("31,675.00")
    wrong = press(browser("operator"), policy, "request", currency="USD", amount="1.005")
    assert "more digits than USD allows" in wrong.content.decode()
    assert Payout.objects.filter(payee=world.northwind).count() == 1


def test_a_leg_is_held_and_let_go_by_button(world, browser):
    leg = world.settle().legs.get(kind="seller")
    operator = browser("operator")
    assert press(operator, leg, "hold").status_code == 302
    leg.refresh_from_db()
    assert leg.status == "held"
    assert press(operator, leg, "lift").status_code == 302
    leg.refresh_from_db()
    assert leg.status == "seasoning"


def test_poll_now_asks_about_every_payout_of_the_settlement(released, browser):
    settlement = released.paid_through("sent").items.get().leg.settlement
    answer = press(browser("operator"), settlement, "poll")
    assert answer.status_code == 302
    page = text(browser("operator").get(page_of(settlement)))
    assert "in transit" in page


def test_a_policy_is_changed_by_button(world, browser):
    policy = services.policy_of(world.northwind.pk)
    operator = browser("operator")
    terms = {"mode": "scheduled", "cadence": "weekly", "day": "5", "minimum_minor": "100"}
    assert press(operator, policy, "set", **terms).status_code == 302
    policy.refresh_from_db()
    assert (policy.mode, policy.day, policy.minimum_minor) == ("scheduled", 5, 100)
    wrong = press(operator, policy, "set", mode="scheduled", cadence="weekly", day="9", minimum_minor="0")
    assert "A weekly schedule has a day 1 to 7" in wrong.content.decode()


def values(request):
    return {card.key: card.load(request) for card in cards() if card.key.startswith("payouts.")}


def test_home_counts_what_waits(released, rf):
    request = rf.get("/admin/")
    assert {key: value.count for key, value in values(request).items()} == {
        "payouts.approval": 0, "payouts.unknown": 0, "payouts.failed": 0, "payouts.settlements": 0,
    }  # fmt: skip
    payout = released.paid_through("completed", "returned", code="R03")
    failed = values(request)["payouts.failed"]
    assert (failed.count, failed.oldest, failed.value) == (1, SEASONED, {"USD": 3_167_500})
    assert payout.status == "returned"


def test_search_routes_on_references_and_numbers(released):
    payout = released.paid_through("sent")
    found = {
        term: [hit.kind for permission, ask in searches() for hit in ask(term) if "payouts" in permission]
        for term in (payout.external_id, payout.provider_id, "INV-1", "INV-")
    }
    assert found == {
        payout.external_id: ["payout"], payout.provider_id: ["payout"], "INV-1": ["settlement"], "INV-": []
    }  # fmt: skip
