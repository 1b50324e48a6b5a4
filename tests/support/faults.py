"""What can go wrong between a request for weights and the file, as a table.

``tests/faults/test_bench.py`` injects each, at both doors.

``PYTHONPATH=tests python -m support.faults`` prints how many faults there are at each door.
"""

from __future__ import annotations

import errno
import gzip
import os
import re
import shutil
import socket
import struct
import sys
import threading
import time
import zlib
from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING

from support.loopback import cut, hang_up, requested_start, serving, sha256, status

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

PATH = "/net.safetensors"
DOORS = ("weights.fetch", "zoo.get")
OWNER = "0-abcd1234"
"""A process that has given its partial file up, in the name of that file."""
STRANGER = 65534


@dataclass(frozen=True)
class Scene:
    """Where a fault is injected.

    Attributes:
        server: A server that behaves.
        data: The file.
        folder: Where it goes while it is in progress.
        final: Where it belongs.
        ref: The file that names it in a cache; None at the door that has no cache.
        monkeypatch: Of pytest.
    """

    server: object
    data: bytes
    folder: Path
    final: Path
    ref: Path | None
    monkeypatch: object

    @property
    def stem(self):
        """What partial files and the lock are named after."""
        return f"net-{sha256(self.data)[:16]}.safetensors"

    @property
    def partial(self):
        """A partial file that can be continued."""
        host = re.sub(r"[^A-Za-z0-9_]", "_", socket.gethostname())[:40]
        return self.folder / f".{self.stem}.{host}-{OWNER}.partial"

    @property
    def lock(self):
        """The lock of the download."""
        return self.folder / f".{self.stem}.lock"


@dataclass(frozen=True)
class Fault:
    """Something that goes wrong.

    Attributes:
        name: What it is.
        inject: Does it to a scene.
        doors: Where it can happen.
        must_be_right: Whether the file has to come all the same; where not, a clear error will do.
    """

    name: str
    inject: Callable[[Scene], None]
    doors: tuple[str, ...] = DOORS
    must_be_right: bool = False


# --- what a server can answer ---------------------------------------------------------------------------------------


def reset(handler, data):
    """Close with a RST in the place of a FIN."""
    handler.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    handler.close_connection = True
    handler.connection.close()


def raw(text):
    """These bytes, whatever they mean."""

    def reply(handler, data):
        handler.wfile.write(text)
        hang_up(handler)

    return reply


def answer(change, code=200, **headers):
    """A body that is made of the right one, with its own length, and more headers."""

    def reply(handler, data):
        status(code, change(data), **headers)(handler, data)

    return reply


def headed(*lines, end=True):
    """The right bytes after headers that contradict them."""

    def reply(handler, data):
        text = b"".join(line % len(data) + b"\r\n" if b"%d" in line else line + b"\r\n" for line in lines)
        handler.wfile.write(b"HTTP/1.1 200 OK\r\n" + text + b"\r\n" + data)
        if end:
            hang_up(handler)

    return reply


def chunked(end, *, count=1000):
    """The first bytes as a chunk, and something else in the place of the rest."""

    def reply(handler, data):
        head = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n%x\r\n%s\r\n"
        handler.wfile.write(head % (count, data[:count]) + end)
        hang_up(handler)

    return reply


def part(text, *, body=lambda data: data):
    """A 206 that says of itself what it likes."""

    def reply(handler, data):
        content = body(data)
        said = text.format(start=requested_start(handler), last=len(data) - 1, size=len(data))
        status(206, content, Content_Range=said, ETag='"abc"')(handler, data)

    return reply


def remade(make):
    """Bytes made of the right ones, from a server that behaves."""
    return lambda handler, data: serving(make(data))(handler, data)


def flipped(at):
    """The bytes with one bit turned, at a fraction of their length."""

    def make(data):
        index = int((len(data) - 1) * at)
        return data[:index] + bytes([data[index] ^ 1]) + data[index + 1 :]

    return make


LINES = {
    "the line is reset": reset,
    "closed without an answer": raw(b""),
    "closed in the status": raw(b"HTTP/1."),
    "closed in the headers": raw(b"HTTP/1.1 200 OK\r\nContent-Le"),
    "no http": raw(b"\x00\x01\x02 nonsense\r\n\r\n"),
    "tls where none was expected": raw(b"\x16\x03\x01\x02\x00\x01\x00"),
    "an ssh server": raw(b"SSH-2.0-OpenSSH_9.0\r\n"),
    "too many headers": raw(b"HTTP/1.1 200 OK\r\n" + b"X: y\r\n" * 300 + b"\r\n"),
    "an endless header": raw(b"HTTP/1.1 200 OK\r\nX: " + b"y" * 100_000 + b"\r\n\r\n"),
    "a status without a number": raw(b"HTTP/1.1 OK\r\n\r\n"),
    "a status of four digits": raw(b"HTTP/1.1 2000 OK\r\n\r\n"),
    "two answers in one": raw(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\nHTTP/1.1 200 OK\r\n\r\n"),
    "interim answers only": raw(b"HTTP/1.1 100 Continue\r\n\r\n" * 5),
    "closed before the first byte": cut(0),
    "closed after the first byte": cut(1),
    "closed in the middle": cut(50_000),
    "chunks that end early": chunked(b""),
    "a last chunk that comes early": chunked(b"0\r\n\r\n"),
    "a chunk length that is no number": chunked(b"zz\r\n"),
    "a chunk length below zero": chunked(b"-5\r\nabc\r\n"),
    "a chunk that is shorter than it says": chunked(b"ffffff\r\nabc"),
    "a chunk length without an end": chunked(b"0" * 70_000),
    "a chunk without its end of line": chunked(b"3\r\nabcXX0\r\n\r\n"),
}
STATUSES = {f"status {code}": status(code) for code in (201, 202, 203, 204, 205, 226, 300, 304, 305, 306)} | {
    f"status {code}": status(code, b"<html>no</html>")
    for code in (*range(400, 419), 421, 422, 423, 425, 426, 428, 429, 431, 451, *range(500, 509), 511, 520, 530, 599)
}
REDIRECTS = {
    "a redirect without a place": status(302),
    "a redirect to itself": status(302, Location=PATH),
    "a redirect to a file": status(302, Location="file:///etc/passwd"),
    "a redirect to ftp": status(301, Location="ftp://127.0.0.1/net"),
    "a redirect to data": status(307, Location="data:text/plain,weights"),
    "a redirect to a script": status(308, Location="javascript:alert(1)"),
    "a redirect to no url": status(302, Location="http://["),
    "a redirect to a closed port": status(302, Location="http://127.0.0.1:1/net"),
    "a redirect to a port that is none": status(302, Location="http://127.0.0.1:99999999/net"),
    "a redirect to nowhere": status(302, Location="/gone"),
    "a redirect to control characters": status(302, Location="/a\x01b"),
}
LENGTHS = {
    "a length below zero": headed(b"Content-Length: -5"),
    "a length that is no number": headed(b"Content-Length: many"),
    "two lengths that differ": headed(b"Content-Length: 5", b"Content-Length: %d"),
    "a length too short": headed(b"Content-Length: 100"),
    "a length too long": headed(b"Content-Length: 9%d"),
    "a length beyond any disk": headed(b"Content-Length: 99999999999999999999999"),
    "a length and chunks": headed(b"Content-Length: %d", b"Transfer-Encoding: chunked"),
    "an unknown transfer encoding": headed(b"Transfer-Encoding: zebra", b"Content-Length: %d"),
    "a header without a colon": headed(b"nonsense", b"Content-Length: %d"),
    "a header that goes on in the next line": headed(b"X: a\r\n b", b"Content-Length: 4"),
}
ENCODINGS = {
    "gzip that was not requested": answer(gzip.compress, Content_Encoding="gzip"),
    "gzip that is none": answer(bytes, Content_Encoding="gzip"),
    "deflate that is none": answer(bytes, Content_Encoding="deflate"),
    "deflate that was not requested": answer(zlib.compress, Content_Encoding="deflate"),
    "gzip that is cut off": answer(lambda data: gzip.compress(data)[:-900], Content_Encoding="gzip"),
    "an unknown encoding": answer(lambda data: data[::-1], Content_Encoding="zebra"),
    "a bomb in gzip": answer(lambda data: gzip.compress(bytes(50 * len(data))), Content_Encoding="gzip"),
}
PARTS = {
    "a part without a request": part("bytes 10-{last}/{size}", body=lambda data: data[10:]),
    "a part of another length": part("bytes {start}-{last}/99999"),
    "a part without a range": status(206, b"abc"),
    "a part whose range is no range": part("zebra"),
    "a part that ends before it begins": part("bytes 9-3/{size}"),
    "a part of a length that is not said": part("bytes {start}-{last}/*", body=lambda data: data[:-1]),
    "several parts in one": answer(lambda data: data, 206, Content_Type="multipart/byteranges; boundary=x"),
    "no such range": status(416, Content_Range="bytes */5"),
}
CONTENTS = {
    "an empty file": lambda _data: b"",
    "a login page": lambda _data: b"<!doctype html><title>Log in</title>",
    "an error as JSON": lambda _data: b'{"error": "quota exceeded"}',
    "a pointer of git-lfs": lambda _data: b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 5\n",
    "an error as XML": lambda _data: b'<?xml version="1.0"?><Error><Code>AccessDenied</Code></Error>',
    "the first half": lambda data: data[: len(data) // 2],
    "all but the last byte": lambda data: data[:-1],
    "one byte more": lambda data: data + b"\n",
    "the file twice": lambda data: data + data,
    "a byte order mark before it": lambda data: b"\xef\xbb\xbf" + data,
    "line ends of another system": lambda data: data.replace(b"\n", b"\r\n") + b"\r\n",
    "the file compressed": gzip.compress,
    "zeros of the same length": lambda data: bytes(len(data)),
    "the first bit turned": flipped(0),
    "a bit in the middle turned": flipped(0.5),
    "the last bit turned": flipped(1),
    "two blocks exchanged": lambda data: data[4096:8192] + data[:4096] + data[8192:],
    "a block missing": lambda data: data[:4096] + data[8192:],
    "a block twice": lambda data: data[:8192] + data[4096:],
    "another file of the same length": lambda data: data[::-1],
}
ANSWERS = {
    **LINES,
    **STATUSES,
    **REDIRECTS,
    **LENGTHS,
    **ENCODINGS,
    **PARTS,
    **{name: remade(make) for name, make in CONTENTS.items()},
}
_PASSES = {*LINES, *CONTENTS, *(f"status {code}" for code in (408, 425, 429, *range(500, 509), 511, 520, 530, 599))}
"""What a second try mends."""


def first(reply):
    """Inject into the first answer only."""
    return lambda scene: scene.server.script(PATH, reply)


def later(reply):
    """Inject into the answer that continues a file."""
    return lambda scene: scene.server.script(PATH, cut(30_000), reply)


def always(reply):
    """Inject into every answer."""
    return lambda scene: scene.server.always.update({PATH: reply})


def answers():
    """Each wrong answer at three moments."""
    for name, reply in ANSWERS.items():
        yield Fault(f"{name}, at first", first(reply), must_be_right=name in _PASSES)
        yield Fault(f"{name}, where a file is continued", later(reply), must_be_right=name in _PASSES)
        yield Fault(f"{name}, always", always(reply))


# --- what can lie in the folders ------------------------------------------------------------------------------------


def file(where, make=lambda data: data[:1000], **options):
    """A plain file in some place, with bytes made of the right ones."""

    def inject(scene):
        path = where(scene)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(make(scene.data))
        if options.get("stranger") and os.geteuid() == 0:
            os.chown(path, STRANGER, STRANGER)
        if options.get("twin"):
            os.link(path, path.with_name("twin"))
        path.chmod(options.get("mode", 0o644))

    return inject


def thing(where, make):
    """Something that is no plain file."""

    def inject(scene):
        path = where(scene)
        path.parent.mkdir(parents=True, exist_ok=True)
        shutil.rmtree(path, ignore_errors=True)
        make(path, scene)

    return inject


def link_to(make):
    """A link to a file outside, of these bytes."""

    def link(path, scene):
        outside = scene.folder.parent / "outside"
        outside.write_bytes(make(scene.data))
        path.symlink_to(outside)

    return link


def unix_socket(path, _scene):
    """A socket in the file system, whose name may not be long."""
    here = os.open(path.parent, os.O_RDONLY)
    try:
        with socket.socket(socket.AF_UNIX) as line:
            line.bind(f"/proc/self/fd/{here}/s")
        (path.parent / "s").rename(path)
    finally:
        os.close(here)


def filled(path, _scene):
    """A folder with something in it."""
    path.mkdir()
    (path / "notes").write_text("years of work")


NO_FILES = {
    "a folder": lambda path, _scene: path.mkdir(),
    "a folder with something in it": filled,
    "a pipe": lambda path, _scene: os.mkfifo(path),
    "a socket": unix_socket,
    "a link to itself": lambda path, _scene: path.symlink_to(path.name),
    "a link to nothing": lambda path, _scene: path.symlink_to("gone"),
    "a link to a good file": link_to(lambda data: data),
    "a link to a bad file": link_to(lambda data: data[:7]),
    "a link to a folder": lambda path, _scene: path.symlink_to("."),
}


def _final(scene):
    return scene.final


def _partial(scene):
    return scene.partial


def _lock(scene):
    return scene.lock


def _note(scene):
    file(_partial)(scene)
    return scene.partial.with_name(scene.partial.name + ".origin")


def _aside(scene):
    file(_final, lambda data: data[:9])(scene)
    return scene.final.with_name(f".{scene.final.name}.bad")


def _ref(scene):
    return scene.ref


def _of_cache(name):
    return lambda scene: scene.folder.parent / name


def leftovers():
    """What lies where the file, its partial file, its lock and its notes belong."""
    for name, make in CONTENTS.items():
        yield Fault(f"{name} in the place of the file", file(_final, make), must_be_right=True)
        yield Fault(f"{name} in the place of a partial file", file(_partial, make), must_be_right=True)
    for what, where in (("the file", _final), ("a partial file", _partial), ("the lock", _lock), ("a note", _note)):
        for name, make in NO_FILES.items():
            yield Fault(f"{name} in the place of {what}", thing(where, make), must_be_right=where in (_partial, _note))
    for name, make in NO_FILES.items():
        yield Fault(f"{name} in the place of a bad file", thing(_aside, make))
    for what, where in (("a partial file", _partial), ("the lock", _lock), ("a note", _note)):
        yield Fault(f"{what} of another user", file(where, stranger=True), must_be_right=True)
        yield Fault(f"{what} with a second name", file(where, twin=True), must_be_right=True)
        yield Fault(f"{what} that may not be written", file(where, mode=0o444), must_be_right=True)
    for text in (b"", b"\xff\xfe", b"one line", b"a\nb\nc\nd", b"x" * 100_000):
        yield Fault(f"a note of {text[:9]!r}", file(_note, lambda _data, text=text: text), must_be_right=True)


def in_a_cache():
    """What lies where the folders and the refs of a cache belong."""
    cache = DOORS[1:]
    for text in (b"", b"\xff", b"sha256 zz\n", b"size 5\nsize 6\n", b"file ../../escaped\n", b"x" * 100_000):
        yield Fault(f"a ref of {text[:9]!r}", file(_ref, lambda _data, text=text: text), cache)
    for name, make in NO_FILES.items():
        yield Fault(f"{name} in the place of a ref", thing(_ref, make), cache)
        for folder in ("objects", "refs", "arriving"):
            where = _of_cache(folder)
            if not name.startswith("a folder"):
                yield Fault(f"{name} in the place of {folder}", thing(where, make), cache)


# --- what the machine can refuse ------------------------------------------------------------------------------------


def failing(module, name, code, *, when=1):
    """A call of the system that fails, the so-manieth time, while the file is fetched."""

    def inject(scene):
        real, left = getattr(module, name), [when]

        def broken(*args, **options):
            left[0] -= 1
            if not left[0]:
                raise OSError(code, os.strerror(code))
            return real(*args, **options)

        scene.monkeypatch.setattr(module, name, broken)

    return inject


CALLS = {
    "fsync": (errno.EIO, errno.ENOSPC, errno.EDQUOT, errno.EINVAL, errno.EROFS),
    "fdatasync": (errno.EIO, errno.ENOSPC),
    "rename": (errno.EACCES, errno.EXDEV, errno.ENOSPC, errno.EROFS),
    "replace": (errno.EACCES, errno.EXDEV, errno.ENOSPC, errno.EROFS),
    "open": (errno.EMFILE, errno.ENFILE, errno.EACCES, errno.ENOSPC, errno.EROFS, errno.EIO),
    "mkdir": (errno.EACCES, errno.ENOSPC, errno.EROFS),
    "unlink": (errno.EACCES, errno.EBUSY, errno.EROFS),
    "utime": (errno.EPERM, errno.EROFS),
    "pread": (errno.EIO,),
    "lstat": (errno.EIO, errno.EACCES),
    "stat": (errno.EIO, errno.EACCES),
    "scandir": (errno.EIO, errno.EACCES),
    "listdir": (errno.EIO, errno.EACCES),
    "fchmod": (errno.EPERM, errno.EROFS),
    "kill": (errno.EPERM, errno.ESRCH),
}


def no_threads(scene):
    """This process may start no thread."""

    def refuse(_thread):
        raise RuntimeError("can't start new thread")

    real = threading.Thread.start
    names = ("zoo-", "ThreadPool")
    scene.monkeypatch.setattr(
        threading.Thread,
        "start",
        lambda thread: refuse(thread) if thread.name.startswith(names) else real(thread),
    )


def odd_clock(step):
    """A clock that somebody sets while the file is fetched."""

    def inject(scene):
        real, count = time.time, [0.0]

        def now():
            count[0] += step
            return real() + count[0]

        scene.monkeypatch.setattr(time, "time", now)

    return inject


def refusals():
    """Calls of the system that fail once, early or late, and other limits."""
    for call, codes in CALLS.items():
        for code in codes:
            for when in (1, 2, 4):
                name = f"{call} fails with {errno.errorcode[code]} the {when}. time"
                yield Fault(name, failing(os, call, code, when=when))
    yield Fault("no thread may be started", no_threads, must_be_right=True)
    yield Fault("a clock that runs a day a call ahead", odd_clock(86400.0), must_be_right=True)
    yield Fault("a clock that runs back", odd_clock(-86400.0), must_be_right=True)


FAULTS = (*answers(), *leftovers(), *in_a_cache(), *refusals())


def main():
    """Print how many faults there are at each door."""
    count = Counter(door for fault in FAULTS for door in fault.doors)
    lines = [f"{door:14}{count[door]:6}\n" for door in DOORS]
    sys.stdout.write("".join([*lines, f"{'both':14}{count.total():6}\n"]))


if __name__ == "__main__":
    main()
