"""OpenMeter's webhooks: signed the Svix way, with a time that we hold them to."""

import base64
import hashlib
import hmac
import math
import re
from collections.abc import Mapping

from django.conf import settings
from django.utils import timezone

from commerce.errors import InvalidInput
from commerce.providers import http
from commerce.providers.webhooks import OBJECT_ID, InvalidSignature, Notice

SIGNATURE_TOLERANCE_SECONDS = 300


def read_webhook(body: bytes, headers: Mapping[str, str]) -> Notice:
    """Verify a delivery (Svix, or Standard Webhooks by its other header names) and say what it is about."""
    id_, sent_at, given = (
        headers.get(f"svix-{name}") or headers.get(f"webhook-{name}") or ""
        for name in ("id", "timestamp", "signature")
    )
    age = timezone.now().timestamp() - int(sent_at) if re.fullmatch("[0-9]{1,12}", sent_at) else math.inf
    fresh = abs(age) <= SIGNATURE_TOLERANCE_SECONDS
    signatures = [part[3:].encode("utf-8", "replace") for part in given.split() if part.startswith("v1,")]
    wanted = [signature(secret, id_, sent_at, body).encode() for secret in settings.OPENMETER_WEBHOOK_SECRETS]
    if not fresh or not any(hmac.compare_digest(a, b) for a in wanted for b in signatures):
        raise InvalidSignature("The signature is missing, wrong, or too old.")
    try:
        content = http.parse(body)
        type_, object_id = str(content["type"]), str(content["data"]["id"])
    except (ValueError, KeyError, TypeError):
        raise InvalidInput("The body does not name a type and an object.", code="malformed_body") from None
    delivery_id = str(content.get("id") or id_)
    if not OBJECT_ID.fullmatch(delivery_id):
        raise InvalidInput("The delivery has no id.", code="no_delivery_id")
    # Their example spells it "invocing.invoice.updated": the end is what counts.
    topic, _, event = type_.rpartition(".")
    is_invoice = topic.rpartition(".")[2] == "invoice" and OBJECT_ID.fullmatch(object_id)
    return Notice(
        delivery_id=delivery_id,
        topic=topic[:60],
        event=event[:60],
        object_id=object_id[:64],
        kind="invoice" if is_invoice else "",
        headers={"svix-id": id_[:80], "svix-timestamp": sent_at},
    )


def signature(secret: str, id: str, sent_at: str, body: bytes) -> str:
    key = base64.b64decode(secret.removeprefix("whsec_"))
    signed = b".".join([id.encode("utf-8", "replace"), sent_at.encode("utf-8", "replace"), body])
    return base64.b64encode(hmac.new(key, signed, hashlib.sha256).digest()).decode()
