"""Strict input and exact output: unknown fields are refused, money is minor units, instants have offsets."""

import re
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

from django.db import models
from drf_spectacular.utils import extend_schema_field
from rest_framework import serializers

from commerce.errors import InvalidInput
from commerce.money import CURRENCIES, MAX_MINOR, STABLECOINS, Money

_RFC3339 = re.compile(r"\d{4}-\d\d-\d\d[Tt]\d\d:\d\d:\d\d(\.\d{1,6})?([Zz]|[+-]\d\d:\d\d)")
_TEXTS = (serializers.CharField, serializers.UUIDField)


def _money_schema(currencies: frozenset[str], description: str) -> dict[str, Any]:
    return {
        "type": "object",
        "properties": {
            "amount_minor": {
                "type": "integer",
                "format": "int64",
                "minimum": -MAX_MINOR,
                "maximum": MAX_MINOR,
                "description": "Minor units, for example cents.",
            },
            "currency": {"type": "string", "enum": sorted(currencies), "description": description},
        },
        "required": ["amount_minor", "currency"],
        "additionalProperties": False,
        "example": {"amount_minor": 3167500, "currency": "USD"},
    }


@extend_schema_field(_money_schema(CURRENCIES, "ISO 4217."))
class MoneyField(serializers.Field):
    """`{"amount_minor": 3167500, "currency": "USD"}` in and out, `Money` inside.

    `minimum` bounds the minor units of input. `minor="total_minor"` reads the amount from that
    column and the currency from the row's `currency` (or the attribute named by `currency`).
    """

    currencies = CURRENCIES
    default_error_messages = {
        "not_an_object": "Money is an object with amount_minor and currency.",
        "not_an_integer": "A whole number of minor units is expected.",
        "too_small": "Must be at least {minimum}.",
    }

    def __init__(
        self, *, minimum: int | None = None, minor: str = "", currency: str = "currency", **kwargs: Any
    ) -> None:
        self.minimum, self.minor, self.currency = minimum, minor, currency
        super().__init__(**({"read_only": True} if minor else {}) | kwargs)

    def get_attribute(self, instance: Any) -> Any:
        if not self.minor:
            return super().get_attribute(instance)
        amount = getattr(instance, self.minor)
        currency = instance
        for name in self.currency.split("."):
            currency = getattr(currency, name)
        return None if amount is None else Money(amount, currency)

    def to_internal_value(self, data: Any) -> Money:
        if not isinstance(data, Mapping):
            self.fail("not_an_object")
        errors = {
            name: [serializers.ErrorDetail("Unknown field.", code="unknown_field")]
            for name in data
            if name not in ("amount_minor", "currency")
        }
        for name in ("amount_minor", "currency"):
            if name not in data:
                errors[name] = [serializers.ErrorDetail("This field is required.", code="required")]
        amount = data.get("amount_minor", 0)
        if isinstance(amount, bool) or not isinstance(amount, int):
            text = str(self.error_messages["not_an_integer"])
            errors["amount_minor"] = [serializers.ErrorDetail(text, code="amount_not_integer")]
        elif self.minimum is not None and amount < self.minimum and "amount_minor" in data:
            text = str(self.error_messages["too_small"]).format(minimum=self.minimum)
            errors["amount_minor"] = [serializers.ErrorDetail(text, code="amount_too_small")]
        if errors:
            raise serializers.ValidationError(errors)
        try:
            money = Money(amount, data["currency"])
            if money.currency not in self.currencies:
                raise InvalidInput(f"{money.currency} is not taken here.", code="unknown_currency")
        except (InvalidInput, TypeError) as error:
            code = getattr(error, "code", "unknown_currency")
            name = "amount_minor" if code.startswith("amount") else "currency"
            raise serializers.ValidationError({name: [serializers.ErrorDetail(str(error), code=code)]})
        return money

    def to_representation(self, value: Money) -> dict[str, Any]:
        return {"amount_minor": value.minor, "currency": value.currency}


@extend_schema_field(_money_schema(CURRENCIES | STABLECOINS, "ISO 4217, or a stablecoin."))
class LedgerMoneyField(MoneyField):
    """Money that the ledger holds, which may be a stablecoin."""

    currencies = CURRENCIES | STABLECOINS


class InstantField(serializers.DateTimeField):
    """RFC 3339 with an offset in, UTC with `Z` out. An instant without offset is `invalid_instant`."""

    default_error_messages = {
        "invalid_instant": "An instant such as 2027-03-01T00:00:00Z is expected, with its offset."
    }

    def to_internal_value(self, data: Any) -> datetime:
        if not isinstance(data, str) or not _RFC3339.fullmatch(data):
            self.fail("invalid_instant")
        try:
            return datetime.fromisoformat(data.upper()).astimezone(UTC)
        except (ValueError, OverflowError):
            self.fail("invalid_instant")

    def to_representation(self, value: datetime) -> str:
        return value.astimezone(UTC).isoformat().replace("+00:00", "Z")


class StrictSerializer(serializers.Serializer):
    """Refuses fields it does not know, read-only ones in input, and numbers where text is meant."""

    def to_internal_value(self, data: Any) -> Any:
        if not isinstance(data, Mapping):
            return super().to_internal_value(data)
        writable = {str(field.field_name): field for field in self._writable_fields}
        errors: dict[str, Any] = {}
        for name, given in data.items():
            if name not in writable:
                errors[name] = [serializers.ErrorDetail("Unknown field.", code="unknown_field")]
            elif isinstance(writable[name], _TEXTS) and given is not None and not isinstance(given, str):
                errors[name] = [serializers.ErrorDetail("Not a valid string.", code="invalid")]
        try:
            value = super().to_internal_value(data)
        except serializers.ValidationError as invalid:
            if not isinstance(invalid.detail, dict):
                raise
            errors = invalid.detail | errors
        if errors:
            raise serializers.ValidationError(errors)
        return value


class StrictModelSerializer(StrictSerializer, serializers.ModelSerializer):
    """The same over a model, with instants as InstantField."""

    serializer_field_mapping = {
        **serializers.ModelSerializer.serializer_field_mapping,
        models.DateTimeField: InstantField,
    }


class WholeNumberField(serializers.IntegerField):
    """A JSON integer; texts and booleans are not numbers."""

    def to_internal_value(self, data: Any) -> int:
        if isinstance(data, bool) or not isinstance(data, int):
            self.fail("invalid")
        return super().to_internal_value(data)


class Query(serializers.Serializer):
    """Base of query parameters; values arrive as text, so fields are DRF's ordinary ones."""


class PageQuery(Query):
    """What every list takes; lists with filters extend it."""

    cursor = serializers.CharField(required=False, max_length=500, help_text="From `next` or `previous`.")
    page_size = serializers.IntegerField(required=False, min_value=1, max_value=200)
