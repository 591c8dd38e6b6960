"""Webhooks go to the public internet only: by form, by address, and by the very address that was checked."""

import ipaddress
import socket
from typing import Any

import pytest

from commerce.webhooks import checks, destinations, sending
from commerce.webhooks.destinations import ForbiddenDestination
from tests.commerce.webhooks.conftest import Receiver

INSIDE = [
    "0.0.0.0", "10.0.0.1", "100.64.0.1", "127.0.0.1", "127.8.8.8", "169.254.169.254", "172.16.0.1",
    "192.0.0.170", "192.0.2.1", "192.88.99.1", "192.168.1.1", "198.18.0.1", "198.51.100.1", "203.0.113.1",
    "224.0.0.1", "240.0.0.1", "255.255.255.255", "::", "::1", "::ffff:8.8.8.8", "::ffff:127.0.0.1",
    "64:ff9b::7f00:1", "64:ff9b::808:808", "64:ff9b:1::1", "100::1", "2001::1", "2001:db8::1",
    "168.63.129.16", "192.0.0.9", "192.0.0.10", "3fff::1",
    "2002:7f00:1::", "2002:808:808::", "fc00::1", "fd00:ec2::254", "fe80::1", "fec0::1", "ff02::1",
]  # fmt: skip
OUTSIDE = ["1.1.1.1", "8.8.8.8", "93.184.216.34", "2606:4700:4700::1111", "2a00:1450:4001::1"]


@pytest.mark.parametrize("text", INSIDE)
def test_an_address_that_is_not_public_is_refused_by_form_already(text: str) -> None:
    assert not destinations.is_public(ipaddress.ip_address(text))
    host = f"[{text}]" if ":" in text else text
    with pytest.raises(ForbiddenDestination) as refused:
        destinations.check(f"https://{host}/hook")
    assert refused.value.errors[0].pointer == "/url"


@pytest.mark.parametrize("text", OUTSIDE)
def test_an_address_of_the_public_internet_is_accepted(text: str) -> None:
    assert destinations.is_public(ipaddress.ip_address(text))
    destinations.check(f"https://{f'[{text}]' if ':' in text else text}/hook")


@pytest.mark.parametrize(
    ("url", "rule"),
    [
        ("http://hooks.example.com/", "https"),
        ("ftp://hooks.example.com/", "https"),
        ("//hooks.example.com/", "https"),
        ("https://user:secret@hooks.example.com/", "user name"),
        ("https://@hooks.example.com/", "user name"),
        ("https://hooks.example.com/#part", "fragment"),
        ("https://hooks.example.com/#", "fragment"),
        ("https://hooks.example.com:22/", "port"),
        ("https://hooks.example.com:80/", "port"),
        ("https://hooks.example.com:99999/", "URL"),
        ("https:///path", "host"),
        ("https://ex ample.com/", "blanks"),
        ("https://hooks.example.com\\@127.0.0.1/", "blanks"),
        ("https://hooks.example.com/\r\nX: y", "blanks"),
        ("https://hooks.exämple.com/", "ASCII"),
        ("https://" + "a" * 500 + ".com/", "500"),
        ("https://localhost/", "public"),
        ("https://printer/", "public"),
        ("https://db.internal/", "public"),
        ("https://nas.local./", "public"),
        ("https://127.1/", "public"),
        ("https://2130706433/", "public"),
        ("https://0x7f.0x0.0x0.0x1/", "public"),
        ("https://0177.0.0.1/", "public"),
        ("https://[fe80::1%25eth0]/", "URL|host|public"),
    ],
)
def test_a_url_that_breaks_a_rule_of_form_is_refused_by_name(url: str, rule: str) -> None:
    with pytest.raises(ForbiddenDestination, match=rule):
        destinations.check(url)


@pytest.mark.parametrize(
    "url", ["https://hooks.example.com", "https://hooks.example.com:8443/a?b=c", "https://a.b-c.co.uk/x"]
)
def test_a_usual_url_is_accepted_without_asking_for_its_name(url: str, monkeypatch: Any) -> None:
    monkeypatch.setattr(socket, "getaddrinfo", lambda *a, **k: pytest.fail("asked"))
    destinations.check(url)


class Names:
    """The resolver of this process: what a name leads to, answer after answer."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.answers: list[list[str]] = []
        self.asked = 0
        self._real = socket.getaddrinfo
        monkeypatch.setattr(socket, "getaddrinfo", self)

    def __call__(self, host: str, port: int, *args: Any, **kwargs: Any) -> Any:
        try:
            ipaddress.ip_address(host)
        except ValueError:
            self.asked += 1
            answer = self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]
            return [entry for one in answer for entry in self._real(one, port, *args, **kwargs)]
        return self._real(host, port, *args, **kwargs)


@pytest.fixture
def names(monkeypatch: pytest.MonkeyPatch) -> Names:
    return Names(monkeypatch)


@pytest.mark.parametrize("inside", INSIDE[1:6])
def test_a_name_that_leads_inside_is_not_called(names: Names, inside: str) -> None:
    names.answers = [[inside]]
    outcome = sending.post("https://hooks.example.com/", b"{}", {})
    assert outcome.status_code is None
    assert "public internet" in outcome.error
    assert inside not in outcome.error


def test_a_name_that_leads_inside_and_one_that_leads_nowhere_are_told_alike(names: Names) -> None:
    """Or whoever makes endpoints could ask us which names exist inside."""
    names.answers = [["10.0.0.1"]]
    inside = sending.post("https://hooks.example.com/", b"{}", {})
    names.answers = [[]]
    assert sending.post("https://hooks.example.com/", b"{}", {}).error == inside.error


def test_a_name_with_one_address_inside_is_not_called_at_the_other_either(names: Names) -> None:
    names.answers = [["8.8.8.8", "10.0.0.1"]]
    with pytest.raises(ForbiddenDestination):
        destinations.addresses(destinations.parse("https://hooks.example.com/"), seconds=5)


def test_a_name_that_changes_between_check_and_call_is_called_where_it_was_checked(
    names: Names, receiver: Receiver
) -> None:
    """The first answer is the receiver; a second look-up would be told of a place inside."""
    port = receiver.url.rpartition(":")[2]
    names.answers = [["127.0.0.1"], ["10.255.255.1"]]
    outcome = sending.post(f"http://rebinding.example.com:{port}/hook", b"{}", {})
    assert outcome.delivered
    assert names.asked == 1
    assert receiver.requests[0].headers["host"] == f"rebinding.example.com:{port}"

    assert not sending.post(f"http://rebinding.example.com:{port}/hook", b"{}", {}).delivered
    assert len(receiver.requests) == 1


def test_each_delivery_checks_anew(names: Names, receiver: Receiver) -> None:
    port = receiver.url.rpartition(":")[2]
    names.answers = [["127.0.0.1"], ["192.168.0.1"], ["127.0.0.1"]]
    url = f"http://moving.example.com:{port}/"
    assert [sending.post(url, b"{}", {}).delivered for _ in range(3)] == [True, False, True]


def test_http_is_for_allowed_networks_alone(names: Names, receiver: Receiver) -> None:
    names.answers = [["8.8.8.8"]]
    outcome = sending.post("http://hooks.example.com:8080/", b"{}", {})
    assert outcome.status_code is None
    assert receiver.requests == []


def test_a_name_without_an_address_is_an_outcome(monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(*_: Any, **__: Any) -> Any:
        raise socket.gaierror(-2, "Name or service not known")

    monkeypatch.setattr(socket, "getaddrinfo", fails)
    outcome = sending.post("https://nowhere.example.com/", b"{}", {})
    assert (outcome.status_code, outcome.delivered) == (None, False)
    assert "public internet" in outcome.error


def test_allowed_networks_must_be_networks_and_are_forbidden_in_production(settings: Any) -> None:
    assert checks.allowed_networks(None) == []
    settings.WEBHOOK_ALLOWED_NETWORKS = ["127.0.0.0/8", "10.1.2.3/8"]
    assert [found.id for found in checks.allowed_networks(None)] == ["webhooks.E001"]
    settings.WEBHOOK_ALLOWED_NETWORKS, settings.PRODUCTION = ["127.0.0.0/8"], True
    assert [found.id for found in checks.allowed_networks(None)] == ["webhooks.E002"]
