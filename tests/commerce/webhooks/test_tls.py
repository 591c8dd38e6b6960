"""Over TLS the name counts: certificate, SNI and Host are the name's, the address is the checked one."""

import datetime
import ipaddress
import socket
import ssl
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from commerce.webhooks import sending

NAME = "hooks.example.com"


def certificate(folder: Path) -> Path:
    """Its own authority: for one name, for an hour."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, NAME)])
    now = datetime.datetime.now(datetime.UTC)
    made = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(minutes=5))
        .not_valid_after(now + datetime.timedelta(hours=1))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName(NAME)]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    path = folder / "certificate.pem"
    path.write_bytes(
        made.public_bytes(serialization.Encoding.PEM)
        + key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
    )
    return path


@pytest.fixture
def secured(
    tmp_path: Path, settings: Any, monkeypatch: pytest.MonkeyPatch
) -> Iterator[tuple[int, list[str]]]:
    """A port that speaks TLS for the name, which leads there, and what it was asked."""
    settings.WEBHOOK_ALLOWED_NETWORKS = ["127.0.0.0/8"]
    path, asked = certificate(tmp_path), []

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            self.rfile.read(int(self.headers["Content-Length"]))
            asked.append(f"host {self.headers['Host']}")
            self.send_response(204)
            self.end_headers()

        def log_message(self, *_: Any) -> None:
            pass

    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(path)
    context.sni_callback = lambda connection, name, _: asked.append(f"sni {name}")
    server = HTTPServer(("127.0.0.1", 0), Handler)
    server.socket = context.wrap_socket(server.socket, server_side=True)
    threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
    real = socket.getaddrinfo

    def names(host: str, *args: Any, **kwargs: Any) -> Any:
        try:
            ipaddress.ip_address(host)
        except ValueError:
            host = "127.0.0.1"
        return real(host, *args, **kwargs)

    monkeypatch.setattr(socket, "getaddrinfo", names)
    monkeypatch.setenv("SSL_CERT_FILE", str(path))
    sending._tls.cache_clear()
    yield server.server_address[1], asked
    sending._tls.cache_clear()
    server.shutdown()
    server.server_close()


def test_a_certificate_of_the_name_is_accepted_at_the_checked_address(secured: Any) -> None:
    port, asked = secured
    outcome = sending.post(f"https://{NAME}:{port}/", b"{}", {})
    assert outcome.status_code == 204, outcome.error
    assert asked == [f"sni {NAME}", f"host {NAME}:{port}"]


def test_a_certificate_of_another_name_is_refused_before_anything_is_sent(secured: Any) -> None:
    port, asked = secured
    outcome = sending.post(f"https://other.example.com:{port}/", b"{}", {})
    assert outcome.status_code is None
    assert "certificate" in outcome.error.lower()
    assert not any(line.startswith("host") for line in asked)


def test_a_certificate_of_an_unknown_authority_is_refused(secured: Any, monkeypatch: Any) -> None:
    port, asked = secured
    monkeypatch.delenv("SSL_CERT_FILE")
    sending._tls.cache_clear()
    outcome = sending.post(f"https://{NAME}:{port}/", b"{}", {})
    assert outcome.status_code is None
    assert not any(line.startswith("host") for line in asked)
