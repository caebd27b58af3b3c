"""The compiled engine as every instruction set of this processor has it, for tests that take ``engine``."""

import pytest
from cpu_engine import Engine

from diamond_fast.engine.cpu_program import INSTRUCTION_SETS, why_not

HERE = [name for name in INSTRUCTION_SETS if why_not(name) is None]


@pytest.fixture(params=HERE)
def engine(request):
    return Engine(request.param)
