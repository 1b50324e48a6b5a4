"""No plugin can stop another: each defect is shown by ``zoo plugins``, and every other family works.

The plugins are distributions on the disk, with metadata and entry points as pip writes them, in a process of their own.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import textwrap

import pytest

from zoo_core.registry.plugins import load_plugins

GOOD = """
    from zoo_core import Card, Family, hookimpl

    @hookimpl
    def zoo_families():
        return [Family("NAME", catalog="zoo_NAME:cards", anatomy="zoo_NAME:anatomy")]

    def cards():
        return [Card("NAME", "net", "zoo_NAME:build")]

    def build(num_classes=1000):
        from torch import nn

        return nn.Sequential(nn.Conv2d(3, 4, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, num_classes))

    def anatomy(model):
        from zoo_core import Anatomy, Head

        return Anatomy(heads=(Head("3", in_features=4, num_classes=model[3].out_features),), stem=("0",))
"""


class Site:
    """A folder of installed distributions, beside those of this environment."""

    def __init__(self, folder):
        self.folder = folder

    def install(self, name, source=GOOD, *, version="1.0", metadata=True, entry=True):
        """Put a distribution there, as pip does."""
        (self.folder / f"zoo_{name}.py").write_text(textwrap.dedent(source).replace("NAME", name))
        info = self.folder / f"zoo_{name}-{version}.dist-info"
        info.mkdir()
        if metadata:
            (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: zoo-{name}\nVersion: {version}\n")
        if entry:
            (info / "entry_points.txt").write_text(f"[zoo_core]\n{name} = zoo_{name}\n")

    def library(self, name, version):
        """Metadata of a library that a plugin requires."""
        info = self.folder / f"{name}-{version}.dist-info"
        info.mkdir()
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")

    def python(self, *args, **env):
        """Run python there."""
        return subprocess.run(
            [sys.executable, *args],
            capture_output=True,
            text=True,
            check=False,
            env={**os.environ, "PYTHONPATH": str(self.folder), "COLUMNS": "200", **env},
        )

    def zoo(self, *args, **env):
        """Run ``zoo`` there."""
        return self.python("-m", "zoo_core.cli", *args, **env)

    def rows(self, *args, **env):
        """What ``zoo plugins`` says of each plugin."""
        answer = self.zoo("plugins", "--json", *args, **env)
        assert answer.returncode == 0, answer.stderr
        return {row["name"]: row for row in json.loads(answer.stdout)}


@pytest.fixture
def site(tmp_path):
    return Site(tmp_path)


def broken(**changes):
    """The good plugin with some of its text replaced."""
    source = GOOD
    for old, new in changes.values():
        assert old in source
        source = source.replace(old, new)
    return source


HOOK = "return [Family("
LIST = 'return [Card("NAME", "net", "zoo_NAME:build")]'

DEFECTS = {
    "raises at import": ("raise RuntimeError('no luck')", "RuntimeError: no luck"),
    "exits at import": ("import sys; sys.exit(3)", "SystemExit: 3"),
    "is no python": ("def oops(:", "SyntaxError"),
    "needs a library that is missing": ("import acme_models.vision", "pip install acme_models"),
    "raises in its hook": (broken(a=(HOOK, "1 / 0\n        " + HOOK)), "ZeroDivisionError"),
    "returns junk from its hook": (
        broken(a=(HOOK, "return ['junk']\n        " + HOOK)),
        "must return a list of Family",
    ),
    "names its family with a number": (broken(a=('Family("NAME"', "Family(5")), "Family whose name is 5"),
    "names its family with a slash": (broken(a=('Family("NAME"', 'Family("a/b"')), "no family can be called"),
    "raises in its catalogue": (broken(a=(LIST, "1 / 0")), "ZeroDivisionError"),
    "exits in its catalogue": (broken(a=(LIST, "raise SystemExit(4)")), "SystemExit: 4"),
    "has junk in its catalogue": (broken(a=(LIST, "return ['junk']")), "holds something wrong"),
    "has a catalogue of nothing": (broken(a=(LIST, "return None")), "does not load"),
    "has a card without a name": (broken(a=('"net"', "5")), "holds something wrong"),
    "has two cards of one name": (broken(a=(LIST, LIST + " * 2")), "names of their own"),
    "names a catalogue that is not there": (broken(a=('"zoo_NAME:cards"', '"zoo_NAME:crads"')), "does not load"),
    "needs a library that is not installed": (
        broken(a=('anatomy="zoo_NAME:anatomy"', 'anatomy="zoo_NAME:anatomy", requires="acme-models"')),
        "acme-models is not installed; pip install acme-models",
    ),
}


@pytest.fixture(scope="module")
def crowded(tmp_path_factory):
    """All of these plugins at once, and a good one."""
    site = Site(tmp_path_factory.mktemp("crowded"))
    for name, (source, _) in DEFECTS.items():
        site.install(name.replace(" ", "_"), source)
    site.install("good")
    return site


@pytest.fixture(scope="module")
def crowd(crowded):
    return crowded.rows()


@pytest.mark.parametrize("name", DEFECTS)
def test_a_plugin_that_is_broken_is_shown_with_its_reason(crowd, name):
    assert DEFECTS[name][1] in " ".join(crowd[name.replace(" ", "_")]["problems"])


@pytest.mark.parametrize("name", DEFECTS)
def test_a_plugin_that_is_broken_is_shown_with_what_to_do(crowd, name):
    own, install = name.replace(" ", "_"), DEFECTS[name][1].rpartition("pip install ")
    remedy = (
        "".join(install[1:]) if install[1] else f"report it to the authors of zoo-{own} 1.0; ZOO_DISABLE={own} does"
    )
    assert remedy in " ".join(crowd[own]["problems"])


def test_what_is_wrong_with_others_is_no_problem_of_a_good_plugin(crowd):
    failed = {name for name, row in crowd.items() if row["problems"]}
    assert failed == {name.replace(" ", "_") for name in DEFECTS}
    row = crowd["good"]
    assert (row["origin"], row["families"], row["problems"], row["notes"]) == ("zoo-good 1.0", ["good"], [], [])


def test_among_broken_plugins_every_other_family_works_and_each_that_is_passed_over_is_a_warning(crowded):
    code = """
        import warnings
        import zoo_core as zoo

        with warnings.catch_warnings(record=True) as told:
            warnings.simplefilter("always")
            print(zoo.list("glyph*"), zoo.info("glyphnet").id, zoo.info("net").id, zoo.info("resnet18").id)
            print(len(set(str(warning.message) for warning in told)))
        print(zoo.get("good/net", weights=None, num_classes=9)[3].out_features)
    """
    answer = crowded.python("-c", textwrap.dedent(code))
    found, passed_over, built = answer.stdout.splitlines()
    assert found == "['tiny/glyphnet'] tiny/glyphnet good/net torchvision/resnet18"
    assert int(passed_over) == sum("catalogue" in name or "card" in name for name in DEFECTS)
    assert built == "9"


ON_A_MODEL = {
    "raises": ("return Anatomy(", "raise RuntimeError('not my model')\n        return Anatomy(", "not my model"),
    "exits": ("return Anatomy(", "raise SystemExit(5)\n        return Anatomy(", "SystemExit: 5"),
    "junk": ("return Anatomy(", "return 5\n        return Anatomy(", "to return a zoo_core.Anatomy; got: 5"),
    "constructor": ("return nn.Sequential(", "raise OSError('no disk')\n        return nn.Sequential(", "no disk"),
}


def test_a_plugin_that_fails_on_a_model_is_shown_by_zoo_plugins_try(site):
    for name, (old, new, _) in ON_A_MODEL.items():
        site.install(name, broken(a=(old, new)))
    site.install("good")
    rows = site.rows("--try", ZOO_PLUGINS=",".join([*ON_A_MODEL, "good"]))
    assert rows.pop("good")["problems"] == []
    for name, row in rows.items():
        assert ON_A_MODEL[name][2] in " ".join(row["problems"])
        assert f"report it to the authors of zoo-{name} 1.0" in " ".join(row["problems"])


def test_zoo_plugins_says_that_no_model_was_built_and_how_one_is(site):
    site.install("raises", broken(a=ON_A_MODEL["raises"][:2]))
    listed, tried = (site.zoo("plugins", *args, ZOO_PLUGINS="raises").stdout for args in ((), ("--try",)))
    assert listed.endswith("no model was built; zoo plugins --try builds a small one of each family\n")
    assert listed.startswith("ok ")
    assert tried.startswith("failed ")
    assert "no model was built" not in tried


def test_a_plugin_that_is_slow_is_shown_with_its_time(site):
    first = "from zoo_core import Card"
    site.install("loading", broken(a=(first, f"import time\n    time.sleep(1.1)\n    {first}")))
    site.install("listing", broken(a=(LIST, f"import time\n\n        time.sleep(1.1)\n        {LIST}")))
    rows = site.rows(ZOO_PLUGINS="loading,listing")
    assert [row["problems"] for row in rows.values()] == [[], []]
    assert rows["loading"]["notes"][0].startswith("slow: it took ")
    assert rows["loading"]["notes"][0].endswith("to load; import heavy things later")
    assert rows["listing"]["notes"][0].startswith("listing: slow: it took ")


def test_a_plugin_that_claims_a_taken_family_is_shown_with_both_claimants_and_the_rest_works(site):
    site.install("thief", broken(a=('Family("NAME"', 'Family("torchvision"')))
    problems = {name: " ".join(row["problems"]) for name, row in site.rows().items() if row["problems"]}
    assert problems.keys() == {"thief", "torchvision"}
    for text in problems.values():
        assert "claimed by zoo-thief 1.0 and zoo-torchvision" in text
        assert "set ZOO_DISABLE=thief or ZOO_DISABLE=torchvision" in text

    def info(name, **env):
        return site.python("-c", f"import zoo_core as zoo; zoo.info({name!r})", **env)

    assert "two plugins contribute a family called 'torchvision'" in info("torchvision/resnet18").stderr
    assert info("glyphnet").returncode == 0
    assert info("torchvision/resnet18", ZOO_DISABLE="thief").returncode == 0


WITH_LIBRARY = ('anatomy="zoo_NAME:anatomy"', 'anatomy="zoo_NAME:anatomy", requires="lib-NAME", tested="TESTED"')
VERSIONS = {
    "older": ("1.1", ">=1.2,<2", "is not among"),
    "among": ("1.4", ">=1.2,<2", ""),
    "newer": ("2.0.1", ">=1.2,<2", "is not among"),
    "candidate": ("1.4rc1", ">=1.2,<2", ""),
    "unsaid": ("1.4", "", ""),
    "nonsense": ("1.4", "1.2 or so", "names no versions"),
}


def test_a_library_of_an_untested_version_is_a_note_and_no_problem(site):
    for name, (version, tested, _) in VERSIONS.items():
        site.library(f"lib_{name}", version)
        site.install(name, broken(a=WITH_LIBRARY).replace("TESTED", tested))
    rows = site.rows(ZOO_PLUGINS=",".join(VERSIONS))
    for name, row in rows.items():
        notes = [note for note in row["notes"] if "slow" not in note]  # as all is on a machine with other work
        assert row["problems"] == []
        assert len(notes) == bool(VERSIONS[name][2])
        assert VERSIONS[name][2] in "".join(notes)
    assert rows["newer"]["notes"][0].endswith(", >=1.2,<2; zoo check newer says whether all still fits")
    assert site.zoo("list", "newer/*").stdout == "newer/net\n"


def test_every_family_here_says_which_versions_of_its_library_it_was_tested_with():
    families = [family for plugin in load_plugins() for family in plugin.families if family.requires]
    assert len(families) == 4
    assert [family.name for family in families if not family.tested] == []


def test_a_plugin_without_hooks_is_said_to_contribute_nothing(site):
    site.install("mute", "def zoo_families():\n    return []\n")
    assert "it contributes nothing" in site.rows(ZOO_PLUGINS="mute")["mute"]["notes"][0]


def test_a_plugin_that_brings_an_engine_alone_contributes_that(site):
    site.install("quick", "def embed_engine(embedder, sources):\n    return embedder.run(sources)\n")
    row = site.rows(ZOO_PLUGINS="quick")["quick"]
    assert (row["engines"], row["notes"]) == (["quick"], [])
    assert ": engine quick\n" in site.zoo("plugins", ZOO_PLUGINS="quick").stdout


def test_a_distribution_without_metadata_is_listed_by_its_module(site):
    site.install("bare", metadata=False)
    row = site.rows(ZOO_PLUGINS="bare")["bare"]
    assert (row["origin"], row["problems"]) == ("zoo_bare", [])


WATCHED = """
    import pathlib

    def ran(what):
        with pathlib.Path(__file__).with_name("ran.txt").open("a") as file:
            file.write(what + chr(10))

    ran("import")
""" + GOOD.replace(HOOK, "ran('hook')\n        " + HOOK).replace(LIST, "ran('catalogue')\n        " + LIST).replace(
    "from torch import nn", "ran('build')\n        from torch import nn"
)


@pytest.mark.parametrize(
    ("statement", "ran"),
    [
        ("import zoo_core", []),
        ("import zoo_core as zoo; zoo.list('tiny/*')", ["import", "hook"]),
        ("import zoo_core as zoo; zoo.list(family='tiny')", ["import", "hook"]),
        ("import zoo_core as zoo; zoo.info('tiny/glyphnet')", ["import", "hook"]),
        ("import zoo_core as zoo; zoo.info('glyphnet')", ["import", "hook"]),
        ("import zoo_core as zoo; zoo.list('watched/*')", ["import", "hook", "catalogue"]),
    ],
)
def test_no_code_of_a_plugin_runs_before_its_family_is_asked_for_save_for_one_hook(site, statement, ran):
    site.install("watched", WATCHED)
    answer = site.python("-c", statement)
    assert answer.returncode == 0, answer.stderr
    log = site.folder / "ran.txt"
    assert (log.read_text().split() if log.exists() else []) == ran


def test_a_plugin_that_is_disabled_is_not_even_imported(site):
    site.install("watched", WATCHED)
    assert "watched" not in site.zoo("plugins", ZOO_DISABLE="watched").stdout
    assert "watched" not in site.zoo("plugins", ZOO_PLUGINS="tiny,torchvision").stdout
    assert not (site.folder / "ran.txt").exists()
