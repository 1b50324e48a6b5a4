"""Settings: of the environment and of ``zoo.toml``, read strictly, in their order, and shown."""

import json
from pathlib import Path

import pytest
from click.testing import CliRunner

from zoo_core import settings
from zoo_core.cli.group import zoo
from zoo_core.errors import UsageError
from zoo_core.weights.cache.location import cache_folder
from zoo_core.weights.trust.lock import find_lock

ALL = """
cache = "weights"
cache_shared = "team"
offline = true
verify = "always"
convert = false
mirror = ["https://a.example/x/", "s3://bucket"]
licenses = ["MIT", "data:unknown"]
connections = 3
progress = false
lock = "other.lock"
families = ["timm"]
plugins = ["timm", "tiny"]
disable = ["torchvision"]

[rewrite]
"http://old/" = "https://new/?a=b"

[headers]
"https://a.example/" = ["X-Key: abc", "X-Other: d"]
"""


@pytest.fixture
def project(tmp_path, monkeypatch):
    """A project's folder, where the current one is two levels down, and a user's folder without a file."""
    monkeypatch.delenv("ZOO_CONFIG")
    monkeypatch.delenv("ZOO_CACHE")
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "home"))
    monkeypatch.setattr("sys.platform", "linux")
    folder = tmp_path / "project"
    (folder / "src" / "deep").mkdir(parents=True)
    (tmp_path / "home" / "zoo").mkdir(parents=True)
    monkeypatch.chdir(folder / "src" / "deep")
    return folder


def test_every_setting_can_be_in_a_file(project):
    (project / "zoo.toml").write_text(ALL)
    assert settings.cache_dir() == str(project / "weights")
    assert settings.offline()
    assert settings.verify() == "always"
    assert not settings.convert()
    assert settings.mirrors() == ("https://a.example/x", "s3://bucket")
    assert settings.shared_cache() == str(project / "team")
    assert settings.rewrites() == (("http://old/", "https://new/?a=b"),)
    assert settings.headers() == (("https://a.example/", "X-Key: abc"), ("https://a.example/", "X-Other: d"))
    assert settings.licenses() == ("mit", "data:unknown")
    assert settings.connections() == 3
    assert settings.progress() is False
    assert settings.lock_file() == str(project / "other.lock")
    assert settings.family_order() == ("timm",)
    assert settings.plugins() == ("timm", "tiny")
    assert settings.disabled_plugins() == ("torchvision",)
    assert set(settings.read(project / "zoo.toml")) == {setting.key for setting in settings.SETTINGS}


def test_the_page_of_settings_lists_them_all_and_its_file_is_a_good_one(project):
    page = (Path(__file__).parent.parent / "docs" / "SETTINGS.md").read_text()
    for setting in settings.SETTINGS:
        assert f"| `{setting.variable}` | `{setting.key}` |" in page
    (project / "zoo.toml").write_text(page.partition("```toml\n")[2].partition("```")[0])
    assert len(settings.read(project / "zoo.toml")) == 6


def test_without_any_file_nothing_is_said(project):
    assert settings.files() == ()
    assert settings.mirrors() == ()
    assert settings.lock_file() is None


def test_the_environment_overrules_the_files(project, monkeypatch):
    (project / "zoo.toml").write_text("offline = true\nmirror = ['https://a.example']\n")
    monkeypatch.setenv("ZOO_OFFLINE", "0")
    monkeypatch.setenv("ZOO_MIRROR", "")
    assert not settings.offline()
    assert settings.mirrors() == ()


def test_a_project_overrules_its_user_key_by_key(project, tmp_path):
    (tmp_path / "home" / "zoo" / "zoo.toml").write_text("offline = true\nverify = 'always'\n")
    (project / "zoo.toml").write_text("offline = false\n")
    assert not settings.offline()
    assert settings.verify() == "always"


def test_the_nearest_file_of_a_project_is_the_one(project):
    (project / "zoo.toml").write_text("offline = true\n")
    (project / "src" / "zoo.toml").write_text("verify = 'always'\n")
    assert settings.files() == (project / "src" / "zoo.toml",)
    assert not settings.offline()


def test_zoo_config_names_the_only_file(project, tmp_path, monkeypatch):
    (project / "zoo.toml").write_text("offline = true\n")
    (tmp_path / "mine.toml").write_text("verify = 'always'\n")
    monkeypatch.setenv("ZOO_CONFIG", str(tmp_path / "mine.toml"))
    assert not settings.offline()
    assert settings.verify() == "always"
    monkeypatch.setenv("ZOO_CONFIG", "0")
    assert settings.files() == ()


def test_zoo_config_that_names_no_file_is_an_error(project, monkeypatch):
    monkeypatch.setenv("ZOO_CONFIG", str(project / "missing.toml"))
    with pytest.raises(UsageError, match="ZOO_CONFIG"):
        settings.offline()


def test_a_change_takes_effect_at_once(project):
    (project / "zoo.toml").write_text("offline = true\n")
    assert settings.offline()
    (project / "zoo.toml").write_text("offline = false\n")
    assert not settings.offline()


@pytest.mark.parametrize(
    ("text", "line", "message"),
    [
        ("offline = true\nofline = true\n", 2, "did you mean 'offline'"),
        ("\n\n[rewrites]\n'a' = 'b'\n", 3, "did you mean 'rewrite'"),
        ("[[mirrors]]\nurl = 'b'\n", 1, "did you mean 'mirror'"),
        ("offline = 1\n", 1, "true or false"),
        ("offline = 'yes'\n", 1, "true or false"),
        ("mirror = 'https://a.example'\n", 1, "a list of urls"),
        ("\nplugins = ['a', 3]\n", 2, "a list of names"),
        ("verify = 'alway'\n", 1, "did you mean 'always'"),
        ("rewrite = ['a=b']\n", 1, "a table of url prefixes"),
        ("[rewrite]\na = 3\n", 1, "a table of url prefixes"),
        ("cache = ''\n", 1, "a path in quotes"),
        ('cache = "a\\u0000b"\n', 1, "a path in quotes"),
        ("lock = true\n", 1, "false"),
        ("connections = 0\n", 1, "1 to 32"),
        ("connections = true\n", 1, "1 to 32"),
        ("offline = true\noffline = false\n", 2, "TOML"),
        ("a = 1\nb = \n", 2, "TOML"),
    ],
)
def test_a_mistake_names_the_file_and_the_line(project, text, line, message):
    (project / "zoo.toml").write_text(text)
    with pytest.raises(UsageError, match=message) as caught:
        settings.offline()
    assert f"{project / 'zoo.toml'}, line {line}" in str(caught.value)
    assert caught.value.line == line


@pytest.mark.parametrize("data", [b"\xff\xfe", b"a = " + b"[" * 100_000, b"a." * 20_000 + b"a = 1"])
def test_a_file_that_is_no_text_is_an_error_of_ours(project, data):
    (project / "zoo.toml").write_bytes(data)
    with pytest.raises(UsageError, match=r"zoo\.toml"):
        settings.offline()


def test_a_folder_of_that_name_is_no_file(project):
    (project / "zoo.toml").mkdir()
    assert settings.files() == ()


def test_the_cache_and_the_lock_are_where_the_file_says(project):
    (project / "zoo.toml").write_text("cache = 'weights'\nlock = 'one.lock'\n")
    assert cache_folder() == project / "weights"
    assert find_lock() == project / "one.lock"


def test_a_file_may_say_that_there_is_no_lock(project):
    (project / "zoo.lock").touch()
    (project / "zoo.toml").write_text("lock = false\n")
    assert find_lock() is None


def test_zoo_config_shows_who_says_what(project, monkeypatch):
    (project / "zoo.toml").write_text("mirror = ['https://me:secret@a.example']\nverify = 'always'\n")
    monkeypatch.setenv("ZOO_VERIFY", "auto")
    shown = CliRunner().invoke(zoo, ["config"]).output
    assert f"mirror        https://a.example  ({project / 'zoo.toml'})" in shown
    assert "verify        auto  (ZOO_VERIFY)" in shown
    rows = json.loads(CliRunner().invoke(zoo, ["config", "--json"]).output)
    assert [row["key"] for row in rows] == [setting.key for setting in settings.SETTINGS]
    assert "secret" not in shown


def test_the_doctor_looks_at_the_rest_where_a_settings_file_is_broken(project):
    (project / "zoo.toml").write_text("offline = maybe")
    answer = CliRunner().invoke(zoo, ["doctor"])
    assert answer.exit_code == 1
    assert "zoo-core" in answer.stdout
    assert answer.stdout.count("wrong: ") == 1
    assert "zoo.toml, line 1: Invalid value" in answer.stdout


def test_a_header_is_shown_by_its_name_alone(project, monkeypatch):
    monkeypatch.setenv(
        "ZOO_HEADERS", "https://a.example/=X-Key: secret\nhttps://b.example=Authorization: Bearer secret"
    )
    shown = CliRunner().invoke(zoo, ["config"]).output
    assert "https://a.example/ = X-Key: ..., https://b.example = Authorization: ..." in shown
    assert "secret" not in shown


@pytest.mark.parametrize(
    "text",
    [
        "secret",
        "https://a.example=secret",
        "ftp://a.example=X: secret",
        "https://a.example=Host: secret",
        "a=X: secret",
    ],
)
def test_a_header_in_another_form_is_an_error_that_does_not_hold_it(project, monkeypatch, text):
    monkeypatch.setenv("ZOO_HEADERS", text)
    with pytest.raises(UsageError, match="ZOO_HEADERS has another form") as error:
        settings.headers()
    assert "secret" not in str(error.value)


def test_a_mistake_is_told_by_every_command(project):
    (project / "zoo.toml").write_text("familys = []\n")
    result = CliRunner().invoke(zoo, ["config"])
    assert isinstance(result.exception, UsageError)


def test_a_rewrite_in_a_file_sends_a_download_elsewhere(project, file_server, tmp_path):
    import hashlib

    from zoo_core import Card, Weights
    from zoo_core.weights import obtain

    (tmp_path / "served").mkdir()
    (tmp_path / "served" / "net.pth").write_bytes(b"weights")
    there = file_server(tmp_path / "served").url
    rewrite = f"[rewrite]\n'https://weights.invalid/' = '{there}/'\n"
    (project / "zoo.toml").write_text(f"cache = 'weights'\nlock = false\n{rewrite}")
    weights = Weights("V1", ("https://weights.invalid/net.pth",), hashlib.sha256(b"weights").hexdigest())
    got = obtain(Card("acme", "net", "acme:net", weights=(weights,)), weights)
    assert got.path.is_relative_to(project / "weights")
    assert got.path.read_bytes() == b"weights"


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


def test_an_integer_of_thousands_of_digits_is_an_error_of_ours(tmp_path, monkeypatch):
    (tmp_path / "zoo.toml").write_text(f"connections = {'9' * 5000}")
    monkeypatch.setenv("ZOO_CONFIG", str(tmp_path / "zoo.toml"))
    with pytest.raises(UsageError, match="cannot be read"):
        settings.connections()


def test_a_settings_file_without_end_is_not_read(tmp_path, monkeypatch):
    with (tmp_path / "zoo.toml").open("wb") as file:
        file.truncate(50 << 30)  # a hole, which takes no room
    monkeypatch.setenv("ZOO_CONFIG", str(tmp_path / "zoo.toml"))
    with pytest.raises(UsageError, match="File too large"):
        settings.connections()
