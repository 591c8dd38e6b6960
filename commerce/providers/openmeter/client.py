"""The calls: customers, catalogue and set-up, subscriptions, usage, invoices.

OpenMeter has no idempotency keys, so whatever creates something looks first, and an unanswered POST
is `Unknown`. Any 2xx is success: its custom-invoicing endpoints answer 200 where 204 is promised.
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from functools import lru_cache
from typing import Any, Literal
from urllib.parse import quote

import httpx
from django.conf import settings

from commerce.errors import Rejected, Retryable
from commerce.providers import http
from commerce.providers.openmeter.rate_cards import RateCard
from commerce.providers.openmeter.types import (
    NAME,
    Customer,
    Feature,
    Invoice,
    InvoiceLine,
    Meter,
    Subscription,
    Usage,
    read_customer,
    read_invoice,
    read_subscription,
)
from commerce.providers.openmeter.wire import Json, instant

PAGE_SIZE = 100

# Every status but `gathering`, which is a staging area and slow to read.
INVOICE_STATUSES = (
    "draft", "issuing", "issued", "payment_processing", "overdue", "paid", "uncollectible", "voided",
)  # fmt: skip
_PROCESSING = {
    f"payment_processing.{name}" for name in ("pending", "authorized", "failed", "action_required")
}
_NOT_YET = ("draft", "issuing", "issued")
# trigger: (the state it leads to, the states it is allowed from)
TRIGGERS: dict[str, tuple[str, set[str]]] = {
    "paid": ("paid", {*_PROCESSING, "overdue", "uncollectible"}),
    "payment_failed": ("payment_processing.failed", {*_PROCESSING, "overdue"}),
    "action_required": ("payment_processing.action_required", {*_PROCESSING, "overdue"}),
    "payment_overdue": ("overdue", _PROCESSING),
    "payment_uncollectible": ("uncollectible", {*_PROCESSING, "overdue"}),
    "void": ("voided", {*_PROCESSING, "uncollectible"}),
}


@dataclass(frozen=True)
class Prepared:
    """What `prepare` found or made."""

    app_id: str
    billing_profile_id: str
    channel_id: str


class OpenMeter:
    """One namespace at OpenMeter. Every method raises Retryable, Unknown or Rejected."""

    def __init__(self, *, base_url: str, token: str) -> None:
        headers = {"Accept": "application/json"}
        if token:
            headers["Authorization"] = f"Bearer {token}"
        self._http = http.http_client(NAME, base_url=base_url.rstrip("/") + "/", headers=headers)

    # Customers

    def customer(self, key: str) -> Customer | None:
        row = self._find(f"customers/{quote(key, safe='')}")
        return read_customer(row) if row else None

    @http.looks_first
    def ensure_customer(
        self,
        *,
        key: str,
        name: str,
        currency: str,
        email: str = "",
        metadata: Mapping[str, str] | None = None,
    ) -> Customer:
        """The customer with this key, made when there is none and brought up to date when it differs."""
        wanted: Json = {
            "key": key,
            "name": name,
            "currency": currency,
            "usageAttribution": {"subjectKeys": [key]},
            "metadata": dict(metadata or {}),
        }
        if email:
            wanted["primaryEmail"] = email
        found = self.customer(key)
        if not found:
            try:
                return read_customer(self._send("POST", "customers", wanted))
            except Rejected as error:
                if error.extra.get("provider_status") != 409 or not (found := self.customer(key)):
                    raise
        if found.currency and found.currency != currency:
            raise Rejected(f"Customer {key} is billed in {found.currency}.", code="currency_mismatch")
        if all(found.raw.get(name) == value for name, value in wanted.items() if name != "currency"):
            return found
        # PUT clears what it is not given, so the whole customer goes back with our changes.
        kept = {n: found.raw[n] for n in ("description", "billingAddress", "currency") if found.raw.get(n)}
        return read_customer(self._send("PUT", f"customers/{found.id}", {**kept, **wanted}))

    def assign_billing_profile(self, *, customer_id: str, billing_profile_id: str) -> None:
        self._send("PUT", f"billing/customers/{customer_id}", {"billingProfileId": billing_profile_id})

    # Catalogue and set-up

    @http.looks_first
    def ensure_meter(self, meter: Meter) -> None:
        if not self._find(f"meters/{meter.slug}"):
            self._create_once("meters", meter.as_json())

    @http.looks_first
    def ensure_feature(self, feature: Feature) -> None:
        found = self._find(f"features/{feature.key}")
        if not found or found.get("archivedAt"):
            self._create_once("features", feature.as_json())

    def prepare(
        self,
        *,
        webhook_url: str,
        signing_secret: str,
        supplier: str = "Commerce",
        country: str = "US",
        due_after: str = "P30D",
        meters: Sequence[Meter] = (),
        features: Sequence[Feature] = (),
    ) -> Prepared:
        """Make OpenMeter ready for us, as often as you like: catalogue, invoicing app, profile, webhook.

        The default profile of a fresh OpenMeter marks every invoice paid by itself; ours stops each
        invoice before it is issued, so that we number it, and leaves the payment to us.
        """
        for meter in meters:
            self.ensure_meter(meter)
        for feature in features:
            self.ensure_feature(feature)
        app_id = self._ensure_app()
        profile_id = self._ensure_profile(app_id, supplier, country, due_after)
        return Prepared(app_id, profile_id, self._ensure_channel(webhook_url, signing_secret))

    @http.looks_first
    def _ensure_app(self) -> str:
        wanted = {
            "type": "custom_invoicing",
            "name": "Commerce",
            "enableDraftSyncHook": False,
            "enableIssuingSyncHook": True,
        }
        app = self._named("apps", "Commerce", type="custom_invoicing")
        if not app:
            body = {"name": "Commerce", "createBillingProfile": False}
            app = self._send("POST", "marketplace/listings/custom_invoicing/install", body)["app"]
        if any(app.get(name) != value for name, value in wanted.items()):
            self._send("PUT", f"apps/{app['id']}", wanted)
        return str(app["id"])

    @http.looks_first
    def _ensure_profile(self, app_id: str, supplier: str, country: str, due_after: str) -> str:
        for row in self._pages("billing/profiles"):
            if row.get("default") and (row.get("apps") or {}).get("invoicing", {}).get("id") == app_id:
                return str(row["id"])
        body = {
            "name": "Commerce",
            "default": True,
            "supplier": {"name": supplier, "addresses": [{"country": country}]},
            "apps": {"tax": app_id, "invoicing": app_id, "payment": app_id},
            "workflow": {
                "collection": {"alignment": {"type": "subscription"}, "interval": "PT1H"},
                "invoicing": {
                    "autoAdvance": True,
                    "draftPeriod": "P0D",
                    "dueAfter": due_after,
                    "progressiveBilling": False,
                    "subscriptionEndProrationMode": "bill_actual_period",
                },
                "payment": {"collectionMethod": "send_invoice"},
                "tax": {"enabled": False, "enforced": False},
            },
        }
        return str(self._send("POST", "billing/profiles", body)["id"])

    @http.looks_first
    def _ensure_channel(self, url: str, secret: str) -> str:
        body = {"type": "WEBHOOK", "name": "commerce", "url": url, "signingSecret": secret}
        channel = self._named("notification/channels", "commerce")
        if not channel:
            channel = self._send("POST", "notification/channels", body)
        elif channel.get("url") != url or channel.get("signingSecret") != secret:
            channel = self._send("PUT", f"notification/channels/{channel['id']}", body)
        channel_id = str(channel["id"])
        for type_ in ("invoice.created", "invoice.updated"):
            name = f"commerce {type_}"
            if not self._named("notification/rules", name, type=type_):
                rule = {"type": type_, "name": name, "channels": [channel_id]}
                self._send("POST", "notification/rules", rule)
        return channel_id

    # Subscriptions

    def subscriptions(self, customer: str) -> list[Subscription]:
        """All of a customer's subscriptions (id or key), ended ones too; the only list there is."""
        try:
            return [
                read_subscription(row)
                for row in self._pages(f"customers/{quote(customer, safe='')}/subscriptions")
            ]
        except Rejected as error:
            if error.extra.get("provider_status") == 404:
                return []
            raise

    def subscription(self, id: str) -> Subscription | None:
        row = self._find(f"subscriptions/{id}")
        return read_subscription(row) if row else None

    def create_subscription(
        self,
        *,
        customer_key: str,
        name: str,
        currency: str,
        rate_cards: Sequence[RateCard],
        metadata: Mapping[str, str],
        timing: datetime | Literal["immediate"],
        billing_anchor: datetime,
        cadence: str = "P1M",
    ) -> Subscription:
        """Not idempotent: look for your metadata first. Metadata cannot be changed later."""
        phase = {
            "key": "default",
            "name": "Default",
            "duration": None,
            "rateCards": [card.as_json() for card in rate_cards],
        }
        body = {
            "customerKey": customer_key,
            "timing": _timing(timing),
            "billingAnchor": instant(billing_anchor),
            "customPlan": {
                "name": name,
                "metadata": dict(metadata),
                "currency": currency,
                "billingCadence": cadence,
                "proRatingConfig": {"enabled": True, "mode": "prorate_prices"},
                "phases": [phase],
            },
        }
        return read_subscription(self._send("POST", "subscriptions", body))

    def edit_subscription(
        self,
        id: str,
        *,
        remove: Sequence[str] = (),
        add: Sequence[RateCard] = (),
        timing: Literal["immediate", "next_billing_cycle"] = "immediate",
    ) -> Subscription:
        """Take out items by key, then put in rate cards. A phase may not end up empty."""
        changes: list[Json] = [{"op": "remove_item", "phaseKey": "default", "itemKey": key} for key in remove]
        changes += [{"op": "add_item", "phaseKey": "default", "rateCard": card.as_json()} for card in add]
        body = {"timing": timing, "customizations": changes}
        return read_subscription(self._send("PATCH", f"subscriptions/{id}", body))

    def cancel_subscription(
        self, id: str, *, timing: datetime | Literal["immediate", "next_billing_cycle"]
    ) -> Subscription:
        """A date must be a boundary of its billing periods."""
        return read_subscription(
            self._send("POST", f"subscriptions/{id}/cancel", {"timing": _timing(timing)})
        )

    def unschedule_cancelation(self, id: str) -> Subscription:
        return read_subscription(self._send("POST", f"subscriptions/{id}/unschedule-cancelation"))

    # Usage

    def ingest(self, events: Sequence[Usage]) -> None:
        """Send a batch. Safe to repeat with the same ids; accepted does not yet mean counted."""
        body = json.dumps([event.as_json() for event in events]).encode()
        # They compare the content type as a string: no charset.
        self._send("POST", "events", body, content_type="application/cloudevents-batch+json", repeatable=True)

    def has_event(self, *, id: str) -> bool:
        """Whether an event arrived; ask after a failure, for a retry may be answered before the write."""
        page = self._send(
            "GET", "api/v2/events", params={"filter": json.dumps({"id": {"$eq": id}}), "limit": 1}
        )
        return bool(page.get("items"))

    def usage(self, *, meter: str, subject: str, start: datetime, end: datetime) -> Decimal:
        """What a meter says was used in [start, end)."""
        params = {"from": instant(start), "to": instant(end), "subject": subject}
        rows = self._send("GET", f"meters/{meter}/query", params=params).get("data") or []
        return sum((Decimal(str(row["value"])) for row in rows), Decimal(0))

    # Invoices

    def invoice(self, id: str) -> Invoice:
        return read_invoice(self._send("GET", f"billing/invoices/{quote(id, safe='')}"))

    def invoices(
        self, *, updated_since: datetime | None = None, statuses: Sequence[str] = INVOICE_STATUSES
    ) -> Iterator[Invoice]:
        """Newest change first, without lines, down to `updated_since`: give it some overlap."""
        filters = {"statuses": list(statuses), "orderBy": "updatedAt", "order": "DESC"}
        for row in self._pages("billing/invoices", **filters):
            invoice = read_invoice(row)
            if updated_since and invoice.updated_at < updated_since:
                return
            yield invoice

    def gathering(self, customer_id: str) -> list[InvoiceLine]:
        """What a customer's running periods will bill as things stand: rated live, so it is slow."""
        filters = {"statuses": ["gathering"], "customers": [customer_id], "expand": ["lines"]}
        found = [read_invoice(row) for row in self._pages("billing/invoices", **filters)]
        return [line for invoice in found for line in invoice.lines]

    @http.looks_first
    def issuing_synchronized(self, id: str, *, number: str, sent_at: datetime) -> Invoice:
        """Number an invoice that waits to be issued. A repetition with the same number is a success."""
        invoice = self.invoice(id)
        if invoice.extended_status != "issuing.syncing":
            if invoice.number == number:
                return invoice
            self._not_now(invoice, "be issued")
        if invoice.invoicing_app != "custom_invoicing":
            raise Rejected(f"Invoice {id} is not handled by our app.", code="provider_wrong_app")
        body = {"invoicing": {"invoiceNumber": number, "sentToCustomerAt": instant(sent_at)}}
        return self._custom_invoicing(id, "issuing/synchronized", body)

    @http.looks_first
    def payment_status(self, id: str, trigger: str) -> Invoice:
        """Report what became of the payment. Where the invoice is already there, nothing is sent."""
        target, sources = TRIGGERS[trigger]
        invoice = self.invoice(id)
        if invoice.extended_status == target:
            return invoice
        if invoice.extended_status not in sources:
            self._not_now(invoice, f"take {trigger}")
        try:
            return self._custom_invoicing(id, "payment/status", {"trigger": trigger})
        except Rejected:
            if (invoice := self.invoice(id)).extended_status == target:
                return invoice
            raise

    def _not_now(self, invoice: Invoice, what: str) -> None:
        error = Retryable if invoice.status in _NOT_YET else Rejected
        raise error(
            f"Invoice {invoice.id} is {invoice.extended_status} and cannot {what}.",
            code="provider_state",
            provider_state=invoice.extended_status,
        )

    def _custom_invoicing(self, id: str, action: str, body: Json) -> Invoice:
        self._send("POST", f"apps/custom-invoicing/{id}/{action}", body)
        return self.invoice(id)

    # The wire

    def _send(
        self,
        method: str,
        path: str,
        body: Json | bytes | None = None,
        *,
        params: Mapping[str, Any] | None = None,
        content_type: str = "application/json",
        repeatable: bool = False,
    ) -> Json:
        """One request, one JSON object (or {} for an empty answer)."""
        answer = self._exchange(method, path, body, params, content_type, repeatable)
        if answer is None:
            return {}
        if not isinstance(answer, dict):
            raise http.malformed(NAME, f"no object to {method} {path}")
        return answer

    def _exchange(
        self,
        method: str,
        path: str,
        body: Json | bytes | None,
        params: Mapping[str, Any] | None,
        content_type: str,
        repeatable: bool,
    ) -> Any:
        repeatable = repeatable or method in ("GET", "PUT")
        operation = f"{method} {path}"
        content = json.dumps(body).encode() if isinstance(body, dict) else body
        headers = {"Content-Type": content_type} if content is not None else {}
        try:
            response = self._http.request(
                method,
                path if path.startswith("api/") else f"api/v1/{path}",
                content=content,
                params=params,
                headers=headers,
            )
        except httpx.TransportError as error:
            raise http.no_answer(error, provider=NAME, operation=operation, repeatable=repeatable) from None
        if response.is_success and not response.content:
            return None
        try:
            answer = http.parse(response.content)
        except ValueError as error:
            if response.is_success:
                raise http.no_answer(
                    error, provider=NAME, operation=operation, repeatable=repeatable
                ) from None
            answer = {}
        if response.is_success:
            return answer
        code, detail = _problem(answer)
        raise http.refused(
            response.status_code,
            provider=NAME,
            operation=operation,
            key_setting="OPENMETER_TOKEN",
            code=code,
            detail=detail,
            repeatable=repeatable,
        )

    def _find(self, path: str) -> Json | None:
        try:
            row = self._send("GET", path)
        except Rejected as error:
            if error.extra.get("provider_status") == 404:
                return None
            raise
        return None if row.get("deletedAt") else row

    def _create_once(self, path: str, body: Json) -> None:
        """POST what a look-up missed; somebody else may have been quicker."""
        try:
            self._send("POST", path, body)
        except Rejected as error:
            if error.extra.get("provider_status") != 409:
                raise

    def _named(self, path: str, name: str, **also: str) -> Json | None:
        """The oldest by that name, so that two who prepared at the same time agree the next time."""
        wanted = {"name": name, **also}
        found = [row for row in self._pages(path) if all(row.get(k) == v for k, v in wanted.items())]
        return min(found, key=lambda row: str(row["id"]), default=None)

    def _pages(self, path: str, **filters: Any) -> Iterator[Json]:
        page = 1
        while True:
            params = {**filters, "page": page, "pageSize": PAGE_SIZE}
            answer = self._exchange("GET", path, None, params, "", True)
            items = answer if isinstance(answer, list) else (answer or {}).get("items")
            if not isinstance(items, list) or not all(isinstance(item, dict) for item in items):
                raise http.malformed(NAME, f"no list to GET {path}")
            yield from items
            # Some lists are not paged at all, whatever was asked for.
            if (
                isinstance(answer, list)
                or page * PAGE_SIZE >= int(answer.get("totalCount") or 0)
                or not items
            ):
                return
            page += 1


def client() -> OpenMeter:
    """The client of the configured namespace; one per process and configuration."""
    return _client(settings.OPENMETER_BASE_URL, settings.OPENMETER_TOKEN, settings.PROVIDER_TIMEOUT_SECONDS)


@lru_cache(maxsize=4)
def _client(base_url: str, token: str, timeout: float) -> OpenMeter:
    return OpenMeter(base_url=base_url, token=token)


def _timing(value: datetime | str) -> str:
    return value if isinstance(value, str) else instant(value)


def _problem(answer: Any) -> tuple[str, str]:
    """The code and the sentence of a problem document, as far as there is one."""
    if not isinstance(answer, dict):
        return "", ""
    extensions = answer.get("extensions")
    extensions = extensions if isinstance(extensions, dict) else {}
    errors = extensions.get("validationErrors")
    first = errors[0] if isinstance(errors, list) and errors and isinstance(errors[0], dict) else extensions
    return str(first.get("code") or "")[:80], str(answer.get("detail") or answer.get("title") or "")
