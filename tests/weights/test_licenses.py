import re

import pytest
from support.loopback import sha256

from zoo_core import Card, Licenses, Weights
from zoo_core.errors import LicenseRefused, UsageError
from zoo_core.weights import obtain
from zoo_core.weights.trust.licenses import require_license

ALL = Licenses("apache-2.0", "mit", "cc-by-4.0")


@pytest.mark.parametrize(
    "accepted",
    [
        None,
        ["apache-2.0", "mit", "cc-by-4.0"],
        ["Apache-2.0", "MIT", "CC-BY-4.0"],
        ["code:apache-2.0", "weights:mit", "data:cc-by-4.0"],
        ["apache-2.0", "mit", "cc-by-*"],
        ["*"],
    ],
)
def test_accepted(accepted):
    require_license("a/b@c", ALL, accepted)


@pytest.mark.parametrize(
    ("accepted", "refused"),
    [
        (["apache-2.0", "mit"], {"data": "cc-by-4.0"}),
        (["mit", "cc-by-4.0"], {"code": "apache-2.0"}),
        (["weights:apache-2.0", "code:mit", "cc-by-4.0"], {"code": "apache-2.0", "weights": "mit"}),
        ([], {"code": "apache-2.0", "weights": "mit", "data": "cc-by-4.0"}),
    ],
)
def test_refused(accepted, refused):
    with pytest.raises(LicenseRefused) as caught:
        require_license("a/b@c", ALL, accepted)
    assert caught.value.refused == refused


def test_unknown_is_a_value_of_its_own():
    with pytest.raises(LicenseRefused, match="data: unknown"):
        require_license("a/b@c", Licenses("mit", "mit"), ["mit"])
    require_license("a/b@c", Licenses("mit", "mit"), ["mit", "data:unknown"])


@pytest.mark.parametrize("accepted", ["mit", ["mit", ""], [7], ["model:mit"]])
def test_a_malformed_list_is_a_usage_error(accepted):
    with pytest.raises(UsageError):
        require_license("a/b@c", ALL, accepted)


@pytest.mark.parametrize("how", ["argument", "setting"])
def test_weights_are_refused_before_anything_is_downloaded(server, monkeypatch, how):
    weights = Weights(
        "V1", (server.put("/net.pth", b"x"),), sha256(b"x"), licenses=Licenses("mit", "cc-by-nc-4.0", "mit")
    )
    if how == "setting":
        monkeypatch.setenv("ZOO_LICENSES", "mit, apache-2.0")
    with pytest.raises(LicenseRefused, match=r"cc-by-nc-4\.0"):
        obtain(Card("acme", "net", "a:b", weights=(weights,)), weights, licenses=["mit"] if how == "argument" else None)
    assert server.requests == []


def test_what_the_error_says_to_add_is_enough():
    licenses = Licenses("mit", "cc-by-nc-4.0")
    with pytest.raises(LicenseRefused) as caught:
        require_license("acme/net@V1", licenses, [])
    require_license("acme/net@V1", licenses, re.findall(r'"(.*?)"', str(caught.value)))
