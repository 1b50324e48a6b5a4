"""Loading plugins: none of them can stop another."""

from __future__ import annotations

import sys
import textwrap
from importlib.metadata import EntryPoint

import pytest

from zoo_core import Family, ZooWarning, hookimpl
from zoo_core.registry.plugins import load_plugin, load_plugins


@pytest.fixture
def package(tmp_path, monkeypatch):
    """Write a module and return the entry point that names it."""
    monkeypatch.syspath_prepend(str(tmp_path))

    def write(name: str, source: str) -> EntryPoint:
        (tmp_path / f"{name}_module.py").write_text(textwrap.dedent(source))
        sys.modules.pop(f"{name}_module", None)
        return EntryPoint(name=name, value=f"{name}_module", group="zoo_core")

    return write


GOOD = """
    from zoo_core import Family, ZooWarning, hookimpl

    @hookimpl
    def zoo_families():
        return [Family(name={name!r}, catalog="nowhere:cards", anatomy="nowhere:anatomy")]
"""


def families(plugins):
    return [family.name for plugin in plugins for family in plugin.families]


def test_plugins_load_in_the_order_of_their_names(package):
    plugins = load_plugins([package(name, GOOD.format(name=name)) for name in ("b", "a")])
    assert families(plugins) == ["a", "b"]


@pytest.mark.parametrize(
    ("source", "reason"),
    [
        ("import does_not_exist", "ModuleNotFoundError: No module named 'does_not_exist'"),
        ("raise RuntimeError('no luck')", "RuntimeError: no luck"),
        ("import sys; sys.exit(3)", "SystemExit: 3"),
        ("def oops(:", "SyntaxError"),
        (
            "from zoo_core import hookimpl\n\n@hookimpl\ndef zoo_families():\n    raise ValueError('in the hook')",
            "ValueError: in the hook",
        ),
        (
            "from zoo_core import hookimpl\n\n@hookimpl\ndef zoo_families():\n    return ['junk']",
            "must return a list of Family, got 'junk'",
        ),
        (
            "from zoo_core import hookimpl\n\n@hookimpl\ndef zoo_families(extra):\n    return []",
            "PluginValidationError",
        ),
    ],
)
def test_a_broken_plugin_is_recorded_and_the_rest_load(package, source, reason):
    broken, good = package("broken", source), package("good", GOOD.format(name="good"))
    plugins = load_plugins([broken, good])
    assert families(plugins) == ["good"]
    assert reason in plugins[0].problem
    assert "Traceback" in plugins[0].traceback


def test_a_missing_library_is_named_with_the_command_that_installs_it(package):
    plugin = load_plugins([package("acme", "import acme_models.vision")])[0]
    assert plugin.problem == "ModuleNotFoundError: No module named 'acme_models'; pip install acme_models"


def test_a_missing_module_of_the_plugin_itself_is_not_to_be_installed_with_pip():
    plugin = load_plugins([EntryPoint("acme", "zoo_acme_that_is_gone.hooks", "zoo_core")])[0]
    assert "pip install" not in plugin.problem


@pytest.mark.parametrize("answer", ["{'acme': 5}", "{5: 'acme:run'}", "['acme']", "'acme'"])
def test_commands_that_are_not_texts_are_a_problem_of_their_plugin(package, answer):
    source = f"from zoo_core import hookimpl\n\n@hookimpl\ndef zoo_commands():\n    return {answer}\n"
    plugin = load_plugins([package("acme", source)])[0]
    assert plugin.problem.startswith("zoo_commands must return a dict of name to 'package.module:command'")
    assert plugin.commands == {}


def test_two_plugins_of_one_name_both_fail_and_the_error_names_both(package):
    first, second = package("twin", GOOD.format(name="twin")), package("other", GOOD.format(name="other"))
    second = EntryPoint(name="twin", value=second.value, group="zoo_core")
    plugins = load_plugins([first, second])
    assert families(plugins) == []
    for plugin in plugins:
        assert "twin_module" in plugin.problem
        assert "other_module" in plugin.problem


def test_an_unknown_hook_is_reported_with_the_one_that_was_meant(package):
    source = GOOD.format(name="acme") + "\n    @hookimpl\n    def zoo_familys():\n        return []\n"
    plugin = load_plugins([package("acme", source)])[0]
    assert plugin.notes[0].startswith("unknown hook 'zoo_familys': did you mean 'zoo_families'")
    assert plugin.problem is None


def test_a_family_named_twice_by_one_plugin_is_a_problem():
    class Twice:
        @staticmethod
        @hookimpl
        def zoo_families():
            return [Family("one", "a:b", "a:c"), Family("one", "a:d", "a:e")]

    assert "one family twice" in load_plugin("twice", lambda: Twice, "twice 1").problem


def test_a_slow_plugin_is_said_to_be_slow(monkeypatch):
    ticks = iter([0.0, 2.5])
    monkeypatch.setattr("zoo_core.registry.plugins.time.perf_counter", lambda: next(ticks))

    class Slow:
        pass

    assert "2.5 s" in load_plugin("slow", lambda: Slow, "slow 1").notes[0]


def test_zoo_plugins_and_zoo_disable_choose_what_is_loaded(monkeypatch):
    monkeypatch.setenv("ZOO_PLUGINS", "tiny,torchvision")
    monkeypatch.setenv("ZOO_DISABLE", "torchvision")
    assert [plugin.name for plugin in load_plugins()] == ["tiny"]


@pytest.mark.parametrize("variable", ["ZOO_PLUGINS", "ZOO_DISABLE"])
def test_unknown_plugins_in_a_setting_are_one_warning_with_what_was_meant(variable, monkeypatch):
    monkeypatch.setenv(variable, "tinny,torchvison")
    with pytest.warns(
        ZooWarning, match=f"{variable}.*tinny, torchvison; did you mean 'tiny' or 'torchvision'"
    ) as caught:
        load_plugins()
    assert len(caught) == 1


def test_the_first_party_families_come_through_the_same_door():
    names = [plugin.name for plugin in load_plugins() if plugin.problem is None]
    assert {"tiny", "torchvision"} <= set(names)
