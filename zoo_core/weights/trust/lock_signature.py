"""A signature over a lock file, which others can check.

A lock names the SHA-256 of every file of weights, so a signature over the lock covers their bytes too.
"""

from __future__ import annotations

import json
from base64 import b64decode
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

from zoo_core.errors import LockError, NotSupported
from zoo_core.utils.atomic_write import write_anew
from zoo_core.utils.no_follow import real

if TYPE_CHECKING:
    from collections.abc import Iterator


_LARGEST = 1 << 20
"""Bytes of a signature that is read: one has about 1,500."""


def signature_path(lock: Path) -> Path:
    """Where the signature of a lock file is: beside it."""
    return lock.with_name(f"{lock.name}.sig")


def sign_lock(lock: Path, private_key: Path) -> Path:
    """Sign a lock file with the OpenSSF model-signing library; returns the path of the signature.

    Args:
        lock: The lock file.
        private_key: An elliptic curve key in PEM, not encrypted.

    Raises:
        NotSupported: model-signing is not installed.
        LockError: The key cannot be read, or the signature cannot be written.
    """
    signing = _model_signing()
    with _as_lock_error(f"{lock.name} was not signed", private_key, "an elliptic curve private key, in PEM"):
        signer = signing.signing.Config().use_elliptic_key_signer(private_key=private_key)
        with TemporaryDirectory() as folder:
            signature = Path(folder, "signature")
            signer.sign(real(lock), signature)  # of a linked lock, what the link stands for
            text = signature.read_text(encoding="utf-8")
        place = signature_path(lock.absolute())
        write_anew(real(place.parent) / place.name, text)  # in the place of a link, and not through it
    return signature_path(lock)


def verify_lock_signature(lock: Path, public_key: Path) -> None:
    """Check the signature beside a lock file.

    Args:
        lock: The lock file.
        public_key: The elliptic curve key that belongs to the one it was signed with, in PEM.

    Raises:
        NotSupported: model-signing is not installed.
        LockError: There is no signature, it is of another key or of another content, or the key cannot be read.
    """
    signature = signature_path(lock)
    if not signature.is_file() or signature.is_symlink():
        raise LockError(
            f"{lock.name} is not signed", expected=str(signature), hint="`zoo lock --sign KEY` writes the signature"
        )
    signing = _model_signing()
    expected = "the elliptic curve public key, in PEM, of who signed it"
    with _as_lock_error(f"the signature of {lock.name} is not good", public_key, expected):
        if signature.stat().st_size > _LARGEST:
            raise ValueError(f"{signature.name} has more than {_LARGEST:,} bytes")
        verifier = signing.verifying.Config().use_elliptic_key_verifier(public_key=public_key)
        verifier.verify(real(lock), signature)
        if _signed_files(signature) != 1:  # a signature may say that the file itself is not to be looked at
            raise ValueError(f"{signature.name} is not the signature of one file")


def _signed_files(signature: Path) -> int:
    """How many files a signature of the signing library is over."""
    envelope = json.loads(signature.read_text(encoding="utf-8"))["dsseEnvelope"]
    return len(json.loads(b64decode(envelope["payload"]))["predicate"]["resources"])


def _model_signing() -> Any:
    """The OpenSSF library that signs a lock and checks such a signature."""
    try:
        import model_signing
    except ImportError as error:
        raise NotSupported(
            "signatures are made and checked by model-signing", hint="pip install 'zoo-core[provenance]'"
        ) from error
    return model_signing


@contextmanager
def _as_lock_error(problem: str, key: Path, expected: str) -> Iterator[None]:
    """Turn what the signing library raises on a lock, a key or a signature into a LockError."""
    try:
        yield
    except Exception as error:
        raise LockError(
            problem,
            expected=f"{expected}: {key}",
            got=f"{type(error).__name__}: {str(error)[:200]}",
            hint="look into who changed the lock, its signature or the key; `zoo lock --sign KEY` signs anew",
        ) from error
