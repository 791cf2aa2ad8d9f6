"""A real SLURM on this machine: a controller and two nodes of one core."""

import os
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

CONFIG = """
ClusterName=lab
SlurmctldHost={host}(127.0.0.1)
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
StateSaveLocation={place}/ctl
SlurmdSpoolDir={place}/%n
SlurmctldPidFile={place}/ctl.pid
SlurmdPidFile={place}/%n.pid
SlurmctldLogFile={place}/ctl.log
SlurmdLogFile={place}/%n.log
SlurmctldPort={ports[0]}
MaxArraySize=2
MessageTimeout=5
KillWait=5
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SwitchType=switch/none
MpiDefault=none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
ReturnToService=2
SlurmdTimeout=30
JobRequeue=1
NodeName=n1 NodeHostname={host} NodeAddr=127.0.0.1 Port={ports[1]} CPUs=1 State=UNKNOWN
NodeName=n2 NodeHostname={host} NodeAddr=127.0.0.1 Port={ports[2]} CPUs=1 State=UNKNOWN
PartitionName=main Nodes=n1,n2 Default=YES MaxTime=INFINITE State=UP
"""
PROGRAMS = ("slurmctld", "slurmd", "sbatch", "munged")
SECONDS = 30


def lacking() -> str:
    """Why there can be no SLURM here; empty: there can."""
    if missing := [name for name in PROGRAMS if _program(name) is None]:
        return f"SLURM is not installed ({', '.join(missing)}): apt-get install slurm-wlm munge"
    return "" if os.geteuid() == 0 else "SLURM's daemons are started by root"


class Nodes:
    """The cluster; commands find it by the variable SLURM_CONF."""

    def __init__(self, place: Path) -> None:
        self.place, self.config = place, place / "slurm.conf"

    def begin(self, name: str) -> None:
        """Start the controller, `ctl`, or a node."""
        if name == "ctl":
            subprocess.run([_program("slurmctld") or "", "-f", self.config], check=True)
        else:
            subprocess.run([_program("slurmd") or "", "-N", name, "-f", self.config], check=True)

    def end(self, name: str) -> None:
        """Kill one of them."""
        with suppress(OSError, ValueError):
            os.kill(int((self.place / f"{name}.pid").read_text()), signal.SIGKILL)

    def ask(self, *command: str) -> str:
        """What a command of SLURM answers, as soon as it does."""
        until = time.monotonic() + SECONDS
        while True:
            done = subprocess.run(command, capture_output=True, text=True)
            if done.returncode == 0 or time.monotonic() > until:
                assert done.returncode == 0, done.stderr
                return done.stdout.strip()
            time.sleep(0.2)


@contextmanager
def two_nodes(place: Path) -> Iterator[Nodes]:
    """A cluster that stands ready, until the block ends."""
    for folder in ("ctl", "n1", "n2"):
        (place / folder).mkdir(parents=True)
    sockets = [socket.socket() for _ in range(3)]
    for one in sockets:
        one.bind(("127.0.0.1", 0))
    ports = [one.getsockname()[1] for one in sockets]
    for one in sockets:
        one.close()
    (place / "slurm.conf").write_text(CONFIG.format(host=socket.gethostname(), place=place, ports=ports))
    _munge()
    before, os.environ["SLURM_CONF"] = os.environ.get("SLURM_CONF"), str(place / "slurm.conf")
    nodes = Nodes(place)
    try:
        for name in ("ctl", "n1", "n2"):
            nodes.begin(name)
        until = time.monotonic() + SECONDS
        while nodes.ask("sinfo", "--noheader", "--format=%D %T") != "2 idle" and time.monotonic() < until:
            time.sleep(0.2)
        yield nodes
    finally:
        subprocess.run(["scancel", "--user=root", "--signal=KILL", "--full"], capture_output=True)
        for name in ("n1", "n2", "ctl"):
            nodes.end(name)
        _end_steps(place)
        os.environ.pop("SLURM_CONF")
        if before is not None:
            os.environ["SLURM_CONF"] = before


def _end_steps(place: Path) -> None:
    """Kill what jobs leave behind, which would wait for their controller for ever."""
    for process in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            step = b"slurmstepd" in (process / "cmdline").read_bytes()
            if step and os.readlink(process / "cwd").startswith(str(place)):
                os.kill(int(process.name), signal.SIGKILL)


def _munge() -> None:
    """The daemon by which SLURM's know each other."""
    if subprocess.run(["munge", "-n"], capture_output=True).returncode == 0:
        return
    key = Path("/etc/munge/munge.key")
    for folder in (Path("/run/munge"), key.parent):
        folder.mkdir(exist_ok=True)
        shutil.chown(folder, "munge")
    if not key.exists():
        key.write_bytes(os.urandom(1024))
    shutil.chown(key, "munge")
    key.chmod(0o400)
    subprocess.run(["runuser", "-u", "munge", "--", _program("munged") or ""], check=True)


def _program(name: str) -> str | None:
    return shutil.which(name, path=f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin")
