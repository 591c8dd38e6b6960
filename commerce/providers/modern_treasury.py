"""Modern Treasury, through its official SDK: bank accounts of parties, money in, money out.

The SDK validates nothing in either direction and retries on its own, so here its retries are off,
every create carries a key we stored before the call, and answers become dataclasses that hold only
what was checked: the right kind of object, whole amounts, our mode (live or test).
"""

import hashlib
import hmac
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import date
from functools import lru_cache
from typing import Any, TypeVar

from django.conf import settings

from commerce.errors import CommerceError, InvalidInput, Rejected, Unknown
from commerce.money import CURRENCIES, Money
from commerce.providers import http
from commerce.providers.webhooks import OBJECT_ID, InvalidSignature, Notice

NAME = "modern_treasury"
KINDS = {"payment_order": "payment_order", "incoming_payment_detail": "incoming_payment", "return": "return"}
Json = dict[str, Any]
T = TypeVar("T")


@dataclass(frozen=True)
class Counterparty:
    id: str
    name: str
    external_id: str


@dataclass(frozen=True)
class ExternalAccount:
    """A payee's bank account; of its number only the last four digits."""

    id: str
    external_id: str
    counterparty_id: str
    last4: str
    bank_name: str
    verification_status: str


@dataclass(frozen=True)
class VirtualAccount:
    """An account number of ours that only one buyer pays into."""

    id: str
    counterparty_id: str
    reference: str
    last4: str
    bank_name: str


@dataclass(frozen=True)
class Return:
    """Money that came back. `is_notice` marks a notification of change: nothing came back."""

    id: str
    status: str
    type: str
    code: str
    reason: str
    returnable_type: str
    returnable_id: str
    amount: Money

    @property
    def is_notice(self) -> bool:
        return self.type == "ach_noc" or self.code.startswith("C")


@dataclass(frozen=True)
class PaymentOrder:
    id: str
    external_id: str
    status: str
    reconciliation_status: str
    type: str
    direction: str
    amount: Money
    receiving_account_id: str
    failure_reason: str
    current_return: Return | None = None
    metadata: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class IncomingPayment:
    """Money that reached our bank account; a buyer's wallet is known by `virtual_account_id`."""

    id: str
    status: str
    reconciliation_status: str
    type: str
    direction: str
    amount: Money
    virtual_account_id: str
    internal_account_id: str
    as_of_date: str
    payer: str


class ModernTreasury:
    """One organization at Modern Treasury. Every method raises Retryable, Unknown or Rejected."""

    def __init__(
        self, *, base_url: str, organization_id: str, api_key: str, internal_account_id: str
    ) -> None:
        # Importing the SDK takes a second, which only a process that calls the provider has to spend.
        import modern_treasury

        self.internal_account_id = internal_account_id
        self._sdk = modern_treasury.ModernTreasury(
            base_url=base_url,
            organization_id=organization_id,
            api_key=api_key,
            max_retries=0,
            timeout=http.timeout(),
            http_client=http.http_client(NAME, base_url=base_url),
        )

    # Parties

    def find_counterparty(self, external_id: str) -> Counterparty | None:
        found = self._list("counterparty", self._sdk.counterparties.list, external_id=external_id)
        return _only([_counterparty(row) for row in found if row.get("external_id") == external_id])

    def create_counterparty(
        self, *, external_id: str, name: str, email: str, metadata: dict[str, str], key: str
    ) -> Counterparty:
        extra = {"email": email} if email else {}
        return _counterparty(
            self._create(
                "counterparty",
                self._sdk.counterparties.create,
                key=key,
                name=name,
                external_id=external_id,
                metadata=metadata,
                **extra,
            )
        )

    def find_external_account(self, external_id: str) -> ExternalAccount | None:
        found = self._list("external_account", self._sdk.external_accounts.list, external_id=external_id)
        return _only([_external_account(row) for row in found if row.get("external_id") == external_id])

    def create_external_account(
        self,
        *,
        external_id: str,
        counterparty_id: str,
        party_name: str,
        account_number: str,
        routing_number: str,
        routing_number_type: str,
        account_type: str,
        account_number_type: str = "other",
        metadata: dict[str, str],
        key: str,
    ) -> ExternalAccount:
        return _external_account(
            self._create(
                "external_account",
                self._sdk.external_accounts.create,
                key=key,
                counterparty_id=counterparty_id,
                external_id=external_id,
                party_name=party_name,
                party_type="business",
                account_type=account_type,
                account_details=[
                    {"account_number": account_number, "account_number_type": account_number_type}
                ],
                routing_details=[
                    {"routing_number": routing_number, "routing_number_type": routing_number_type}
                ],
                metadata=metadata,
            )
        )

    def find_virtual_account(self, reference: str) -> VirtualAccount | None:
        """Virtual accounts have no external id; ours is in the metadata."""
        found = self._list(
            "virtual_account", self._sdk.virtual_accounts.list, metadata={"reference": reference}
        )
        return _only([account for row in found if (account := _virtual_account(row)).reference == reference])

    def create_virtual_account(
        self, *, reference: str, counterparty_id: str, name: str, metadata: dict[str, str], key: str
    ) -> VirtualAccount:
        return _virtual_account(
            self._create(
                "virtual_account",
                self._sdk.virtual_accounts.create,
                key=key,
                name=name,
                internal_account_id=self.internal_account_id,
                counterparty_id=counterparty_id,
                metadata={**metadata, "reference": reference},
            )
        )

    # Money out

    def create_payment_order(
        self,
        *,
        external_id: str,
        amount: Money,
        receiving_account_id: str,
        key: str,
        type: str = "ach",
        effective_date: date | None = None,
        statement_descriptor: str = "",
        remittance_information: str = "",
        metadata: dict[str, str] | None = None,
    ) -> PaymentOrder:
        """Pay out. Rejected when the answer tells of another amount or account than was asked for."""
        asked: dict[str, Any] = {
            "type": type,
            "direction": "credit",
            "amount": amount.minor,
            "currency": amount.currency,
            "originating_account_id": self.internal_account_id,
            "receiving_account_id": receiving_account_id,
            "external_id": external_id,
            "metadata": metadata or {},
        }
        if effective_date:
            asked["effective_date"] = effective_date
        if statement_descriptor:
            asked["statement_descriptor"] = statement_descriptor
        if remittance_information:
            asked["remittance_information"] = remittance_information
        row = self._create("payment_order", self._sdk.payment_orders.create, key=key, **asked)
        order = _payment_order(row)
        if (order.amount, order.external_id, order.receiving_account_id) != (
            amount, external_id, receiving_account_id
        ):  # fmt: skip
            raise Rejected(
                f"Payment order {order.id} is not what {external_id} asked for.", code="provider_mismatch"
            )
        return order

    def payment_order(self, id: str) -> PaymentOrder:
        return _payment_order(self._get("payment_order", self._sdk.payment_orders.retrieve, id))

    def find_payment_order(self, external_id: str) -> PaymentOrder | None:
        """Look before you send again: the order that carries our reference, if there is one."""
        found = self._list("payment_order", self._sdk.payment_orders.list, external_id=external_id)
        return _only([_payment_order(row) for row in found if row.get("external_id") == external_id])

    def update_payment_order(self, id: str, changes: dict[str, Any], *, key: str) -> PaymentOrder:
        """PATCH. Rejected when the answer is 200 and yet the old data, as for protected fields."""

        def call() -> Any:
            # The SDK drops idempotency_key= on PATCH.
            return self._sdk.payment_orders.update(id, **changes, extra_headers={"Idempotency-Key": key})

        row = _checked(self._call("payment_order.update", call, safe=False), "payment_order")
        ignored = sorted(name for name, value in changes.items() if row.get(name) != value)
        if ignored:
            raise Rejected(
                f"Payment order {id} kept its {', '.join(ignored)}.",
                code="provider_ignored_update",
                fields=ignored,
            )
        return _payment_order(row)

    def cancel_payment_order(self, id: str, *, key: str) -> PaymentOrder:
        """Possible until processing begins; later the order is as good as sent."""
        return self.update_payment_order(id, {"status": "cancelled"}, key=key)

    def get_return(self, id: str) -> Return:
        return _return(self._get("return", self._sdk.returns.retrieve, id))

    # Money in

    def incoming_payment(self, id: str) -> IncomingPayment:
        return _incoming_payment(
            self._get("incoming_payment_detail", self._sdk.incoming_payment_details.retrieve, id)
        )

    def incoming_payments(self, *, since: date) -> Iterator[IncomingPayment]:
        """What the bank dated `since` or later, whatever its status."""
        rows = self._list(
            "incoming_payment_detail", self._sdk.incoming_payment_details.list, as_of_date_start=since
        )
        return map(_incoming_payment, rows)

    # The wire

    def _create(self, kind: str, method: Callable[..., Any], *, key: str, **body: Any) -> Json:
        def call() -> Any:
            return method(**body, idempotency_key=key)

        try:
            return _checked(self._call(f"{kind}.create", call, safe=False), kind)
        except Rejected as error:
            if error.extra.get("provider_status") == 409:
                # The first request with this key is still running, or the reference is taken.
                raise Unknown(error.detail, **error.extra) from None
            raise

    def _get(self, kind: str, method: Callable[..., Any], id: str) -> Json:
        return _checked(self._call(f"{kind}.get", lambda: method(id), safe=True), kind)

    def _list(self, kind: str, method: Callable[..., Any], **filters: Any) -> Iterator[Json]:
        pages = self._call(f"{kind}.list", lambda: method(per_page=100, **filters), safe=True)
        rows = iter(pages)
        while (row := self._call(f"{kind}.list", lambda: next(rows, None), safe=True)) is not None:
            if (data := _checked(row, kind)).get("discarded_at") is None:
                yield data

    def _call(self, operation: str, call: Callable[[], T], *, safe: bool) -> T:
        from modern_treasury import APIConnectionError, APIStatusError

        # `from None` throughout: the SDK's messages repeat bodies, which may hold bank details.
        try:
            return call()
        except APIStatusError as error:
            told = error.body.get("errors") if isinstance(error.body, dict) else None
            told = told if isinstance(told, dict) else {}
            raise http.refused(
                error.status_code,
                provider=NAME,
                operation=operation,
                key_setting="MODERN_TREASURY_API_KEY",
                code=str(told.get("code") or ""),
                detail=" ".join(str(told[name]) for name in ("parameter", "message") if told.get(name)),
                repeatable=True,  # a create carries its idempotency key
            ) from None
        except APIConnectionError as error:
            raise http.no_answer(
                error.__cause__, provider=NAME, operation=operation, repeatable=safe
            ) from None
        except ValueError as error:
            raise http.no_answer(error, provider=NAME, operation=operation, repeatable=safe) from None


def client() -> ModernTreasury:
    """The client of the configured organization; one per process and configuration."""
    return _client(
        settings.MODERN_TREASURY_BASE_URL,
        settings.MODERN_TREASURY_ORGANIZATION_ID,
        settings.MODERN_TREASURY_API_KEY,
        settings.MODERN_TREASURY_INTERNAL_ACCOUNT_ID,
        settings.PROVIDER_TIMEOUT_SECONDS,
    )


@lru_cache(maxsize=4)
def _client(base_url: str, organization: str, key: str, account: str, timeout: float) -> ModernTreasury:
    return ModernTreasury(
        base_url=base_url, organization_id=organization, api_key=key, internal_account_id=account
    )


def read_webhook(body: bytes, headers: Mapping[str, str]) -> Notice:
    """Verify a delivery over its raw bytes and say what it is about.

    Only the body is signed: topic and id could be forged on a replayed body, which is harmless
    because whatever follows fetches the object. Raises InvalidSignature, or InvalidInput.
    """
    given = headers.get("X-Signature", "").encode("utf-8", "replace")
    keys = settings.MODERN_TREASURY_WEBHOOK_KEYS
    if not any(hmac.compare_digest(signature(key, body).encode(), given) for key in keys):
        raise InvalidSignature("X-Signature does not fit the body.")
    if headers.get("X-Live-Mode", "").lower() != str(settings.PRODUCTION).lower():
        raise InvalidInput("X-Live-Mode is not ours.", code="wrong_mode")
    content = _object(body)
    data = content.get("data")
    object_id = str((data if isinstance(data, dict) else content).get("id") or "")
    topic = headers.get("X-Topic", "")
    delivery_id = headers.get("X-Webhook-ID", "")
    if not OBJECT_ID.fullmatch(delivery_id):
        raise InvalidInput("X-Webhook-ID is missing.", code="no_delivery_id")
    return Notice(
        delivery_id=delivery_id,
        topic=topic[:60],
        event=str(content.get("event") or "")[:60],
        object_id=object_id[:64],
        kind=KINDS.get(topic, "") if OBJECT_ID.fullmatch(object_id) else "",
        headers={name: headers.get(name, "")[:80] for name in ("X-Event-ID", "X-Event-Time")},
    )


def signature(key: str, body: bytes) -> str:
    return hmac.new(key.encode(), body, hashlib.sha256).hexdigest()


def _object(body: bytes) -> Json:
    try:
        content = http.parse(body)
    except ValueError:
        raise InvalidInput("The body is not JSON.", code="malformed_body") from None
    if not isinstance(content, dict):
        raise InvalidInput("The body is not an object.", code="malformed_body")
    return content


# From what they send to what we checked


def _checked(answer: Any, kind: str) -> Json:
    """The answer as a dict, once it is the kind of object that was asked for, in our mode."""
    if not hasattr(answer, "to_dict"):
        raise http.malformed(NAME, f"something that is not a {kind}")
    row: Json = answer.to_dict(warnings=False)
    if row.get("object") != kind or not isinstance(row.get("id"), str):
        raise http.malformed(NAME, f"{row.get('object')!r} where a {kind} was due")
    if row.get("live_mode") is not settings.PRODUCTION:
        raise Rejected(
            f"This {kind} belongs to {'live' if row.get('live_mode') else 'test'} mode: check the API key.",
            code="wrong_mode",
        )
    return row


def _only(found: list[T]) -> T | None:
    if len(found) > 1:
        raise Rejected(
            "Modern Treasury has more than one object with our reference.", code="provider_duplicate"
        )
    return found[0] if found else None


def _text(row: Json, name: str) -> str:
    value = row.get(name)
    return value if isinstance(value, str) else ""


def _money(row: Json) -> Money:
    try:
        money = Money(row["amount"], row["currency"])
    except (KeyError, CommerceError):
        money = None
    if money is None or money.currency not in CURRENCIES:
        raise http.malformed(NAME, f"an amount that is none, in {row.get('object')} {row.get('id')}")
    return money


def _first(row: Json, name: str) -> Json:
    values = row.get(name)
    return values[0] if isinstance(values, list) and values and isinstance(values[0], dict) else {}


def _counterparty(row: Json) -> Counterparty:
    return Counterparty(row["id"], _text(row, "name"), _text(row, "external_id"))


def _external_account(row: Json) -> ExternalAccount:
    return ExternalAccount(
        id=row["id"],
        external_id=_text(row, "external_id"),
        counterparty_id=_text(row, "counterparty_id"),
        last4=_text(_first(row, "account_details"), "account_number_safe")[-4:],
        bank_name=_text(_first(row, "routing_details"), "bank_name")[:80],
        verification_status=_text(row, "verification_status"),
    )


def _virtual_account(row: Json) -> VirtualAccount:
    return VirtualAccount(
        id=row["id"],
        counterparty_id=_text(row, "counterparty_id"),
        reference=_text(row.get("metadata") or {}, "reference"),
        last4=_text(_first(row, "account_details"), "account_number_safe")[-4:],
        bank_name=_text(_first(row, "routing_details"), "bank_name")[:80],
    )


def _return(row: Json) -> Return:
    return Return(
        id=row["id"],
        status=_text(row, "status"),
        type=_text(row, "type"),
        code=_text(row, "code"),
        reason=_text(row, "reason")[:200],
        returnable_type=_text(row, "returnable_type"),
        returnable_id=_text(row, "returnable_id"),
        amount=_money(row),
    )


def _payment_order(row: Json) -> PaymentOrder:
    returned = row.get("current_return")
    return PaymentOrder(
        id=row["id"],
        external_id=_text(row, "external_id"),
        status=_text(row, "status"),
        reconciliation_status=_text(row, "reconciliation_status"),
        type=_text(row, "type"),
        direction=_text(row, "direction"),
        amount=_money(row),
        receiving_account_id=_text(row, "receiving_account_id"),
        failure_reason=_text(row, "vendor_failure_reason")[:200],
        current_return=_return(returned) if isinstance(returned, dict) else None,
        metadata={k: v for k, v in (row.get("metadata") or {}).items() if isinstance(v, str)},
    )


def _incoming_payment(row: Json) -> IncomingPayment:
    return IncomingPayment(
        id=row["id"],
        status=_text(row, "status"),
        reconciliation_status=_text(row, "reconciliation_status"),
        type=_text(row, "type"),
        direction=_text(row, "direction"),
        amount=_money(row),
        virtual_account_id=_text(row, "virtual_account_id"),
        internal_account_id=_text(row, "internal_account_id"),
        as_of_date=str(row.get("as_of_date") or ""),
        payer=_text(row, "originating_party_name")[:120],
    )
