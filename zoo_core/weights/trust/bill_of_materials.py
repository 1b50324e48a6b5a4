"""A bill of materials of the weights in a lock, by which others can check what a product is made of."""

from __future__ import annotations

from typing import TYPE_CHECKING

from zoo_core.errors import NotSupported
from zoo_core.weights.transport.urls import shown
from zoo_core.weights.trust.licenses import PARTS

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from zoo_core.weights.trust.lock import Locked


def bill_of_materials(entries: Iterable[Locked]) -> str:
    """The weights of a lock as a CycloneDX 1.6 document, for those who audit what a product is made of.

    Each entry is a component of the type ``machine-learning-model``: its name and tag, SHA-256, the licence of its
    weights, and where its bytes are. What CycloneDX has no field for (the licences of code and data, the size, the
    plugin and the library that build the model) is a property whose name begins with ``zoo:``.

    Args:
        entries: Those of a lock.

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
                licenses=[licenses.make_from_string(_spdx(entry.licenses.weights))],
                external_references=[
                    ExternalReference(type=ExternalReferenceType.DISTRIBUTION, url=XsUri(shown(url)))
                    for url in entry.urls
                ],
                properties=[Property(name=f"zoo:{name}", value=value) for name, value in _properties(entry)],
            )
        )
    text: str = JsonV1Dot6(bom).output_as_string(indent=2)
    return text


def _spdx(license_name: str) -> str:
    """The name of a licence in a bill of materials, as SPDX writes it; one that SPDX does not have stays as it is."""
    from cyclonedx.spdx import fixup_id

    return fixup_id(license_name) or license_name


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
