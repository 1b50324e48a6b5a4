"""Rows from a local Ray of two workers are those of one machine, though a worker is killed in the middle."""

from __future__ import annotations

import os
import signal

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from PIL import Image

import zoo_core as zoo
from zoo_core.cli.group import zoo as group
from zoo_core.errors import UsageError

pytestmark = [pytest.mark.extra, pytest.mark.filterwarnings("ignore")]
RNG = np.random.default_rng(0)


@pytest.fixture(scope="module")
def cluster():
    ray = pytest.importorskip("ray")
    ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False, object_store_memory=100 * 2**20)
    yield ray
    ray.shutdown()


@pytest.fixture
def photos(tmp_path):
    for i in range(60):
        path = tmp_path / "photos" / ("dark" if i < 30 else "light") / f"{i:02}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(RNG.integers(0, 255, (32, 40), dtype=np.uint8)).save(path)
    (tmp_path / "photos" / "bad.png").write_text("hello")
    return tmp_path / "photos"


def require_same(found, expected):
    assert (found.names, found.labels, found.sizes) == (expected.names, expected.labels, expected.sizes)
    assert {*found.failed} == {*expected.failed}
    torch.testing.assert_close(found.vectors, expected.vectors, rtol=0, atol=1e-5)


def test_the_rows_are_the_same_though_a_worker_is_killed_in_the_middle(cluster, photos, tmp_path, monkeypatch):
    from zoo_core.embedding.embedder import Embedder

    expected = zoo.embed("tiny/glyphnet", photos, batch_size=2)
    once, run = tmp_path / "killed", Embedder.run

    def deadly(embedder, sources):  # travels to the workers by value, as the class of the embedder does not
        for number, row in enumerate(run(embedder, sources)):
            if number == 3 and row.name.endswith("26.png") and not once.exists():
                once.touch()
                os.kill(os.getpid(), signal.SIGKILL)
            yield row

    class Deadly(Embedder):
        run = deadly

    monkeypatch.setattr("zoo_core.embedding.embed.Embedder", Deadly)
    require_same(zoo.embed("tiny/glyphnet", photos, batch_size=2, engine="ray"), expected)
    assert once.exists()


def test_the_command_writes_the_rows_of_a_cluster_and_goes_on_with_them(cluster, photos, tmp_path):
    out = tmp_path / "features.parquet"
    rest = (photos / "light").rename(tmp_path / "light")
    zoo.embed("tiny/glyphnet", photos, out=out)
    rest.rename(photos / "light")
    answer = CliRunner().invoke(group, ["embed", "tiny/glyphnet", str(photos), "--out", str(out), "--engine", "ray"])
    assert "60 vectors of 64, 1 failed" in answer.output
    found, expected = zoo.Embeddings.load(out), zoo.embed("tiny/glyphnet", photos)
    assert sorted(found.names) == sorted(expected.names)


def test_an_engine_that_is_not_installed_is_refused_with_those_that_are(photos):
    with pytest.raises(UsageError, match=r"no engine 'spark'[\s\S]*ray"):
        zoo.embed("tiny/glyphnet", photos, engine="spark")
