"""The command line where its output has nowhere to go, and progress without a terminal."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import pytest
from click.shell_completion import ShellComplete
from PIL import Image

from zoo_core.cli.group import zoo as commands
from zoo_core.weights.download import progress_bar as progress

SHOWN = ("plugins",)


def zoo(*args, **options):
    return subprocess.run([sys.executable, "-m", "zoo_core", *args], text=True, check=False, **options)


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs a device that is always full")
def test_output_that_cannot_be_written_is_one_line_and_exit_code_1():
    with Path("/dev/full").open("w") as full:
        answer = zoo(*SHOWN, stdout=full, stderr=subprocess.PIPE)
    assert answer.returncode == 1
    assert answer.stderr == "zoo: the output could not be written: No space left on device\n"


def test_an_error_of_a_file_is_not_called_one_of_the_output(tmp_path):
    directory = tmp_path / "file"
    directory.touch()
    answer = zoo("plugin", "new", "acme", "--directory", str(directory / "in"), capture_output=True)
    assert answer.returncode == 1
    assert "Not a directory" in answer.stderr
    assert "output" not in answer.stderr
    assert "check the path" in answer.stderr


@pytest.mark.skipif(os.name == "nt", reason="needs a shell that closes streams")
def test_output_that_was_closed_is_lost_with_exit_code_1():
    command = f"{sys.executable} -m zoo_core {' '.join(SHOWN)} >&-"
    answer = subprocess.run(["sh", "-c", command], stderr=subprocess.PIPE, text=True, check=False)
    assert answer.returncode == 1
    assert "could not be written" in answer.stderr
    assert "Traceback" not in answer.stderr


def test_letters_that_the_encoding_of_the_output_lacks_are_escaped():
    code = (
        "import sys; from zoo_core.cli.console import open_streams; open_streams(); print('caf\\u00e9 \\u6c34 \\udcff')"
    )
    env = {**os.environ, "PYTHONUTF8": "0"}
    plain = subprocess.run(
        [sys.executable, "-c", code], env={**env, "PYTHONIOENCODING": "cp1252"}, stdout=subprocess.PIPE, check=True
    )
    assert plain.stdout == b"caf\xe9 \\u6c34 \xff\n"
    wide = subprocess.run(
        [sys.executable, "-c", code], env={**env, "PYTHONIOENCODING": "utf-8"}, stdout=subprocess.PIPE, check=True
    )
    assert wide.stdout == "café 水 ".encode() + b"\xff\n"


@pytest.mark.skipif(os.name == "nt", reason="needs signals")
def test_ctrl_c_ends_with_the_exit_code_of_shells():
    code = (
        "import signal; signal.signal(signal.SIGINT, signal.default_int_handler)\n"  # a shell's background ignores it
        "import sys, time; from zoo_core.cli import group, main; import click\n"
        "group.zoo.add_command(click.Command('wait', callback=lambda: (print('here', flush=True), time.sleep(60))))\n"
        "group.COMMANDS['wait'] = group._Command('__main__:wait', ''); wait = group.zoo.commands['wait']\n"
        "sys.argv = ['zoo', 'wait']; main()"
    )
    process = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert process.stdout.readline() == "here\n"
    time.sleep(0.1)
    process.send_signal(signal.SIGINT)
    _, told = process.communicate(timeout=30)
    assert (process.returncode, told.strip()) == (130, "Aborted!")


class Log:
    """Takes the place of stderr, as loggers do."""

    def __init__(self):
        self.text = ""

    def write(self, text):
        self.text += text

    def flush(self):
        pass


class Broken(Log):
    def write(self, text):
        raise OSError(f"no room for {text}")


def report(show, *, seconds=0.0):
    with progress.progress_bar("net.pth", 2_000_000, show) as advance:
        progress.time.monotonic, real = lambda: real() + seconds, progress.time.monotonic
        try:
            advance(1_000_000, 2_000_000)
        finally:
            progress.time.monotonic = real


@pytest.mark.parametrize("stream", [None, Log(), Broken()], ids=["none", "logger", "broken"])
@pytest.mark.parametrize("show", [None, True, False])
def test_a_download_needs_no_standard_error(monkeypatch, stream, show):
    monkeypatch.setattr(sys, "stderr", stream)
    report(show)


def test_a_log_has_a_line_at_once_where_progress_is_asked_for(monkeypatch):
    monkeypatch.setattr(sys, "stderr", Log())
    report(True)
    assert sys.stderr.text == "net.pth: 0.0 of 2.0 MB\n"


def test_a_log_has_a_line_every_half_minute(monkeypatch):
    monkeypatch.setattr(sys, "stderr", Log())
    report(None)
    assert sys.stderr.text == ""
    report(None, seconds=31)
    assert sys.stderr.text == "net.pth: 1.0 of 2.0 MB\n"


def test_a_log_can_be_spared_the_lines(monkeypatch):
    monkeypatch.setattr(sys, "stderr", Log())
    report(False, seconds=31)
    assert sys.stderr.text == ""


def test_a_shell_completes_names_of_models():
    typed = {"_ZOO_COMPLETE": "bash_complete", "COMP_WORDS": "zoo get tiny/gly", "COMP_CWORD": "2"}
    answer = zoo(env={**os.environ, **typed}, capture_output=True)
    assert answer.stdout.split() == ["plain,tiny/glyphnet"]


@pytest.mark.parametrize(
    ("command", "incomplete", "expected"),
    [
        (["info"], "tiny/gly", "tiny/glyphnet"),
        (["lock", "resnet18"], "tiny/gly", "tiny/glyphnet"),
        (["predict"], "tiny/gly", "tiny/glyphnet"),
        (["export"], "tiny/gly", "tiny/glyphnet"),
        (["summary"], "glyph", "glyphnet"),
        (["check"], "tim", "timm"),
        (["cache", "rm"], "acme/", "acme/net@v1"),
        ([], "insp", "inspect"),
    ],
    ids=lambda value: "-".join(value) if isinstance(value, list) else "",
)
def test_every_command_completes_what_it_takes(monkeypatch, command, incomplete, expected):
    kept = SimpleNamespace(name="acme/net@v1")
    monkeypatch.setattr("zoo_core.weights.cache.inventory.contents", lambda _cache: ([kept], []))
    found = ShellComplete(commands, {}, "zoo", "_ZOO_COMPLETE").get_completions(command, incomplete)
    assert expected in [each.value for each in found]


def test_a_large_image_that_is_read_brings_no_warning_of_pillow(tmp_path):
    Image.new("L", (50, 30)).save(tmp_path / "large.png")
    code = (
        "import sys; from PIL import Image; from zoo_core.cli import main; Image.MAX_IMAGE_PIXELS = 1000;"
        f"sys.argv = ['zoo', 'predict', 'tiny/glyphnet', {str(tmp_path / 'large.png')!r}]; main()"
    )
    answer = subprocess.run([sys.executable, "-c", code], text=True, check=False, capture_output=True)
    assert answer.returncode == 0
    assert answer.stderr == "1 image, 0 failed\n"
