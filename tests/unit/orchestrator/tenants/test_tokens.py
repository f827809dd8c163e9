"""Tokens signed with real keys, whose public halves are served over HTTP."""

import base64
import hashlib
import hmac
import http.server
import json
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric import ec, rsa

from acestep_rpc.errors import StageUnavailable, Unauthenticated
from orchestrator.tenants.tokens import PublishedKeys, TokenRules, TokenVerifier

RULES = TokenRules("https://issuer.example", "acestep", "tenant", leeway_seconds=5.0)


class Issuer:
    """Signs tokens and publishes its keys."""

    def __init__(self) -> None:
        self.keys: dict[str, Any] = {"rsa": rsa.generate_private_key(65537, 2048)}
        self.fetches = 0
        self.answers = True
        issuer = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                issuer.fetches += 1
                self.send_response(200 if issuer.answers else 500)
                self.end_headers()
                self.wfile.write(json.dumps(issuer.published()).encode())

            def log_message(self, *arguments: Any) -> None:
                pass

        self._server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_port}/jwks.json"
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.01})
        self._thread.start()

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    def published(self) -> dict[str, Any]:
        keys = []
        for key_id, key in self.keys.items():
            algorithm = jwt.algorithms.RSAAlgorithm if isinstance(key, rsa.RSAPrivateKey) else jwt.algorithms.ECAlgorithm
            keys.append({"kid": key_id, "use": "sig"} | json.loads(algorithm.to_jwk(key.public_key())))
        return {"keys": keys}

    def token(self, key_id: str | None = "rsa", key: Any = None, **claims: Any) -> str:
        key = key or self.keys[key_id or "rsa"]
        body = {"iss": RULES.issuer, "aud": RULES.audience, "exp": time.time() + 60, "tenant": "alice"} | claims
        headers = {"kid": key_id} if key_id else {}
        algorithm = "RS256" if isinstance(key, rsa.RSAPrivateKey) else "ES256"
        return jwt.encode({name: value for name, value in body.items() if value is not None}, key, algorithm, headers)


@pytest.fixture
def issuer() -> Iterator[Issuer]:
    issuer = Issuer()
    yield issuer
    issuer.close()


@pytest.fixture
def verifier(issuer: Issuer) -> TokenVerifier:
    return TokenVerifier(RULES, PublishedKeys(issuer.url, min_seconds=0.0))


async def test_a_good_token_names_its_tenant_and_keys_are_fetched_once(issuer: Issuer, verifier: TokenVerifier) -> None:
    assert [await verifier.tenant(issuer.token()) for _ in range(3)] == ["alice"] * 3
    assert await verifier.tenant(issuer.token(key_id=None)) == "alice"
    assert await verifier.tenant(issuer.token(aud=["other", "acestep"], tenant="bob")) == "bob"
    assert issuer.fetches == 1


@pytest.mark.parametrize(
    "claims",
    [
        {"exp": -3600},
        {"exp": None},
        {"nbf": 3600},
        {"iss": "https://other.example"},
        {"iss": None},
        {"aud": "another"},
        {"aud": None},
        {"tenant": None},
    ],
    ids=str,
)
async def test_a_token_that_says_the_wrong_thing_is_refused_in_the_same_words(
    issuer: Issuer, verifier: TokenVerifier, claims: dict[str, Any]
) -> None:
    times = {name: time.time() + seconds for name, seconds in claims.items() if isinstance(seconds, int)}
    with pytest.raises(Unauthenticated) as caught:
        await verifier.tenant(issuer.token(**(claims | times)))
    assert str(caught.value) == str(Unauthenticated())


async def test_clocks_may_differ_by_the_leeway(issuer: Issuer, verifier: TokenVerifier) -> None:
    assert await verifier.tenant(issuer.token(exp=time.time() - 2, nbf=time.time() - 100)) == "alice"
    with pytest.raises(Unauthenticated):
        await verifier.tenant(issuer.token(exp=time.time() - 8))


async def test_a_token_of_another_key_or_algorithm_is_refused(issuer: Issuer, verifier: TokenVerifier) -> None:
    header, body, signature = issuer.token().split(".")
    none = base64.urlsafe_b64encode(b'{"alg":"none","kid":"rsa"}').decode().rstrip("=")
    symmetric = base64.urlsafe_b64encode(b'{"alg":"HS256","kid":"rsa"}').decode().rstrip("=")
    public = issuer.published()["keys"][0]["n"].encode()
    forged = base64.urlsafe_b64encode(hmac.new(public, f"{symmetric}.{body}".encode(), hashlib.sha256).digest()).decode().rstrip("=")
    changed = issuer.token(tenant="bob").split(".")[1]
    bad = [
        issuer.token(key=rsa.generate_private_key(65537, 2048)),
        issuer.token("unknown", rsa.generate_private_key(65537, 2048)),
        issuer.token("rsa", ec.generate_private_key(ec.SECP256R1())),
        f"{none}.{body}.",
        f"{symmetric}.{body}.{forged}",
        f"{header}.{changed}.{signature}",
        "a.b.c",
        "nothing",
    ]
    for token in bad:
        with pytest.raises(Unauthenticated):
            await verifier.tenant(token)


async def test_a_new_key_is_fetched_when_a_token_names_it_and_an_old_one_goes(issuer: Issuer, verifier: TokenVerifier) -> None:
    old = issuer.token()
    assert await verifier.tenant(old) == "alice"
    issuer.keys = {"new": ec.generate_private_key(ec.SECP256R1())}
    assert await verifier.tenant(issuer.token("new")) == "alice"
    with pytest.raises(Unauthenticated):
        await verifier.tenant(old)


async def test_unknown_keys_do_not_make_the_server_fetch_without_end(issuer: Issuer) -> None:
    verifier = TokenVerifier(RULES, PublishedKeys(issuer.url, min_seconds=60.0))
    assert await verifier.tenant(issuer.token()) == "alice"
    stranger = rsa.generate_private_key(65537, 2048)
    for number in range(20):
        with pytest.raises(Unauthenticated):
            await verifier.tenant(issuer.token(f"unknown-{number}", stranger))
    assert issuer.fetches == 1


async def test_without_keys_nothing_is_said_of_tokens_and_known_keys_outlive_their_issuer(issuer: Issuer, verifier: TokenVerifier) -> None:
    issuer.answers = False
    with pytest.raises(StageUnavailable):
        await verifier.tenant(issuer.token())
    issuer.answers = True
    assert await verifier.tenant(issuer.token()) == "alice"
    issuer.answers = False
    assert await verifier.tenant(issuer.token()) == "alice"


async def test_keys_may_come_from_a_file_which_is_checked_at_the_start(issuer: Issuer, tmp_path: Path) -> None:
    path = tmp_path / "jwks.json"
    path.write_text(json.dumps(issuer.published()))
    assert await TokenVerifier(RULES, PublishedKeys(str(path))).tenant(issuer.token()) == "alice"
    path.write_text("[]")
    with pytest.raises(ValueError, match="no JSON Web Key Set"):
        PublishedKeys(str(path))
