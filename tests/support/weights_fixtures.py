"""Fixtures of the tests of weights and of their faults."""

import os

import pytest

from support.loopback import Server
from zoo_core.weights.transport.policy import Policy


@pytest.fixture
def server():
    server = Server()
    yield server
    server.close()


@pytest.fixture
def policy():
    """As patient as ever, without the waiting."""
    return Policy(timeout=2, sleep=lambda _seconds: None)


@pytest.fixture(autouse=True)
def no_outside(monkeypatch):
    """No proxy, endpoint or lock file of the machine that runs the tests reaches them."""
    for name in [name for name in os.environ if name.lower().endswith("_proxy") or name == "HF_ENDPOINT"]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("ZOO_LOCK", "0")
