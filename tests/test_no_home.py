"""A user without a home folder, and paths that begin in one."""

import sys

import pytest
import torch

import zoo_core as zoo
from zoo_core.errors import CacheError, UsageError
from zoo_core.weights.cache.location import cache_folder
from zoo_core.weights.cache.other_caches import find_elsewhere


@pytest.fixture
def homeless(monkeypatch, tmp_path):
    """As in a container whose user is a number without an entry in the password file."""
    for name in ("HOME", "XDG_CACHE_HOME", "XDG_CONFIG_HOME", "ZOO_CACHE", "HF_HOME", "HF_HUB_CACHE", "TORCH_HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr("pwd.getpwuid", lambda uid: {}[uid])
    monkeypatch.chdir(tmp_path)


@pytest.mark.usefixtures("homeless")
def test_without_a_home_folder_the_error_says_to_name_a_cache():
    with pytest.raises(CacheError, match="set ZOO_CACHE"):
        cache_folder()


@pytest.mark.usefixtures("homeless")
def test_without_a_home_folder_other_caches_are_passed_over():
    assert find_elsewhere(("https://huggingface.co/org/repo/resolve/main/net.pth",), "0" * 64, None) is None


@pytest.mark.usefixtures("homeless")
def test_a_path_in_a_home_folder_that_is_not_known_is_refused():
    with pytest.raises(UsageError, match="give the whole path"):
        zoo.get("tiny/glyphnet", weights="~/net.pth")


def test_a_tilde_before_the_name_of_nobody_is_told():
    with pytest.raises(UsageError, match=r"no user 'nobody99'[\s\S]*give the whole path"):
        zoo.load("~nobody99/saved")


def test_a_leading_tilde_is_the_home_folder_at_every_door(monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", str(tmp_path))
    model = zoo.get("tiny/glyphnet", weights=None)
    torch.save(model.state_dict(), tmp_path / "own.pth")
    assert zoo.receipt(zoo.get("tiny/glyphnet", weights="~/own.pth")).counts["loaded"]
    zoo.save(model, "~/saved")
    assert (tmp_path / "saved" / "recipe.json").exists()
    assert zoo.load("~/saved") is not None


@pytest.mark.skipif(sys.platform != "linux", reason="needs a file system that takes any bytes as a name")
def test_a_folder_whose_name_is_no_utf_8_is_a_folder(tmp_path):
    folder = tmp_path / "\udcff\udcfe"
    model = zoo.get("tiny/glyphnet", weights=None)
    zoo.save(model, tmp_path / "plain")
    (tmp_path / "plain").rename(folder)
    own = next(folder.glob("*.safetensors"))
    assert zoo.receipt(zoo.get("tiny/glyphnet", weights=own)).counts["loaded"]
    assert zoo.load(folder) is not None
