import pytest

from zoo_core import settings
from zoo_core.errors import UsageError


@pytest.mark.parametrize(("text", "meant"), [("1", True), ("true", True), ("ON", True), ("0", False), ("", False)])
def test_a_flag_has_the_usual_spellings(monkeypatch, text, meant):
    monkeypatch.setenv("ZOO_OFFLINE", text)
    assert settings.offline() is meant


@pytest.mark.parametrize("name", ["ZOO_OFFLINE", "ZOO_PROGRESS", "ZOO_VERIFY"])
def test_a_value_that_means_nothing_is_a_usage_error_that_names_the_setting(monkeypatch, name):
    monkeypatch.setenv(name, "perhaps")
    with pytest.raises(UsageError, match=name):
        {"ZOO_OFFLINE": settings.offline, "ZOO_PROGRESS": settings.progress, "ZOO_VERIFY": settings.verify}[name]()


def test_settings_are_read_when_they_are_asked_for(monkeypatch):
    assert settings.cache_dir() != "elsewhere"
    monkeypatch.setenv("ZOO_CACHE", "elsewhere")
    assert settings.cache_dir() == "elsewhere"


def test_mirrors_are_urls_with_spaces_between(monkeypatch):
    monkeypatch.setenv("ZOO_MIRROR", " https://a/x/  s3://bucket ")
    assert settings.mirrors() == ("https://a/x", "s3://bucket")


def test_rewrites_are_pairs_and_the_hub_endpoint_is_one(monkeypatch):
    monkeypatch.setenv("ZOO_REWRITE", "http://old/=https://new/?a=b")
    monkeypatch.setenv("HF_ENDPOINT", "https://hub.example")
    assert settings.rewrites() == (
        ("http://old/", "https://new/?a=b"),
        ("https://huggingface.co/", "https://hub.example/"),
    )


@pytest.mark.parametrize("text", ["http://old/", "=https://new/", "http://old/="])
def test_half_a_rewrite_is_a_usage_error(monkeypatch, text):
    monkeypatch.setenv("ZOO_REWRITE", text)
    with pytest.raises(UsageError, match="from=to"):
        settings.rewrites()


def test_licences_are_names_in_lower_case(monkeypatch):
    assert settings.licenses() is None
    monkeypatch.setenv("ZOO_LICENSES", "MIT, data:unknown,")
    assert settings.licenses() == ("mit", "data:unknown")


@pytest.mark.parametrize(("text", "meant"), [("0", ""), ("off", ""), ("/a/zoo.lock", "/a/zoo.lock")])
def test_a_lock_file_is_a_path_or_none_at_all(monkeypatch, text, meant):
    monkeypatch.setenv("ZOO_LOCK", text)
    assert settings.lock_file() == meant
