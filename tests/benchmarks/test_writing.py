import copy

import pytest
from pages.writing import BEGIN, END, readme_section, write_page, write_readme


def with_growth(document):
    """Two batch sizes, so that there is something to draw."""
    row = copy.deepcopy(document["rows"][0])
    row["case"]["batch"] = 1
    document["rows"].append(row)
    return document


def test_the_page_holds_every_row_and_draws_how_cost_grows(document, tmp_path):
    path = write_page({"some-cpu": with_growth(document)}, tmp_path)
    text = path.read_text()
    for part in ("## 2 cores of Some(R) CPU", "commit 0123456789", "### Denoiser", "300 (290 to 310)", "test_edm_step"):
        assert part in text
    assert "bfloat16 2.5 TFLOP/s; copies: 7.5 GB/s" in text
    assert "![How cost grows](speed_some-cpu.png)" in text
    assert (tmp_path / "speed_some-cpu.png").read_bytes().startswith(b"\x89PNG")


def test_nothing_is_drawn_of_a_single_size(document, tmp_path):
    assert "How cost grows" not in write_page({"some-cpu": document}, tmp_path).read_text()
    assert not list(tmp_path.glob("*.png"))


def test_the_readme_changes_between_its_markers_only(document, tmp_path):
    readme = tmp_path / "README.md"
    readme.write_text(f"before\n{BEGIN}\n\nold\n\n{END}\nafter\n")
    write_readme(readme, readme_section({"some-cpu": document}, "docs"))
    text = readme.read_text()
    assert text.startswith(f"before\n{BEGIN}\n")
    assert text.endswith(f"{END}\nafter\n")
    assert "old" not in text
    assert "24.3x (22.3 to 25.8)" in text
    write_readme(readme, readme_section({"some-cpu": document}, "docs"))
    assert readme.read_text() == text  # writing again changes nothing


def test_without_results_the_readme_claims_nothing():
    assert readme_section({}, "docs") == "Nothing has been measured yet."


@pytest.mark.parametrize("text", ["no markers", f"{END} {BEGIN}", f"{BEGIN}{BEGIN}{END}"])
def test_a_readme_without_markers_is_left_alone(tmp_path, text):
    readme = tmp_path / "README.md"
    readme.write_text(text)
    with pytest.raises(ValueError, match="needs the lines"):
        write_readme(readme, "x")
    assert readme.read_text() == text
