"""A receiver on this machine that verifies signatures by its own code, endpoints, and events to tell of."""

import base64
import hashlib
import hmac
import json
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from uuid import uuid4

import pytest
from django.db import transaction

from commerce.actor import Actor
from commerce.outbox import append
from commerce.outbox.models import OutboxEvent
from commerce.parties.models import Organization
from commerce.webhooks import services
from commerce.webhooks.models import WebhookEndpoint, WebhookMessage

AT = datetime(2027, 3, 1, tzinfo=UTC)
SYSTEM = Actor.system("tests")
# One whose audience is in its payload, by the catalogue.
ORGANIZATION_EVENT = "organization.suspended"


@dataclass
class Request:
    path: str
    headers: dict[str, str]
    body: bytes

    @property
    def id(self) -> str:
        return self.headers["webhook-id"]

    @property
    def json(self) -> Any:
        return json.loads(self.body)

    def signed_with(self, secret: str) -> bool:
        """As the specification says it, written down a second time."""
        key = base64.b64decode(secret.removeprefix("whsec_"))
        signed = b"%s.%s.%s" % (self.id.encode(), self.headers["webhook-timestamp"].encode(), self.body)
        wanted = base64.b64encode(hmac.new(key, signed, hashlib.sha256).digest()).decode()
        fresh = abs(time.time() - int(self.headers["webhook-timestamp"])) < 300
        return fresh and f"v1,{wanted}" in self.headers["webhook-signature"].split(" ")


@dataclass
class Receiver:
    """What came in, and what is answered: a status, headers, a body, after a while."""

    url: str = ""
    status: int = 200
    headers: dict[str, str] = field(default_factory=dict)
    body: bytes = b"thank you"
    delay: float = 0.0
    slow: dict[str, float] = field(default_factory=dict)
    statuses: list[int] = field(default_factory=list)
    requests: list[Request] = field(default_factory=list)
    at_once: int = 0
    most_at_once: int = 0
    lock: threading.Lock = field(default_factory=threading.Lock)


@pytest.fixture
def receiver(settings: Any) -> Iterator[Receiver]:
    settings.WEBHOOK_ALLOWED_NETWORKS = ["127.0.0.0/8"]
    told = Receiver()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            with told.lock:
                told.requests.append(
                    Request(self.path, {k.lower(): v for k, v in self.headers.items()}, body)
                )
                told.at_once += 1
                told.most_at_once = max(told.most_at_once, told.at_once)
                status = told.statuses.pop(0) if told.statuses else told.status
            time.sleep(told.slow.get(self.path, told.delay))
            with told.lock:
                told.at_once -= 1
            try:
                self.send_response(status)
                for name, value in told.headers.items():
                    self.send_header(name, value)
                self.send_header("Content-Length", str(len(told.body)))
                self.end_headers()
                self.wfile.write(told.body)
            except OSError:
                pass

        def log_message(self, *_: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    told.url = f"http://127.0.0.1:{server.server_address[1]}"
    thread = threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True)
    thread.start()
    yield told
    server.shutdown()
    server.server_close()


def organization(*roles: str, **columns: Any) -> Organization:
    name = f"o{uuid4().hex[:10]}"
    return Organization.objects.create(name=name, slug=name, roles=list(roles or ("seller",)), **columns)


def endpoint(
    owner: Organization, url: str, *event_types: str, **arguments: Any
) -> tuple[WebhookEndpoint, str]:
    return services.create_endpoint(
        organization=owner,
        url=url,
        event_types=event_types or ("organization.*",),
        actor=SYSTEM,
        at=AT,
        **arguments,
    )


def happens(to: Organization, type_: str = ORGANIZATION_EVENT, at: datetime = AT) -> OutboxEvent:
    with transaction.atomic():
        return append("organization", to.pk, type_, to.event_payload(), at=at, actor=SYSTEM)


def make_due(*messages: WebhookMessage) -> None:
    from django.utils import timezone

    WebhookMessage.objects.filter(pk__in=[m.pk for m in messages]).update(due_at=timezone.now())


@pytest.fixture
def seller() -> Organization:
    return organization("seller")


@pytest.fixture
def platform() -> Organization:
    return Organization.objects.platform()


@pytest.fixture
def told(receiver: Receiver, seller: Organization) -> Callable[..., WebhookMessage]:
    """A message that is due, to a path of the receiver, for an endpoint of its own unless one is given."""

    def make(path: str = "/hook", to: WebhookEndpoint | None = None) -> WebhookMessage:
        to = to or endpoint(seller, receiver.url + path)[0]
        return services.send_test_event(endpoint=to, actor=SYSTEM, at=AT)

    return make
