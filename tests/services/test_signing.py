from __future__ import annotations

import hashlib
import hmac

import pytest

from services.example_worker.signing import sign, verify


def test_a_published_vector() -> None:
    # RFC 4231, test case 2.
    expected = "sha256=5bdcc146bf60754e6a042426089575c75a003f089d2739839dec58b964ec3843"
    assert sign("Jefe", b"what do ya want for nothing?") == expected


def test_agrees_with_the_standard_library_on_any_bytes() -> None:
    body = bytes(range(256))
    assert sign("größe", body) == "sha256=" + hmac.new("größe".encode(), body, hashlib.sha256).hexdigest()


def test_accepts_its_own() -> None:
    assert verify("secret", b"{}", sign("secret", b"{}"))


@pytest.mark.parametrize(
    ("secret", "body", "signature"),
    [
        ("secret", b"{ }", sign("secret", b"{}")),
        ("other", b"{}", sign("secret", b"{}")),
        ("secret", b"{}", sign("secret", b"{}").removeprefix("sha256=")),
        ("secret", b"{}", sign("secret", b"{}").replace("sha256", "sha1")),
        ("secret", b"{}", ""),
        ("secret", b"{}", "sha256=ü"),
        ("secret", b"{}", "sha256=\udcff"),
    ],
    ids=["body changed", "other secret", "no scheme", "other scheme", "none", "not ascii", "surrogate"],
)
def test_refuses_the_rest(secret: str, body: bytes, signature: str) -> None:
    assert not verify(secret, body, signature)
