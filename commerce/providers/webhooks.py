"""What every provider's webhook comes down to: a signed hint that some object of theirs changed."""

import re
from dataclasses import dataclass, field

from commerce.errors import Unauthenticated

OBJECT_ID = re.compile(r"[\w-]{1,64}", re.ASCII)


class InvalidSignature(Unauthenticated):
    """The body was not signed by the provider, or too long ago."""

    code = "invalid_signature"


@dataclass(frozen=True)
class Notice:
    """One verified delivery. `kind` is empty when nobody here cares for its topic."""

    delivery_id: str
    topic: str
    event: str
    object_id: str
    kind: str
    headers: dict[str, str] = field(default_factory=dict)
