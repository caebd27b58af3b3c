"""A page opens in a browser with a window; one in the terminal is left alone."""

import webbrowser
from pathlib import Path

import pytest

from diamond_fast.browser import open_page
from diamond_fast.train import show

URL = "file:///run/index.html"


class Fake:
    def __init__(self, name):
        self.name, self.opened = name, []

    def open(self, url):
        self.opened.append(url)
        return True


def test_it_opens(monkeypatch):
    browser = Fake("/usr/bin/firefox")
    monkeypatch.setattr(webbrowser, "get", lambda: browser)
    assert open_page(URL)
    assert browser.opened == [URL]


@pytest.mark.parametrize("name", ["w3m", "/usr/bin/lynx"])
def test_one_in_the_terminal_is_left_alone(monkeypatch, name):
    browser = Fake(name)
    monkeypatch.setattr(webbrowser, "get", lambda: browser)
    assert not open_page(URL)
    assert browser.opened == []


def test_there_may_be_none(monkeypatch):
    def get():
        raise webbrowser.Error("could not locate runnable browser")

    monkeypatch.setattr(webbrowser, "get", get)
    assert not open_page(URL)


@pytest.mark.parametrize("there_is_one", [True, False])
def test_a_run_shows_its_page_or_says_where_it_is(capsys, monkeypatch, tmp_path, there_is_one):
    asked = []
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("diamond_fast.browser.open_page", lambda url: asked.append(url) or there_is_one)
    show(Path("run/index.html"))
    assert asked == [(tmp_path / "run/index.html").as_uri()]
    said = "" if there_is_one else "No browser opens here; the run's page is run/index.html\n"
    assert capsys.readouterr().out == said
