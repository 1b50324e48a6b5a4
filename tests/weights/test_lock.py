import os
import threading
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
from support.loopback import sha256

import zoo_core as zoo
from zoo_core import Card, Licenses, Preprocessing, Weights
from zoo_core.cli.lock import _entry, urls_at_commit
from zoo_core.errors import DigestMismatch, LockError, UnknownTag
from zoo_core.registry.zoo import current_zoo
from zoo_core.weights import obtain
from zoo_core.weights.trust.lock import Locked, current_lock, find_lock, held_tag, read_lock, write_lock

DATA = os.urandom(50_000)
OTHER = os.urandom(50_000)


def entry(name="acme/net@V1", data=DATA, **values):
    defaults = {"size": len(data), "file": "net.pth", "urls": ("https://host/net.pth",), "plugin": "zoo-acme 1.0"}
    return Locked(name, sha256(data), **{**defaults, **values})


@pytest.fixture
def lock(tmp_path, monkeypatch):
    monkeypatch.delenv("ZOO_LOCK")
    monkeypatch.chdir(tmp_path)
    return tmp_path / "zoo.lock"


def card(url, digest):
    weights = Weights("V1", (url,), digest)
    return Card("acme", "net", "acme:net", weights=(weights,)), weights


def test_what_is_written_is_read_back(lock):
    entries = [
        entry("b/net@V2", licenses=Licenses("mit", "cc-by-nc-4.0"), library="acme 2.0"),
        entry("a/net@V1", preprocessing=Preprocessing(crop=(299, 299), mean=(0.5, 0.5, 0.5)), urls=("a", 'b"\\\n\x7f')),
    ]
    write_lock(lock, entries)
    read = read_lock(lock)
    assert list(read.entries.values()) == sorted(entries, key=lambda item: item.name)
    assert read.problems == ()


def test_a_lock_holds_no_password():
    glyphnet, _ = current_zoo().resolve("tiny/glyphnet")
    weights = Weights("V1", ("https://me:secret@127.0.0.1:1/net.pth?download=1",), sha256(DATA))
    written = _entry(
        current_zoo(), replace(glyphnet, weights=(weights,), default=None), weights, sha256(DATA), len(DATA)
    )
    assert written.urls == ("https://127.0.0.1:1/net.pth?download=1",)


def test_the_file_is_sorted_and_the_same_every_time(lock):
    write_lock(lock, [entry("b/n@1"), entry("a/n@1")])
    first = lock.read_text()
    write_lock(lock, [entry("a/n@1"), entry("b/n@1")])
    assert lock.read_text() == first
    assert first.index("a/n@1") < first.index("b/n@1")


def test_it_is_ordinary_toml(lock):
    import tomllib

    write_lock(lock, [entry()])
    assert tomllib.loads(lock.read_text())["weights"][0]["sha256"] == sha256(DATA)


def test_it_is_found_in_a_parent(lock, tmp_path, monkeypatch):
    write_lock(lock, [])
    (tmp_path / "a" / "b").mkdir(parents=True)
    monkeypatch.chdir(tmp_path / "a" / "b")
    assert find_lock() == lock


def test_a_setting_names_another_or_none(lock, tmp_path, monkeypatch):
    write_lock(lock, [])
    monkeypatch.setenv("ZOO_LOCK", str(tmp_path / "other.lock"))
    assert find_lock() == tmp_path / "other.lock"
    monkeypatch.setenv("ZOO_LOCK", "0")
    assert find_lock() is None


def test_a_lock_that_is_named_and_missing_is_an_error(lock, tmp_path, monkeypatch):
    monkeypatch.setenv("ZOO_LOCK", str(tmp_path / "other.lock"))
    with pytest.raises(LockError, match=r"other\.lock"):
        current_lock()


def test_one_bad_entry_does_not_lose_the_others(lock):
    write_lock(lock, [entry("a/n@1"), entry("b/n@1"), entry("c/n@1")])
    text = lock.read_text()
    lock.write_text(text.replace('name = "b/n@1"', "name = 7"))
    read = read_lock(lock)
    assert sorted(read.entries) == ["a/n@1", "c/n@1"]
    assert read.problems[0].file == str(lock)
    assert lock.read_text().splitlines()[read.problems[0].line - 1] == "[[weights]]"


def test_a_syntax_error_names_its_line(lock):
    write_lock(lock, [entry("a/n@1"), entry("b/n@1")])
    lines = lock.read_text().splitlines()
    at = next(i for i, line in enumerate(lines) if "b/n@1" in line)
    lines[at] = "name = "
    lock.write_text("\n".join(lines))
    read = read_lock(lock)
    assert list(read.entries) == ["a/n@1"]
    assert read.problems[0].line == at + 1


def test_while_an_entry_is_bad_an_unknown_name_is_refused(lock):
    write_lock(lock, [entry("a/n@1"), entry("b/n@1")])
    lock.write_text(lock.read_text().replace('name = "b/n@1"', "name = 7"))
    read = read_lock(lock)
    assert read.find("a/n@1").name == "a/n@1"
    with pytest.raises(LockError):
        read.find("b/n@1")


@pytest.mark.parametrize("title", ["[[weights]]  # pinned", "[[ weights ]]", "  [[weights]]"])
def test_however_a_title_is_written_its_entry_counts(lock, title):
    write_lock(lock, [entry("a/n@1"), entry("b/n@1")])
    lock.write_text(lock.read_text().replace("[[weights]]", title))
    assert list(read_lock(lock).entries) == ["a/n@1", "b/n@1"]
    lock.write_text(lock.read_text().replace('name = "b/n@1"', "name = "))
    assert list(read_lock(lock).entries) == ["a/n@1"]


def test_entries_without_titles_of_their_own_count(lock):
    write_lock(lock, [entry("a/n@1")])
    lock.write_text(
        f'version = 1\nweights = [{{ name = "a/n@1", sha256 = "{sha256(DATA)}", size = 1, file = "f", urls = ["u"] }}]'
    )
    assert list(read_lock(lock).entries) == ["a/n@1"]


@pytest.mark.parametrize("line", ["wieghts = 3", "[[wieghts]]", "[weights]"])
def test_what_a_lock_does_not_know_is_an_error(lock, line):
    lock.write_text(f"version = 1\n{line}\n")
    with pytest.raises(LockError):
        read_lock(lock)


def test_an_entry_that_is_there_twice_is_neither(lock):
    write_lock(lock, [entry("a/n@1"), entry("a/n@1", data=OTHER), entry("b/n@1")])
    read = read_lock(lock)
    assert read.find("b/n@1").name == "b/n@1"
    with pytest.raises(LockError, match="there twice"):
        read.find("a/n@1")


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ('"https://host/net.pth"', '"http://[bad"'),
        ('"https://host/net.pth"', '""'),
        ('code = "unknown"', "code = 5"),
        ('name = "a/n@1"', 'name = "/@"'),
        ("preprocessing = { ", "preprocessing = { surprise = 1, "),
        ("preprocessing = ", "preprocessing = 5 #"),
    ],
)
def test_a_value_that_cannot_be_used_is_an_error_of_ours(lock, old, new):
    write_lock(lock, [entry("a/n@1", preprocessing=Preprocessing())])
    assert old in lock.read_text()
    lock.write_text(lock.read_text().replace(old, new))
    assert [type(problem) for problem in read_lock(lock).problems] == [LockError]


@pytest.mark.parametrize(
    "where", ["version = {}", "version = 1\n[[weights]]\nsize = {}"], ids=["before", "in an entry"]
)
def test_an_integer_of_thousands_of_digits_is_an_error_of_ours(where, tmp_path):
    (tmp_path / "zoo.lock").write_text(where.format("9" * 5000))
    if "weights" in where:
        assert len(read_lock(tmp_path / "zoo.lock").problems) == 1
        return
    with pytest.raises(LockError, match="line 1"):
        read_lock(tmp_path / "zoo.lock")


@pytest.mark.parametrize(
    "nested", ["x = " + "[" * 100_000, "[[weights]]\nurls = " + "[" * 100_000, "a." * 20_000 + "a = 1"]
)
def test_a_lock_that_is_nested_without_end_is_an_error_of_ours(lock, nested):
    lock.write_text("version = 1\n" + nested)
    with pytest.raises(LockError):
        raise read_lock(lock).problems[0]


def test_a_lock_without_end_is_not_read(lock):
    with lock.open("wb") as file:
        file.truncate(50 << 30)  # a hole, which takes no room
    with pytest.raises(LockError, match="File too large"):
        read_lock(lock)


def test_an_empty_lock_is_not_said_to_be_of_a_later_version(lock):
    lock.write_text("")
    with pytest.raises(LockError, match=r"no version(?s:.)*take it from version control"):
        read_lock(lock)


def test_a_later_version_is_refused(lock):
    lock.write_text("version = 2\n")
    with pytest.raises(LockError, match="later zoo"):
        read_lock(lock)


def test_obtain_obeys_the_lock(lock, server):
    url = server.put("/net.pth", DATA)
    write_lock(lock, [entry(data=OTHER)])
    with pytest.raises(DigestMismatch, match="wrong bytes") as caught:
        obtain(*card(url, ""))
    assert caught.value.expected_digest == sha256(OTHER)
    assert caught.value.got_digest == sha256(DATA)


def test_a_lock_makes_weak_weights_proven(lock, server):
    url = server.put("/net.pth", DATA)
    write_lock(lock, [entry()])
    assert obtain(*card(url, sha256(DATA)[:8])).strength == "proven"


def test_a_digest_that_moved_upstream_is_an_error_that_shows_both(lock, server):
    write_lock(lock, [entry()])
    with pytest.raises(DigestMismatch, match="has moved") as caught:
        obtain(*card(server.url("/net.pth"), sha256(OTHER)))
    assert sha256(DATA) in str(caught.value)
    assert sha256(OTHER) in str(caught.value)
    assert server.requests == []


def test_what_the_lock_does_not_name_is_free(lock, server):
    write_lock(lock, [entry("other/net@V1")])
    assert obtain(*card(server.put("/net.pth", DATA), sha256(DATA))).fetched


def test_an_edited_lock_is_read_again(lock):
    write_lock(lock, [entry()])
    assert current_lock().entries
    write_lock(lock, [])
    assert not current_lock().entries


def test_the_lock_overrules_an_older_ref(lock, server):
    url = server.put("/net.pth", DATA)
    obtain(*card(url, sha256(DATA)[:8]), obey_lock=False)
    write_lock(lock, [entry(data=OTHER)])
    with pytest.raises(DigestMismatch):
        obtain(*card(url, ""))


def test_a_file_of_the_hub_is_locked_at_its_commit_and_the_branch_after_it(http_server):
    commit, name = "a" * 40, "org/net/resolve/main/model.safetensors"
    headers = {"ETag": f'"{sha256(DATA)}"', "X-Repo-Commit": commit}
    url = http_server(f"/{name}", DATA, headers)
    at_commit = url.replace("/main/", f"/{commit}/")
    assert urls_at_commit((url,), sha256(DATA)) == (at_commit, url)
    assert urls_at_commit((url,), sha256(OTHER)) == (url,)  # the branch has moved on


def test_offline_the_urls_of_a_lock_stay_as_they_are(monkeypatch, closed_port):
    url = f"http://127.0.0.1:{closed_port}/org/net/resolve/main/model.safetensors"
    assert urls_at_commit((url,), sha256(DATA)) == (url,)
    monkeypatch.setenv("ZOO_OFFLINE", "1")
    assert urls_at_commit((url,), sha256(DATA)) == (url,)


@pytest.fixture
def http_server():
    servers = []

    def serve(path, data, headers):
        class Handler(BaseHTTPRequestHandler):
            def do_GET(self):
                self.send_response(200 if self.path == path else 404)
                for name, value in {**headers, "Content-Length": str(len(data))}.items():
                    self.send_header(name, value)
                self.end_headers()
                if self.command == "GET":
                    self.wfile.write(data)

            def do_HEAD(self):
                self.do_GET()

            def log_message(self, *_):
                """Keep the output of the tests clean."""

        servers.append(ThreadingHTTPServer(("127.0.0.1", 0), Handler))
        threading.Thread(target=servers[-1].serve_forever, args=(0.02,), daemon=True).start()
        return f"http://127.0.0.1:{servers[-1].server_port}{path}"

    yield serve
    for server in servers:
        server.shutdown()
        server.server_close()


NET = "tiny/glyphnet"


def locked_otherwise(lock, **changes):
    """A lock of the small network under other tags than its default, or with another preprocessing."""
    weights = current_zoo().resolve(NET)[0].find()
    tags = changes.pop("tags", (weights.tag,))
    described = replace(weights.preprocessing, **changes)
    write_lock(lock, [entry(f"{NET}@{tag}", preprocessing=described) for tag in tags])
    return weights


def test_a_bare_name_means_the_locked_weights_where_the_default_has_moved(lock):
    locked_otherwise(lock, tags=("old",))
    assert (held_tag(NET, "new"), held_tag("tiny/other", "new")) == ("old", "new")
    with pytest.raises(UnknownTag, match="has no weights 'old'"):
        zoo.get(NET)


def test_a_bare_name_means_the_default_where_that_is_locked(lock):
    locked_otherwise(lock, tags=("new", "old"))
    assert held_tag(NET, "new") == "new"


def test_a_bare_name_is_refused_where_several_are_locked_and_none_is_the_default(lock):
    locked_otherwise(lock, tags=("older", "old"))
    with pytest.raises(LockError, match="may mean several weights that are locked: old, older") as raised:
        zoo.get(NET)
    assert f"say which, as in {NET}@old" in str(raised.value)


def test_weights_whose_images_are_prepared_otherwise_than_when_they_were_locked_are_refused(lock):
    locked_otherwise(lock, mean=(0.25,), crop=None)
    with pytest.raises(LockError, match=r"the preprocessing of tiny/glyphnet@.* is not the one") as raised:
        zoo.get(NET)
    assert "expected: crop=None, mean=(0.25,)" in str(raised.value)


def test_weights_whose_images_are_not_cropped_are_locked_as_that(lock):
    write_lock(lock, [entry(preprocessing=Preprocessing(crop=None))])
    assert read_lock(lock).entries["acme/net@V1"].preprocessing == Preprocessing(crop=None)


def test_a_lock_that_says_nothing_of_preprocessing_holds_none(lock):
    write_lock(lock, [entry()])
    assert read_lock(lock).entries["acme/net@V1"].preprocessing is None
    assert "preprocessing" not in lock.read_text()


def test_a_mark_of_byte_order_before_a_lock_is_nothing(lock):
    write_lock(lock, [entry()])
    lock.write_bytes(b"\xef\xbb\xbf" + lock.read_bytes())
    assert list(read_lock(lock).entries) == ["acme/net@V1"]


@pytest.mark.parametrize("text", ["version = 1\nweights = 3\n", "version = 1\n[[other]]\n", "\0\n"])
def test_of_a_lock_that_hides_all_entries_none_is_said_to_be_written_anew(lock, text):
    lock.write_text(text)
    with pytest.raises(LockError, match=r"not a lock file[\s\S]*version control"):
        read_lock(lock)
