"""What others can check a lock by: the bill of materials and the signature, made and read by the real libraries."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
from click.testing import CliRunner

from zoo_core.cli.group import zoo as main
from zoo_core.contract.card import Licenses
from zoo_core.errors import LockError, NotSupported
from zoo_core.weights.trust.lock import Locked, write_lock
from zoo_core.weights.trust.provenance import bill_of_materials, sign_lock, signature_path, verify_lock_signature

ENTRIES = (
    Locked("acme/net@V1", "a" * 64, 12, "net.pth", ("https://one/net.pth", "https://two/net.pth"), plugin="acme 1.0"),
    Locked("acme/wide@V2", "b" * 64, 5, "wide.pth", ("https://one/w.pth",), licenses=Licenses("mit", "cc-by-nc-4.0")),
)

extra = pytest.mark.extra


@pytest.fixture
def keys(tmp_path):
    serialization = pytest.importorskip("cryptography.hazmat.primitives.serialization")
    from cryptography.hazmat.primitives.asymmetric import ec

    def pair(name):
        key = ec.generate_private_key(ec.SECP256R1())
        private, public = tmp_path / f"{name}.pem", tmp_path / f"{name}.pub.pem"
        private.write_bytes(
            key.private_bytes(
                serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
            )
        )
        public.write_bytes(
            key.public_key().public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)
        )
        return private, public

    return pair


@pytest.fixture
def lock(tmp_path):
    path = tmp_path / "zoo.lock"
    write_lock(path, ENTRIES)
    return path


@extra
def test_a_bill_of_materials_holds_no_password():
    url = "https://me:secret@one.example/net.pth?token=abc"
    text = bill_of_materials([replace(ENTRIES[0], urls=(url,))])
    assert "https://one.example/net.pth" in text
    assert not {"secret", "token"} & {word for word in ("secret", "token") if word in text}


@extra
def test_a_bill_of_materials_is_valid_cyclonedx():
    from cyclonedx.schema import SchemaVersion
    from cyclonedx.validation.json import JsonStrictValidator

    assert JsonStrictValidator(SchemaVersion.V1_6).validate_str(bill_of_materials(ENTRIES)) is None


@extra
def test_a_component_has_the_digest_the_sources_and_the_licence_of_its_weights():
    first, second = json.loads(bill_of_materials(ENTRIES))["components"]
    assert (first["name"], first["version"], first["type"]) == ("acme/net", "V1", "machine-learning-model")
    assert first["hashes"] == [{"alg": "SHA-256", "content": "a" * 64}]
    assert [each["url"] for each in first["externalReferences"]] == ["https://one/net.pth", "https://two/net.pth"]
    assert second["licenses"] == [{"license": {"id": "CC-BY-NC-4.0"}}]
    assert {"name": "zoo:license:code", "value": "mit"} in second["properties"]


@extra
def test_a_signed_lock_is_good_until_a_byte_of_it_changes(lock, keys):
    private, public = keys("mine")
    assert sign_lock(lock, private) == signature_path(lock)
    verify_lock_signature(lock, public)

    lock.write_text(lock.read_text().replace("a" * 64, "c" * 64))
    with pytest.raises(LockError, match=r"the signature of zoo\.lock is not good"):
        verify_lock_signature(lock, public)


@extra
def test_a_link_in_the_place_of_a_signature_is_replaced_and_never_believed(lock, keys, tmp_path):
    private, public = keys("mine")
    (tmp_path / "notes").write_text("years of work")
    signature_path(lock).symlink_to(tmp_path / "notes")
    with pytest.raises(LockError, match="is not signed"):
        verify_lock_signature(lock, public)
    sign_lock(lock, private)
    assert (tmp_path / "notes").read_text() == "years of work"
    verify_lock_signature(lock, public)


@extra
def test_a_signature_that_says_the_file_itself_is_not_looked_at_is_good_for_no_lock(lock, keys, tmp_path):
    private, public = keys("mine")
    model_signing = pytest.importorskip("model_signing")
    other = tmp_path / "other"
    other.write_text("not a lock")
    nothing = model_signing.hashing.Config().set_ignored_paths(paths=[other])
    signer = model_signing.signing.Config().set_hashing_config(nothing).use_elliptic_key_signer(private_key=private)
    signer.sign(other, signature_path(lock))
    with pytest.raises(LockError, match="not good"):
        verify_lock_signature(lock, public)


@extra
def test_what_a_linked_lock_stands_for_is_signed(lock, keys, tmp_path):
    private, public = keys("mine")
    linked = tmp_path / "project" / "zoo.lock"
    linked.parent.mkdir()
    linked.symlink_to(lock)
    sign_lock(linked, private)
    verify_lock_signature(linked, public)


@extra
@pytest.mark.parametrize("spoil", [lambda data: data[:600], lambda data: data + b" " * (1 << 20)], ids=["cut", "long"])
def test_a_signature_that_is_cut_off_or_far_too_long_is_not_good(lock, keys, spoil):
    private, public = keys("mine")
    path = sign_lock(lock, private)
    path.write_bytes(spoil(path.read_bytes()))
    with pytest.raises(LockError, match="not good"):
        verify_lock_signature(lock, public)


@extra
def test_another_key_and_a_file_that_is_no_key_are_refused(lock, keys):
    private, _ = keys("mine")
    _, other = keys("other")
    sign_lock(lock, private)
    with pytest.raises(LockError, match="not good"):
        verify_lock_signature(lock, other)
    with pytest.raises(LockError, match="not good"):
        verify_lock_signature(lock, lock)
    with pytest.raises(LockError, match="was not signed"):
        sign_lock(lock, lock)


def test_a_lock_without_a_signature_says_how_to_make_one(lock):
    with pytest.raises(LockError, match=r"zoo\.lock is not signed") as raised:
        verify_lock_signature(lock, lock)
    assert "zoo lock --sign" in str(raised.value)


@pytest.mark.parametrize("library", ["cyclonedx", "model_signing"])
def test_a_library_that_is_not_there_is_named_with_its_extra(lock, library, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, library, None)
    monkeypatch.setitem(__import__("sys").modules, "cyclonedx.contrib.license.factories", None)
    with pytest.raises(NotSupported, match="provenance"):
        bill_of_materials(ENTRIES) if library == "cyclonedx" else sign_lock(lock, lock)


@extra
def test_the_commands_lock_sign_list_and_verify(tmp_path, keys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("ZOO_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("ZOO_LOCK", str(tmp_path / "zoo.lock"))
    private, public = keys("mine")
    run = CliRunner().invoke(main, ["lock", "tiny/glyphnet", "--sbom", "weights.cdx.json", "--sign", str(private)])
    assert run.exit_code == 0, run.output
    assert json.loads((tmp_path / "weights.cdx.json").read_text())["components"][0]["name"] == "tiny/glyphnet"

    good = CliRunner().invoke(main, ["verify", "--signature", str(public), "--json"])
    assert good.exit_code == 0, good.output
    assert list(json.loads(good.output)["weights"].values()) == ["good"]

    (cached,) = (
        path for path in (tmp_path / "cache").rglob("*glyphnet*") if path.is_file() and path.stat().st_size > 5000
    )
    cached.chmod(0o644)
    cached.write_bytes(cached.read_bytes()[:-1] + b"x")
    bad = CliRunner().invoke(main, ["verify", "--signature", str(public)])
    assert (bad.exit_code, "BAD" in bad.output) == (1, True)
