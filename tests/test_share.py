"""``zoo.push`` and ``hf://``: saves on the Hugging Face hub, or on a small one on the loopback address."""

from __future__ import annotations

import contextlib
import json
import re
import shutil
import socket
import sys
import tempfile
import threading
from dataclasses import replace

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from PIL import Image
from safetensors.torch import save_file
from support import hub as small

import zoo_core as zoo
from zoo_core.cli.group import zoo as group
from zoo_core.errors import DigestMismatch, FetchError, Offline, UnknownFamily, Unreadable, UsageError
from zoo_core.recipe.model_card import model_card
from zoo_core.recipe.save_folder import outline_of, read_recipe
from zoo_core.recipe.timm_config import timm_config
from zoo_core.weights import Cache
from zoo_core.weights.hub_folder import lock_entry
from zoo_core.weights.trust.lock import write_lock

X = torch.zeros(1, 1, 32, 32)


@pytest.fixture
def flowers(tmp_path):
    model = zoo.get("tiny/glyphnet", num_classes=2, seed=0)
    return zoo.save(model, tmp_path / "flowers", class_names=["rose", "tulip"])


@pytest.fixture
def hub(tmp_path, monkeypatch):
    monkeypatch.setenv("ZOO_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("HF_TOKEN", "hf_a_token_of_this_test")
    with small.hub() as (state, address):
        monkeypatch.setenv("HF_ENDPOINT", address)
        yield state


def test_a_folder_says_what_is_in_it(flowers):
    answer = CliRunner().invoke(group, ["info", str(flowers)])
    assert "model: tiny/glyphnet, from GLYPHS_V1" in answer.stdout, answer.output
    assert "classes: 2: rose, tulip" in answer.stdout
    assert json.loads(CliRunner().invoke(group, ["info", str(flowers), "--json"]).stdout)["name"] == "glyphnet"


def test_a_folder_is_got_by_its_path(flowers, monkeypatch):
    monkeypatch.chdir(flowers.parent)
    assert zoo.class_names(zoo.get("./flowers")) == ("rose", "tulip")
    model = zoo.get("./flowers", num_classes=5, freeze="backbone")
    assert zoo.anatomy(model).main.num_classes == 5
    assert [name for name, each in model.named_parameters() if each.requires_grad] == ["fc.weight", "fc.bias"]
    with pytest.raises(UsageError, match="its own weights"):
        zoo.get("./flowers", weights=None)
    with pytest.raises(Unreadable):
        zoo.get("./nothing")


def test_what_is_no_name_on_the_hub_is_refused(flowers):
    for wrong in ("me/flowers", "hf://flowers", "hf://me/flowers/more", "hf://../x"):
        with pytest.raises(UsageError):
            zoo.push(flowers, wrong)


@pytest.mark.extra
def test_a_save_that_was_pushed_is_loaded_elsewhere(flowers, hub):
    name = zoo.push(flowers, "hf://me/flowers")
    files = hub.repos["me/flowers"][-1][1]
    assert sorted(files) == ["README.md", "model.safetensors", "recipe.json"]
    card = files["README.md"].decode()
    for said in ("library_name: zoo", "license: apache-2.0", "rose, tulip", 'zoo.load("hf://me/flowers")', '"mean"'):
        assert said in card
    own = zoo.load(flowers).eval()
    for shared in (name, "hf://me/flowers", "hf://me/flowers@main"):
        assert torch.equal(zoo.load(shared).eval()(X), own(X))
    assert zoo.class_names(zoo.get(name)) == ("rose", "tulip")


@pytest.mark.extra
@pytest.mark.parametrize("revision", ["", "@main"])
def test_the_hint_for_a_name_as_timm_spells_it_gets_the_save(revision, flowers, hub):
    zoo.push(flowers, "hf://me/flowers")
    with pytest.raises(UnknownFamily) as caught:
        zoo.get(f"hf-hub:me/flowers{revision}")
    name = caught.value.parts["hint"].split()[0]
    assert name == f"hf://me/flowers{revision}"
    assert zoo.class_names(zoo.get(name)) == ("rose", "tulip")


def test_load_says_what_a_name_as_timm_spells_it_is():
    with pytest.raises(Unreadable, match=r"zoo\.load\('hf://me/flowers'\)[\s\S]*zoo\.get\('hf-hub:me/flowers'\)"):
        zoo.load("hf-hub:me/flowers")


@pytest.mark.parametrize(
    ("name", "same"),
    [
        ("hf_hub:timm/resnet18.a1_in1k", "timm/resnet18@a1_in1k"),
        ("hf-hub:timm/resnet18.a1_in1k@main", "timm/resnet18@a1_in1k"),
        ("hf-hub:naver-ai/rdnet_base.nv_in1k", "timm/rdnet_base@nv_in1k"),
    ],
)
def test_the_hint_for_a_repository_in_the_catalogue_is_the_model_with_its_weights(name, same):
    with pytest.raises(UnknownFamily, match=f"next step: {same} has") as caught:
        zoo.get(name)
    assert caught.value.matches == (same,)
    model, _, tag = same.partition("@")
    repository = name.split(":")[1].partition("@")[0]
    assert any(f"/{repository}/" in url for url in zoo.info(model).find(tag).urls)


def test_the_hint_for_another_repository_of_timm_reads_its_file(tmp_path, monkeypatch):
    with pytest.raises(UnknownFamily) as caught:
        zoo.get("hf_hub:me/test_resnet.mine")
    code = re.search(r"zoo\.get\(.*?\)", caught.value.parts["hint"])[0]
    timm = pytest.importorskip("timm").create_model("test_resnet", num_classes=7)
    save_file(timm.state_dict(), tmp_path / "model.safetensors")
    monkeypatch.chdir(tmp_path)
    model = eval(code.replace("NAME", "test_resnet"))
    assert all(torch.equal(value, timm.state_dict()[name]) for name, value in model.state_dict().items())


@pytest.mark.extra
def test_a_commit_that_is_here_needs_no_network(flowers, hub, monkeypatch):
    name = zoo.push(flowers, "hf://me/flowers")
    zoo.load(name)
    before = len(hub.requests)
    monkeypatch.setenv("ZOO_OFFLINE", "1")
    zoo.load(name)
    assert len(hub.requests) == before
    with pytest.raises(Offline):
        zoo.load("hf://me/flowers")
    with pytest.raises(Offline):
        zoo.push(flowers, "hf://me/flowers")


@pytest.mark.extra
def test_a_revision_is_what_it_was_when_more_is_pushed(flowers, hub, tmp_path):
    first = zoo.push(flowers, "hf://me/flowers")
    model = zoo.load(flowers)
    zoo.push(zoo.save(zoo.swap_head(model, 7), tmp_path / "other"), "hf://me/flowers")
    assert zoo.anatomy(zoo.load(first)).main.num_classes == 2
    assert zoo.anatomy(zoo.load("hf://me/flowers")).main.num_classes == 7


@pytest.mark.extra
def test_what_the_hub_has_not_is_an_error_of_zoo(hub):
    with pytest.raises(FetchError, match="hf://me/nothing"):
        zoo.load("hf://me/nothing")


@pytest.mark.extra
def test_a_recipe_that_is_nested_without_end_is_refused_each_time(hub):
    hub.push("me/deep", {"recipe.json": b"[" * 100_000})
    for name in ("hf://me/deep", f"hf://me/deep@{hub.repos['me/deep'][-1][0]}"):
        with pytest.raises(FetchError, match="nested too deeply"):
            zoo.load(name)


@pytest.mark.extra
@pytest.mark.parametrize("is_locked", [False, True])
def test_a_commit_in_a_cache_that_came_with_a_checkout_is_fetched_unless_it_is_locked(
    is_locked, flowers, hub, tmp_path, monkeypatch
):
    name = zoo.push(flowers, "hf://me/flowers")
    planted = zoo.save(zoo.get("tiny/glyphnet", weights=None, num_classes=2, seed=7), tmp_path / "planted")
    Cache(tmp_path / "checkout" / "weights_cache").make()
    place = tmp_path / "checkout" / "weights_cache" / "hub" / "me--flowers" / name.rpartition("@")[2]
    shutil.copytree(planted, place)
    if is_locked:
        for file, data in hub.repos["me/flowers"][-1][1].items():
            (place / file).write_bytes(data)
    monkeypatch.chdir(tmp_path / "checkout")
    if is_locked:
        write_lock(tmp_path / "checkout" / "zoo.lock", [lock_entry(name)])
    monkeypatch.delenv("ZOO_CACHE")
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    if not is_locked:
        assert torch.equal(zoo.load(name).eval()(X), zoo.load(flowers).eval()(X))
    monkeypatch.setenv("ZOO_OFFLINE", "1")
    assert torch.equal(zoo.load(name).eval()(X), zoo.load(flowers).eval()(X))
    shutil.rmtree(place)
    shutil.copytree(planted, place)
    with pytest.raises(DigestMismatch if is_locked else Offline):
        zoo.load(name)


@pytest.mark.extra
@pytest.mark.parametrize("file", ["../../evil.safetensors", ".hidden", 3])
def test_a_recipe_from_the_hub_names_no_file_outside_its_folder(file, flowers, hub, tmp_path):
    zoo.push(flowers, "hf://me/flowers")
    files = dict(hub.repos["me/flowers"][-1][1])
    recipe = json.loads(files["recipe.json"])
    recipe["tensors"]["file"] = file
    hub.push("me/flowers", {"recipe.json": json.dumps(recipe).encode()})
    with pytest.raises(FetchError, match="its tensors are in"):
        zoo.load("hf://me/flowers")
    assert not [*tmp_path.rglob("evil*")]


@pytest.mark.extra
def test_tensors_that_were_changed_are_not_pushed(flowers, hub):
    next(flowers.glob("*.safetensors")).write_bytes(b"changed")
    with pytest.raises(UsageError, match="nothing was sent"):
        zoo.push(flowers, "hf://me/flowers")
    assert not hub.requests


@pytest.mark.extra
def test_the_command_prints_the_name_with_its_commit(flowers, hub):
    answer = CliRunner().invoke(group, ["push", str(flowers), "hf://me/flowers"])
    assert answer.stdout == f"hf://me/flowers@{hub.repos['me/flowers'][-1][0]}\n", answer.output


@pytest.mark.extra
def test_the_card_has_what_a_run_of_training_measured(flowers, hub):
    (flowers / "metrics.json").write_text(json.dumps({"metrics": {"accuracy": 0.94444, "lost": None}, "settings": {}}))
    zoo.push(flowers, "hf://me/flowers")
    card = hub.repos["me/flowers"][-1][1]["README.md"].decode()
    assert "## Metrics\n\n- accuracy: 0.9444\n\n" in card


@pytest.mark.extra
def test_the_card_and_the_outline_say_that_an_image_has_any_number_of_labels(flowers, tmp_path):
    folder = zoo.save(zoo.load(flowers), tmp_path / "several", multi_label=True)
    said = "n image has any number of them, and zoo.predict gives those of at least 0.5"
    assert said in model_card(read_recipe(folder / "recipe.json"), "me/flowers")
    assert said in outline_of(str(folder))
    assert said not in model_card(read_recipe(flowers / "recipe.json"), "me/flowers")


def test_metrics_that_are_a_link_are_not_published(flowers, hub, tmp_path):
    (tmp_path / "token.json").write_text(json.dumps({"client": "secret"}))
    (flowers / "metrics.json").symlink_to(tmp_path / "token.json")
    with pytest.raises(Unreadable, match="a link to another place"):
        zoo.push(flowers, "hf://me/flowers")
    (flowers / "metrics.json").unlink()
    zoo.push(flowers, "hf://me/flowers")


@pytest.mark.extra
def test_timm_loads_what_is_its_own(hub, tmp_path):
    import timm

    model = zoo.get("timm/test_vit", weights=None, num_classes=3, in_channels=1, seed=0)
    zoo.set_preprocessing(model, zoo.Preprocessing((160, 160), (168,), mean=(0.4,), std=(0.2,)))
    zoo.push(zoo.save(model, tmp_path / "save", class_names=["a", "b", "c"]), "hf://me/vit")
    files = hub.repos["me/vit"][-1][1]
    (tmp_path / "there").mkdir()
    for name, data in files.items():
        (tmp_path / "there" / name).write_bytes(data)
    found = timm.create_model(f"local-dir:{tmp_path / 'there'}", pretrained=True).eval()
    x = torch.randn(2, 1, 160, 160)
    assert torch.equal(found(x), model.eval()(x))
    assert found.pretrained_cfg["label_names"] == ["a", "b", "c"]
    assert timm.data.resolve_model_data_config(found)["mean"] == [0.4]
    assert 'timm.create_model("hf_hub:me/vit", pretrained=True)' in files["README.md"].decode()


@pytest.mark.parametrize(
    ("changes", "has_config"),
    [
        ({}, True),
        ({"crop": (96, 96), "resize": (110, 110)}, True),
        ({"crop": None, "resize": (160, 130)}, True),
        ({"fit": "border", "resize": (168, 168)}, True),
        ({"fit": "cover", "crop": (96, 128), "resize": (110, 147)}, True),
        ({"mean": (120.0,) * 3, "std": (60.0,) * 3, "value_range": 255.0}, True),
        ({"interpolation": "bicubic"}, True),
        ({"channel_order": "BGR"}, False),
        ({"resize": (168, 200)}, False),
        ({"antialias": False}, False),
    ],
)
def test_timm_prepares_images_as_the_save_does_or_gets_no_config(changes, has_config, tmp_path):
    import timm

    model = zoo.get("timm/test_resnet", weights=None, seed=0)
    known = replace(zoo.preprocessing("timm/test_resnet"), **changes)
    folder = zoo.save(zoo.set_preprocessing(model, known), tmp_path / "save")
    recipe = read_recipe(folder / "recipe.json")
    config = timm_config(recipe, folder / recipe.tensors["file"])
    assert (config is not None) == has_config
    assert f'"interpolation": "{known.interpolation}"' in model_card(recipe, "me/it")
    if config:
        found = timm.create_model(config["architecture"], pretrained_cfg=config["pretrained_cfg"])
        prepare = timm.data.create_transform(**timm.data.resolve_model_data_config(found))
        image = Image.fromarray(np.random.default_rng(0).integers(0, 255, (300, 200, 3), dtype=np.uint8))
        torch.testing.assert_close(prepare(image), zoo.transforms(model)(image), atol=0.02, rtol=0)


def test_a_timm_model_may_have_no_input_size(monkeypatch, tmp_path):
    def get(*arguments, **options):
        model = zoo.get(*arguments, **options)
        model.pretrained_cfg = {**model.pretrained_cfg, "input_size": None}
        return model

    monkeypatch.setattr("zoo_core.recipe.timm_config.get", get)
    folder = zoo.save(zoo.get("timm/test_resnet", weights=None), tmp_path / "save")
    recipe = read_recipe(folder / "recipe.json")
    config = timm_config(recipe, folder / recipe.tensors["file"])
    assert config["pretrained_cfg"]["input_size"][0] == 3


@pytest.mark.extra
def test_what_timm_would_not_build_has_no_config_for_it(hub, tmp_path):
    model = zoo.swap_head(zoo.get("timm/test_vit", weights=None), zoo.mlp_head(3, hidden=(8,)))
    hub.push("me/vit", {"config.json": b"{}", "notes.txt": b"mine"})  # of an earlier push, and of the user
    zoo.push(zoo.save(model, tmp_path / "save"), "hf://me/vit")
    files = hub.repos["me/vit"][-1][1]
    assert "config.json" not in files
    assert files["notes.txt"] == b"mine"


@pytest.mark.parametrize(
    "planted",
    [
        {"options": {"checkpoint_path": "planted.pth"}},
        {"options": {"pretrained_cfg": {"file": "planted.pth"}, "pretrained": True}},
        {"options": {"pretrained": True}},
        {"edits": [{"verb": "swap_head", "head": 10**12}]},
        {"edits": [{"verb": "adapt_stem", "in_channels": "x"}]},
    ],
)
def test_timm_is_given_nothing_that_a_folder_may_not_say(planted, tmp_path, monkeypatch):
    folder = zoo.save(zoo.get("timm/test_resnet", weights=None), tmp_path / "save")
    recipe = read_recipe(folder / "recipe.json")
    planted = {name: {**recipe.options, **each} if name == "options" else each for name, each in planted.items()}
    (tmp_path / "planted.pth").write_bytes(b"")
    monkeypatch.chdir(tmp_path)
    is_opened, is_on = [], [True]
    sys.addaudithook(lambda event, what: is_opened.append(what) if is_on and _is_planted(event, what) else None)
    assert timm_config(replace(recipe, **planted), next(folder.glob("*.safetensors"))) is None
    is_on.clear()
    assert is_opened == []


def _is_planted(event, what):
    return event == "socket.getaddrinfo" or (event == "open" and "planted" in str(what[0]))


@pytest.mark.extra
def test_a_revision_is_pinned_by_its_commit_in_the_lock(flowers, hub, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    first = zoo.push(flowers, "hf://me/flowers")
    answer = CliRunner().invoke(group, ["lock", "hf://me/flowers"])
    assert answer.exit_code == 0, answer.output
    assert first.partition("@")[2] in (tmp_path / "zoo.lock").read_text()
    zoo.push(zoo.save(zoo.swap_head(zoo.load(flowers), 7), tmp_path / "other"), "hf://me/flowers")
    assert zoo.anatomy(zoo.load("hf://me/flowers")).main.num_classes == 2
    assert CliRunner().invoke(group, ["sync", "--frozen"]).stdout == "hf://me/flowers@main  is here\n"
    before = len(hub.requests)
    monkeypatch.setenv("ZOO_OFFLINE", "1")
    zoo.load("hf://me/flowers")
    assert len(hub.requests) == before
    monkeypatch.delenv("ZOO_OFFLINE")
    moved = CliRunner().invoke(group, ["lock"])
    assert "the digest of hf://me/flowers@main has moved" in str(moved.exception)
    assert CliRunner().invoke(group, ["lock", "--update"]).exit_code == 0
    assert zoo.anatomy(zoo.load("hf://me/flowers")).main.num_classes == 7


@pytest.mark.extra
def test_a_recipe_that_is_not_the_locked_one_is_refused(flowers, hub, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    zoo.push(flowers, "hf://me/flowers")
    CliRunner().invoke(group, ["lock", "hf://me/flowers"])
    commit, files = hub.repos["me/flowers"][-1]
    hub.repos["me/flowers"][-1] = (commit, {**files, "recipe.json": files["recipe.json"].replace(b"rose", b"toad")})
    shutil.rmtree(tmp_path / "cache")
    with pytest.raises(DigestMismatch, match="hf://me/flowers is not what was locked"):
        zoo.load("hf://me/flowers")


@pytest.mark.extra
def test_tensors_that_were_cut_off_are_fetched_again(flowers, hub, tmp_path):
    name = zoo.push(flowers, "hf://me/flowers")
    zoo.load(name)
    (tensors,) = (tmp_path / "cache").rglob("model.safetensors")
    tensors.write_bytes(tensors.read_bytes()[:1000])
    assert torch.equal(zoo.load(name).eval()(X), zoo.load(flowers).eval()(X))


@pytest.mark.extra
def test_the_hint_is_for_what_happened(flowers, hub, monkeypatch, closed_port):
    with pytest.raises(FetchError, match="check the branch, tag or commit"):
        zoo.load("hf://me/nothing@v9")
    monkeypatch.setenv("HF_ENDPOINT", f"http://127.0.0.1:{closed_port}")
    with pytest.raises(FetchError, match="check the network and HF_ENDPOINT"):
        zoo.push(flowers, "hf://me/flowers")


@pytest.mark.extra
def test_a_connection_that_breaks_is_not_taken_for_a_missing_token(flowers, hub, monkeypatch):
    with socket.create_server(("127.0.0.1", 0)) as server:
        monkeypatch.setenv("HF_ENDPOINT", f"http://127.0.0.1:{server.getsockname()[1]}")

        def hang_up():
            connection, _ = server.accept()
            connection.recv(10)
            connection.close()

        thread = threading.Thread(target=hang_up)
        thread.start()
        with pytest.raises(FetchError) as caught:
            zoo.push(flowers, "hf://me/flowers")
        thread.join()
    assert "check the network" in caught.value.parts["hint"]


@pytest.mark.extra
def test_a_hub_that_is_busy_for_a_moment_is_asked_again_and_the_wait_is_told(flowers, hub, caplog):
    hub.busy.add("/commit/main")
    zoo.push(flowers, "hf://me/flowers")
    assert "HTTP Error 503" in caplog.text
    assert "Retrying in 1s [Retry 1/5]" in caplog.text
    assert "model.safetensors" in hub.repos["me/flowers"][-1][1]


@pytest.mark.extra
def test_a_temporary_folder_that_takes_no_copy_is_named(flowers, hub, monkeypatch, tmp_path):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "gone"))
    with pytest.raises(UsageError, match=r"could not be written to .*gone[\s\S]*set TMPDIR"):
        zoo.push(flowers, "hf://me/flowers")


def test_names_that_the_hub_does_not_take_are_refused_here():
    for wrong in ("hf://mé/flowers", "hf://me/a--b", "hf://me/a..b", "hf://me/a.git", "hf://me/a-", "hf://me/a@-x"):
        with pytest.raises(UsageError, match="no name on the hub"):
            zoo.load(wrong)


@pytest.mark.extra
def test_the_card_shows_a_class_as_it_is_called(hub, tmp_path):
    model = zoo.get("tiny/glyphnet", num_classes=2, seed=0)
    zoo.push(zoo.save(model, tmp_path / "save", class_names=["a\n---\nlicense: mit", "<b>"]), "hf://me/odd")
    card = hub.repos["me/odd"][-1][1]["README.md"].decode()
    assert "a --- license: mit, \\<b\\>" in card


def test_nothing_in_a_recipe_is_markup_in_its_card(flowers):
    odd = "x]\nlicense: mit\n# a `<script>`"
    recipe = read_recipe(flowers / "recipe.json")
    card = model_card(replace(recipe, family=odd, name=odd, versions={odd: odd}, weights={"tag": odd}), "me/odd")
    lines = card.splitlines()
    assert [line for line in lines if line.startswith(("license:", "# "))] == ["license: unknown", "# odd"]
    assert "<script>" not in card.replace("\\<script\\>", "").partition("license: unknown")[2]


@pytest.mark.extra
def test_a_gated_repository_says_what_to_do_and_opens_with_a_token(flowers, hub, monkeypatch):
    name = zoo.push(flowers, "hf://me/flowers")
    hub.gated.add("me/flowers")
    monkeypatch.delenv("HF_TOKEN")
    with pytest.raises(FetchError, match="accept its conditions"):
        zoo.load(name)
    monkeypatch.setenv("HF_TOKEN", "hf_a_token_of_this_test")
    assert zoo.class_names(zoo.load(name)) == ("rose", "tulip")


@pytest.mark.extra
@pytest.mark.parametrize(
    ("refusal", "hint"),
    [
        ((401, "RepoNotFound"), "where it is private, set HF_TOKEN to a token with access to it"),
        ((404, "RepoNotFound"), "where it is private, set HF_TOKEN to a token with access to it"),
        ((403, "GatedRepo"), "accept its conditions"),
        ((401, ""), "a token with access to this repository; to push, it needs write access"),
        ((403, ""), "a token with access to this repository; to push, it needs write access"),
        ((429, ""), "too many requests"),
    ],
)
def test_a_private_repository_is_for_the_right_token_alone(refusal, hint, flowers, hub, monkeypatch):
    monkeypatch.setenv("HF_TOKEN", "hf_right")
    name = zoo.push(flowers, "hf://me/flowers", private=True)
    hub.refusal = refusal
    monkeypatch.setenv("HF_TOKEN", "hf_wrong")
    for use in (lambda: zoo.load(name), lambda: zoo.push(flowers, "hf://me/flowers")):
        with pytest.raises(FetchError, match=hint):
            use()
    monkeypatch.setenv("HF_TOKEN", "hf_right")
    assert zoo.class_names(zoo.load(name)) == ("rose", "tulip")


@pytest.mark.extra
@pytest.mark.parametrize("file", ["recipe.json", "model.safetensors"])
def test_a_connection_that_breaks_leaves_nothing_that_is_taken_for_whole(file, flowers, hub):
    name = zoo.push(flowers, "hf://me/flowers")
    hub.cut.add(file)
    with contextlib.suppress(FetchError):  # the client may try again by itself
        zoo.load(name)
    assert torch.equal(zoo.load(name).eval()(X), zoo.load(flowers).eval()(X))
    assert not hub.cut
