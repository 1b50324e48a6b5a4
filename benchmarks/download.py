"""A large file from a server on this machine to a proven file on disk: zoo against the fetchers that others use.

Run as ``uv run --group bench python -m benchmarks.download``. The server is a process of its own that sends with
``os.sendfile``; ``--throttle`` makes it hold each connection to so many megabytes a second, as hosts do. Each
measurement is a fresh process that has imported its library, and they take turns. A figure is megabytes a second, from
the call until the file is in place; the digest is checked by all but huggingface_hub, which does not do that.

Each is used as its documentation says: ``torch.hub.download_url_to_file(url, path, hash_prefix)``,
``pooch.retrieve(url, known_hash, path=...)``, ``huggingface_hub.hf_hub_download(repo_id, filename)``, and
``zoo_core.weights.fetch(url, folder, sha256=...)``.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import re
import shutil
import socket
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from functools import partial
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

WHO = ["zoo", "zoo, one connection", "torch.hub", "pooch", "huggingface_hub"]
_BLOCK = 1 << 20


def serve(path: Path, digest: str, throttle: float) -> None:
    """Serve one file under every path, with ranges, and print the port and then the bytes sent, on request."""
    with socket.create_server(("127.0.0.1", 0), backlog=64) as listener:
        print(listener.getsockname()[1], flush=True)
        sent = [0]
        threading.Thread(target=_tell, args=(sent,), daemon=True).start()
        while True:
            connection, _ = listener.accept()
            threading.Thread(target=_answer, args=(connection, path, digest, throttle, sent), daemon=True).start()


def _tell(sent: list[int]) -> None:
    for _ in sys.stdin:
        print(sent[0], flush=True)
        sent[0] = 0
    os._exit(0)


def _answer(connection: socket.socket, path: Path, digest: str, throttle: float, sent: list[int]) -> None:
    size = path.stat().st_size
    with connection, path.open("rb") as file, connection.makefile("rb") as requests:
        while line := requests.readline():
            headers = "".join(iter(lambda: requests.readline().decode(), "\r\n"))
            requested = re.search(r"(?mi)^range: bytes=(\d+)-(\d*)", headers)
            start = int(requested[1]) if requested else 0
            end = min(int(requested[2]) + 1 if requested and requested[2] else size, size)
            status = f"206 Partial Content\r\nContent-Range: bytes {start}-{end - 1}/{size}" if requested else "200 OK"
            if b"net.pth" not in line:  # the hub's client asks for more than the file
                connection.sendall(b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n")
                continue
            head = f"HTTP/1.1 {status}\r\nContent-Length: {end - start}\r\nAccept-Ranges: bytes\r\n"
            head += f'ETag: "{digest}"\r\nX-Repo-Commit: {digest[:40]}\r\n\r\n'
            try:
                connection.sendall(head.encode())
                if not line.startswith(b"HEAD"):
                    _send(connection, file.fileno(), start, end, throttle, sent)
            except OSError:
                return


def _send(connection: socket.socket, file: int, start: int, end: int, throttle: float, sent: list[int]) -> None:
    began, first = time.monotonic(), start
    block = min(_BLOCK, int(throttle / 50)) if throttle else _BLOCK
    while start < end:
        if throttle:  # no faster than a line of that many bytes a second
            time.sleep(max(0.0, began + (start - first) / throttle - time.monotonic()))
        count = os.sendfile(connection.fileno(), file, start, min(block, end - start))
        start += count
        sent[0] += count


def child(who: str, url: str, digest: str, folder: Path) -> None:
    """Fetch once and print how many seconds it took."""
    call = fetcher(who, url, digest, folder)
    started, cpu = time.perf_counter(), time.process_time()
    call()
    print(json.dumps({"seconds": time.perf_counter() - started, "cpu": time.process_time() - cpu}))


def fetcher(who: str, url: str, digest: str, folder: Path) -> Callable[[], object]:
    """One download by one of them, with all that it imports imported."""
    if who.startswith("zoo"):
        import_module("zoo_core.weights.transport.http")  # zoo imports it on the first download
        from zoo_core.weights import fetch

        return partial(fetch, url, folder, sha256=digest)
    if who == "torch.hub":
        from torch.hub import download_url_to_file

        return partial(download_url_to_file, url, str(folder / "net.pth"), digest, progress=False)
    if who == "pooch":
        import pooch

        pooch.get_logger().disabled = True
        return partial(pooch.retrieve, url, f"sha256:{digest}", fname="net.pth", path=folder)
    from huggingface_hub import hf_hub_download

    return partial(hf_hub_download, "acme/net", "net.pth", cache_dir=folder)


class Bench:
    """A server with one file, and a folder that is emptied before each download."""

    def __init__(self, folder: Path, megabytes: int, throttle: float) -> None:
        self.folder = folder
        self.size = megabytes * 1_000_000
        path = folder / "served.pth"
        path.write_bytes(os.urandom(self.size))
        self.digest = hashlib.sha256(path.read_bytes()).hexdigest()
        command = [sys.executable, __file__, "--serve", str(path), self.digest, str(throttle)]
        self.server = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        self.base = f"http://127.0.0.1:{self._line()}"

    def _line(self) -> str:
        assert self.server.stdout
        return self.server.stdout.readline().strip()

    def moved(self) -> int:
        """The bytes that the server has sent since the last call."""
        assert self.server.stdin
        self.server.stdin.write("\n")
        self.server.stdin.flush()
        return int(self._line())

    def measure(self, who: str) -> dict[str, float]:
        """Megabytes a second, CPU seconds, and bytes sent for each byte of the file."""
        target = self.folder / "got"
        shutil.rmtree(target, ignore_errors=True)
        target.mkdir()
        one = {"ZOO_CONNECTIONS": "1"} if "one" in who else {}
        environment = {**os.environ, "HF_ENDPOINT": self.base, "ZOO_CONFIG": "0", "ZOO_REWRITE": "", **one}
        environment["HF_HUB_DISABLE_PROGRESS_BARS"] = "1"
        command = [sys.executable, __file__, "--child", who, f"{self.base}/net.pth", self.digest, str(target)]
        answer = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
        if answer.returncode:
            sys.exit(f"{who} could not fetch the file: {answer.stderr.strip().rpartition(chr(10))[2]}")
        cost = json.loads(answer.stdout.splitlines()[-1])
        return {"rate": self.size / 1e6 / cost["seconds"], "cpu": cost["cpu"], "moved": self.moved() / self.size}


def main() -> None:
    """Print a line a fetcher."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--megabytes", type=int, default=400)
    parser.add_argument("--throttle", type=float, default=0, help="megabytes a second for each connection")
    parser.add_argument("--rounds", type=int, default=7)
    here = [who for who in WHO if who.startswith(("zoo", "torch")) or find_spec(who)]
    parser.add_argument("--who", nargs="+", default=here, choices=here, help="by default those that are installed")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--serve", nargs=3, help=argparse.SUPPRESS)
    parser.add_argument("--child", nargs=4, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.serve:
        serve(Path(options.serve[0]), options.serve[1], float(options.serve[2]))
    if options.child:
        who, url, digest, folder = options.child
        child(who, url, digest, Path(folder))
        return
    from benchmarks.harness import rounds_in_time  # not for the children, which run this file alone

    with tempfile.TemporaryDirectory() as folder:
        bench = Bench(Path(folder), options.megabytes, options.throttle * 1e6)
        try:
            rounds = [{who: bench.measure(who) for who in options.who} for _ in rounds_in_time(options.rounds)]
        finally:
            bench.server.kill()
    report(options.who, rounds)
    if options.json:
        keep(rounds, bench.size, options)


def keep(rounds: list[dict[str, dict[str, float]]], size: int, options: argparse.Namespace) -> None:
    """Write seconds by the clock, CPU seconds and bytes sent, as the other benchmarks write theirs."""
    from benchmarks.harness import Row, save

    held = f", held to {options.throttle:g} MB/s a connection" if options.throttle else ""
    sides = {
        who: [
            {"wall s": size / 1e6 / each[who]["rate"], "cpu s": each[who]["cpu"], "sent / size": each[who]["moved"]}
            for each in rounds
        ]
        for who in options.who
    }
    save([Row("download", f"{options.megabytes} MB{held}", "wall s", sides)], options.json)


def report(who: list[str], rounds: list[dict[str, dict[str, float]]]) -> None:
    """Medians, and how many times as fast zoo was, with quartiles."""
    print(f"{'':22}{'MB/s':>8}{'CPU s':>8}{'moved':>8}{'zoo is':>10}  (quartiles)")
    for name in who:
        rate, cpu, moved = (statistics.median(r[name][key] for r in rounds) for key in ("rate", "cpu", "moved"))
        ratios = [r[who[0]]["rate"] / r[name]["rate"] for r in rounds]
        low, middle, high = statistics.quantiles(ratios, n=4) if len(ratios) > 1 else ratios * 3
        print(f"{name:22}{rate:8.0f}{cpu:8.2f}{moved:8.3f}{middle:9.2f}x  ({low:.2f} to {high:.2f})")


if __name__ == "__main__":
    main()
