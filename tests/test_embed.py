"""``zoo.embed``: images to vectors, in memory and in a file that a killed run goes on with."""

from __future__ import annotations

import copy
import errno
import io
import os
import signal
import subprocess
import sys
import tarfile
import time

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from PIL import Image
from sklearn.linear_model import LogisticRegression
from sklearn.preprocessing import StandardScaler

import zoo_core as zoo
from zoo_core.cli.group import zoo as group
from zoo_core.embedding.probe import _DECAY, _held_out
from zoo_core.embedding.shards import images_in
from zoo_core.errors import ImageError, NotSupported, UsageError, ZooWarning

RNG = np.random.default_rng(0)


@pytest.fixture(scope="module")
def glyphs():
    return zoo.get("tiny/glyphnet").eval()


@pytest.fixture
def photos(tmp_path):
    """Six images in two class folders, of two brightnesses."""
    for i in range(6):
        path = tmp_path / "photos" / ("dark" if i < 3 else "light") / f"{i}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        low = 0 if i < 3 else 128
        Image.fromarray(RNG.integers(low, low + 127, (32, 40), dtype=np.uint8)).save(path)
    return tmp_path / "photos"


def test_vectors_are_what_the_head_is_given(glyphs, photos):
    found = zoo.embed(glyphs, photos)
    backbone, _ = zoo.split(glyphs)
    prepare = zoo.transforms(glyphs)
    with torch.no_grad():
        expected = backbone(torch.stack([prepare(Image.open(name)) for name in found.names]))
    torch.testing.assert_close(found.vectors, expected, rtol=0, atol=1e-5)
    assert found.labels == ("dark",) * 3 + ("light",) * 3
    assert found.sizes == ((32, 40),) * 6


@pytest.mark.parametrize("name", ["squeezenet1_1", "timm/test_vit", "pretrainedmodels/squeezenet1_1"])
def test_maps_and_tokens_of_any_family_become_one_vector(name, photos):
    model = zoo.set_preprocessing(zoo.get(name, weights=None, num_classes=3, seed=0), name)
    assert zoo.embed(model, photos / "dark").vectors.ndim == 2


def test_a_model_without_a_head_has_no_vectors(photos):
    with pytest.raises(NotSupported):
        zoo.embed(zoo.get("raft_small", weights=None, device="meta"), photos)


def test_a_bad_image_is_named_and_the_others_have_vectors(glyphs, photos):
    (photos / "bad.png").write_text("hello")
    with pytest.warns(ZooWarning, match=r"1 of 7 images(.|\n)*bad\.png"):
        found = zoo.embed(glyphs, photos)
    assert [*found.failed] == [str(photos / "bad.png")]
    with pytest.raises(ImageError, match=r"bad\.png"):
        zoo.embed(glyphs, photos / "bad.png")


def test_a_folder_may_be_in_the_home_folder_and_keeps_its_labels(glyphs, photos, monkeypatch):
    monkeypatch.setenv("HOME", str(photos.parent))
    assert zoo.embed(glyphs, f"~/{photos.name}").labels == zoo.embed(glyphs, photos).labels != ("",) * 6


def test_an_image_is_embedded_as_those_that_it_is_compared_with_were(glyphs, photos):
    found = zoo.embed(glyphs, photos, size=16)
    (name, similarity), *_ = found.nearest(photos / "light" / "4.png", 1)
    assert (name, similarity) == (str(photos / "light" / "4.png"), pytest.approx(1))


def test_an_image_is_the_one_most_like_itself(glyphs, photos):
    found = zoo.embed(glyphs, photos)
    (name, similarity), *_ = found.nearest(photos / "light" / "4.png", 3)
    assert (name, similarity) == (str(photos / "light" / "4.png"), pytest.approx(1))
    with pytest.raises(UsageError, match="no model"):
        zoo.Embeddings(found.names, found.vectors).nearest(photos / "light" / "4.png")
    with pytest.raises(UsageError, match="a vector of 3"):
        found.nearest(torch.zeros(3))


def test_near_duplicates_and_outliers_are_those_of_the_cosines():
    vectors = torch.tensor([[1.0, 0.0], [1.0, 0.01], [1.0, 0.3], [-1.0, 0.2]])
    found = zoo.Embeddings(tuple("abcd"), vectors)
    copies = zoo.Embeddings(tuple("abc"), torch.tensor([[0.3, 0.7, 0.1], [0.3, 0.7, 0.1], [0.6, 1.4, 0.2]]))
    assert len(copies.duplicates(1.0)) == 3
    unit = torch.nn.functional.normalize(vectors, dim=1)
    assert found.duplicates(0.99) == [("a", "b", pytest.approx((unit[0] @ unit[1]).item()))]
    assert found.outliers(1, k=2)[0][0] == "d"


@pytest.mark.parametrize("seed", [10**30, "one"])
def test_a_seed_that_torch_does_not_take_is_refused_wherever_one_is_given(seed, tmp_path):
    rows = zoo.Embeddings(("a", "b", "c", "d"), torch.eye(4), ("x", "x", "y", "y"))
    features = zoo.cached_features(torch.nn.Identity(), [(torch.ones(2), 0)], folder=tmp_path)
    for call in (
        lambda: zoo.probe(rows, seed=seed),
        lambda: features.batches(1, seed=seed),
        lambda: zoo.swap_head(zoo.get("tiny/glyphnet"), 3, seed=seed),
    ):
        with pytest.raises(UsageError, match=r"seed cannot be .*\n  expected: an integer that fits in 64 bits"):
            call()


def test_a_probe_tells_classes_that_are_apart_and_not_noise(glyphs, photos):
    assert zoo.probe(zoo.embed(glyphs, photos)).classes == 2
    noise = zoo.Embeddings(tuple(map(str, range(200))), torch.randn(200, 8), ("a", "b") * 100)
    assert zoo.probe(noise).linear < 0.8
    with pytest.raises(UsageError, match="cannot be told apart"):
        zoo.probe(zoo.embed(glyphs, photos / "dark"))


def test_one_image_is_looked_for_and_not_the_first_of_many(glyphs, photos):
    with pytest.raises(UsageError, match="several images"):
        zoo.embed(glyphs, photos).nearest(photos)


@pytest.mark.parametrize("vector", [torch.zeros(2), torch.tensor([0.0, float("nan")])])
def test_nothing_is_near_to_a_vector_without_a_direction(vector):
    with pytest.raises(UsageError, match=r"(zero|nan).*nothing is near"):
        zoo.Embeddings(("a", "b"), torch.eye(2)).nearest(vector)


def test_one_image_is_no_outlier():
    assert zoo.Embeddings(("a",), torch.ones(1, 2)).outliers() == []


@pytest.mark.parametrize("columns", [(("a",),), (("a", "b"), ("x",)), (("a", "b"), (), ((1, 1),))])
def test_columns_of_other_lengths_are_refused(columns):
    names, *rest = columns
    with pytest.raises(UsageError, match=r"1 (names|labels|sizes) for 2 vectors"):
        zoo.Embeddings(names, torch.eye(2), *rest)


# With pyarrow and usearch


@pytest.mark.extra
def test_a_file_has_a_row_for_each_image_and_takes_in_new_ones(glyphs, photos, tmp_path):
    out = tmp_path / "features.parquet"
    expected = zoo.embed(glyphs, photos)
    found = zoo.embed(glyphs, photos, out=out)
    assert (found.names, found.labels, found.sizes) == (expected.names, expected.labels, expected.sizes)
    assert torch.equal(found.vectors, expected.vectors)
    Image.fromarray(np.zeros((8, 8), dtype=np.uint8)).save(photos / "new.png")
    again = zoo.embed(glyphs, photos, out=out)
    assert sorted(again.names) == sorted([*expected.names, str(photos / "new.png")])
    assert sorted(path.name for path in tmp_path.iterdir()) == ["features.parquet", "photos"]
    loaded = zoo.Embeddings.load(out)
    assert zoo.Embeddings.load(loaded.save(tmp_path / "copy.parquet")).names == loaded.names


@pytest.mark.extra
def test_a_file_of_another_model_is_left_alone(glyphs, photos, tmp_path):
    out = tmp_path / "features.parquet"
    zoo.embed(glyphs, photos, out=out)
    before = out.read_bytes()
    with pytest.raises(UsageError, match="another backbone"):
        zoo.embed(
            zoo.set_preprocessing(zoo.get("tiny/glyphnet", weights=None, seed=1), "tiny/glyphnet"), photos, out=out
        )
    with pytest.raises(UsageError, match="another transforms"):
        zoo.embed(glyphs, photos, out=out, size=16)
    assert out.read_bytes() == before
    assert sorted(path.name for path in tmp_path.iterdir()) == ["features.parquet", "photos"]
    out.write_text("hello")
    with pytest.raises(UsageError, match="holds no embeddings"):
        zoo.embed(glyphs, photos, out=out)


@pytest.mark.parametrize(("name", "got"), [("nosuch.parquet", "no such file"), (".", "a folder")])
def test_what_is_no_file_of_embeddings_is_said_to_be_none(tmp_path, name, got):
    with pytest.raises(UsageError, match=rf"holds no embeddings\n  got: {got}"):
        zoo.Embeddings.load(tmp_path / name)


@pytest.mark.parametrize("threshold", [3, -1.1, "0.9", True])
def test_a_threshold_that_no_cosine_reaches_is_refused(threshold):
    found = zoo.Embeddings(("a", "b"), torch.eye(2), ("", ""), ((1, 1), (1, 1)), {})
    with pytest.raises(UsageError, match="expected: a cosine similarity"):
        found.duplicates(threshold)


@pytest.mark.extra
@pytest.mark.parametrize("crash", ["between parts", "before the merge", "after the merge"])
def test_a_run_that_dies_anywhere_goes_on(crash, glyphs, photos, tmp_path, monkeypatch):
    from zoo_core.embedding import parquet

    class Killed(BaseException):
        pass

    def die(*_, **__):
        raise Killed

    out = tmp_path / "features.parquet"
    monkeypatch.setattr(parquet, "PART", 2)
    with monkeypatch.context() as patched:
        if crash == "between parts":
            write, count = parquet._write_part, iter(range(9))
            patched.setattr(parquet, "_write_part", lambda *args: write(*args) if next(count) < 1 else die())
        else:
            patched.setattr(*((parquet, "_merge") if crash == "before the merge" else (parquet.shutil, "rmtree")), die)
        with pytest.raises(Killed):
            zoo.embed(glyphs, photos, out=out)
    assert (tmp_path / "features.parquet.parts").exists()
    found = zoo.embed(glyphs, photos, out=out)
    assert sorted(found.names) == sorted(zoo.embed(glyphs, photos).names)
    assert not (tmp_path / "features.parquet.parts").exists()


@pytest.mark.extra
def test_a_file_that_finds_no_room_leaves_no_part_of_itself(glyphs, photos, tmp_path, monkeypatch):
    def full(_descriptor):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(UsageError, match="No space left"):
        zoo.embed(glyphs, photos, out=tmp_path / "features.parquet")
    assert [path.name for path in tmp_path.iterdir()] == ["photos"]


_SLOW = """
import sys, time
from zoo_core.embedding import parquet
import zoo_core as zoo
parquet.PART, write = 2, parquet._write_part
def slowly(*args):
    write(*args)
    time.sleep(0.2)
parquet._write_part = slowly
zoo.embed("tiny/glyphnet", sys.argv[1], out=sys.argv[2], batch_size=1)
"""


@pytest.mark.extra
def test_kill_9_loses_no_row_and_writes_none_twice(glyphs, photos, tmp_path):
    out = tmp_path / "features.parquet"
    child = subprocess.Popen([sys.executable, "-c", _SLOW, str(photos), str(out)])
    while child.poll() is None and not [*tmp_path.glob("features.parquet.parts/*.parquet")]:
        time.sleep(0.02)
    os.kill(child.pid, signal.SIGKILL)
    child.wait()
    assert not out.exists()
    found = zoo.embed(glyphs, photos, out=out)
    assert sorted(found.names) == sorted(zoo.embed(glyphs, photos).names)


@pytest.mark.extra
def test_an_index_finds_what_comparing_all_finds():
    vectors = torch.randn(500, 16, generator=torch.Generator().manual_seed(0))
    found = zoo.Embeddings(tuple(map(str, range(500))), vectors)
    exact, index = found.nearest(vectors[7], 3, exact=True), found.nearest(vectors[7], 3, exact=False)
    assert [name for name, _ in exact] == [name for name, _ in index]
    assert [value for _, value in exact] == pytest.approx([value for _, value in index], abs=1e-4)


@pytest.mark.extra
def test_the_commands_write_search_and_probe(photos, tmp_path):
    out = str(tmp_path / "features.parquet")
    query = str(photos / "dark" / "1.png")
    answer = CliRunner().invoke(group, ["embed", "tiny/glyphnet", str(photos), "--out", out, "--nearest", query])
    assert answer.exit_code == 0, answer.output
    assert answer.stdout.splitlines()[:2] == [f"{out}: 6 vectors of 64, 0 failed", f"1.0000  {query}"]
    assert (
        "accuracy on 2 held-out images, trained on 4 images of 2 classes"
        in CliRunner().invoke(group, ["probe", out]).stdout
    )
    several = ["embed", "tiny/glyphnet", query, str(photos / "dark" / "2.png"), "--out", str(tmp_path / "two.parquet")]
    assert "2 vectors of 64" in CliRunner().invoke(group, several).stdout
    assert "no two images are as similar as 1\n" in CliRunner().invoke(group, [*several, "--duplicates", "1"]).stderr
    assert "an untrained model sees nothing" in CliRunner().invoke(group, [*several, "--weights", "none"]).stderr


@pytest.mark.extra
@pytest.mark.parametrize("name", ["x.csv", "x.parquet.gz", "x", ".parquet"])
def test_a_file_whose_name_does_not_say_parquet_is_refused_before_anything_is_read(name, glyphs, photos, tmp_path):
    out = tmp_path / name
    with pytest.raises(UsageError, match=r"ends in \.parquet") as caught:
        zoo.embed("tiny/none", "nowhere", out=out)
    answer = CliRunner().invoke(group, ["embed", "tiny/none", "nowhere", "--out", str(out)])
    assert str(answer.exception) == str(caught.value)
    with pytest.raises(UsageError, match=r"ends in \.parquet"):
        zoo.embed(glyphs, photos).save(out)
    assert [*tmp_path.iterdir()] == [photos]
    instead = caught.value.parts["hint"].partition(";")[0]
    assert len(zoo.embed(glyphs, photos, out=instead)) == len(zoo.Embeddings.load(instead)) == 6


@pytest.mark.extra
def test_images_without_paths_are_not_mixed_up_in_a_file(glyphs, tmp_path):
    with pytest.raises(UsageError, match=r"image 0 has no path(.|\n)*\.save\(out\)"):
        zoo.embed(glyphs, [np.zeros((8, 8), dtype=np.uint8)], out=tmp_path / "features.parquet")
    found = zoo.embed(glyphs, [np.zeros((8, 8), dtype=np.uint8)])
    assert zoo.Embeddings.load(found.save(tmp_path / "features.parquet")).names == ("image 0",)


@pytest.mark.extra
def test_two_runs_do_not_write_to_one_file_at_once(glyphs, photos, tmp_path):
    from zoo_core.embedding.parquet import _locked

    out = tmp_path / "features.parquet"
    with _locked(out), pytest.raises(UsageError, match="another run is writing"):
        zoo.embed(glyphs, photos, out=out)
    zoo.embed(glyphs, photos, out=out)


def test_vectors_that_are_not_numbers_are_refused():
    found = zoo.Embeddings(tuple("abcd"), torch.full((4, 2), float("nan")), ("x", "x", "y", "y"))
    with pytest.raises(UsageError, match="nothing is near"):
        found.nearest(found.vectors[0])
    for search in (zoo.probe, zoo.Embeddings.outliers, zoo.Embeddings.duplicates, lambda e: e.nearest(torch.ones(2))):
        with pytest.raises(UsageError, match="vectors with nan or infinity in them: 4, such as that of a"):
            search(found)


def test_a_model_that_gives_nan_gives_no_vector(glyphs, photos):
    broken = copy.deepcopy(glyphs)
    next(broken.parameters()).data.fill_(float("nan"))
    with pytest.raises(ImageError, match="the model returns nan or infinity"):
        zoo.embed(broken, photos)


@pytest.mark.parametrize("scale", [1e-9, 1e9])
def test_a_linear_probe_has_the_accuracy_of_sklearns_logistic_regression(scale):
    generator = torch.Generator().manual_seed(0)
    y = torch.randint(0, 4, (200,), generator=generator)
    x = torch.randn(200, 8, generator=generator) + torch.nn.functional.one_hot(y, 8)
    x[:, 0] *= scale
    x[:, 7] = 0.1  # a unit that is the same for all images
    found = zoo.Embeddings(tuple(map(str, range(200))), x, tuple(f"class {i}" for i in y.tolist()))
    held = _held_out(y, 0)
    scaler = StandardScaler().fit(x[~held])
    model = LogisticRegression(C=1 / (2 * _DECAY * int((~held).sum())), max_iter=1000)
    model.fit(scaler.transform(x[~held]), y[~held])
    assert zoo.probe(found).linear == pytest.approx(model.score(scaler.transform(x[held]), y[held]))


def write_shards(photos, folder, *, labels=True):
    """Two shards of the images, with a class beside each."""
    for number, kind in enumerate(("dark", "light")):
        with tarfile.open(folder / f"shard-{number:03}.tar", "w") as shard:
            for image in sorted((photos / kind).iterdir()):
                shard.add(image, image.name)
                if labels:
                    shard.addfile(*member(f"{image.stem}.cls", kind.encode()))
    return str(folder / "shard-{000..001}.tar")


def member(name, content):
    info = tarfile.TarInfo(name)
    info.size = len(content)
    return info, io.BytesIO(content)


def test_shards_have_the_vectors_of_their_images_and_the_classes_beside_them(glyphs, photos, tmp_path):
    found, expected = zoo.embed(glyphs, write_shards(photos, tmp_path)), zoo.embed(glyphs, photos)
    assert torch.equal(found.vectors, expected.vectors)
    assert found.labels == expected.labels
    assert found.names[0] == str(tmp_path / "shard-000.tar" / "0.png")
    assert zoo.embed(glyphs, [str(tmp_path / "shard-001.tar")]).labels == ("light",) * 3


def test_a_shard_that_is_cut_off_gives_what_it_has_and_is_named(glyphs, photos, tmp_path):
    shards = write_shards(photos, tmp_path)
    whole = (tmp_path / "shard-001.tar").read_bytes()
    (tmp_path / "shard-001.tar").write_bytes(whole[: len(whole) // 2])
    with pytest.warns(ZooWarning, match=r"shard-001\.tar"):
        found = zoo.embed(glyphs, shards)
    assert 3 < len(found) < 6
    with pytest.raises(ImageError, match="there is no such shard"):
        zoo.embed(glyphs, str(tmp_path / "shard-{000..002}.tar"))


@pytest.mark.parametrize(
    ("names", "end", "reason", "rows"),
    [
        (["0.png", "0.cls", "1.png"], "cut", "it was cut off", 2),  # between two members, where tarfile sees an end
        (["0.png", "0.cls", "1.png"], "appended", "another archive was appended to it, which was not read", 2),
        (["0.png", "0.cls", "0.png", "0.cls"], "", "0.png is there twice; the images after it were not read", 0),
        (
            ["0.png", "1.png", "0.cls", "1.cls"],
            "",
            "of its name; the images after it were not read",
            2,
        ),
        (["0.cls", "1.cls", "0.png", "1.png"], "", "0.png is apart", 0),
    ],
)
def test_a_shard_that_would_lose_rows_or_labels_is_named(glyphs, photos, tmp_path, names, end, reason, rows):
    image = (photos / "dark" / "0.png").read_bytes()
    content = io.BytesIO()
    with tarfile.open(fileobj=content, mode="w") as shard:
        for name in names:
            shard.addfile(*member(name, image if name.endswith("png") else b"7"))
        size = shard.offset
    whole = content.getvalue()
    (tmp_path / "a.tar").write_bytes({"cut": whole[:size], "appended": whole + whole}.get(end, whole))
    images = list(images_in([tmp_path / "a.tar"]))
    assert len(images) == rows + 1
    assert reason in str(images[-1][0].item)


def test_links_in_a_shard_lead_nowhere(glyphs, photos, tmp_path):
    shards = write_shards(photos, tmp_path)
    with tarfile.open(tmp_path / "shard-000.tar", "a") as shard:
        link = tarfile.TarInfo("secret.png")
        link.type, link.linkname = tarfile.SYMTYPE, str(photos / "light" / "4.png")
        shard.addfile(link)
    assert len(zoo.embed(glyphs, shards)) == 6


@pytest.mark.extra
def test_an_image_has_one_row_from_whichever_folder_a_run_starts(glyphs, photos, tmp_path, monkeypatch):
    out = tmp_path / "features.parquet"
    for folder, images in ((tmp_path, "photos"), (photos, "."), (photos / "dark", "../dark"), (tmp_path, photos)):
        monkeypatch.chdir(folder)
        assert len(zoo.embed(glyphs, images, out=out)) == 6
    assert set(zoo.Embeddings.load(out).names) == {str(path) for path in photos.glob("*/*.png")}
    shards = write_shards(photos, tmp_path)
    assert len(zoo.embed(glyphs, shards, out=out)) == len(zoo.embed(glyphs, shards, out=out)) == 12


@pytest.mark.extra
def test_a_row_keeps_no_label_of_before(glyphs, photos, tmp_path):
    zoo.embed(glyphs, str(photos / "dark" / "*.png"), out=tmp_path / "features.parquet")
    with pytest.raises(UsageError, match="has a row with the label '', and its label is 'dark' now"):
        zoo.embed(glyphs, photos, out=tmp_path / "features.parquet")


@pytest.mark.extra
def test_an_image_that_changed_is_embedded_again_and_has_one_row(glyphs, photos, tmp_path):
    out = tmp_path / "features.parquet"
    before = zoo.embed(glyphs, photos, out=out)
    changed = photos / "dark" / "1.png"
    Image.fromarray(np.full((16, 16), 255, dtype=np.uint8)).save(changed)
    found = zoo.embed(glyphs, photos, out=out)
    assert sorted(found.names) == sorted(before.names)
    at = found.names.index(str(changed))
    assert torch.equal(found.vectors[at], zoo.embed(glyphs, changed).vectors[0])
    assert found.sizes[at] == (16, 16)


@pytest.mark.extra
def test_a_file_of_vectors_takes_little_more_than_their_numbers(tmp_path):
    vectors = torch.randn(1024, 512, generator=torch.Generator().manual_seed(0))
    names = tuple(f"{i}.png" for i in range(len(vectors)))
    path = zoo.Embeddings(names, vectors, ("",) * 1024, ((1, 1),) * 1024).save(tmp_path / "features.parquet")
    assert path.stat().st_size < 1.02 * vectors.nbytes


@pytest.mark.extra
def test_an_image_that_can_no_longer_be_read_loses_its_row(glyphs, photos, tmp_path):
    out, broken = tmp_path / "features.parquet", photos / "dark" / "1.png"
    before = zoo.embed(glyphs, photos, out=out)
    broken.write_bytes(broken.read_bytes()[:40])
    with pytest.warns(ZooWarning, match="1 of 6 images have no vector"):
        found = zoo.embed(glyphs, photos, out=out)
    assert set(before.names) - set(found.names) == {str(broken)}
    assert zoo.Embeddings.load(out).names == found.names


@pytest.mark.extra
def test_the_row_of_a_listed_image_that_is_gone_stays_and_a_warning_says_so(glyphs, photos, tmp_path):
    images, out = sorted((photos / "dark").glob("*.png")), tmp_path / "features.parquet"
    before = zoo.embed(glyphs, images, out=out)
    images[1].unlink()
    with pytest.warns(ZooWarning, match=rf"a listed image is not there now, and what .* stays: {images[1]}"):
        assert zoo.embed(glyphs, images, out=out).names == before.names


@pytest.mark.extra
def test_a_file_whose_images_can_no_longer_be_read_is_empty(glyphs, photos, tmp_path):
    out, image = tmp_path / "features.parquet", photos / "dark" / "1.png"
    zoo.embed(glyphs, image, out=out)
    image.write_bytes(b"no image")
    with pytest.raises(ImageError, match=r"1\.png"):
        zoo.embed(glyphs, image, out=out)
    assert len(zoo.Embeddings.load(out)) == 0


@pytest.mark.extra
def test_a_shard_whose_image_changed_is_embedded_again(glyphs, photos, tmp_path):
    shard, out = tmp_path / "a.tar", tmp_path / "features.parquet"
    for name in ("0.png", "1.png"):
        with tarfile.open(shard, "w") as opened:
            opened.add(photos / "dark" / name, "one.png")
        found = zoo.embed(glyphs, shard, out=out)
    assert torch.equal(found.vectors, zoo.embed(glyphs, shard).vectors)


@pytest.mark.extra
def test_a_name_that_is_not_utf_8_costs_no_other_row(glyphs, photos, tmp_path):
    name = os.fsdecode(os.fsencode(photos / "dark") + b"/\xff.png")
    os.link(photos / "dark" / "0.png", name)
    with pytest.warns(ZooWarning, match="1 of 7 images have no vector"):
        found = zoo.embed(glyphs, photos, out=tmp_path / "features.parquet")
    assert len(found) == 6
    assert "is not UTF-8" in found.failed[name]
    with pytest.raises(UsageError, match="is not UTF-8"):
        zoo.embed(glyphs, photos).save(tmp_path / "other.parquet")
