"""Where figures appear: a page with all of them, and the README's section between its two markers."""

from pathlib import Path

from pages.document import Document
from pages.plots import measured_panels, save_plot
from pages.tables import headline_table, machines_table, not_run_table, number, stem_tables

BEGIN = "<!-- speed: written by python -m diamond_fast.bench, from the files in benchmarks/results -->"
END = "<!-- end of speed -->"
HOW_TO_READ = (
    "Medians over turns that the candidates take in one process, with the spread of all but the most extreme tenth at "
    "either end; ratios are of the same round, and undecided where their spread reaches both sides of 1. The floor is "
    "what the arithmetic, or the bytes, would take at this machine's own rate; the best turn has the share given, "
    "which is above 100 % if Winograd's convolutions do with fewer products. "
    "NFE/s: evaluations of the denoiser, one sample each, per second."
)


def plot_name(stem: str) -> str:
    return f"speed_{stem}.png"


def write_page(documents: dict[str, Document], folder: Path) -> Path:
    """Writes ``benchmarks.md`` with every figure of every machine, and a picture beside it for each.

    Args:
        documents: by file name without its ending.
    """
    parts = ["# Benchmarks", "Written by `python -m diamond_fast.bench`.", HOW_TO_READ]
    for stem, document in documents.items():
        parts += [f"## {document['machine']}", describe(document), *filter(None, [headline_table(document)])]
        if measured_panels(document):
            save_plot(document, folder / plot_name(stem))
            parts.append(f"![How cost grows]({plot_name(stem)})")
        for title, table in stem_tables(document):
            parts += [f"### {title[0].upper()}{title[1:]}", table]
        parts += ["### Not run", not_run_table(document)]
        if document["failed"]:
            parts.append("Failed: " + ", ".join(document["failed"]) + ".")
    path = folder / "benchmarks.md"
    path.write_text("\n\n".join(parts) + "\n")
    return path


def describe(document: Document) -> str:
    """Versions, commit, and the machine's own rates, in one paragraph."""
    software = ", ".join(f"{name} {version}" for name, version in document["software"].items() if version)
    commit = f"commit {(document['commit']['id'] or 'unknown')[:10]}"
    if document["commit"]["dirty"]:
        commit += " with changes"
    rates = document["rates"]
    flops = ", ".join(f"{name} {number(rate / 1e12)} TFLOP/s" for name, rate in rates["flops"].items())
    effort = "" if document["effort"] == "full" else f" Effort: {document['effort']}."
    return (
        f"{software}; {document['threads']} threads; {commit}; {document['date'][:10]}. "
        f"Large matrix products: {flops}; copies: {number(rates['copy_bytes'] / 1e9)} GB/s.{effort}"
    )


def readme_section(documents: dict[str, Document], pictures: str) -> str:
    """What stands between the markers: a table of all machines, and the picture of the one with the most figures.

    Args:
        pictures: folder of the pictures, as the README names it.
    """
    table = machines_table(list(documents.values()))
    if table is None:
        return "Nothing has been measured yet."
    parts = [table, "\n".join(f"- **{document['machine']}**: {describe(document)}" for document in documents.values())]
    plotted = [stem for stem, document in documents.items() if measured_panels(document)]
    if plotted:
        most = max(plotted, key=lambda stem: len(documents[stem]["rows"]))
        parts.append(f"![How cost grows]({pictures}/{plot_name(most)})")
    return "\n\n".join([*parts, HOW_TO_READ])


def write_readme(readme: Path, section: str) -> None:
    """Puts the section between the markers.

    Raises:
        ValueError: the markers are not there, each once.
    """
    text = readme.read_text()
    if text.count(BEGIN) != 1 or text.count(END) != 1 or text.index(BEGIN) > text.index(END):
        raise ValueError(f"{readme}: needs the lines '{BEGIN}' and '{END}', once each")
    before, rest = text.split(BEGIN)
    after = rest.split(END)[1]
    readme.write_text(f"{before}{BEGIN}\n\n{section}\n\n{END}{after}")
