"""The HTTP door: one process, `{base}/modern-treasury`, `{base}/openmeter` and `{base}/__control__`.

Every call runs under one lock and is committed before it is answered, so that an effect whose answer
was lost is an effect. Started by `manage.py sandbox` or `python -m commerce.sandbox.server --port N`.
"""

import argparse
import base64
import hmac
import logging
import os
import signal
import socket
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

from commerce.sandbox import control, faults, modern_treasury, openmeter
from commerce.sandbox.core import Sandbox
from commerce.sandbox.idempotency import Idempotency
from commerce.sandbox.web import ApiError, Request, Response
from commerce.sandbox.webhooks import Courier

logger = logging.getLogger("commerce.sandbox")

ROUTERS = {
    "/modern-treasury": ("modern_treasury", modern_treasury.router),
    "/openmeter": ("openmeter", openmeter.router),
    "/__control__": ("control", control.router),
}
REMEMBERED_REQUESTS = 2000


class Simulator:
    """Sandbox, courier and ticker; `answer` is the whole of the HTTP behaviour."""

    def __init__(self, folder: Path, clock_file: Path | None, seed: str = "") -> None:
        self.sandbox = Sandbox(folder, clock_file, seed)
        self.courier = Courier(self.sandbox)
        self.idempotency = Idempotency(self.sandbox)
        self._stop = threading.Event()
        self._seed()

    def _seed(self) -> None:
        with self.sandbox.lock:
            modern_treasury.seed(self.sandbox)
            openmeter.seed(self.sandbox)
            self.sandbox.store.commit()

    def reset(self, seed: str | None = None) -> None:
        with self.sandbox.lock:
            self.sandbox.reset(seed)
            self._seed()

    def start(self) -> None:
        self.courier.start()
        threading.Thread(target=self._tick, daemon=True, name="ticker").start()

    def stop(self) -> None:
        self._stop.set()
        self.courier.stop()

    def _tick(self) -> None:
        while not self._stop.wait(0.02):
            self.sandbox.tick()

    def answer(self, request: Request) -> Response | None:
        """The answer, or None when the connection is to be dropped without one."""
        for prefix, (provider, router) in ROUTERS.items():
            if request.path.startswith(prefix + "/"):
                inner = Request(
                    request.method,
                    request.path.removeprefix(prefix),
                    request.query,
                    request.headers,
                    request.raw,
                )
                if provider == "control":
                    return self._run(provider, router, inner)
                return self._answer_as(provider, router, inner)
        return Response(404, {"error": f"There is no simulator at {request.path}."})

    def _answer_as(self, provider: str, router: Any, request: Request) -> Response | None:
        with self.idempotency.claim(provider, request) as stored:
            with self.sandbox.lock:
                rule = faults.strike(self.sandbox, provider, request)
                self.sandbox.store.commit()
            kind, response = rule["kind"] if rule else "", None
            if kind not in ("error", "timeout_before"):
                if rule and kind == "slow":
                    time.sleep(rule["delay_ms"] / 1000)
                response = stored or self._run(provider, router, request)
            if rule and kind in ("error", "error_after_effect"):
                error = ApiError(rule["status"], "internal_error", rule["message"])
                response = _error(provider, error, request)
        if kind in ("timeout_after_effect", "answer_lost_once_each"):
            response = None
        self._remember(provider, request, response, kind)
        return response

    def _run(self, provider: str, router: Any, request: Request) -> Response:
        try:
            _authenticate(provider, request)
            handler, params = router.find(request.method, request.path)
            call = Request(request.method, request.path, request.query, request.headers, request.raw, params)
            if provider == "control":
                return handler(self, call)
            with self.sandbox.lock:
                try:
                    response: Response = handler(self.sandbox, call)
                    self.idempotency.store(provider, request, response)
                    self.sandbox.store.commit()
                except BaseException:
                    self.sandbox.store.rollback()
                    raise
            return response
        except ApiError as error:
            return _error(provider, error, request)
        except Exception:
            logger.exception("%s %s", request.method, request.path)
            return _error(provider, ApiError(500, "internal_error", ""), request)

    def _remember(self, provider: str, request: Request, response: Response | None, fault: str) -> None:
        self.sandbox.requests.append(
            {
                "provider": provider,
                "method": request.method,
                "path": request.path,
                "status": response.status if response else None,
                "fault": fault,
            }
        )
        del self.sandbox.requests[:-REMEMBERED_REQUESTS]


def _authenticate(provider: str, request: Request) -> None:
    given = request.headers.get("authorization", "")
    scheme, _, token = given.partition(" ")
    if provider == "modern_treasury":
        pair = [os.environ.get(f"MODERN_TREASURY_{name}", "") for name in ("ORGANIZATION_ID", "API_KEY")]
        try:
            sent = base64.b64decode(token, validate=True).decode()
        except ValueError:
            sent = ""
        if scheme != "Basic" or ":" not in sent or (all(pair) and not _same(sent, ":".join(pair))):
            raise ApiError(401, "invalid_key", "The API key is not valid.")
    elif provider == "openmeter":
        expected = os.environ.get("OPENMETER_TOKEN", "")
        if scheme != "Bearer" or not token or (expected and not _same(token, expected)):
            raise ApiError(401, "unauthorized", "The token is missing or not valid.")


def _same(given: str, expected: str) -> bool:
    return hmac.compare_digest(given.encode(), expected.encode())


def _error(provider: str, error: ApiError, request: Request) -> Response:
    if provider == "openmeter":
        return openmeter.problem(error, request)
    return modern_treasury.refusal(error)


class Door(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    wbufsize = -1
    server: "Server"

    def handle_any(self) -> None:
        parts = urlsplit(self.path)
        length = int(self.headers.get("Content-Length") or 0)
        request = Request(
            method=self.command,
            path=parts.path,
            query=parse_qs(parts.query, keep_blank_values=True),
            headers={name.lower(): value for name, value in self.headers.items()},
            raw=self.rfile.read(length) if length else b"",
        )
        response = self.server.simulator.answer(request)
        if response is None:
            self.close_connection = True
            self.connection.shutdown(socket.SHUT_RDWR)
            return
        payload = response.payload()
        self.send_response(response.status)
        if payload:
            self.send_header("Content-Type", response.content_type)
        if response.status != 204:
            self.send_header("Content-Length", str(len(payload)))
        for name, value in response.headers.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(payload)

    do_GET = do_POST = do_PUT = do_PATCH = do_DELETE = handle_any

    def handle_one_request(self) -> None:
        try:
            super().handle_one_request()
        except (ConnectionError, BrokenPipeError):
            self.close_connection = True

    def log_message(self, format: str, *args: Any) -> None:
        logger.debug(format, *args)


class Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 128
    allow_reuse_address = True

    def __init__(self, address: tuple[str, int], simulator: Simulator) -> None:
        super().__init__(address, Door)
        self.simulator = simulator


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="sandbox", description="Simulators of OpenMeter and Modern Treasury."
    )
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=8900, help="0 chooses a free one and prints it")
    parser.add_argument("--dir", default=os.environ.get("SANDBOX_DIR", "var/sandbox"))
    parser.add_argument("--seed", default="", help="what ids and delivery faults are drawn from")
    options = parser.parse_args(arguments)
    logging.basicConfig(level=os.environ.get("LOG_LEVEL", "INFO"), stream=sys.stderr)
    clock_file = os.environ.get("CLOCK_FILE")
    simulator = Simulator(Path(options.dir), Path(clock_file) if clock_file else None, options.seed)
    server = Server((options.host, options.port), simulator)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    simulator.start()
    sys.stdout.write(f"sandbox on http://{options.host}:{server.server_address[1]}\n")
    sys.stdout.flush()
    try:
        server.serve_forever(poll_interval=0.1)
    except KeyboardInterrupt:
        pass
    finally:
        simulator.stop()
        server.server_close()
    return 0


if __name__ == "__main__":
    sys.exit(main())
