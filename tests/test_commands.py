"""Every command that a page or a help text shows: it is understood, it fits, and it does what it says."""

from __future__ import annotations

import re
import shlex
import shutil
from dataclasses import replace
from hashlib import sha256
from pathlib import Path

import click
import pytest
from click.testing import CliRunner
from support import hub as small

from zoo_core.cli.group import zoo as group

ROOT = Path(__file__).parent.parent
PAGES = [ROOT / "README.md", *(page for page in sorted((ROOT / "docs").rglob("*.md")) if "howto" not in page.parts)]
PAGES += sorted(ROOT.glob("plugins/*/README.md"))
ELSEWHERE = {
    "zoo demo": "plugins/zoo-tiny/tests runs it",
    "zoo get acme/toynet": "tests/test_plugin_new.py does, with the plugin installed",
    "zoo check acme": "tests/test_guide.py does, with the plugin of the guide",
    "zoo plugin new acme --library acme-models": "tests/test_plugin_new.py does, with a library of its own",
    "zoo finetune": "plugins/zoo-lightning/tests runs it",
    "zoo check tiny": "tests/test_check.py runs it",
    "zoo predict my-flowers": "plugins/zoo-lightning/tests/test_finetune.py loads what a run saved",
    'zoo embed resnet50 "shards-': "tests/test_embed.py does, with shards",
    "zoo embed resnet50 /data/photos --out features.parquet --engine ray": "plugins/zoo-ray/tests does",
    "zoo list --table": "tests/test_choose.py does, and it takes all cards",
}
"""Commands that are run by other tests."""


def shown(text):
    """The zoo commands in blocks of shell, without comments and redirections."""
    blocks = re.findall(r"^```sh\n(.*?)^```", text, re.MULTILINE | re.DOTALL)
    lines = [line.partition("  #")[0].partition(" > ")[0].strip() for block in blocks for line in block.splitlines()]
    return [line for line in lines if line.startswith("zoo ")]


def commands(command, path=()):
    """Every command below a group, with its path."""
    yield path, command
    if isinstance(command, click.Group):
        context = click.Context(command)
        for name in command.list_commands(context):
            yield from commands(command.get_command(context, name), (*path, name))


COMMANDS = dict(commands(group))
ON_PAGES = {page: shown(page.read_text(encoding="utf-8")) for page in PAGES}


def help_of(path):
    answer = CliRunner().invoke(group, [*path, "--help"], env={"COLUMNS": "80"})
    assert answer.exit_code == 0, answer.output
    return answer.output


def examples(path):
    """The lines of a help text that are commands to copy."""
    lines = [line.strip().partition("  #")[0] for line in help_of(path).splitlines()]
    return [line.partition(" > ")[0].partition(" | ")[0] for line in lines if re.match(r"(ZOO_\w+=\S+ )?zoo ", line)]


def understood(line):
    """Let click read a command, up to where it would be run."""
    words = [word for word in shlex.split(line) if not re.match(r"ZOO_\w+=", word)]
    context = group.make_context("zoo", words[1:])
    while isinstance(context.command, click.Group):
        name, command, rest = context.command.resolve_command(context, [*context._protected_args, *context.args])
        context = command.make_context(name, rest, parent=context)


FILES = (
    *("cat.jpg", "street.jpg", "last.ckpt", "runs/last.ckpt", "resnet18-f37072fd.pth"),
    *("features.parquet", "weights.zip", "key.pem", "key.pub.pem"),
)


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A folder in which what the commands name exists."""
    folder = tmp_path_factory.mktemp("place")
    for name in FILES:
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).touch()
    for name in ("photos", "flowers"):
        (folder / name).mkdir()
    return folder


@pytest.fixture
def world(tmp_path, monkeypatch, resnet18_file):
    """A folder in which the commands of the pages do what they say."""
    from PIL import Image, ImageDraw

    import zoo_core as zoo

    monkeypatch.chdir(tmp_path)
    for letter in "KO":
        for number in range(3):
            path = Path("photos", letter, f"{number}.jpg")
            path.parent.mkdir(parents=True, exist_ok=True)
            image = Image.new("RGB", (64, 64))
            ImageDraw.Draw(image).text((32, 32), letter, fill="white", font_size=40 + number, anchor="mm")
            image.save(path)
    Path("runs").mkdir()
    for name in ("cat.jpg", "street.jpg"):
        shutil.copy("photos/K/0.jpg", name)
    for name in ("runs/last.ckpt", "last.ckpt"):
        shutil.copy(resnet18_file[0], name)
    Path("classes.txt").write_text("\n".join(map(str, range(1000))))
    zoo.save(zoo.get("tiny/glyphnet", num_classes=2, seed=0), "flowers", class_names=["rose", "tulip"])
    return tmp_path


@pytest.mark.parametrize("page", [page for page, lines in ON_PAGES.items() if lines], ids=lambda page: page.stem)
def test_every_command_on_a_page_is_one_with_these_arguments(page, place, monkeypatch):
    monkeypatch.chdir(place)
    for line in ON_PAGES[page]:
        understood(line)


@pytest.mark.parametrize("path", COMMANDS, ids=" ".join)
def test_the_help_of_a_command_fits_and_shows_how_it_is_used(path, place, monkeypatch):
    monkeypatch.chdir(place)
    assert not [line for line in help_of(path).splitlines() if len(line) > 80]
    undescribed = [each.name for each in COMMANDS[path].params if isinstance(each, click.Option) and not each.help]
    assert not undescribed
    lines = examples(path)
    assert any(line.partition("zoo ")[2].startswith(" ".join(path)) for line in lines) or not path
    for line in lines:
        understood(line)


@pytest.fixture
def weights_of(file_server, tmp_path):
    """Untrained files for models by name, in a registry of their own."""
    import torch

    import zoo_core as zoo

    def serve(*names):
        own = zoo.Zoo()
        folder = tmp_path / "served"
        folder.mkdir()
        address = file_server(folder).url
        for name in names:
            path = folder / f"{name.replace('/', '-')}.pth"
            torch.save(zoo.get(name, weights=None).state_dict(), path)
            card = own.resolve(name)[0]
            digest = sha256(path.read_bytes()).hexdigest()
            weights = replace(card.find(), urls=(f"{address}/{path.name}",), sha256=digest, size=None)
            own.add(replace(card, weights=(weights,), default=weights.tag))
        return zoo.use(own)

    return serve


NAMES = ("resnet18", "resnet50", "mobilenet_v3_small", "timm/test_vit", "maskrcnn_resnet50_fpn")


@pytest.mark.extra
def test_the_commands_of_the_pages_run(world, weights_of, monkeypatch):
    monkeypatch.setenv("HF_TOKEN", "hf_a_token_of_this_test")
    failed = []
    with small.hub() as (_, address), weights_of(*NAMES):
        monkeypatch.setenv("HF_ENDPOINT", address)
        for line in dict.fromkeys(line for lines in ON_PAGES.values() for line in lines):
            if not line.startswith(tuple(ELSEWHERE)):
                answer = CliRunner().invoke(group, shlex.split(line)[1:], catch_exceptions=True)
                if answer.exit_code:
                    failed.append(f"{line}: {answer.output[-500:]} {answer.exception}")
    assert not failed, "\n".join(failed)
