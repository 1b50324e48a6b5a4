"""The group of all commands: those of zoo itself, and those of plugins."""

from __future__ import annotations

from importlib import import_module
from typing import Any, NamedTuple

import click

from zoo_core.errors import ZooError, close_matches, did_you_mean


class _Command(NamedTuple):
    where: str
    help: str


COMMANDS = {
    "list": _Command("zoo_core.cli.models:list_", "List the models that match a pattern."),
    "info": _Command("zoo_core.cli.models:info", "Show what a model is and which weights it has."),
    "get": _Command("zoo_core.cli.get:get", "Fetch, verify and build a model."),
    "plugins": _Command("zoo_core.cli.plugins:plugins", "List the plugins, and what is wrong with them."),
    "lock": _Command("zoo_core.cli.lock:lock", "Write the exact weights of this project to zoo.lock."),
    "sync": _Command("zoo_core.cli.lock:sync", "Fetch exactly the weights that zoo.lock names."),
    "verify": _Command("zoo_core.cli.cache:verify", "Hash every file in the cache again."),
    "cache": _Command("zoo_core.cli.cache:cache", "Look after the weights on this machine."),
    "mirror": _Command("zoo_core.cli.mirror:mirror", "Serve weights to other machines."),
    "bundle": _Command("zoo_core.cli.mirror:bundle", "Carry weights to a machine without a network."),
    "demo": _Command("zoo_core.cli.demo:demo", "Transfer a small network to handwritten digits."),
}
"""The commands of zoo itself. Their help stands here, so that ``zoo --help`` imports none of them."""


class LazyGroup(click.Group):
    """A group that imports a command when it is used, and asks plugins only for names it does not know itself."""

    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002 - click's signature
        """The names of all commands, those of plugins last."""
        return [*COMMANDS, *sorted(_plugin_commands())]

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:  # noqa: ARG002 - click's signature
        """The command of that name, imported now."""
        where = COMMANDS[cmd_name].where if cmd_name in COMMANDS else _plugin_commands().get(cmd_name)
        return _imported(where) if where else None

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """Find the command, or end with the names that come closest."""
        if args and not args[0].startswith("-") and self.get_command(ctx, args[0]) is None:
            hint = did_you_mean(close_matches(args[0], self.list_commands(ctx)), "zoo --help lists them")
            ctx.fail(f"no such command: {args[0]!r}; {hint}")
        return super().resolve_command(ctx, args)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """List the commands without importing them."""
        rows = [
            (name, COMMANDS[name].help if name in COMMANDS else "From a plugin.") for name in self.list_commands(ctx)
        ]
        with formatter.section("Commands"):
            formatter.write_dl(rows)


def _imported(where: str) -> click.Command:
    module, _, attribute = where.partition(":")
    command: Any = getattr(import_module(module), attribute)
    if not isinstance(command, click.Command):
        raise ZooError(f"{where} is not a click command", hint="report it to the authors of the plugin")
    return command


def _plugin_commands() -> dict[str, str]:
    from zoo_core.registry import current_zoo

    return {name: where for plugin in current_zoo().plugins for name, where in plugin.commands.items()}


@click.group(cls=LazyGroup, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="zoo-core", prog_name="zoo")
def zoo() -> None:
    """Pretrained networks of every installed family: verified, and with one set of surgery tools."""
