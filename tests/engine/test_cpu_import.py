"""The compiled CPU engine on a processor that lacks what it is made of, such as those documentation is built on."""

import pytest

from diamond_fast.engine.cpu_program import why_unavailable

_cpu = pytest.importorskip("diamond_fast._cpu")  # where it is built; an illegal instruction would end the process


def test_it_can_be_imported_and_looked_at():
    assert _cpu.tiles_allowed() in (True, False)
    assert "AMX" in _cpu.__doc__
    assert {"Norm", "Program"} <= set(dir(_cpu))
    _cpu.Norm(1, 1e-5, True)


@pytest.mark.skipif(why_unavailable() is None, reason="this processor has AMX")
def test_what_needs_amx_is_refused():
    with pytest.raises(RuntimeError, match="this processor or its system does not offer AMX"):
        _cpu.Program(1)
