"""The group of all commands: those of zoo itself, and those of plugins."""

from __future__ import annotations

import os
import sys
import warnings
from importlib import import_module
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from pkgutil import resolve_name
from typing import TYPE_CHECKING, Any, NamedTuple

import click

from zoo_core.cli.console import INTERRUPTED, VERBOSITY, echo
from zoo_core.errors import DuplicatePlugin, PluginError, ZooError, ZooWarning
from zoo_core.registry.zoo import current_zoo
from zoo_core.text import close_matches, did_you_mean
from zoo_core.utils.paths import is_file

if TYPE_CHECKING:
    from zoo_core.registry.plugins import Plugin


class _Command(NamedTuple):
    where: str
    help: str


COMMANDS = {
    "list": _Command("zoo_core.cli.list:list_", "List the models that match a pattern."),
    "info": _Command("zoo_core.cli.info:info", "Show what a model is and which weights it has."),
    "get": _Command("zoo_core.cli.get:get", "Fetch, verify and build a model."),
    "predict": _Command("zoo_core.cli.predict:predict", "Say what a model sees in images."),
    "sliding-window": _Command("zoo_core.cli.predict:sliding_window", "Run a model over a large image."),
    "embed": _Command("zoo_core.cli.embed:embed", "Write a vector for each image to a file."),
    "probe": _Command("zoo_core.cli.embed:probe", "Say how well classes can be told from vectors."),
    "export": _Command("zoo_core.cli.export:export", "Write a model for another runtime."),
    "push": _Command("zoo_core.cli.push:push", "Share a saved model on the Hugging Face hub."),
    "inspect": _Command("zoo_core.cli.inspect:inspect", "Say what a checkpoint is, and which models it is of."),
    "browse": _Command("zoo_core.cli.browse:browse", "Write the catalogue as one HTML page."),
    "cam": _Command("zoo_core.cli.inspect:cam", "Draw which part of an image speaks for a class."),
    "maps": _Command("zoo_core.cli.inspect:maps", "Draw where in an image the layers of a model respond."),
    "summary": _Command("zoo_core.cli.inspect:summary", "Show a model's parts and where its tensors came from."),
    "draw": _Command("zoo_core.cli.inspect:draw", "Draw the stages of a model, or its whole graph."),
    "stats": _Command("zoo_core.cli.inspect:stats", "Show whether signals vanish or explode through a model."),
    "compare": _Command("zoo_core.cli.inspect:compare", "Measure models side by side."),
    "doctor": _Command("zoo_core.cli.doctor:doctor", "Say what is installed, what is wrong, and what to do."),
    "plugins": _Command("zoo_core.cli.plugins:plugins", "List the plugins, and what is wrong with them."),
    "check": _Command("zoo_core.cli.check:check", "Check that a family keeps every promise of a zoo model."),
    "config": _Command("zoo_core.cli.config:config", "Show the settings, and who says so."),
    "plugin": _Command("zoo_core.cli.write_plugin:plugin", "Begin a plugin of your own."),
    "trace": _Command("zoo_core.cli.trace:trace", "Print the anatomy of a class, found by running it."),
    "lock": _Command("zoo_core.cli.lock:lock", "Write the exact weights of this project to zoo.lock."),
    "sync": _Command("zoo_core.cli.lock:sync", "Fetch exactly the weights that zoo.lock names."),
    "verify": _Command("zoo_core.cli.verify:verify", "Hash every file in the cache again."),
    "cache": _Command("zoo_core.cli.cache:cache", "Look after the weights on this machine."),
    "mirror": _Command("zoo_core.cli.cache:mirror", "Serve weights to other machines."),
    "bundle": _Command("zoo_core.cli.cache:bundle", "Carry weights to a machine without a network."),
}
"""The commands of zoo itself. Their help stands here, so that ``zoo --help`` imports none of them."""

_EXAMPLES = {
    "info": ("zoo info resnet18", "zoo info ./flowers"),
    "get": ("zoo get resnet18 --num-classes 9 --freeze backbone",),
    "inspect": ("zoo inspect runs/last.ckpt",),
    "browse": ("zoo browse --out zoo.html",),
    "plugins": ("zoo plugins --try",),
    "check": ("zoo check tiny", "zoo check timm 'test_*'", "zoo check acme 'net*' --digests"),
    "config": ("ZOO_OFFLINE=1 zoo config",),
    "plugin": ("zoo plugin new acme --library acme-models",),
    "plugin signatures": ("zoo plugin signatures acme zoo_acme/signatures.json.gz",),
    "trace": ("zoo trace package.module:Net --example 1x3x64x64",),
    "lock": ("zoo lock resnet18 resnet50",),
    "sync": ("zoo sync --frozen",),
    "cache": ("zoo cache ls 'resnet*'", "zoo cache prune --unused 90"),
    "cache import": ("zoo cache import --torch-hub", "zoo cache import resnet18-f37072fd.pth"),
    "cache ls": ("zoo cache ls 'resnet*'",),
    "cache path": ("zoo cache path", "zoo cache path resnet18"),
    "cache prune": ("zoo cache prune --unused 90 --dry-run",),
    "cache rm": ("zoo cache rm 'resnet*'",),
    "mirror": ("zoo mirror export /srv/weights 'resnet*'",),
    "mirror export": ("zoo mirror export /srv/weights 'resnet*'",),
    "bundle": ("zoo bundle export weights.zip 'resnet*'", "zoo bundle import weights.zip"),
    "bundle export": ("zoo bundle export weights.zip 'resnet*'",),
    "bundle import": ("zoo bundle import weights.zip",),
}
"""How commands are used whose own help does not show it."""


class _Brought(NamedTuple):
    by: str
    help: str


_BROUGHT = {
    "demo": _Brought("zoo-tiny", "Teach a pretrained network nine handwritten digits."),
    "finetune": _Brought("zoo-lightning", "Fine-tune a model on images of your own."),
}
"""The commands of the plugins of this tree: what ``zoo --help`` says of them, and who adds one that is missing."""


class LazyGroup(click.Group):
    """A group that imports a command when it is used, and asks plugins only for names it does not know itself."""

    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002 - click's signature
        """The names of all commands, those of plugins last."""
        return [*COMMANDS, *sorted(plugin_commands().keys() - COMMANDS.keys())]

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:  # noqa: ARG002 - click's signature
        """The command of that name, imported now."""
        if cmd_name in COMMANDS:
            command: click.Command = resolve_name(COMMANDS[cmd_name].where)
            return _with_examples(command, cmd_name)
        claimants = plugin_commands().get(cmd_name, ())
        return _with_examples(_from_plugin(cmd_name, claimants), cmd_name) if claimants else None

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """Find the command, or end with the names that come closest."""
        if args and not args[0].startswith("-") and self.get_command(ctx, args[0]) is None:
            if brought := _BROUGHT.get(args[0]):
                hint = f"{brought.by} brings it: pip install ./plugins/{brought.by} in a checkout of zoo"
            else:
                hint = did_you_mean(close_matches(args[0], self.list_commands(ctx)), "zoo --help lists them")
            ctx.fail(f"no such command: {args[0]!r}; {hint}")
        return super().resolve_command(ctx, args)

    def invoke(self, ctx: click.Context) -> Any:
        """Run the command; Ctrl-C ends it with the exit code that shells expect."""
        try:
            return super().invoke(ctx)
        except (KeyboardInterrupt, click.Abort):
            echo("\nAborted!", err=True)
            ctx.exit(INTERRUPTED)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """List the commands without importing them."""
        rows = [(name, command.help) for name, command in COMMANDS.items()]
        for name in self.list_commands(ctx)[len(rows) :]:
            origin = plugin_commands()[name][0].origin
            known = _BROUGHT.get(name)
            rows.append((name, known.help if known and origin.startswith(known.by) else f"From {origin}."))
        with formatter.section("Commands"):
            formatter.write_dl(rows)


class _Path(click.Path):
    """A path that is given to a command of the group: not empty, as that of a variable that is not set is."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """The path, as click makes it; ``""`` would be the current folder."""
        if value == "":
            self.fail("the path is empty; '.' is the folder you are in", param, ctx)
        return super().convert(value, param, ctx)


def _with_examples(command: click.Command, path: str) -> click.Command:
    r"""Show how a command is used below its help, and keep the lines that a raw docstring marks with ``\b``."""
    command.help = (command.help or "").replace("\\b\n", "\b\n")
    command.short_help = " ".join(command.help.partition("\n\n")[0].split())  # click cuts it off otherwise
    if path in _EXAMPLES:
        command.epilog = "\n".join(["\b", *_EXAMPLES[path]])
    for parameter in command.params:
        if type(parameter.type) is click.Path:
            plain, parameter.type = parameter.type, _Path()
            vars(parameter.type).update(vars(plain))
    for name, each in getattr(command, "commands", {}).items():
        _with_examples(each, f"{path} {name}")
    return command


def plugin_commands() -> dict[str, tuple[Plugin, ...]]:
    """The commands of plugins in the group, each with those who contribute it: more than one is a conflict."""
    result: dict[str, tuple[Plugin, ...]] = {}
    for plugin in current_zoo().plugins:
        for name in plugin.commands:
            result[name] = (*result.get(name, ()), plugin)
    return result


def conflict(name: str, claimants: tuple[Plugin, ...]) -> str | None:
    """What is wrong with the name of a command in the group: several plugins have it. None where one has."""
    origins = [*(["zoo itself"] if name in COMMANDS else []), *(plugin.origin for plugin in claimants)]
    return f"command {name}: claimed by {' and '.join(origins)}" if len(origins) > 1 else None


def _from_plugin(name: str, claimants: tuple[Plugin, ...]) -> click.Command:
    """The command of that name in the group that a plugin contributes."""
    if problem := conflict(name, claimants):
        origins = tuple(plugin.origin for plugin in claimants)
        hint = f"uninstall one, or set ZOO_DISABLE={claimants[-1].name}"
        raise DuplicatePlugin(problem, hint=hint, name=name, claimants=origins)
    plugin = claimants[0]
    try:
        command = resolve_name(plugin.commands[name])
    except Exception as error:  # a plugin's own code: whatever it raises is its failure
        raise _no_command(name, plugin, f"{type(error).__name__}: {error}") from error
    if not isinstance(command, click.Command):
        raise _no_command(name, plugin, repr(command)[:200])
    return command


def _no_command(name: str, plugin: Plugin, got: str) -> PluginError:
    """The error for a plugin's command that does not load into the group."""
    return PluginError(
        f"the command {name!r} does not load",
        expected=f"{plugin.commands[name]} to be a click command",
        got=got,
        hint=f"report it to the authors of {plugin.origin}",
        plugin=plugin.name,
    )


_GREETING = """\
zoo: pretrained networks for PyTorch, from every library that you have installed

  zoo list --table --task classification   which models there are, and what they cost
  zoo predict resnet50 cat.jpg             what one sees in an image
  zoo get resnet50 --num-classes 9         one for your own classes

zoo --help lists all commands, and zoo doctor says what is installed here.
"""


@click.group(cls=LazyGroup, invoke_without_command=True, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="zoo-core", prog_name="zoo")
@click.option(
    "--models", multiple=True, metavar="FILE", help="Run a Python file, or import a module, that registers models."
)
@click.option("--quiet", "-q", is_flag=True, help="Results and errors alone: no warnings, notes or progress.")
@click.option("--verbose", "-v", is_flag=True, help="The traceback of an error too.")
@click.pass_context
def zoo(context: click.Context, models: tuple[str, ...], *, quiet: bool, verbose: bool) -> None:
    """Pretrained networks of every installed family: verified, and with one set of surgery tools."""
    VERBOSITY.quiet, VERBOSITY.verbose = quiet, verbose
    if quiet:
        warnings.simplefilter("ignore", ZooWarning)
        os.environ["ZOO_PROGRESS"] = "0"
    if context.invoked_subcommand is None and not models:
        click.echo(_GREETING, nl=False)
    for each in models:
        _run_models(each)


def _run_models(where: str) -> None:
    """For ``--models``, an option of the group: run a file or import a module that registers models."""
    path = Path(where)
    spec = spec_from_file_location(path.stem, path) if where.endswith(".py") and is_file(path) else None
    if where.endswith(".py") and spec is None:
        raise click.UsageError(f"--models {where}: no such file")
    try:
        if spec is None or spec.loader is None:
            import_module(where)
            return
        module = sys.modules[path.stem] = module_from_spec(spec)
        spec.loader.exec_module(module)
    except ZooError:
        raise
    except Exception as error:
        raise PluginError(
            f"--models {where} does not run", got=f"{type(error).__name__}: {error}", hint=f"python {where} shows where"
        ) from error
