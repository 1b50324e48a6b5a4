"""The command line, run as a person runs it: in a process of its own, save where that would only import torch again."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import warnings

import pytest
from click.testing import CliRunner
from PIL import Image

from zoo_core.cli import group as groups
from zoo_core.cli import main
from zoo_core.cli.group import zoo as group
from zoo_core.cli.list_without_click import list_plainly
from zoo_core.errors import ZooError


def zoo(*args: str, **env: str):

    return subprocess.run(
        [sys.executable, "-m", "zoo_core.cli", *args],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "COLUMNS": "100", **env},
    )


@pytest.fixture
def zoo_here(monkeypatch, capsys):
    """Runs the command in this process."""

    def run(*args: str, **env: str):
        for name, value in {"COLUMNS": "100", **env}.items():
            monkeypatch.setenv(name, value)
        monkeypatch.setattr(sys, "argv", ["zoo", *args])
        monkeypatch.setattr(warnings, "showwarning", warnings.showwarning)
        with pytest.raises(SystemExit) as left:
            main()
        return subprocess.CompletedProcess(args, left.value.code, *capsys.readouterr())

    return run


def test_list_prints_the_names_that_match_one_a_line():
    answer = zoo("list", "torchvision/resnet1*")
    assert answer.stdout.split() == ["torchvision/resnet101", "torchvision/resnet152", "torchvision/resnet18"]
    assert answer.returncode == 0


def test_list_prints_json():
    assert json.loads(zoo("list", "glyph*", "--json").stdout) == ["tiny/glyphnet"]


def test_list_of_nothing_prints_nothing_and_says_so_beside():
    answer = zoo("list", "no-such-*")
    assert (answer.stdout, answer.stderr, answer.returncode) == ("", "no model matches\n", 0)


def test_list_of_a_part_of_a_name_shows_the_pattern_that_finds_it():
    answer = zoo("list", "glyph")
    assert answer.stdout == ""
    (pattern,) = re.findall(r"zoo list '(.+)'", answer.stderr)
    assert zoo("list", pattern).stdout == "tiny/glyphnet\n"
    assert zoo("--quiet", "list", "glyph").stderr == ""


def test_info_shows_what_a_model_is(zoo_here):
    answer = zoo_here("info", "resnet18")
    for fact in ("torchvision/resnet18", "11,689,512 parameters", "IMAGENET1K_V1", "f37072fd", "download.pytorch.org"):
        assert fact in answer.stdout


def test_info_shows_preprocessing_and_licences_once_for_all_weights_they_are_true_of(zoo_here):
    lines = zoo_here("info", "resnet50").stdout.splitlines()
    normalized = "crop 224x224, RGB of 0 to 1, mean 0.485 0.456 0.406, std 0.229 0.224 0.225"
    assert f"IMAGENET1K_V1: resize 256 bilinear, {normalized}" in lines
    assert f"IMAGENET1K_V2: resize 232 bilinear, {normalized}" in lines
    assert "IMAGENET1K_V1, IMAGENET1K_V2: licences bsd-3-clause (code), unknown (weights), unknown (data)" in lines


def test_info_names_every_file_that_weights_are_in(zoo_here):
    lines = zoo_here("info", "timm/vit_tiny_patch16_224").stdout.splitlines()
    assert any("the hub's" in line for line in lines)
    assert any("/resolve/main/model.safetensors, or https://storage.googleapis.com/" in line for line in lines)


def test_info_prints_the_card_as_json(zoo_here):
    card = json.loads(zoo_here("info", "tiny/glyphnet", "--json").stdout)
    assert (card["name"], card["default"]) == ("glyphnet", "GLYPHS_V1")


def test_get_fetches_verifies_and_builds():
    answer = zoo("get", "tiny/glyphnet", "--num-classes", "9", "--freeze", "backbone", "--json")
    facts = json.loads(answer.stdout)
    assert facts["head"]["classes"] == 9
    assert facts["initialized"] == ["fc.weight", "fc.bias"]
    assert facts["strength"] == "proven"
    assert facts["trainable"] == 64 * 9 + 9


def test_get_prints_a_short_table(zoo_here):
    answer = zoo_here("get", "tiny/glyphnet", "--num-classes", "9")
    for word in ("parameters", "head", "receipt", "file", "sha256", "initialized (fc.weight, fc.bias)"):
        assert word in answer.stdout


def test_a_path_with_brackets_is_printed_as_it_is_and_in_one_piece(zoo_here, tmp_path):
    cache = tmp_path / "a[" / "b] [bold]" / ("long" * 20)
    assert (
        f"file        {cache}/objects/" in zoo_here("get", "tiny/glyphnet", ZOO_CACHE=str(cache), COLUMNS="80").stdout
    )


def test_get_without_weights_needs_no_file(zoo_here):
    assert json.loads(zoo_here("get", "resnet18", "--weights", "none", "--json").stdout)["file"] is None


def test_plugins_lists_who_contributes_what():
    rows = {row["name"]: row for row in json.loads(zoo("plugins", "--json").stdout)}
    assert rows["tiny"]["families"] == ["tiny"]
    assert rows["torchvision"]["problems"] == []


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["lst"], "did you mean 'list'"),
        (["get"], "Missing argument"),
        (["get", "resnet19"], "did you mean 'resnet18'"),
        (["get", "nofamily/resnet18"], "no such family: 'nofamily'"),
        (["get", "resnet18@V9"], "has no weights 'V9'"),
        (["get", "resnet18", "--weights", "V9"], "has no weights 'V9'"),
        (["get", "resnet18", "--num-classes", "-1"], "num_classes cannot be -1"),
        (["get", "resnet18", "--num-classes", "nine"], "not a valid integer"),
        (["get", "resnet18", "--weights", "none", "--freeze", "layer9"], "called 'layer9'"),
        (["get", "resnet18", "--device", "gpu"], "--device"),
        (["get", "resnet18", "--dtype", "float99"], "no dtype 'float99'"),
        (["list", "--family", "nofamily"], "no such family: 'nofamily'"),
        (["info", "resnet19"], "did you mean 'resnet18'"),
    ],
)
def test_wrong_usage_is_a_message_without_a_traceback_and_exit_code_2(args, message, zoo_here):
    answer = zoo_here(*args)
    assert message in answer.stderr
    assert "Traceback" not in answer.stderr
    assert answer.returncode == 2


@pytest.mark.parametrize("name", groups._BROUGHT)
def test_a_command_of_a_plugin_that_is_not_here_is_named_with_the_plugin(name, monkeypatch):
    assert groups.plugin_commands()[name][0].origin.startswith(groups._BROUGHT[name].by)
    monkeypatch.setattr(groups, "plugin_commands", dict)
    answer = CliRunner().invoke(group, [name])
    assert f"no such command: '{name}'; {groups._BROUGHT[name].by} brings it" in answer.output
    assert answer.exit_code == 2


@pytest.mark.parametrize("name", groups._BROUGHT)
def test_help_says_what_a_command_of_a_plugin_of_this_tree_does(name):
    said = CliRunner().invoke(group, ["--help"]).output
    line = next(line for line in said.splitlines() if line.split()[:1] == [name])
    assert line.split(maxsplit=1)[1] == groups._BROUGHT[name].help


def test_failure_is_a_message_without_a_traceback_and_exit_code_1(zoo_here, closed_port):
    rewrite = f"https://download.pytorch.org/=http://127.0.0.1:{closed_port}/"
    answer = zoo_here("get", "resnet18", ZOO_REWRITE=rewrite)
    assert "127.0.0.1" in answer.stderr
    assert "weights=None" in answer.stderr
    assert "Traceback" not in answer.stderr
    assert answer.returncode == 1


def test_help_lists_every_command_without_importing_torch():
    answer = subprocess.run(
        [sys.executable, "-X", "importtime", "-m", "zoo_core.cli", "--help"], capture_output=True, text=True, check=True
    )
    for command in ("list", "info", "get", "plugins", "demo"):
        assert f"\n  {command} " in answer.stdout
    assert "| torch\n" not in answer.stderr


@pytest.mark.parametrize("command", ["list", "list -h"])
def test_a_reader_that_goes_away_is_no_error(command):
    listing = subprocess.run(
        f"{sys.executable} -m zoo_core.cli {command} | true", shell=True, capture_output=True, text=True, check=True
    )
    assert listing.stderr == ""


@pytest.mark.parametrize(
    "arguments",
    [
        ["list"],
        ["list", "torchvision/resnet1*"],
        ["list", "--family", "tiny", "--json"],
        ["list", "--json", "--family=tiny", "--task", "classification", "*net"],
        ["list", "--family", "-x"],
        ["list", "--family", "tiny", "--family", "torchvision", "resnet1*"],
    ],
)
def test_a_plain_list_gives_what_click_gives(arguments, capsys):
    assert outcome(list_plainly, arguments, capsys) == outcome(group.main, [*arguments, "--"], capsys)


def outcome(run, arguments, capsys):
    try:
        done = str(run(arguments))
    except SystemExit as end:
        done = "True" if end.code == 0 else str(end.code)
    except ZooError as error:
        done = str(error)
    return done, *capsys.readouterr()


@pytest.mark.parametrize(
    "arguments",
    [[], ["info"], ["list", "--help"], ["list", "a", "b"], ["list", "--family"], ["list", "--task="], ["list", "-x"]],
)
def test_what_is_not_a_plain_list_is_left_to_click(arguments, capsys):
    assert not list_plainly(arguments)
    assert capsys.readouterr().out == ""


def test_a_plain_list_does_without_click():
    code = "import sys; sys.argv = ['zoo', 'list', 'glyph*']; from zoo_core.cli import main; main()"
    answer = subprocess.run(
        [sys.executable, "-c", f"{code}; assert 'click' not in sys.modules"], capture_output=True, text=True, check=True
    )
    assert answer.stdout == "tiny/glyphnet\n"


@pytest.fixture
def install(tmp_path, monkeypatch):
    """Install a plugin, given its source, where the processes that the test starts find it."""
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))

    def write(name: str, source: str) -> None:
        (tmp_path / f"{name}_plugin.py").write_text(source)
        metadata = tmp_path / f"{name}-1.0.dist-info"
        metadata.mkdir()
        (metadata / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n")
        (metadata / "entry_points.txt").write_text(f"[zoo_core]\n{name} = {name}_plugin\n")

    return write


COMMANDS = """
import click
import zoo_core as zoo

@zoo.hookimpl
def zoo_commands():
    return {commands!r}

@click.command()
def greet():
    click.echo("hello")

answer = 42
"""


def test_a_broken_plugin_is_shown_with_its_reason_and_the_rest_work(install):
    install("broken", "raise RuntimeError('no luck today')")
    answer = zoo("plugins", "--verbose")
    assert "failed broken (broken 1.0): nothing" in answer.stdout
    assert "RuntimeError: no luck today" in answer.stdout
    assert "Traceback" in answer.stdout
    assert "ok     tiny" in answer.stdout


def test_a_plugin_adds_a_command(install):
    install("acme", COMMANDS.format(commands={"greet": "acme_plugin:greet"}))
    assert zoo("greet").stdout == "hello\n"
    assert "greet" in zoo("--help").stdout


@pytest.mark.parametrize(
    ("where", "reason"),
    [
        ("no_such_module:greet", "No module named 'no_such_module'"),
        ("acme_plugin:gret", "has no attribute 'gret'"),
        ("acme_plugin:answer", "got: 42"),
        ("not a path", "ValueError"),
    ],
)
def test_a_command_that_does_not_load_is_a_message_that_names_its_plugin(install, where, reason):
    install("acme", COMMANDS.format(commands={"greet": where}))
    answer = zoo("greet")
    assert "the command 'greet' does not load" in answer.stderr
    assert reason in answer.stderr
    assert "report it to the authors of acme 1.0" in answer.stderr
    assert "Traceback" not in answer.stderr
    assert answer.returncode == 1


def test_two_plugins_with_one_command_are_both_named(install):
    for name in ("acme", "rival"):
        install(name, COMMANDS.format(commands={"greet": f"{name}_plugin:greet"}))
    problem = "command greet: claimed by acme 1.0 and rival 1.0"
    rows = {row["name"]: row["problems"] for row in json.loads(zoo("plugins", "--json").stdout)}
    for name in ("acme", "rival"):
        assert rows[name] == [f"{problem}; uninstall one, or set ZOO_DISABLE={name}"]
    answer = zoo("greet")
    assert problem in answer.stderr
    assert "ZOO_DISABLE=rival" in answer.stderr
    assert answer.returncode == 1


def test_a_command_of_zoo_stays_its_own_and_who_else_claims_it_is_named(install):
    install("acme", COMMANDS.format(commands={"list": "acme_plugin:greet"}))
    assert zoo("list", "glyph*").stdout == "tiny/glyphnet\n"
    assert "command list: claimed by zoo itself and acme 1.0" in zoo("plugins").stdout


def test_zoo_alone_greets_with_three_commands_that_there_are():
    answer = CliRunner().invoke(group, [])
    shown = [line.split()[1] for line in answer.stdout.splitlines() if line.startswith("  zoo ")]
    assert answer.exit_code == 0
    assert len(shown) == 3
    assert {*shown, "doctor"} <= groups.COMMANDS.keys()


@pytest.mark.parametrize("name", groups.COMMANDS)
def test_the_help_of_every_command_has_an_example_in_80_columns(name):
    text = CliRunner().invoke(group, [name, "--help"], terminal_width=80).stdout
    examples = text.partition("Usage:")[2].partition("\n")[2]
    assert re.search(rf"^ +(ZOO_\w+=1 )?zoo {name}( |$)", examples, re.MULTILINE)
    assert max(map(len, text.splitlines())) <= 110  # an example is not broken


def test_quiet_leaves_out_notes_and_keeps_results_and_errors(tmp_path):
    Image.new("L", (32, 32)).save(tmp_path / "black.png")
    (tmp_path / "bad.png").write_bytes(b"hello")
    loud, quiet = (CliRunner().invoke(group, [*o, "predict", "tiny/glyphnet", str(tmp_path)]) for o in ([], ["-q"]))
    assert quiet.stdout == loud.stdout
    assert loud.stderr.splitlines() == [*quiet.stderr.splitlines(), "2 images, 1 failed"]


@pytest.mark.parametrize(("command", "out"), [("maps", "out.png"), ("sliding-window", "out.npy")])
def test_an_image_that_cannot_be_read_takes_one_line(command, out, zoo_here, tmp_path):
    (bad := tmp_path / "bad.png").touch()
    done = zoo_here(command, "tiny/glyphnet", str(bad), "--out", str(tmp_path / out))
    assert done.returncode == 1
    assert done.stderr == f"zoo: {bad}: the file is empty; next step: leave it out, or save it as PNG or JPEG\n"


def test_verbose_shows_where_an_error_was_raised(monkeypatch, capsys):
    for options, expected in (["-v"], True), ([], False):
        monkeypatch.setattr(sys, "argv", ["zoo", *options, "info", "nope"])
        with pytest.raises(SystemExit):
            main()
        assert ("Traceback" in capsys.readouterr().err) is expected


def test_the_doctor_finds_nothing_wrong_where_nothing_is():
    answer = CliRunner().invoke(group, ["doctor", "--json"])
    found = {(each["part"], each["name"]): each for each in json.loads(answer.stdout)}
    assert answer.exit_code == 0, answer.stdout
    assert "timm" in found["families", "timm"]["state"]
    assert "zoo-core[" in found["extras", "remote"]["state"] or found["extras", "remote"]["state"] == "installed"
    assert "nothing is wrong" in CliRunner().invoke(group, ["doctor"]).stdout


def test_the_doctor_says_what_is_wrong_and_what_to_do(monkeypatch, tmp_path):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("ZOO_CACHE", str(tmp_path / "file" / "cache"))
    monkeypatch.setenv("ZOO_OFLINE", "1")
    monkeypatch.setenv("ZOO_CONNECTIONS", "many")
    monkeypatch.setenv("ZOO_FAMILIES", "tiny,tinny")
    monkeypatch.setenv("ZOO_CACHE_SHARED", str(tmp_path / "nowhere"))
    monkeypatch.setenv("ZOO_MIRROR", "weights.example")
    answer = CliRunner().invoke(group, ["doctor"])
    assert answer.exit_code == 1
    assert "file cannot be written: Not a directory\n  next step: set ZOO_CACHE" in answer.stdout
    assert (
        "ZOO_OFLINE: no setting is called so, and nothing reads it\n  next step: did you mean 'ZOO_OFFLINE'"
        in answer.stdout
    )
    assert "wrong: connections: " in answer.stdout
    assert "wrong: families: no such family: tinny\n  next step: correct families in ZOO_FAMILIES" in answer.stdout
    assert "wrong: cache_shared: no such folder: " in answer.stdout
    assert "wrong: mirror: no url: weights.example\n" in answer.stdout


def test_a_torch_that_does_not_import_is_a_message_and_the_doctor_names_it(tmp_path):
    (tmp_path / "torch.py").write_text("raise OSError('libcudart.so.13: cannot open shared object file')")
    environment = {**os.environ, "PYTHONPATH": str(tmp_path)}

    def zoo(*args):
        command = [sys.executable, "-m", "zoo_core.cli", *args]
        return subprocess.run(command, env=environment, text=True, capture_output=True, check=False)

    answer = zoo("get", "tiny/glyphnet")
    assert answer.returncode == 1
    first, second = answer.stderr.splitlines()
    assert first == "zoo: OSError: libcudart.so.13: cannot open shared object file"
    assert second.startswith("  next step: zoo doctor imports what is installed")
    assert "wrong: torch: OSError: libcudart" in zoo("doctor").stdout


def test_no_help_is_cut_off_in_a_list_of_commands():
    for name in ("cache", "plugin", "mirror", "bundle"):
        usage, *lines = CliRunner().invoke(group, [name, "--help"]).output.splitlines()
        assert not [line for line in lines if line.endswith("...")], usage


def on_a_terminal(*args, columns=80):
    """What a command prints on a terminal of so many columns, with its escapes."""
    import fcntl
    import pty
    import struct
    import termios

    leader, follower = pty.openpty()
    fcntl.ioctl(follower, termios.TIOCSWINSZ, struct.pack("HHHH", 40, columns, 0, 0))
    environment = {name: value for name, value in os.environ.items() if name not in ("COLUMNS", "NO_COLOR")}
    command = [sys.executable, "-m", "zoo_core.cli", *args]
    process = subprocess.Popen(
        command, stdout=follower, stderr=subprocess.DEVNULL, env={**environment, "TERM": "xterm-256color"}
    )
    os.close(follower)
    parts = []
    while True:
        try:
            parts.append(os.read(leader, 65536))
        except OSError:  # the last writer has gone
            break
        if not parts[-1]:
            break
    os.close(leader)
    process.wait()
    return b"".join(parts).decode().replace("\r", "")


@pytest.mark.parametrize(
    "args", [["info", "timm/resnet50"], ["list", "--table", "timm/*pretrain*"], ["plugins"]], ids=" ".join
)
def test_lines_on_a_terminal_are_broken_between_words(args, zoo_here):
    printed = on_a_terminal(*args)
    assert printed.strip()
    plain = [re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", line) for line in printed.splitlines()]
    assert not [line for line in plain if len(line) > 80 and len(line.split()) > 2]  # a url is not broken
    assert " ".join(plain).split() == zoo_here(*args).stdout.split()


def test_colours_are_for_terminals(zoo_here):
    assert "\x1b[" in on_a_terminal("info", "tiny/glyphnet")
    assert "\x1b[" not in zoo_here("info", "tiny/glyphnet").stdout
