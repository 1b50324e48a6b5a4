"""``ZOO_TEST_PART=3/8`` of the sweeps: what is in which part."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

TESTS = """
import pytest

every_net = pytest.mark.parametrize("name", [f"net{number}" for number in range(5)])

@pytest.mark.sweep
@every_net
def test_one(name): pass

@pytest.mark.sweep
@every_net
def test_two(name): pass

def test_of_the_suite(): pass
"""


@pytest.fixture(scope="module")
def parts(tmp_path_factory):
    """The tests that each of two parts collects."""
    folder = tmp_path_factory.mktemp("sweep")
    shutil.copy(Path(__file__).parents[1] / "conftest.py", folder)
    (folder / "test_nets.py").write_text(TESTS)
    (folder / "pytest.ini").write_text("[pytest]\nmarkers = sweep\n")
    return [collected(folder, part) for part in ("1/2", "2/2")]


def collected(folder, part):
    command = [sys.executable, "-m", "pytest", "--collect-only", "-q", "-p", "no:cacheprovider", "-p", "no:xdist"]
    answer = subprocess.run(
        command, cwd=folder, env=os.environ | {"ZOO_TEST_PART": part}, capture_output=True, text=True, check=False
    )
    return [line.partition("::")[2] for line in answer.stdout.splitlines() if "::" in line]


def test_models_are_dealt_out_in_their_order(parts):
    ones = [[name for name in part if name.startswith("test_one")] for part in parts]
    assert ones == [["test_one[net0]", "test_one[net2]", "test_one[net4]"], ["test_one[net1]", "test_one[net3]"]]


def test_all_tests_of_a_model_are_in_the_same_part(parts):
    for part in parts:
        ones, twos = (
            {name.partition("[")[2] for name in part if name.startswith(test)} for test in ("test_one", "test_two")
        )
        assert ones == twos


def test_what_is_no_sweep_is_in_every_part(parts):
    assert all("test_of_the_suite" in part for part in parts)
