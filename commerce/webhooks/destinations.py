"""Where a webhook may go: https to addresses of the public internet, and nowhere near ourselves.

A name is resolved once per connection, every address it has is checked, and the connection goes to
the very address that passed. WEBHOOK_ALLOWED_NETWORKS opens networks of one's own, http included.
"""

import ipaddress
import re
import socket
from collections.abc import Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from threading import Thread
from typing import Any
from urllib.parse import urlsplit

from django.conf import settings

from commerce.errors import InvalidInput

LONGEST_URL = 500
_HOST = re.compile(
    r"(?=.{1,253}$)[a-z0-9_]([a-z0-9_-]{0,62}(?<!-))?(\.[a-z0-9_]([a-z0-9_-]{0,62}(?<!-))?)*\.?"
)
Address = ipaddress.IPv4Address | ipaddress.IPv6Address
Network = ipaddress.IPv4Network | ipaddress.IPv6Network
_LOCAL = frozenset({"localhost", "local", "internal", "intranet", "lan", "home", "arpa", "onion"})
# Global to this Python, and yet the way to another address (translation and tunnels), for documentation or
# protocols only, or a cloud's own services (168.63.129.16).
_DETOURS = tuple(
    ipaddress.ip_network(text)
    for text in (
        "64:ff9b::/96", "64:ff9b:1::/48", "2002::/16", "2001::/32", "fec0::/10", "192.88.99.0/24",
        "192.0.0.0/24", "3fff::/20", "168.63.129.16/32",
    )
)  # fmt: skip


class ForbiddenDestination(InvalidInput):
    """The address may not be called. It says which rule, and never what else there is."""

    code = "forbidden_destination"


@dataclass(frozen=True)
class Destination:
    scheme: str
    host: str
    port: int
    target: str

    @property
    def is_default_port(self) -> bool:
        return self.port == (443 if self.scheme == "https" else 80)


def parse(url: str) -> Destination:
    """The parts of a URL that obeys the rules of form. ForbiddenDestination names the rule it breaks."""
    if len(url) > LONGEST_URL or not url.isascii() or not url.isprintable() or " " in url or "\\" in url:
        raise _refused(f"A URL has at most {LONGEST_URL} ASCII characters and no blanks.")
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError:
        raise _refused("This is not a URL.") from None
    host = (parts.hostname or "").lower()
    if parts.scheme not in ("https", "http"):
        raise _refused("The scheme must be https.")
    if "@" in parts.netloc:
        raise _refused("A URL must not hold a user name or password.")
    if parts.fragment or url.endswith("#"):
        raise _refused("A URL must not have a fragment.")
    if not (_literal(host) or _HOST.fullmatch(host)):
        raise _refused("The host must be a name or an IP address.")
    port = port if port is not None else 443 if parts.scheme == "https" else 80
    if parts.scheme == "http" and not _networks():
        raise _refused("The scheme must be https.")
    if port < 1024 and port != (443 if parts.scheme == "https" else 80):
        raise _refused("The port must be 443, or 1024 and more.")
    return Destination(
        parts.scheme, host, port, (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
    )


def addresses(destination: Destination, *, seconds: float) -> list[str]:
    """Where its name leads just now. ForbiddenDestination if any of it is not for us to call, in the words
    for a name that leads nowhere: nobody learns from us which names exist inside. TimeoutError when nobody
    has said so after `seconds`."""
    try:
        found = _looked_up(destination, seconds)
    except TimeoutError:
        raise
    except (OSError, UnicodeError):
        found = []
    texts = list(dict.fromkeys(str(entry[4][0]) for entry in found))
    if not texts or not all(_may_be_called(text, destination) for text in texts):
        raise _refused("The host does not lead to the public internet.")
    return texts


def _looked_up(destination: Destination, seconds: float) -> list[Any]:
    """The system's look-up cannot be given an end: one that takes too long is left behind, in a thread of its
    own that holds up neither the caller nor the end of the process."""
    answer: Future[list[Any]] = Future()

    def ask() -> None:
        try:
            answer.set_result(socket.getaddrinfo(destination.host, destination.port, type=socket.SOCK_STREAM))
        except Exception as error:  # whatever it is, it is for whoever asked
            answer.set_exception(error)

    Thread(target=ask, name="webhook-name", daemon=True).start()
    return answer.result(timeout=seconds)


def check(url: str) -> None:
    """ForbiddenDestination for a URL that can be refused without asking anybody: sending asks for the
    name's addresses, a request never does."""
    destination = parse(url)
    literal = _literal(destination.host)
    if literal is not None:
        if not _may_be_called(destination.host, destination):
            raise _refused("The host is not on the public internet.")
        return
    name = destination.host.rstrip(".")
    last = name.rpartition(".")[2]
    if "." not in name or last in _LOCAL or last.isdigit() or last.startswith("0x"):
        raise _refused("The host must be a public name or address.")


def _may_be_called(text: str, destination: Destination) -> bool:
    address = _literal(text)
    if address is None:
        return False
    if any(address in network for network in _networks() if network.version == address.version):
        return True
    return destination.scheme == "https" and is_public(address)


def is_public(address: Address) -> bool:
    """Whether the address is one of the public internet's that leads to nowhere but itself."""
    if isinstance(address, ipaddress.IPv6Address) and (address.ipv4_mapped or address.scope_id):
        return False
    return (
        address.is_global
        and not address.is_multicast
        and not address.is_reserved
        and not address.is_unspecified
        and not any(address in network for network in _DETOURS if network.version == address.version)
    )


def _literal(text: str) -> Address | None:
    try:
        return ipaddress.ip_address(text)
    except ValueError:
        return None


def _networks() -> Sequence[Network]:
    return [ipaddress.ip_network(text) for text in settings.WEBHOOK_ALLOWED_NETWORKS]


def _refused(detail: str) -> ForbiddenDestination:
    return ForbiddenDestination(detail, pointer="/url")
