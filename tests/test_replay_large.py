"""A recording that is larger than memory: training from it needs no more memory than from a small one."""

import os
import subprocess
import sys
import zlib

import numpy as np
import pytest

from diamond_fast import _replay
from diamond_fast.replay import csgo
from diamond_fast.replay.recording import FORMAT, META, Form, Stored
from diamond_fast.runs.durable import sealed, write_durably

EPISODES, STEPS = 5_003, 1_000
"""As the published recordings of Counter-Strike: 25 GB in low resolution."""


def write_large(folder):
    """The recording; its frames are holes in a file, but for the first, and take no room on the disk."""
    form = Form((*csgo.LOW_SIZE, 3), csgo.ACTION)
    steps = np.zeros(STEPS, form.step_dtype)
    steps["flags"][0] = _replay.FIRST
    checksums = {"frames": 0, "steps": zlib.crc32(steps.tobytes())}
    folder.mkdir()
    with open(folder / "steps", "wb") as file:
        for _ in range(EPISODES):
            file.write(steps.tobytes())
    with open(folder / "frames", "wb") as file:
        file.write(bytes(range(240)) * 21)
        file.truncate(EPISODES * STEPS * form.slot_bytes["frames"])
    episodes = [list(Stored(str(i), STEPS, checksums)) for i in range(EPISODES)]
    write_durably(folder / META, sealed("recording", {"format": FORMAT, **form.to_json(), "episodes": episodes}))


@pytest.mark.slow
def test_25_gigabytes_are_trained_from_in_less_than_four(tmp_path):
    write_large(tmp_path / "large")
    assert (tmp_path / "large" / "frames").stat().st_size > 25e9
    sizes = ["--frame-size", "30", "56", "--upsampling", "1", "--engine", "torch", "--precision", "fp32"]
    length = ["--num-final-epochs", "1", "--denoiser-update.steps-first-epoch", "40"]
    where = ["--static-dataset", str(tmp_path / "large"), "--out", str(tmp_path / "run")]
    command = ["diamond_fast.train", "--preset", "recording-quick", *sizes, *length, *where]
    process = subprocess.Popen([sys.executable, "-m", *command])
    _, status, used = os.wait4(process.pid, 0)
    assert os.waitstatus_to_exitcode(status) == 0
    assert used.ru_maxrss * 1024 < 2.5e9
