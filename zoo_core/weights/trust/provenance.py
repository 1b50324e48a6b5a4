"""Provenance, for others to check what a product is made of: a lock's signature, and a bill of materials of it.

A lock names the SHA-256 of every file of weights, so a signature over the lock covers their bytes too.
"""

from __future__ import annotations

import json
from base64 import b64decode
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

from zoo_core.errors import LockError, NotSupported
from zoo_core.utils.atomic_write import write_anew
from zoo_core.utils.no_follow import real
from zoo_core.weights.transport.urls import shown
from zoo_core.weights.trust.licenses import PARTS

if TYPE_CHECKING:
    from zoo_core.weights.trust.lock import Locked


_LARGEST = 1 << 20
"""Bytes of a signature that is read: one has about 1,500."""


def signature_path(lock: Path) -> Path:
    """Where the signature is that proves the provenance of a lock file: beside it."""
    return lock.with_name(f"{lock.name}.sig")


def sign_lock(lock: Path, private_key: Path) -> Path:
    """Sign a lock file to prove its provenance, with the OpenSSF model-signing library; returns the signature's path.

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
    """Check the provenance of a lock file, by the signature beside it.

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
    """How many files a signature for provenance is over."""
    envelope = json.loads(signature.read_text(encoding="utf-8"))["dsseEnvelope"]
    return len(json.loads(b64decode(envelope["payload"]))["predicate"]["resources"])


def _model_signing() -> Any:
    """The OpenSSF library for provenance, which signs a lock and checks such a signature."""
    try:
        import model_signing
    except ImportError as error:
        raise NotSupported(
            "signatures are made and checked by model-signing", hint="pip install 'zoo-core[provenance]'"
        ) from error
    return model_signing


@contextmanager
def _as_lock_error(problem: str, key: Path, expected: str) -> Iterator[None]:
    """Turn what the library for provenance raises on a lock, a key or a signature into a LockError."""
    try:
        yield
    except Exception as error:
        raise LockError(
            problem,
            expected=f"{expected}: {key}",
            got=f"{type(error).__name__}: {str(error)[:200]}",
            hint="look into who changed the lock, its signature or the key; `zoo lock --sign KEY` signs anew",
        ) from error


def bill_of_materials(entries: Iterable[Locked]) -> str:
    """The provenance of the weights of a lock as a CycloneDX 1.6 document, for those who audit a product.

    Each entry is a component of the type ``machine-learning-model``: its name and tag, SHA-256, the licence of its
    weights, and where its bytes are. What CycloneDX has no field for (the licences of code and data, the size, the
    plugin and the library that build the model) is a property whose name begins with ``zoo:``.

    Returns:
        JSON.

    Raises:
        NotSupported: cyclonedx-python-lib is not installed.
    """
    try:
        from cyclonedx.contrib.license.factories import LicenseFactory
        from cyclonedx.model import ExternalReference, ExternalReferenceType, HashAlgorithm, HashType, Property, XsUri
        from cyclonedx.model.bom import Bom
        from cyclonedx.model.component import Component, ComponentType
        from cyclonedx.output.json import JsonV1Dot6
        from cyclonedx.spdx import fixup_id
    except ImportError as error:
        raise NotSupported(
            "a bill of materials is written by cyclonedx-python-lib", hint="pip install 'zoo-core[provenance]'"
        ) from error
    licenses = LicenseFactory()
    bom = Bom()
    for entry in sorted(entries, key=lambda each: each.name):
        bom.components.add(
            Component(
                type=ComponentType.MACHINE_LEARNING_MODEL,
                name=entry.name.rpartition("@")[0],
                version=entry.tag,
                bom_ref=entry.name,
                hashes=[HashType(alg=HashAlgorithm.SHA_256, content=entry.sha256)],
                licenses=[licenses.make_from_string(fixup_id(entry.licenses.weights) or entry.licenses.weights)],
                external_references=[
                    ExternalReference(type=ExternalReferenceType.DISTRIBUTION, url=XsUri(shown(url)))
                    for url in entry.urls
                ],
                properties=[Property(name=f"zoo:{name}", value=value) for name, value in _properties(entry)],
            )
        )
    text: str = JsonV1Dot6(bom).output_as_string(indent=2)
    return text


def _properties(entry: Locked) -> Iterator[tuple[str, str]]:
    """The properties of weights in a bill of materials, for what CycloneDX has no field for."""
    for part in PARTS:
        yield f"license:{part}", getattr(entry.licenses, part)
    yield "file", entry.file
    yield "size", str(entry.size)
    if entry.plugin:
        yield "plugin", entry.plugin
    if entry.library:
        yield "library", entry.library
