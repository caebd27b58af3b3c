"""The page stands alone, and says what the comparison says."""

import re
import shutil
import subprocess
from html.parser import HTMLParser

import pytest

from diamond_fast.reporting.comparison import compare
from diamond_fast.reporting.latex import games_table
from diamond_fast.reporting.own_runs import read_runs
from diamond_fast.reporting.page import render

pytestmark = pytest.mark.usefixtures("few_samples")
VOID = {"meta", "img", "input"}


class Reader(HTMLParser):
    """Checks that tags close in order; collects links, and the tables as rows of (text, data-value)."""

    def __init__(self, page):
        super().__init__()
        self.open, self.links, self.tables = [], [], []
        self.feed(page)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag, attributes):
        attributes = dict(attributes)
        self.links += [attributes[name] for name in ("src", "href") if name in attributes]
        if tag not in VOID:
            self.open.append(tag)
        if tag == "table":
            self.tables.append([])
        elif tag == "tr":
            self.tables[-1].append([])
        elif tag in ("td", "th"):
            self.tables[-1][-1].append(["", attributes.get("data-value")])

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, text):
        if {"td", "th"} & set(self.open):
            self.tables[-1][-1][-1][0] += text


@pytest.fixture
def comparison(write_run):
    paths = [write_run("Pong", seed, final=[14.6] * 100) for seed in (0, 1)]
    return compare(read_runs([*paths, write_run("Boxing", 0, name="<b>&")]))


def test_nothing_is_loaded_from_elsewhere(comparison):
    page = render(
        comparison, {"aggregates": b"<svg/>", "profiles": b"", "improvement": b"", "games": b"", "curves": b""}
    )
    links = Reader(page).links
    assert len(links) == 5
    assert all(link.startswith("data:image/svg+xml;base64,") for link in links)
    assert not re.search(r"<link|@import|url\(|fetch\(|XMLHttp|https?://", page)


def test_tables(comparison):
    page = render(comparison, dict.fromkeys(("aggregates", "profiles", "improvement", "games"), b""))
    standings, games, runs, sources = Reader(page).tables
    assert [len(table) - 1 for table in (standings, games, runs, sources)] == [18, 1, 3, 19]
    assert all(len({len(row) for row in table}) == 1 for table in (standings, games, runs, sources))
    assert standings[1][0] == ["diamond_fast", "diamond_fast"]
    assert standings[1][2][0] == "1.000[1.00, 1.00]"
    bbf = next(row for row in standings if row[0][0] == "BBF")
    assert bbf[1] == ["means only", "0"]
    assert "[" not in bbf[2][0]
    assert games[0][3][0] == "diamond_fast"
    assert games[1][3] == ["14.61.000", "14.6"]
    assert runs[1][0][0] == "<b>&"  # escaped on the page
    assert runs[1][6][0] == "2.0 so far"
    for remark in comparison.remarks:
        assert remark.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;").replace("'", "&#x27;") in page


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("chromium") is None, reason="needs chromium")
def test_headings_sort_in_a_browser(comparison, tmp_path):
    page = render(comparison, dict.fromkeys(("aggregates", "profiles", "improvement", "games"), b""))
    probe = """<script>
    const table = document.querySelector("table.sortable"), heading = table.tHead.rows[0].cells[2];
    const column = (i) => [...table.tBodies[0].rows].map((row) => row.cells[i].dataset.value).join(" ");
    heading.querySelector("button").click(); const down = column(2);
    heading.querySelector("button").click(); const up = column(2);
    table.tHead.rows[0].cells[7].querySelector("button").click(); const improvement = column(7);
    document.querySelector("input[value=normalised]").click();
    const shown = document.querySelector("#games td:nth-child(4)").innerText;
    document.body.innerHTML = `<p id=result>${[down, up, improvement, shown].join("|")}</p>`;
    </script></body>"""
    file = tmp_path / "page.html"
    file.write_text(page.replace("</body>", probe), encoding="utf-8")
    command = ["chromium", "--headless=new", "--no-sandbox", "--disable-gpu", f"--user-data-dir={tmp_path / 'profile'}"]
    done = subprocess.run([*command, "--dump-dom", file.as_uri()], capture_output=True, text=True, timeout=120)
    down, up, improvement, shown = re.search(r'id="result">(.*?)</p>', done.stdout)[1].split("|")
    down, up = ([float(value) for value in values.split(" ")] for values in (down, up))
    assert len(down) == 18
    assert down == sorted(down, reverse=True)
    assert up == sorted(down)
    assert improvement.endswith(" " * 6)  # ours and the five agents known by their means, of 18: no value, at the end
    assert shown == "1.000"


def test_latex(comparison):
    lines = games_table(comparison).splitlines()
    assert lines[2].startswith(r"Game & Random & Human & ")
    assert lines[2].endswith(r" & DIAMOND & diamond\_fast \\")
    pong = next(line for line in lines if line.startswith("Pong"))
    assert pong.startswith("Pong & -20.7 & 14.6 & ")
    assert pong.endswith(r" & \textbf{20.4} & 14.6 \\")
    assert len({line.count("&") for line in lines if "&" in line}) == 1
    assert lines[0] == r"\begin{tabular}{l" + "r" * lines[2].count("&") + "}"
