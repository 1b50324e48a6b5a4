"""Weights that are published in more than one file: each with its digest; others when the first cannot be had."""

import os

import pytest
from support.loopback import sha256, status

from zoo_core import Card, Weights
from zoo_core.errors import DigestMismatch, FetchError
from zoo_core.weights import obtain
from zoo_core.weights.cache.other_caches import adopt
from zoo_core.weights.cache.store import Cache

SAFE, PICKLED = os.urandom(50_000), os.urandom(60_000)
HUB = "/org/repo/resolve/main/model.safetensors"
OTHER = f"/net-{sha256(PICKLED)[:8]}.pth"


@pytest.fixture
def card(server):
    """A model whose weights are on a hub, and in another file at another place."""
    server.put(HUB, SAFE)
    server.always[HUB] = status(302, Location=server.put("/cdn", SAFE), X_Linked_Etag=f'"{sha256(SAFE)}"')
    urls = (server.url(HUB), server.put(OTHER, PICKLED))
    weights = Weights("V1", urls, digests={OTHER[1:]: sha256(PICKLED)[:8]})
    return Card("acme", "net", "acme:net", weights=(weights,), default="V1")


def test_the_first_file_is_taken_where_it_can_be_had(card, server):
    artefact = obtain(card, card.find())
    assert artefact.path.read_bytes() == SAFE
    assert artefact.strength == "declared"
    assert OTHER not in [each.path for each in server.requests]


def test_what_the_hub_declares_is_taken_from_where_its_own_tool_keeps_it(card, server, tmp_path):
    held = tmp_path / "hf" / "hub" / "models--org--repo" / "blobs" / sha256(SAFE)
    held.parent.mkdir(parents=True)
    held.write_bytes(SAFE)
    artefact = obtain(card, card.find())
    assert (artefact.source, artefact.strength) == (held.as_uri(), "declared")
    assert "/cdn" not in [each.path for each in server.requests]


def test_the_next_file_is_taken_where_nobody_has_the_first(card, server, policy):
    server.always[HUB] = status(404)
    artefact = obtain(card, card.find(), policy=policy)
    assert artefact.path.read_bytes() == PICKLED
    assert (artefact.strength, artefact.path.name) == ("weak", OTHER[1:])


def test_what_was_taken_stays_without_a_socket(card, server, policy):
    server.always[HUB] = status(404)
    obtain(card, card.find(), policy=policy)
    server.close()
    again = obtain(card, card.find())
    assert not again.fetched
    assert again.path.read_bytes() == PICKLED


def test_what_was_taken_is_asked_for_again_when_it_is_lost(card, server, policy):
    server.always[HUB] = status(404)
    obtain(card, card.find(), policy=policy).path.unlink()
    server.requests.clear()
    assert obtain(card, card.find(), policy=policy).path.read_bytes() == PICKLED
    assert [each.path for each in server.requests] == [OTHER]


def test_the_next_file_is_proven_by_its_own_digest(card, server, policy):
    server.always[HUB] = status(404)
    server.files[OTHER] = SAFE
    with pytest.raises(DigestMismatch, match="wrong bytes"):
        obtain(card, card.find(), policy=policy)


def test_wrong_bytes_of_the_first_file_are_no_reason_to_take_the_next(card, server, policy):
    server.files["/cdn"] = PICKLED
    with pytest.raises(DigestMismatch):
        obtain(card, card.find(), policy=policy)


def test_an_error_names_every_file(card, server, policy):
    server.always[HUB] = server.always[OTHER] = status(404)
    with pytest.raises(FetchError) as caught:
        obtain(card, card.find(), policy=policy)
    assert [url for url, _ in caught.value.attempts] == list(card.find().urls)


def test_a_file_that_nothing_vouches_for_is_named_and_not_taken(server, policy):
    server.always[HUB] = status(404)
    urls = (server.url(HUB), server.put("/net.npz", PICKLED))
    card = Card("acme", "net", "acme:net", weights=(Weights("V1", urls, digests={"net.npz": ""}),), default="V1")
    with pytest.raises(FetchError, match=r"net\.npz: nothing vouches for its bytes"):
        obtain(card, card.find(), policy=policy)
    assert obtain(card, card.find(), policy=policy, trust="first-use").path.read_bytes() == PICKLED


def test_either_file_can_be_imported(card, tmp_path):
    (tmp_path / "mine.pth").write_bytes(PICKLED)
    assert adopt(Cache(), tmp_path / "mine.pth", [card]).names == ("acme/net@V1",)
    assert obtain(card, card.find()).path.read_bytes() == PICKLED


def test_a_digest_is_of_a_file_that_a_url_serves():
    with pytest.raises(ValueError, match=r"a digest of 'other\.pth', which no url after the first is for"):
        Weights("V1", ("https://example.org/net.pth",), digests={"other.pth": ""})
