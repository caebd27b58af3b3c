"""A Slurm that the test runs: Debian's slurmctld, slurmd, slurm-client and munge, as root, in one folder."""

import os
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

NEEDED = ("munged", "slurmctld", "slurmd", "sbatch")
CONF = """
ClusterName=test
SlurmctldHost=localhost
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
AuthInfo=socket={folder}/munge.sock,cred_expire=5
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool_%n
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd_%n.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd_%n.log
SlurmctldPort=16817
SlurmdTimeout=10
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
GresTypes=gpu
SlurmdParameters=config_overrides
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
ReturnToService=2
PartitionName=main Nodes=ALL Default=YES MaxTime=INFINITE State=UP
"""
NODE = "NodeName={name} NodeHostname=localhost Port={port} CPUs={cores} Gres=gpu:1 State=UNKNOWN\n"
GPU = "NodeName={name} Name=gpu File=/dev/null\n"


def why_not() -> str | None:
    missing = [name for name in NEEDED if shutil.which(name) is None]
    if missing:
        return f"needs {', '.join(missing)}: apt-get install slurmctld slurmd slurm-client munge"
    return None if os.getuid() == 0 else "slurmd needs root"


@contextmanager
def slurm(folder: Path, *nodes: str, cores: int) -> Iterator[None]:
    """Within it, ``sbatch`` and its like speak to a Slurm that lives in this folder.

    Args:
        nodes: names of nodes, all of them this machine, each with a GPU that is none.
        cores: of each node, as Slurm counts them.
    """
    conf = folder / "slurm.conf"
    lines = [NODE.format(name=name, port=16818 + i, cores=cores) for i, name in enumerate(nodes)]
    conf.write_text(CONF.format(folder=folder) + "".join(lines))
    (folder / "gres.conf").write_text("".join(GPU.format(name=name) for name in nodes))
    for name in ("state", *(f"spool_{node}" for node in nodes)):
        (folder / name).mkdir()
    key = folder / "munge.key"
    key.write_bytes(os.urandom(1024))
    key.chmod(0o400)
    paths = (f"--{name}={folder}/munge.{name}" for name in ("socket", "pid-file", "log-file", "seed-file"))
    munged = ["munged", "--force", f"--key-file={key}", *paths, f"--socket={folder}/munge.sock"]
    os.environ["SLURM_CONF"] = str(conf)
    try:
        for command in (munged, ["slurmctld", "-c"], *(["slurmd", "-c", "-N", node] for node in nodes)):
            subprocess.run(command, check=True)
            time.sleep(1)
        deadline = time.monotonic() + 60
        while _output("sinfo", "-h", "-N", "-o", "%T").split() != ["idle"] * len(nodes):
            assert time.monotonic() < deadline, (folder / "slurmctld.log").read_text()[-2000:]
            time.sleep(0.5)
        yield
    finally:
        for name in (*(f"slurmd_{node}.pid" for node in nodes), "slurmctld.pid", "munge.pid-file"):
            if (folder / name).exists():
                subprocess.run(["kill", (folder / name).read_text().strip()], check=False)
        del os.environ["SLURM_CONF"]


def kill_node(folder: Path, name: str) -> None:
    """Ends a node's slurmd and all that its jobs have started, at once, as a power cut would."""
    doomed = [int((folder / f"slurmd_{name}.pid").read_text())]
    marks = {f"SLURM_CONF={folder}/slurm.conf".encode(), f"SLURMD_NODENAME={name}".encode()}
    for process in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            if marks <= set((process / "environ").read_bytes().split(b"\0")):
                parent = (process / "stat").read_text().rpartition(")")[2].split()[1]
                if "slurmstepd" in Path("/proc", parent, "comm").read_text():
                    doomed.append(int(parent))
                doomed.append(int(process.name))
    for pid in dict.fromkeys(doomed):
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)


def _output(*command: str) -> str:
    return subprocess.run(command, capture_output=True, text=True, check=False).stdout
