"""Plug-ins: an installed one is found, and a broken one is one clear line."""

from __future__ import annotations

from pathlib import Path

import pytest

from lora_diffusion.errors import InputError
from tests.trainers.data.captioners.plugins import install
from tests.trainers.data.captioners.shots import opened, shot
from trainers.data.captioners import registry

BUILT_IN = ["blip", "florence2", "llava", "template", "wd14"]


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.syspath_prepend(str(tmp_path))
    return tmp_path


def test_the_built_in_ones_are_there_with_help_for_every_setting():
    assert registry.names()[:5] == BUILT_IN
    for name in BUILT_IN:
        plugin = registry.find(name)
        assert plugin.summary
        for field in plugin.settings.model_fields.values():
            assert field.description


def test_an_installed_plugin_works(site):
    install(site, "greeter_one", "greeter")
    assert "greeter" in registry.names()
    captioner = opened("greeter", times=2, loud=True)
    assert captioner.model == "made here"
    assert captioner.caption([shot("red"), shot("blue")]) == [
        "HELLO HELLO red.png",
        "HELLO HELLO blue.png",
    ]


def test_an_unknown_name_gets_a_suggestion():
    with pytest.raises(InputError, match=r"Did you mean 'florence2'.*template"):
        registry.find("florence-2")


def test_two_plugins_of_one_name(site):
    install(site, "greeter_a", "same")
    install(site, "greeter_b", "same")
    with pytest.raises(InputError, match="greeter_a and greeter_b"):
        registry.find("same")


def test_a_built_in_name_can_not_be_taken(site):
    install(site, "greeter_blip", "blip")
    assert registry.find("blip").summary == "Short sentences by BLIP."
    assert registry.names().count("blip") == 1


@pytest.mark.parametrize(
    "source",
    [
        "raise RuntimeError('no\\nlicence')",
        "import a_library_that_is_not_there",
        "syntax error here",
        "PLUGIN = 7",
        "OTHER = 7",
        "import sys; sys.path = sys.path; PLUGIN = type('P', (), {})()",
        "from trainers.data.captioners.plugin import Plugin\nPLUGIN = Plugin('x', int, print)",
    ],
)
def test_a_plugin_that_can_not_be_loaded(site, source):
    module = install(site, f"broken_{abs(hash(source))}", "broken")
    module.write_text(source)
    assert "broken" in registry.names()
    with pytest.raises(InputError, match=r"^Captioner 'broken'.*broken_") as caught:
        registry.find("broken")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("act", "words"),
    [
        ("raise KeyError('lost')", "KeyError: 'lost'"),
        ("return ['only one']", "1 captions for 2 pictures"),
        ("return None", "TypeError"),
    ],
)
def test_a_plugin_that_fails_at_work(site, act, words):
    install(site, f"failing_{abs(hash(act))}", "failing", act=act)
    with pytest.raises(InputError, match=f"plug-in failing_.*{words}"):
        opened("failing").caption([shot("red"), shot("blue")])
