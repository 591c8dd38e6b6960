"""What stands still in the relay is found, understood and resolved from the console alone."""

import threading
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from tests.browser.conftest import Desk
from tests.scenarios.conftest import System

Desks = Callable[..., Desk]
THE_BANKS_WORDS = "This account may not originate payments until compliance has called back."
PATIENCE = 20
# A payout comes back, so that there is one more to send; two people agree to it.
PAID_AGAIN = """
import time
import httpx
from django.conf import settings
from django.contrib.auth.models import User
from commerce import clock
from commerce.actor import Actor
from payouts.models import Payout
from payouts.services.payouts import approve_payout, request_payout

payout = Payout.objects.get(amount_minor=22_625)
order = f"{os.environ['SANDBOX_URL']}/__control__/modern-treasury/payment-orders/{payout.external_id}/return"
httpx.post(order, json={"code": "R01"}, trust_env=False).raise_for_status()
for _ in range(200):
    payout.refresh_from_db()
    if payout.status == "returned":
        break
    time.sleep(0.1)
asks, agrees = (Actor.for_user(User.objects.get(username=name), "") for name in ("operator", "approver"))
again = request_payout(payee=payout.payee, currency="USD", actor=asks, at=clock.now(), reason="It came back.")
print(approve_payout(payout=again, actor=agrees, at=clock.now(), reason="Checked.").external_id)
"""
ENDPOINT = """
from django.contrib.auth.models import User
from commerce import clock
from commerce.actor import Actor
from commerce.parties.models import Organization
from commerce.webhooks.services import create_endpoint

seller = Organization.objects.get(name__startswith="Northwind")
endpoint, _ = create_endpoint(
    organization=seller, url="{url}", event_types=["payout.*"], actor=Actor.system("tests"), at=clock.now()
)
print(endpoint.pk)
"""


@pytest.fixture
def refused(played: System) -> Iterator[str]:
    """The reference of a payout of 226.25 USD whose order the bank does not take."""
    fault = {"provider": "modern-treasury", "method": "POST", "path": "payment_orders", "count": 0}
    played.stack.control("faults", {**fault, "kind": "error", "status": 403, "message": THE_BANKS_WORDS})
    yield played.manage("shell", "--verbosity", "0", "-c", f"import os\n{PAID_AGAIN}").split()[-1]
    played.stack.control("faults", method="DELETE")


@pytest.fixture
def receiver() -> Iterator[tuple[str, list[bytes]]]:
    """An address on this machine, and what was sent to it."""
    bodies: list[bytes] = []

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            bodies.append(self.rfile.read(int(self.headers["Content-Length"])))
            self.send_response(204)
            self.end_headers()

        def log_message(self, format: str, *args: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}/hooks", bodies
    server.shutdown()


def until_it_says(desk: Desk, path: str, words: str) -> None:
    deadline = time.monotonic() + PATIENCE
    desk.open(path)
    while words.casefold() not in desk.text().casefold():
        assert time.monotonic() < deadline, f"{path} does not say {words}: {desk.text()}"
        time.sleep(0.3)
        desk.open(path)


def orders(system: System, reference: str) -> int:
    return int(system.effects()["counts"]["modern_treasury.payment_order"].get(reference, 0))


def test_an_operator_finds_understands_and_resolves_a_parked_payout_from_the_console_alone(
    desk: Desks, played: System, refused: str
) -> None:
    operator = desk("operator")
    until_it_says(operator, "/admin/outbox/outboxstream/?condition=parked", "payouts.modern_treasury")
    operator.open("/admin/", picture="relay_1_home")
    operator.press(operator.page.locator(".c-card", has_text="Parked streams"), picture="relay_2_list_parked")
    assert "condition=parked" in operator.page.url
    operator.follow("payouts.modern_treasury", within="#result_list", picture="relay_3_stream")
    stream = operator.page.url.removeprefix(operator.address).partition("?")[0]
    operator.says(THE_BANKS_WORDS, "226.25 USD", "payout.approved", "The provider said no", "Request a skip")
    operator.press(operator.page.locator("#what-it-is-about a").first, picture="relay_4_payout")
    operator.says(refused, "submitted", "parked", THE_BANKS_WORDS)
    payout = operator.page.url.removeprefix(operator.address).partition("?")[0]
    assert orders(played, refused) == 0, "what is parked was sent"

    played.stack.control("faults", method="DELETE")  # compliance has called back
    operator.press(operator.page.locator("#held-up").get_by_role("link").first)
    assert operator.page.url.endswith(stream)
    operator.follow("Resume", within=".c-toolbar", picture="relay_5_confirm")
    operator.says("Delivery goes on from there, in order", THE_BANKS_WORDS)
    operator.page.fill("[name=reason]", "Compliance has called back.")
    operator.press(operator.page.get_by_role("button", name="Resume"))
    operator.says("Resume: done.")
    until_it_says(operator, payout, "payment_order.completed")
    operator.inspect("relay_6_paid")
    assert orders(played, refused) == 1
    operator.open(stream)
    operator.says("idle", THE_BANKS_WORDS)
    assert operator.page.locator(".c-badge", has_text="parked").count() == 0


def test_a_test_event_reaches_an_endpoint_and_stands_in_its_log(
    desk: Desks, played: System, receiver: tuple[str, list[bytes]]
) -> None:
    url, bodies = receiver
    endpoint = played.manage("shell", "--verbosity", "0", "-c", ENDPOINT.format(url=url)).split()[-1]
    page = f"/admin/webhooks/webhookendpoint/{endpoint}/change/"
    operator = desk("operator")
    operator.open(page)
    operator.says(url, "payout.*", "Nothing was sent yet")
    operator.follow("Send test event", within=".c-toolbar", picture="webhook_1_confirm")
    assert bodies == [], "a question sent something"
    operator.press(operator.page.get_by_role("button", name="Send test event"))
    until_it_says(operator, page, "delivered")
    operator.inspect("webhook_2_endpoint")
    operator.follow("webhook.test", within="#newest-messages", picture="webhook_3_message")
    operator.says("204", "delivered", url)
    assert [b"webhook.test" in body for body in bodies] == [True]
