"""An OpenID Connect issuer on a loopback socket: real keys, real tokens, and answers that a test can change."""

from __future__ import annotations

import contextlib
import json
import threading
import time
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Self

import jwt
from cryptography.hazmat.primitives.asymmetric import ec, ed448, ed25519, rsa
from jwt.algorithms import ECAlgorithm, OKPAlgorithm, RSAAlgorithm

AUDIENCE = "sentinel"
NOW = 1_800_000_000.0
"""The moment at which tests read tokens."""

RSA_KEY = rsa.generate_private_key(65537, 2048)
OTHER_RSA_KEY = rsa.generate_private_key(65537, 2048)
KEYS: dict[str, Any] = {
    **dict.fromkeys(("RS256", "RS384", "RS512", "PS256", "PS384", "PS512"), RSA_KEY),
    "ES256": ec.generate_private_key(ec.SECP256R1()),
    "ES384": ec.generate_private_key(ec.SECP384R1()),
    "ES512": ec.generate_private_key(ec.SECP521R1()),
    "EdDSA": ed25519.Ed25519PrivateKey.generate(),
}
"""A key for each algorithm."""

ED448_KEY = ed448.Ed448PrivateKey.generate()


def jwk(key: Any, **members: Any) -> dict[str, Any]:
    """The public half of a key, as a JWKS has it."""
    public = key.public_key()
    if isinstance(public, rsa.RSAPublicKey):
        fields = RSAAlgorithm.to_jwk(public, as_dict=True)
    elif isinstance(public, ec.EllipticCurvePublicKey):
        fields = ECAlgorithm.to_jwk(public, as_dict=True)
    else:
        fields = OKPAlgorithm.to_jwk(public, as_dict=True)
    return {name: value for name, value in fields.items() if name != "key_ops"} | members


Respond = Callable[[BaseHTTPRequestHandler], None]


class OidcIssuer:
    """Serves a discovery document and a JWKS, and signs tokens. Everything may be set at any time.

    keys: what the JWKS holds. headers: of both answers. discovery, jwks: bytes instead of the documents, or what to do
    with the request. asked: the paths asked for, in order. may_answer: cleared while answers must wait.
    """

    def __init__(self) -> None:
        self.keys: list[Any] = [jwk(RSA_KEY, kid="one")]
        self.headers: dict[str, str] = {}
        self.status = 200
        self.discovery: bytes | Respond | None = None
        self.jwks: bytes | Respond | None = None
        self.asked: list[str] = []
        self.may_answer = threading.Event()
        self.may_answer.set()
        issuer = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                issuer.asked.append(self.path)
                with contextlib.suppress(OSError):
                    issuer._answer(self)

            def log_message(self, *_: Any) -> None:
                """Nothing."""

        class Server(ThreadingHTTPServer):
            daemon_threads = True
            block_on_close = False

        self._server = Server(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}"

    def __enter__(self) -> Self:
        threading.Thread(target=self._server.serve_forever, args=(0.01,), daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self.may_answer.set()
        self._server.shutdown()
        self._server.server_close()

    @property
    def fetches(self) -> int:
        """How often its keys were asked for."""
        return self.asked.count("/keys")

    def document(self, **members: Any) -> bytes:
        """A discovery document, with these members changed."""
        return json.dumps({"issuer": self.url, "jwks_uri": f"{self.url}/keys"} | members).encode()

    def claims(self, **claims: Any) -> dict[str, Any]:
        """Good claims with these changes; None leaves one out."""
        good = {"iss": self.url, "aud": AUDIENCE, "sub": "u-1", "email": "ana@corp.test", "exp": NOW + 300, "iat": NOW}
        return {name: value for name, value in (good | claims).items() if value is not None}

    def token(
        self, key: Any = RSA_KEY, algorithm: str = "RS256", headers: dict[str, Any] | None = None, **claims: Any
    ) -> str:
        """A signed token. headers: of the JWT, by default the name of the first key."""
        return jwt.encode(self.claims(**claims), key, algorithm, {"kid": "one"} if headers is None else headers)

    def _answer(self, request: BaseHTTPRequestHandler) -> None:
        self.may_answer.wait(30)
        is_keys = request.path == "/keys"
        body = self.jwks if is_keys else self.discovery
        if callable(body):
            body(request)
            return
        if body is None:
            body = json.dumps({"keys": self.keys}).encode() if is_keys else self.document()
        request.send_response(self.status)
        for name, value in ({"content-length": str(len(body))} | self.headers).items():
            request.send_header(name, value)
        request.end_headers()
        request.wfile.write(body)


def drip(request: BaseHTTPRequestHandler) -> None:
    """An answer that begins at once, goes on, and does not end for a long time."""
    request.send_response(200)
    request.end_headers()
    for _ in range(200):
        request.wfile.write(b" ")
        request.wfile.flush()
        time.sleep(0.05)


def endless(request: BaseHTTPRequestHandler) -> None:
    """An answer of more than anybody wants."""
    request.send_response(200)
    request.end_headers()
    for _ in range(100):
        request.wfile.write(b" " * 1_000_000)


def redirect(request: BaseHTTPRequestHandler) -> None:
    """An answer that says to look elsewhere at this issuer."""
    request.send_response(302)
    request.send_header("location", "/elsewhere")
    request.send_header("content-length", "0")
    request.end_headers()
