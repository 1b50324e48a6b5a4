"""A real web server on the loopback address that behaves, until it is told not to."""

from __future__ import annotations

import contextlib
import hashlib
import re
import socket
import ssl
import subprocess
import threading
from collections import deque
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


def sha256(data):
    return hashlib.sha256(data).hexdigest()


@dataclass
class Received:
    """One request as it came in."""

    path: str
    headers: dict


@dataclass
class Server:
    """Serves ``files``, with ranges and strong ETags; ``script`` makes the next answers of a path misbehave.

    A reply is a function of ``(handler, data)`` that writes the answer itself.
    """

    files: dict = field(default_factory=dict)
    requests: list = field(default_factory=list)
    scripts: dict = field(default_factory=dict)
    always: dict = field(default_factory=dict)
    sent: int = 0
    otherwise: object = None
    host: str = "127.0.0.1"
    port: int = 0

    def __post_init__(self):
        server = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_HEAD(self):
                self.do_GET()

            def do_GET(self):
                path = self.path.split("?", 1)[0]
                server.requests.append(Received(path, dict(self.headers)))
                script = server.scripts.get(path)
                reply = script.popleft() if script else server.always.get(path, server.otherwise or good)
                reply(self, server.files.get(path))

            def send_body(self, data):
                if self.command == "HEAD":
                    return
                server.sent += len(data)
                self.wfile.write(data)

            def log_message(self, *args):
                pass

        class Quiet(ThreadingHTTPServer):
            daemon_threads = True
            address_family = socket.AF_INET6 if ":" in self.host else socket.AF_INET

            def handle_error(self, request, client_address):
                pass  # a client that hangs up on us is what half of these tests are about

        self.http = Quiet((self.host, self.port), Handler)
        self.thread = threading.Thread(target=self.http.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
        self.thread.start()

    def put(self, path, data):
        self.files[path] = data
        return self.url(path)

    def script(self, path, *replies):
        self.scripts[path] = deque(replies)

    def url(self, path):
        return f"http://127.0.0.1:{self.http.server_port}{path}"

    def close(self):
        self.http.shutdown()
        self.http.server_close()


def good(handler, data):
    """The right answer: whole, or the range that was requested."""
    if data is None:
        status(404)(handler, data)
        return
    etag = f'"{sha256(data)[:16]}"'
    start = requested_start(handler)
    condition = handler.headers.get("If-Range")
    if start and condition in (None, etag) and start < len(data):
        handler.send_response(206)
        handler.send_header("Content-Range", f"bytes {start}-{len(data) - 1}/{len(data)}")
        body = data[start:]
    elif start and condition in (None, etag):
        handler.send_response(416)
        handler.send_header("Content-Range", f"bytes */{len(data)}")
        body = b""
    else:
        handler.send_response(200)
        body = data
    handler.send_header("ETag", etag)
    handler.send_header("Content-Length", str(len(body)))
    handler.end_headers()
    handler.send_body(body)


def requested_start(handler):
    match = re.fullmatch(r"bytes=(\d+)-", handler.headers.get("Range", ""))
    return int(match[1]) if match else 0


def status(code, body=b"", **headers):
    """An answer with that status."""

    def reply(handler, data):
        handler.send_response(code)
        for name, value in headers.items():
            handler.send_header(name.replace("_", "-"), value)
        if "Transfer_Encoding" not in headers and "Content_Length" not in headers:
            handler.send_header("Content-Length", str(len(body)))
        handler.end_headers()
        handler.send_body(body)

    return reply


def serving(data):
    """The right manners with other bytes."""
    return lambda handler, _data: good(handler, data)


def cut(count):
    """The right headers, and then only ``count`` bytes before the line goes dead."""

    def reply(handler, data):
        start = requested_start(handler)
        body = data[start:]
        if start:
            handler.send_response(206)
            handler.send_header("Content-Range", f"bytes {start}-{len(data) - 1}/{len(data)}")
        else:
            handler.send_response(200)
        handler.send_header("ETag", f'"{sha256(data)[:16]}"')
        handler.send_header("Content-Length", str(len(body)))
        handler.end_headers()
        handler.send_body(body[:count])
        hang_up(handler)

    return reply


def hang_up(handler):
    """Close the line in an orderly way, and at once."""
    handler.close_connection = True
    with contextlib.suppress(OSError):
        handler.wfile.flush()
        handler.connection.shutdown(socket.SHUT_RDWR)


def certificate(folder, name, days="2"):
    """A key and a certificate for a host of that name, signed by itself."""
    key, cert = folder / f"{name}.key", folder / f"{name}.pem"
    command = ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"]
    command += ["-keyout", str(key), "-out", str(cert), "-days", days, "-subj", f"/CN={name}"]
    command += ["-addext", f"subjectAltName=DNS:{name}"]
    subprocess.run(command, check=True, capture_output=True)
    return key, cert


def secured(key_and_cert):
    """A server over TLS."""
    server = Server()
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(key_and_cert[1], key_and_cert[0])
    server.http.socket = context.wrap_socket(server.http.socket, server_side=True)
    return server
