"""A Slurm of one node, run by the test: Debian's slurmctld, slurmd, slurm-client and munge, as root, in one folder."""

import os
import shutil
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

NEEDED = ("munged", "slurmctld", "slurmd", "sbatch")
CONF = """
ClusterName=test
SlurmctldHost=localhost
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
AuthInfo=socket={folder}/munge.sock
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd.log
SlurmctldPort=16817
SlurmdPort=16818
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
ReturnToService=2
NodeName=localhost CPUs={cores} State=UNKNOWN
PartitionName=main Nodes=localhost Default=YES MaxTime=INFINITE State=UP
"""


def why_not() -> str | None:
    missing = [name for name in NEEDED if shutil.which(name) is None]
    if missing:
        return f"needs {', '.join(missing)}: apt-get install slurmctld slurmd slurm-client munge"
    return None if os.getuid() == 0 else "slurmd needs root"


@contextmanager
def slurm(folder: Path) -> Iterator[None]:
    """Within it, ``sbatch`` and its like speak to a Slurm that lives in this folder."""
    for name in ("state", "spool"):
        (folder / name).mkdir()
    (folder / "slurm.conf").write_text(CONF.format(folder=folder, cores=len(os.sched_getaffinity(0))))
    key = folder / "munge.key"
    key.write_bytes(os.urandom(1024))
    key.chmod(0o400)
    paths = (f"--{name}={folder}/munge.{name}" for name in ("socket", "pid-file", "log-file", "seed-file"))
    munged = ["munged", "--force", f"--key-file={key}", *paths, f"--socket={folder}/munge.sock"]
    os.environ["SLURM_CONF"] = str(folder / "slurm.conf")
    try:
        for command in (munged, ["slurmctld", "-c"], ["slurmd", "-c"]):
            subprocess.run(command, check=True)
            time.sleep(1)
        deadline = time.monotonic() + 60
        while "idle" not in subprocess.run(["sinfo"], capture_output=True, text=True, check=False).stdout:
            assert time.monotonic() < deadline, (folder / "slurmctld.log").read_text()[-2000:]
            time.sleep(0.5)
        yield
    finally:
        for name in ("slurmd.pid", "slurmctld.pid", "munge.pid-file"):
            if (folder / name).exists():
                subprocess.run(["kill", (folder / name).read_text().strip()], check=False)
        del os.environ["SLURM_CONF"]
