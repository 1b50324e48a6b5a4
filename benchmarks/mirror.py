"""A thousand fetchers of the same weights at once, from one mirror, simulated on the loopback address.

Run as ``uv run python -m benchmarks.mirror``. A fetcher is a thread in one of ten processes. Fetchers of a node share a
folder, and the folder of all is a shared one on a file system of the cluster. The mirror is a plain server that counts
what it sends; with ``--limit`` it answers 503 where more are served at once, as an overloaded one does.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

from zoo_core.weights.fetch_to_folder import fetch

PROCESSES = 10


class Mirror(ThreadingHTTPServer):
    """A server of one file that counts.

    Args:
        content: The file.
        limit: How many are served at once.
    """

    request_queue_size = 2048
    daemon_threads = True

    def __init__(self, content: bytes, limit: int) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.content, self.limit = content, limit
        self.sent = self.refused = self.open = self.most = 0
        self.arrivals: Counter[int] = Counter()
        self.lock = threading.Lock()


class Handler(BaseHTTPRequestHandler):
    """Answers each request with the file, or with 503."""

    server: Mirror

    def do_GET(self) -> None:
        """Send the file."""
        mirror = self.server
        with mirror.lock:
            mirror.arrivals[int(time.monotonic())] += 1
            full = mirror.open >= mirror.limit
            mirror.refused += full
            mirror.open += not full
            mirror.most = max(mirror.most, mirror.open)
        if full:
            self.send_response(503)
            self.send_header("Content-Length", "0")
            self.end_headers()
            return
        try:
            self.send_response(200)
            self.send_header("Content-Length", str(len(mirror.content)))
            self.end_headers()
            self.wfile.write(mirror.content)
        finally:
            with mirror.lock:
                mirror.open -= 1
                mirror.sent += len(mirror.content)

    def log_message(self, *_: object) -> None:
        """Nothing."""


def of_process(url: str, digest: str, size: int, folder: Path, fetchers: range, per_folder: int) -> None:
    """Print how long each of some fetchers takes, or what fails."""
    start = float(sys.stdin.readline())

    def one(number: int) -> str:
        time.sleep(max(0.0, start - time.time()))  # all begin at one moment, as nodes of a job do
        try:
            fetch(url, folder / str(number // per_folder), sha256=digest, size=size)
        except Exception as error:  # noqa: BLE001 - what fails is counted
            return f"failed {type(error).__name__}"
        return f"{time.time() - start}"

    with ThreadPoolExecutor(len(fetchers)) as pool:
        print("\n".join(pool.map(one, fetchers)))


def simulate(fetchers: int, per_folder: int, megabytes: float, limit: int) -> dict[str, float]:
    """What the mirror sent, and how long fetchers took."""
    content = os.urandom(int(megabytes * 2**20))
    mirror = Mirror(content, limit)
    threading.Thread(target=mirror.serve_forever, daemon=True).start()
    url, digest = f"http://127.0.0.1:{mirror.server_port}/weights.bin", hashlib.sha256(content).hexdigest()
    each = fetchers // PROCESSES
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-m", "benchmarks.mirror", "--of-process", url, digest, str(len(content)), folder]
        children = [
            subprocess.Popen(
                [*command, str(number * each), str(each), str(per_folder)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                text=True,
            )
            for number in range(PROCESSES)
        ]
        start = time.time() + 5  # when all have imported what they need
        with ThreadPoolExecutor(PROCESSES) as pool:
            said = list(pool.map(lambda child: child.communicate(f"{start}\n")[0].split("\n"), children))
    mirror.shutdown()
    lines = [line for answer in said for line in answer if line]
    seconds = sorted(float(line) for line in lines if not line.startswith("failed"))
    return {
        "failed": len(lines) - len(seconds) + fetchers - len(lines),
        "MB sent": mirror.sent / 2**20,
        "of the least": mirror.sent / len(content) / (fetchers // per_folder),
        "refused": mirror.refused,
        "most at once": mirror.most,
        "most in a second": max(mirror.arrivals.values()),
        "median s": statistics.median(seconds),
        "99 % s": seconds[int(len(seconds) * 0.99) - 1],
        "last s": seconds[-1],
    }


def main() -> None:
    """Print a line a scenario."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--fetchers", type=int, default=1000)
    parser.add_argument("--megabytes", type=float, default=1.0)
    parser.add_argument("--of-process", nargs=7, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.of_process:
        url, digest, size, folder, first, count, per_folder = options.of_process
        of_process(url, digest, int(size), Path(folder), range(int(first), int(first) + int(count)), int(per_folder))
        return
    count = options.fetchers
    print(f"{count} fetchers, {options.megabytes} MB, load average {os.getloadavg()[0]:.0f} on {os.cpu_count()} cores")
    cases = {
        "a folder each": (1, count),
        "8 of a node share one": (8, count),
        "one for all": (count, count),
        "a folder each, 4 served at once": (1, 4),
    }
    for case, (per_folder, limit) in cases.items():
        found = simulate(count, per_folder, options.megabytes, limit)
        print(f"{case}: " + ", ".join(f"{name} {value:.4g}" for name, value in found.items()), flush=True)


if __name__ == "__main__":
    main()
