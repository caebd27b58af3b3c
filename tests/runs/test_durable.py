"""A file appears in one step, and nothing that lies in its way is written through."""

from diamond_fast.runs.durable import write_durably


def test_a_partial_file_in_the_way_is_replaced_and_a_link_is_not_followed(tmp_path):
    path, partial, other = tmp_path / "metrics.jsonl", tmp_path / "metrics.jsonl.partial", tmp_path / "thesis.tex"
    other.write_text("x")
    for clutter in (lambda: partial.write_text("cut short"), lambda: partial.symlink_to(other)):
        clutter()
        write_durably(path, b"whole")
        assert path.read_bytes() == b"whole"
        assert not partial.exists()
    assert other.read_text() == "x"
    path.unlink()
    path.symlink_to(other)
    write_durably(path, b"whole")
    assert (path.read_bytes(), other.read_text()) == (b"whole", "x")
