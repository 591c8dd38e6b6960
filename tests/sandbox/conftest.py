"""A real sandbox process on a free port, a client for each provider, and somebody to send webhooks to."""

import base64
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import httpx
import pytest

START = "2027-03-01T00:00:00Z"
ROOT = Path(__file__).parents[2]
WEBHOOK_KEY = "test-webhook-key"
SIGNING_SECRET = "whsec_" + base64.b64encode(b"0123456789abcdef01234567").decode()
INTERNAL_ACCOUNT = "0f8e3719-3dfd-4613-9bbf-c0333781b59f"


class Sandbox:
    """One simulator process; `restart` kills it with -9 and starts it again on the same store."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.clock_file = folder, folder / "clock"
        self.clock_file.write_text(START)
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = probe.getsockname()[1]
        self.url = f"http://127.0.0.1:{self.port}"
        self.environment = {
            **os.environ,
            "CLOCK_FILE": str(self.clock_file),
            "MODERN_TREASURY_ORGANIZATION_ID": "org",
            "MODERN_TREASURY_API_KEY": "key",
            "MODERN_TREASURY_WEBHOOK_KEY": WEBHOOK_KEY,
            "MODERN_TREASURY_INTERNAL_ACCOUNT_ID": INTERNAL_ACCOUNT,
            "OPENMETER_TOKEN": "token",
            "OPENMETER_WEBHOOK_SECRET": SIGNING_SECRET,
            "PUBLIC_URL": "",
        }
        self.mt = httpx.Client(base_url=f"{self.url}/modern-treasury/api", auth=("org", "key"), timeout=10)
        bearer = {"Authorization": "Bearer token"}
        self.om = httpx.Client(base_url=f"{self.url}/openmeter/api/v1", headers=bearer, timeout=10)
        self.control = httpx.Client(base_url=f"{self.url}/__control__", timeout=30)
        self.start()

    def start(self) -> None:
        command = [sys.executable, "-m", "commerce.sandbox.server", "--port", str(self.port)]
        command += ["--dir", str(self.folder / "store")]
        self.process = subprocess.Popen(command, cwd=ROOT, env=self.environment, stdout=subprocess.DEVNULL)
        deadline = time.monotonic() + 10
        while time.monotonic() < deadline:
            try:
                if self.control.get("/health").status_code == 200:
                    return
            except httpx.TransportError:
                time.sleep(0.02)
        raise AssertionError("the sandbox did not start")

    def kill(self) -> None:
        self.process.send_signal(signal.SIGKILL)
        self.process.wait()

    def restart(self) -> None:
        self.kill()
        self.start()

    def at(self, instant: str, **more: Any) -> list[dict[str, Any]]:
        """Move the clock; what fired on the way."""
        answer = self.control.post("/clock", json={"now": instant, **more})
        assert answer.status_code == 200, answer.text
        return answer.json()["fired"]

    def settle(self) -> None:
        self.control.post("/settle")

    def effects(self) -> dict[str, Any]:
        return self.control.get("/effects").json()

    def reset(self) -> None:
        self.clock_file.write_text(START)
        assert self.control.post("/reset").status_code == 200


@pytest.fixture(scope="session")
def running_sandbox(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Sandbox]:
    sandbox = Sandbox(tmp_path_factory.mktemp("sandbox"))
    yield sandbox
    sandbox.kill()


@pytest.fixture
def sandbox(running_sandbox: Sandbox) -> Sandbox:
    running_sandbox.reset()
    return running_sandbox


class Inbox:
    """A webhook endpoint that keeps what it gets; answers `status`."""

    def __init__(self) -> None:
        self.received: list[tuple[dict[str, str], bytes]] = []
        self.status = 200
        inbox = self

        class Door(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                inbox.received.append(({k.lower(): v for k, v in self.headers.items()}, body))
                self.send_response(inbox.status)
                self.send_header("Content-Length", "0")
                self.end_headers()

            def log_message(self, *args: Any) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Door)
        self.url = f"http://127.0.0.1:{self.server.server_address[1]}/hook"
        threading.Thread(
            target=self.server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True
        ).start()

    def events(self) -> list[tuple[str, str]]:
        """(topic, event) of Modern Treasury's webhooks, in order of arrival."""
        return [(headers["x-topic"], json.loads(body)["event"]) for headers, body in self.received]

    def bodies(self) -> list[dict[str, Any]]:
        return [json.loads(body) for _, body in self.received]


@pytest.fixture
def inbox() -> Iterator[Inbox]:
    inbox = Inbox()
    yield inbox
    inbox.server.shutdown()
    inbox.server.server_close()


@pytest.fixture
def payee(sandbox: Sandbox) -> Callable[[str], str]:
    """An external account with that account number; its id."""

    def create(number: str = "123456789") -> str:
        account = {
            "account_type": "checking",
            "party_type": "business",
            "routing_details": [{"routing_number_type": "aba", "routing_number": "121141822"}],
            "account_details": [{"account_number": number}],
        }
        body = {"name": "Northwind", "external_id": "seller", "accounts": [account]}
        answer = sandbox.mt.post("/counterparties", json=body)
        assert answer.status_code == 201, answer.text
        return answer.json()["accounts"][0]["id"]

    return create


@pytest.fixture
def pay(sandbox: Sandbox, payee: Callable[[str], str]) -> Callable[..., dict[str, Any]]:
    """A payment order of 31,675.00 USD to that account number."""

    def create(number: str = "123456789", **more: Any) -> dict[str, Any]:
        body = {
            "type": "ach",
            "amount": 3167500,
            "direction": "credit",
            "currency": "USD",
            "originating_account_id": INTERNAL_ACCOUNT,
            "receiving_account_id": payee(number),
            "external_id": "payout_1_a1",
            "metadata": {"payout_id": "1"},
            **more,
        }
        answer = sandbox.mt.post("/payment_orders", json=body, headers={"Idempotency-Key": f"po-{number}"})
        assert answer.status_code == 201, answer.text
        return answer.json()

    return create


FLAT = {
    "type": "flat_fee",
    "key": "h100",
    "name": "2 H100 servers",
    "billingCadence": "P1M",
    "price": {"type": "flat", "amount": "36000", "paymentTerm": "in_arrears"},
}
BURST = {
    "type": "usage_based",
    "key": "burst",
    "featureKey": "burst",
    "name": "Burst hours",
    "billingCadence": "P1M",
    "price": {"type": "unit", "amount": "2.00"},
}
PLAN = {
    "name": "C-1",
    "currency": "USD",
    "billingCadence": "P1M",
    "metadata": {"contract_id": "C-1"},
    "phases": [{"key": "default", "name": "Default", "duration": None, "rateCards": [FLAT, BURST]}],
}


@pytest.fixture
def billed(sandbox: Sandbox) -> Callable[..., dict[str, Any]]:
    """Custom invoicing, meter, feature, customer `acme`; creates and returns a subscription."""
    om = sandbox.om
    app = om.post("/marketplace/listings/custom_invoicing/install", json={"name": "Commerce"}).json()["app"][
        "id"
    ]
    hooks = {"enableDraftSyncHook": False, "enableIssuingSyncHook": True}
    om.put(f"/apps/{app}", json={"type": "custom_invoicing", "name": "Commerce", **hooks})
    invoicing = {"autoAdvance": True, "draftPeriod": "P0D", "dueAfter": "P14D", "progressiveBilling": False}
    profile = {
        "name": "Commerce",
        "default": True,
        "supplier": {"name": "Us"},
        "apps": {"tax": app, "invoicing": app, "payment": app},
        "workflow": {"invoicing": invoicing},
    }
    assert om.post("/billing/profiles", json=profile).status_code == 201
    meter = {"slug": "hours", "eventType": "burst_hour", "aggregation": "SUM", "valueProperty": "$.hours"}
    assert om.post("/meters", json={**meter, "groupBy": {"line": "$.line"}}).status_code == 201
    feature = {"key": "burst", "name": "Burst", "meterSlug": "hours", "meterGroupByFilters": {"line": "L2"}}
    assert om.post("/features", json=feature).status_code == 201
    customer = {
        "name": "Acme",
        "key": "acme",
        "currency": "USD",
        "usageAttribution": {"subjectKeys": ["acme"]},
    }
    assert om.post("/customers", json=customer).status_code == 201

    def subscribe(**plan: Any) -> dict[str, Any]:
        body = {
            "customerKey": "acme",
            "timing": START,
            "billingAnchor": START,
            "customPlan": {**PLAN, **plan},
        }
        answer = om.post("/subscriptions", json=body)
        assert answer.status_code == 201, answer.text
        return answer.json()

    return subscribe


@pytest.fixture
def use(sandbox: Sandbox) -> Callable[..., None]:
    """One usage event."""

    def send(identity: str, hours: str, at: str, line: str = "L2") -> None:
        event = {
            "specversion": "1.0",
            "id": identity,
            "source": "commerce",
            "type": "burst_hour",
            "subject": "acme",
        }
        event |= {"time": at, "data": {"hours": hours, "line": line}}
        headers = {"Content-Type": "application/cloudevents+json"}
        assert sandbox.om.post("/events", content=json.dumps(event), headers=headers).status_code == 204

    return send


@pytest.fixture
def invoices(sandbox: Sandbox) -> Callable[[], list[dict[str, Any]]]:
    """Every invoice with its lines, without the staging one, oldest first."""

    def read() -> list[dict[str, Any]]:
        page = sandbox.om.get("/billing/invoices", params={"expand": "lines"}).json()
        return [invoice for invoice in page["items"] if invoice["status"] != "gathering"]

    return read
