"""Money is an integer count of minor units and a currency; no float ever touches it.

Exponents follow ISO 4217 (JPY 0, KWD 3, otherwise 2); stablecoins have six digits. Rounding is half
away from zero, once per line; splits use the largest remainder method, so that the parts always add
up to the whole.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from decimal import ROUND_FLOOR, ROUND_HALF_UP, Decimal, InvalidOperation
from fractions import Fraction

from commerce.errors import InvalidInput

MAX_MINOR = 2**53 - 1
_WITHOUT_DECIMALS = "BIF CLP DJF GNF ISK JPY KMF KRW PYG RWF UGX UYI VND VUV XAF XOF XPF"
_WITH_THREE = "BHD IQD JOD KWD LYD OMR TND"
_WITH_TWO = (
    "AED ARS AUD BGN BRL CAD CHF CNY COP CZK DKK EGP EUR GBP HKD HUF IDR ILS INR KES MAD MXN MYR NGN "
    "NOK NZD PEN PHP PKR PLN QAR RON SAR SEK SGD THB TRY TWD UAH USD ZAR"
)
_EXPONENTS = {
    currency: digits
    for digits, currencies in ((0, _WITHOUT_DECIMALS), (2, _WITH_TWO), (3, _WITH_THREE))
    for currency in currencies.split()
}
CURRENCIES = frozenset(_EXPONENTS)
# A stablecoin is a currency of its own in the ledger; nothing is priced, invoiced or paid out in it.
STABLECOINS = frozenset({"USDC", "USDT"})
_EXPONENTS |= dict.fromkeys(STABLECOINS, 6)


def exponent(currency: str) -> int:
    """Digits after the decimal point, e.g. 2 for USD. InvalidInput for an unknown currency."""
    if currency not in _EXPONENTS:
        raise InvalidInput(f"{currency!r} is not a currency we handle.", code="unknown_currency")
    return _EXPONENTS[currency]


def round_half_up(value: Decimal | Fraction) -> int:
    """The nearest integer; halves go away from zero."""
    if isinstance(value, Fraction):
        magnitude = (abs(value.numerator) * 2 + value.denominator) // (2 * value.denominator)
        return magnitude if value >= 0 else -magnitude
    return int(value.quantize(Decimal(1), rounding=ROUND_HALF_UP))


def allocate(total: int, weights: Sequence[int | Decimal | Fraction]) -> list[int]:
    """Split `total` minor units by `weights`; parts sum to `total`, ties go to the earlier part."""
    shares = [Fraction(w) for w in weights]
    whole = sum(shares)
    if not shares or min(shares) < 0 or whole == 0:
        raise InvalidInput("A split needs weights that are not negative and not all zero.")
    exact = [Fraction(abs(total)) * share / whole for share in shares]
    parts = [int(part) for part in exact]
    by_remainder = sorted(range(len(parts)), key=lambda i: (parts[i] - exact[i], i))
    for i in by_remainder[: abs(total) - sum(parts)]:
        parts[i] += 1
    return parts if total >= 0 else [-part for part in parts]


@dataclass(frozen=True)
class Money:
    """An amount in minor units of one currency. Arithmetic across currencies is refused."""

    minor: int
    currency: str

    def __post_init__(self) -> None:
        if isinstance(self.minor, bool) or not isinstance(self.minor, int):
            raise InvalidInput("An amount is a whole number of minor units.", code="amount_not_integer")
        if abs(self.minor) > MAX_MINOR:
            raise InvalidInput(
                "The amount is larger than 2^53 - 1 minor units.",
                pointer="/amount_minor",
                code="amount_overflow",
            )
        exponent(self.currency)

    @classmethod
    def parse(cls, text: str, currency: str) -> "Money":
        """Read a decimal string such as "1234.5"; more digits than the currency has are refused."""
        try:
            value = Decimal(text)
        except InvalidOperation as error:
            raise InvalidInput(f"{text!r} is not a decimal amount.", code="amount_invalid") from error
        if not value.is_finite():
            raise InvalidInput(f"{text!r} is not a decimal amount.", code="amount_invalid")
        scaled = value.scaleb(exponent(currency))
        if scaled != scaled.to_integral_value(rounding=ROUND_FLOOR):
            raise InvalidInput(f"{text} has more digits than {currency} allows.", code="amount_scale")
        return cls(int(scaled), currency)

    @classmethod
    def zero(cls, currency: str) -> "Money":
        return cls(0, currency)

    @property
    def decimal(self) -> Decimal:
        return Decimal(self.minor).scaleb(-exponent(self.currency))

    @property
    def is_zero(self) -> bool:
        return self.minor == 0

    def __str__(self) -> str:
        return f"{self.decimal:,.{exponent(self.currency)}f} {self.currency}"

    def __add__(self, other: "Money") -> "Money":
        return Money(self.minor + self._same(other), self.currency)

    def __sub__(self, other: "Money") -> "Money":
        return Money(self.minor - self._same(other), self.currency)

    def __neg__(self) -> "Money":
        return Money(-self.minor, self.currency)

    def __lt__(self, other: "Money") -> bool:
        return self.minor < self._same(other)

    def __le__(self, other: "Money") -> bool:
        return self.minor <= self._same(other)

    def _same(self, other: "Money") -> int:
        if other.currency != self.currency:
            raise InvalidInput(
                f"{self.currency} and {other.currency} cannot be mixed.", code="currency_mismatch"
            )
        return other.minor
