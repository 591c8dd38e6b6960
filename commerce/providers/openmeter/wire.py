"""How OpenMeter writes numbers and instants."""

import re
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

Json = dict[str, Any]
NUMERIC = re.compile(r"-?[0-9]+(\.[0-9]+)?")


def instant(value: datetime) -> str:
    if value.tzinfo is None:
        raise ValueError("An instant needs an offset.")
    return value.astimezone(UTC).isoformat().replace("+00:00", "Z")


def decimal(value: Decimal) -> str:
    """Plain digits: their pattern knows no exponent."""
    return format(value, "f")
