"""Bank details between the request that brings them and the provider that keeps them.

They are validated here, sealed with a key derived from SECRET_KEY, and valid for a day. Nothing
else of ours ever holds an account number; `repr` shows none either.
"""

import base64
import json
import re
from dataclasses import asdict, dataclass, field
from datetime import timedelta

from cryptography.fernet import Fernet, InvalidToken, MultiFernet
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF
from django.conf import settings

from commerce.errors import FieldError, InvalidInput, NotFound

LIFETIME = timedelta(hours=24)
ACCOUNT_TYPES = ("checking", "savings")
_ACCOUNT_NUMBER = re.compile(r"[A-Z0-9]{4,34}")
_IBAN = re.compile(r"[A-Z]{2}[0-9]{2}[A-Z0-9]{11,30}")
ROUTING_NUMBERS = {
    "aba": re.compile(r"[0-9]{9}"),
    "au_bsb": re.compile(r"[0-9]{6}"),
    "ca_cpa": re.compile(r"[0-9]{9}"),
    "gb_sort_code": re.compile(r"[0-9]{6}"),
    "in_ifsc": re.compile(r"[A-Z]{4}0[A-Z0-9]{6}"),
    "swift": re.compile(r"[A-Z]{6}[A-Z0-9]{2}([A-Z0-9]{3})?"),
}


@dataclass(frozen=True)
class BankAccount:
    """Where a payee wants its money. Numbers are compared and stored without blanks."""

    account_number: str = field(repr=False)
    routing_number: str = field(repr=False)
    routing_number_type: str = "aba"
    account_type: str = "checking"
    holder_name: str = ""

    @property
    def last4(self) -> str:
        return self.account_number[-4:]

    @property
    def account_number_type(self) -> str:
        return "iban" if _IBAN.fullmatch(self.account_number) else "other"

    def normalized(self, *, pointer: str) -> "BankAccount":
        """The same without blanks. InvalidInput names every field at fault, and never a value."""
        account = BankAccount(
            account_number=re.sub(r"\s", "", self.account_number).upper(),
            routing_number=re.sub(r"\s", "", self.routing_number).upper(),
            routing_number_type=self.routing_number_type,
            account_type=self.account_type,
            holder_name=self.holder_name.strip(),
        )
        faults = account._faults()
        if faults:
            errors = [FieldError(f"{pointer}/{name}", "invalid", detail) for name, detail in faults]
            raise InvalidInput("The bank account is not valid.", errors=errors)
        return account

    def _faults(self) -> list[tuple[str, str]]:
        faults = []
        if not _ACCOUNT_NUMBER.fullmatch(self.account_number):
            faults.append(("account_number", "4 to 34 letters and digits are expected."))
        pattern = ROUTING_NUMBERS.get(self.routing_number_type)
        if pattern is None:
            faults.append(("routing_number_type", f"One of {', '.join(ROUTING_NUMBERS)} is expected."))
        elif not pattern.fullmatch(self.routing_number):
            faults.append(("routing_number", f"This is not a {self.routing_number_type} number."))
        elif self.routing_number_type == "aba" and not _aba_adds_up(self.routing_number):
            faults.append(("routing_number", "The check digit is wrong."))
        if self.account_type not in ACCOUNT_TYPES:
            faults.append(("account_type", f"One of {', '.join(ACCOUNT_TYPES)} is expected."))
        if len(self.holder_name) > 200:
            faults.append(("holder_name", "At most 200 characters are expected."))
        return faults


def seal(account: BankAccount) -> bytes:
    return _cipher().encrypt(json.dumps(asdict(account)).encode())


def unseal(ciphertext: bytes | memoryview) -> BankAccount:
    """NotFound when it is older than a day, or sealed under a key that is gone."""
    try:
        plain = _cipher().decrypt(bytes(ciphertext), ttl=int(LIFETIME.total_seconds()))
    except InvalidToken:
        raise NotFound("The bank details have expired and must be entered again.", code="expired") from None
    return BankAccount(**json.loads(plain))


def _cipher() -> MultiFernet:
    return MultiFernet([_key(secret) for secret in (settings.SECRET_KEY, *settings.SECRET_KEY_FALLBACKS)])


def _key(secret: str) -> Fernet:
    derived = HKDF(SHA256(), 32, salt=None, info=b"commerce.parties.vault").derive(secret.encode())
    return Fernet(base64.urlsafe_b64encode(derived))


def _aba_adds_up(number: str) -> bool:
    return sum(int(digit) * (3, 7, 1)[i % 3] for i, digit in enumerate(number)) % 10 == 0
