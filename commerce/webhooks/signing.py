"""Secrets and signatures of the Standard Webhooks 1.0.0: HMAC-SHA256 over id, time and body.

Secrets are kept because every delivery needs them, sealed with a key derived from SECRET_KEY.
"""

import base64
import hashlib
import hmac
import re
import secrets
from collections.abc import Iterable

from cryptography.fernet import Fernet, InvalidToken, MultiFernet
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF
from django.conf import settings

from commerce.errors import StateConflict

PREFIX = "whsec_"
SECRET_BYTES = 32
_SECRET = re.compile(r"whsec_[A-Za-z0-9+/]+={0,2}")


def new_secret() -> str:
    return PREFIX + base64.b64encode(secrets.token_bytes(SECRET_BYTES)).decode()


def key_of(secret: str) -> bytes:
    """The bytes to sign with. ValueError for what is not `whsec_` and the base64 of 24 to 64 bytes."""
    if not _SECRET.fullmatch(secret):
        raise ValueError("A secret is whsec_ followed by base64.")
    key = base64.b64decode(secret.removeprefix(PREFIX), validate=True)
    if not 24 <= len(key) <= 64:
        raise ValueError("A secret has 24 to 64 bytes.")
    return key


def signature(secret: str, webhook_id: str, timestamp: int, body: bytes) -> str:
    signed = f"{webhook_id}.{timestamp}.".encode() + body
    return "v1," + base64.b64encode(hmac.new(key_of(secret), signed, hashlib.sha256).digest()).decode()


def headers(keys: Iterable[str], webhook_id: str, timestamp: int, body: bytes) -> dict[str, str]:
    """What goes with a body; a signature for each secret in use, the newest first."""
    return {
        "webhook-id": webhook_id,
        "webhook-timestamp": str(timestamp),
        "webhook-signature": " ".join(signature(key, webhook_id, timestamp, body) for key in keys),
    }


def seal(secret: str) -> bytes:
    return _cipher().encrypt(secret.encode())


def unseal(ciphertext: bytes | memoryview) -> str:
    """StateConflict when it was sealed under a SECRET_KEY that is gone."""
    try:
        return _cipher().decrypt(bytes(ciphertext)).decode()
    except InvalidToken:
        raise StateConflict("The signing secret was sealed under another SECRET_KEY: rotate it.") from None


def reseal(ciphertext: bytes | memoryview) -> bytes:
    """The same secret under today's SECRET_KEY."""
    return seal(unseal(ciphertext))


def _cipher() -> MultiFernet:
    return MultiFernet([_fernet(secret) for secret in (settings.SECRET_KEY, *settings.SECRET_KEY_FALLBACKS)])


def _fernet(secret: str) -> Fernet:
    derived = HKDF(SHA256(), 32, salt=None, info=b"commerce.webhooks.signing").derive(secret.encode())
    return Fernet(base64.urlsafe_b64encode(derived))
