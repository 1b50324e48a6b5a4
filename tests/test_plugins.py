"""Plugins are found as ``importlib.metadata`` finds them, without its import, and none can stop another."""

from __future__ import annotations

import importlib.metadata
import subprocess
import sys
import textwrap
import types
import zipfile
from importlib.metadata import EntryPoint

import pytest

from zoo_core import Family, ZooWarning, hookimpl
from zoo_core.contract import hooks
from zoo_core.registry.plugins import is_installed, load_plugin, load_plugins, plugin_entries


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


ENTRIES = """
[console_scripts]
acme = acme:main

[zoo_core]
# a comment
acme = acme_zoo
bent.name = acme_zoo.deeper:Plugin.inner [extra]
spaced   =   acme_zoo
[other]
no = no
"""


@pytest.fixture
def site(tmp_path, monkeypatch):
    """A folder that comes first on the path, and a function that installs something there."""
    monkeypatch.syspath_prepend(str(tmp_path / "site"))

    def install(name, entries=ENTRIES, *, folder="site", kind="dist-info"):
        metadata = tmp_path / folder / f"{name}-1.0.{kind}"
        metadata.mkdir(parents=True)
        (metadata / ("METADATA" if kind == "dist-info" else "PKG-INFO")).write_text(f"Name: {name}\nVersion: 1.0\n")
        if entries is not None:
            (metadata / "entry_points.txt").write_text(entries)

    return install


def facts(entries):
    return sorted((entry.name, entry.value.partition(" [")[0], entry.dist.name) for entry in entries)


def test_it_is_what_importlib_finds(site):
    site("acme_models")
    site("old.style", "[zoo_core]\nold = old_zoo\n", kind="egg-info")
    site("nothing", None)
    assert facts(plugin_entries()) == facts(importlib.metadata.entry_points(group="zoo_core"))
    assert ("bent.name", "acme_zoo.deeper:Plugin.inner", "acme_models") in facts(plugin_entries())
    assert len(facts(plugin_entries())) > 8


def test_of_two_distributions_of_one_name_the_first_on_the_path_counts(site, tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(str(tmp_path / "before"))
    site("acme_models", "[zoo_core]\nfirst = first\n", folder="before")
    site("Acme_Models", "[zoo_core]\nsecond = second\n")
    assert facts(plugin_entries()) == facts(importlib.metadata.entry_points(group="zoo_core"))
    assert "second" not in {entry.name for entry in plugin_entries()}


def test_what_is_installed_while_the_process_lives_is_found(site):
    assert "acme" not in {entry.name for entry in plugin_entries()}
    assert not is_installed("acme-models")
    site("Acme_Models")
    assert is_installed("acme.models")
    assert "acme" in {entry.name for entry in plugin_entries()}


def test_a_plugin_in_a_zip_file_is_found(tmp_path, monkeypatch):
    with zipfile.ZipFile(tmp_path / "all.zip", "w") as archive:
        archive.writestr("zipped-1.0.dist-info/METADATA", "Name: zipped\nVersion: 1.0\n")
        archive.writestr("zipped-1.0.dist-info/entry_points.txt", "[zoo_core]\nzipped = zipped_zoo\n")
    monkeypatch.syspath_prepend(str(tmp_path / "all.zip"))
    assert "zipped" in {entry.name for entry in plugin_entries()}


def test_a_plugin_that_an_import_hook_brings_is_found(monkeypatch):
    class Finder(importlib.metadata.DistributionFinder):
        def find_spec(self, *_):
            return None

        def find_distributions(self, _context=None):
            return [Brought()]

    class Brought(importlib.metadata.Distribution):
        def read_text(self, name):
            return {"METADATA": "Name: brought\n", "entry_points.txt": "[zoo_core]\nbrought = brought_zoo\n"}.get(name)

        def locate_file(self, path):
            return path

    monkeypatch.setattr(sys, "meta_path", [*sys.meta_path, Finder()])
    assert "brought" in {entry.name for entry in plugin_entries()}


def test_an_entry_point_loads_the_attribute_that_it_names(site, tmp_path):
    site("acme", "[zoo_core]\nacme = acme_of_the_test:Outer.inner\n")
    (tmp_path / "site" / "acme_of_the_test.py").write_text("class Outer:\n    inner = 7\n")
    entry = next(entry for entry in plugin_entries() if entry.name == "acme")
    assert (entry.load(), entry.module, entry.dist.version) == (7, "acme_of_the_test", "1.0")


def test_a_list_imports_nothing_that_reads_metadata():
    code = "import sys, zoo_core as zoo; assert zoo.list()\nprint(sorted(set(sys.argv[1:]) & set(sys.modules)))"
    slow = ["importlib.metadata", "pluggy", "email", "zipfile", "traceback", "torch"]
    answer = subprocess.run(
        [sys.executable, "-S", "-c", with_site(code), *slow], capture_output=True, text=True, check=True
    )
    assert answer.stdout.strip() == "[]"


def with_site(code):
    """Code with this interpreter's folders on its path, and without what ``site`` imports."""
    return f"import sys; sys.path = {sys.path!r}\n{code}"


def module(**items):
    made = types.ModuleType("a_plugin")
    vars(made).update(items)
    return made


@hookimpl
def zoo_families():
    return [Family("acme", "acme:cards", "acme:anatomy")]


@hookimpl
def zoo_commands():
    return {"acme": "acme:command"}


def test_a_plain_plugin_says_the_same_with_and_without_pluggy():
    plain = load_plugin("acme", lambda: module(zoo_families=zoo_families, zoo_commands=zoo_commands), "acme 1")

    class Plugin:
        zoo_families = staticmethod(zoo_families)
        zoo_commands = staticmethod(zoo_commands)

    through_pluggy = load_plugin("acme", lambda: Plugin, "acme 1")
    assert (plain.families, plain.commands) == (through_pluggy.families, through_pluggy.commands)
    assert (plain.problem, through_pluggy.problem) == (None, None)


def test_hooks_that_were_marked_with_pluggy_itself_are_called():
    import pluggy

    def zoo_families():
        return [Family("acme", "acme:cards", "acme:anatomy")]

    marked = pluggy.HookimplMarker(hooks.PROJECT)(zoo_families)
    assert getattr(marked, hooks.MARK) == hooks.PLAIN
    assert load_plugin("acme", lambda: module(zoo_families=marked), "acme 1").families[0].name == "acme"


def test_an_unknown_hook_of_a_module_is_noted():
    @hookimpl
    def zoo_familys():
        return []

    plugin = load_plugin("acme", lambda: module(zoo_familys=zoo_familys, zoo_families=zoo_families), "acme 1")
    assert "zoo_families" in plugin.notes[0]
    assert plugin.families


def test_a_hook_with_arguments_that_zoo_does_not_give_is_a_problem():
    @hookimpl
    def zoo_families(registry):
        return [registry]

    assert "zoo_families" in load_plugin("acme", lambda: module(zoo_families=zoo_families), "acme 1").problem


def test_installed_plugins_load():
    assert {plugin.name for plugin in load_plugins() if not plugin.problem} >= {"torchvision", "tiny", "timm"}
