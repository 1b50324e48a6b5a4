"""Rows from a local Ray of two workers are those of one machine, though a worker is killed in the middle."""

from __future__ import annotations

import contextlib
import os
import pickle
import signal
import socket
import subprocess
import sys
import threading

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from PIL import Image

import zoo_core as zoo
from zoo_core.cli.group import zoo as group
from zoo_core.errors import UsageError, ZooError
from zoo_core.images.loading import Source

pytestmark = [pytest.mark.extra, pytest.mark.filterwarnings("ignore")]
RNG = np.random.default_rng(0)


@pytest.fixture(scope="module")
def cluster():
    ray = pytest.importorskip("ray")
    os.environ.setdefault("RAY_worker_niceness", "0")  # or workers wait for whatever else this machine does
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
    from zoo_core.embedding.embed import Embedder

    expected = zoo.embed("tiny/glyphnet", photos, batch_size=2)
    once, run = tmp_path / "killed", Embedder.run

    def deadly(embedder, sources):  # travels to the workers by value, as the class of the embedder does not
        for number, row in enumerate(run(embedder, sources)):
            if number and row.name.endswith("26.png") and not once.exists():
                once.touch()
                os.kill(os.getpid(), signal.SIGKILL)
            yield row

    class Deadly(Embedder):
        run = deadly

    monkeypatch.setattr("zoo_core.embedding.embed.Embedder", Deadly)
    require_same(zoo.embed("tiny/glyphnet", photos, batch_size=2, engine="ray"), expected)
    assert once.exists()


def test_paths_mean_the_same_where_the_workers_have_another_folder(cluster, photos, monkeypatch):
    monkeypatch.chdir(photos.parent)
    found = zoo.embed("tiny/glyphnet", "photos/light", engine="ray")
    require_same(found, zoo.embed("tiny/glyphnet", "photos/light"))


def test_an_image_that_kills_every_worker_ends_the_run_in_words(cluster, photos, tmp_path, monkeypatch):
    from zoo_core.embedding.embed import Embedder

    class Deadly(Embedder):
        run = lambda *_: os.kill(os.getpid(), signal.SIGKILL)  # noqa: E731 - travels by value

    monkeypatch.setattr("zoo_core.embedding.embed.Embedder", Deadly)
    with pytest.raises(ZooError, match=r"could not be embedded on Ray[\s\S]*no --engine") as caught:
        zoo.embed("tiny/glyphnet", photos, engine="ray")
    assert len(str(caught.value).splitlines()) < 5


def test_one_image_of_a_batch_travels_without_the_others():
    batch = torch.zeros(100, 3, 32, 32)
    cluster = pytest.importorskip("zoo_ray.cluster")
    (chunk,) = cluster._in_chunks([(Source("image 0", batch[0]), "")], 8)
    assert len(pickle.dumps(chunk)) < batch.nbytes / 50


@pytest.mark.parametrize("address", ["127.0.0.1:port", "127.0.0.1:{free}", "ray://127.0.0.1:{free}"])
def test_a_cluster_that_is_not_there_is_refused_with_its_address_at_once(photos, address):
    with socket.create_server(("127.0.0.1", 0)) as server:
        address = address.format(free=server.getsockname()[1])
    code = f"import zoo_core as zoo; zoo.embed('tiny/glyphnet', {str(photos)!r}, engine='ray')"
    program, settings = [sys.executable, "-c", code], {**os.environ, "RAY_ADDRESS": address}
    answer = subprocess.run(program, env=settings, check=False, capture_output=True, text=True, timeout=100)
    assert f"UsageError: there is no Ray cluster at {address}" in answer.stderr.splitlines()[-3]


@pytest.mark.parametrize("answer", [b"", b"HTTP/1.1 400 Bad Request\r\n\r\n", None])
def test_what_listens_and_is_no_ray_is_refused_within_seconds(monkeypatch, answer):
    cluster = pytest.importorskip("zoo_ray.cluster")
    monkeypatch.setattr(cluster, "_SECONDS", 0.5)
    with socket.create_server(("127.0.0.1", 0)) as server:

        def serve():
            with server.accept()[0] as connection:
                connection.recv(1 << 10)
                if answer is None:  # nothing, until the other side gives up
                    connection.recv(1)
                else:
                    connection.sendall(answer)

        threading.Thread(target=serve, daemon=True).start()
        with pytest.raises(OSError, match=r"what listens there is no Ray: it (answered|did not answer)"):
            cluster._require_cluster(f"127.0.0.1:{server.getsockname()[1]}")


def _answers_as_grpc(connection):
    """Be a server of HTTP/2 that takes all requests and answers none."""
    empty_settings = b"\0\0\0\4\0\0\0\0\0"
    with connection, contextlib.suppress(OSError):
        connection.sendall(empty_settings)
        while connection.recv(1 << 16):
            pass


@pytest.mark.sweep
def test_a_server_of_grpc_that_is_no_ray_is_given_up_after_an_attempt_of_a_minute(photos):
    def serve(server):
        with contextlib.suppress(OSError):
            while True:
                threading.Thread(target=_answers_as_grpc, args=(server.accept()[0],), daemon=True).start()

    with socket.create_server(("127.0.0.1", 0)) as server:
        threading.Thread(target=serve, args=(server,), daemon=True).start()
        code = f"import zoo_core as zoo; zoo.embed('tiny/glyphnet', {str(photos)!r}, engine='ray')"
        settings = {**os.environ, "RAY_ADDRESS": f"127.0.0.1:{server.getsockname()[1]}"}
        program = [sys.executable, "-c", code]
        answer = subprocess.run(program, env=settings, check=False, capture_output=True, text=True, timeout=150)
    assert "UsageError: there is no Ray cluster at 127.0.0.1" in answer.stderr


def test_a_cluster_is_known_by_what_it_answers(cluster):
    pytest.importorskip("zoo_ray.cluster")._require_cluster(cluster.get_runtime_context().gcs_address)


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
