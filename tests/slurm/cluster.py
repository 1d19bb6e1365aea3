"""A real Slurm on this machine's loopback: two CPU nodes, one GPU node with fake devices, memory limits, preemption.

It needs root and Debian's packages (installed with apt where they are not), no systemd and no container. It takes the place of the
configuration in /etc/slurm, because the programs that Slurm starts look nowhere else, and puts back what was there.
"""

from __future__ import annotations

import fcntl
import os
import re
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

import psutil

PACKAGES = ("munge", "slurmctld", "slurmd", "slurm-client")
PROGRAMS = ("munged", "slurmctld", "slurmd", "squeue")
ETC = Path("/etc/slurm")
FILES = ("slurm.conf", "gres.conf", "cgroup.conf", "job_submit.lua")
MARK = "# made by the tests of cohortex"
NODES = {"c1": 26930, "c2": 26931, "g1": 26932}
NODE_CPUS, NODE_MB = 4, 6000

CONF = """{mark}
ClusterName=cohortextest
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort=26917
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
# a job that is put back into the queue waits until its credential is old
AuthInfo=cred_expire=5,socket={folder}/munge.socket
CommunicationParameters=NoCtldInAddrAny,NoInAddrAny
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool-%n
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd-%n.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd-%n.log
SwitchType=switch/none
MpiDefault=none
ReturnToService=2
# a node may have more processors than the machine
SlurmdParameters=config_overrides
SelectType=select/cons_tres
# one job after the other goes to the node with the least load
SelectTypeParameters=CR_CPU_Memory,CR_LLN
DefMemPerCPU=200
GresTypes=gpu
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/linux
JobAcctGatherFrequency=task=1
JobAcctGatherParams=OverMemoryKill
JobSubmitPlugins=lua
JobRequeue=1
MinJobAge=3600
KillWait=2
SlurmdTimeout=10
SlurmctldTimeout=10
MessageTimeout=5
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
SchedulerType=sched/backfill
SchedulerParameters=batch_sched_delay=0,sched_interval=2,bf_interval=2,requeue_setup_env_fail
AccountingStorageType=accounting_storage/none
{nodes}
PartitionName=cpu  Nodes=c[1-2] Default=YES MaxTime=60 DefaultTime=10 PriorityTier=1
PartitionName=gpu  Nodes=g1 MaxTime=60 DefaultTime=10 PriorityTier=1
PartitionName=rush Nodes=c[1-2],g1 MaxTime=60 DefaultTime=10 PriorityTier=10 PreemptMode=OFF
# job_submit.lua wants an account here
PartitionName=paid Nodes=c[1-2] MaxTime=60 DefaultTime=10 PriorityTier=1
"""
SUBMIT = """-- {mark}
function slurm_job_submit(job, partitions, uid)
    if job.partition == "paid" and job.account == nil then
        return 2045 -- as a site with accounting says it: invalid account
    end
    return slurm.SUCCESS
end
function slurm_job_modify(job, record, partitions, uid)
    return slurm.SUCCESS
end
"""


def missing() -> list[str]:
    """Return the programs that are not installed."""
    return [name for name in PROGRAMS if shutil.which(name) is None]


def install() -> None:
    """Install Slurm with apt where it is missing; Debian starts none of its services with its own configuration."""
    if not missing() or shutil.which("apt-get") is None:
        return
    apt = ["apt-get", "-o", "DPkg::Lock::Timeout=120", "-qq", "-y"]
    policy = Path("/usr/sbin/policy-rc.d")
    own = not policy.exists()
    if own:
        policy.write_text("#!/bin/sh\nexit 101\n")
        policy.chmod(0o755)
    try:
        for words in (["update"], ["install", "--no-install-recommends", *PACKAGES]):
            with suppress(subprocess.TimeoutExpired):
                subprocess.run([*apt, *words], env={**os.environ, "DEBIAN_FRONTEND": "noninteractive"}, capture_output=True, timeout=300)
    finally:
        if own:
            policy.unlink()


def why_not() -> str:
    """Return why no Slurm can be started here; nothing where one can."""
    if os.geteuid() != 0:
        return "a Slurm for tests is started by root only"
    install()
    if missing():
        return f"Slurm is not installed here and apt did not install it ({', '.join(missing())})"
    conf = ETC / "slurm.conf"
    if conf.exists() and not conf.read_text().startswith(MARK) and answers():
        return "this machine belongs to a Slurm that is in use"
    return ""


def answers() -> bool:
    """Return whether the controller of the configuration in /etc/slurm answers."""
    with suppress(subprocess.TimeoutExpired):
        return subprocess.run(["sinfo", "-h"], capture_output=True, timeout=20).returncode == 0
    return False


def wait_for(true: Callable[[], object], seconds: float, what: str) -> None:
    """Wait until something is true.

    Raises
    ------
    TimeoutError
        Naming what was waited for.
    """
    until = time.monotonic() + seconds
    while not true():
        if time.monotonic() > until:
            raise TimeoutError(f"{what}: not within {seconds:.0f} s")
        time.sleep(0.1)


def processes_here() -> Iterator[psutil.Process]:
    """Yield the processes that share this one's network: others may have a Slurm in a network of their own."""
    mine = Path("/proc/self/ns/net").readlink()
    for process in psutil.process_iter():
        with suppress(OSError):
            if Path(f"/proc/{process.pid}/ns/net").readlink() == mine:
                yield process


def end_leftovers() -> None:
    """End the daemons of tests that were killed themselves, which their configuration names."""
    conf = ETC / "slurm.conf"
    text = conf.read_text() if conf.exists() else ""
    match = re.search(r"^SlurmctldPidFile=(.*)/slurmctld.pid$", text, re.MULTILINE)
    if not text.startswith(MARK) or not match:
        return
    for process in processes_here():
        with suppress(psutil.Error):
            if process.name() == "slurmstepd":
                for one in (*process.children(recursive=True), process):
                    one.kill()
    for file in Path(match.group(1)).glob("*.pid"):
        with suppress(psutil.Error, ValueError):
            process = psutil.Process(int(file.read_text()))
            if process.name() in PROGRAMS:
                process.kill()


@dataclass
class Cluster:
    """The daemons, which the tests kill and start again."""

    folder: Path
    running: dict[str, psutil.Process] = field(default_factory=dict)

    def start(self) -> None:
        """Write the configuration and start everything."""
        self.lock = Path("/tmp/cohortex-slurm.lock").open("w")  # noqa: SIM115
        fcntl.flock(self.lock, fcntl.LOCK_EX)
        end_leftovers()
        self.folder.chmod(0o755)
        (self.folder / "state").mkdir()
        self._configure()
        key = self.folder / "munge.key"
        key.write_bytes(os.urandom(128))
        key.chmod(0o400)
        names = {"socket": "munge.socket", "pid-file": "munged.pid", "log-file": "munged.log", "seed-file": "munged.seed"}
        files = [f"--{option}={self.folder / name}" for option, name in {**names, "key-file": key.name}.items()]
        # In /tmp, whose folders all may write, munged works only when it is told twice.
        subprocess.run(["munged", "--force", *files], check=True, capture_output=True, timeout=30)
        self._note("munged")
        self.start_controller()
        for node in NODES:
            self.start_node(node)
        wait_for(self.ready, 30, "all nodes are idle")

    def _configure(self) -> None:
        host = socket.gethostname().split(".")[0]
        hosts = Path("/etc/hosts")
        try:
            loopback = socket.gethostbyname(host).startswith("127.")
        except socket.gaierror:
            loopback = False
        if not loopback:
            # Slurm's daemons listen on what the name of the machine stands for.
            hosts.write_text(f"127.0.0.1 {host} {MARK}\n{hosts.read_text()}")
        nodes = "\n".join(
            f"NodeName={node} NodeHostname={host} NodeAddr=127.0.0.1 Port={port} CPUs={NODE_CPUS} RealMemory={NODE_MB}"
            + " Gres=gpu:fake:2" * (node == "g1")
            for node, port in NODES.items()
        )
        text = {
            "slurm.conf": CONF.format(mark=MARK, host=host, folder=self.folder, nodes=nodes),
            "gres.conf": f"{MARK}\nNodeName=g1 Name=gpu Type=fake File=/dev/null\nNodeName=g1 Name=gpu Type=fake File=/dev/zero\n",
            "cgroup.conf": f"{MARK}\nCgroupAutomount=no\n",
            "job_submit.lua": SUBMIT.format(mark=MARK),
        }
        ETC.mkdir(exist_ok=True)
        for name in FILES:
            file = ETC / name
            if file.exists() and MARK not in file.read_text():
                file.rename(file.with_name(f"{name}.before-cohortex"))
            file.write_text(text[name])

    def _unconfigure(self) -> None:
        for name in FILES:
            (ETC / name).unlink(missing_ok=True)
            with suppress(FileNotFoundError):
                (ETC / f"{name}.before-cohortex").rename(ETC / name)
        hosts = Path("/etc/hosts")
        if MARK in hosts.read_text():
            hosts.write_text("".join(line for line in hosts.read_text().splitlines(keepends=True) if MARK not in line))

    def _note(self, name: str) -> None:
        file = self.folder / f"{name}.pid"
        wait_for(lambda: file.exists() and file.read_text().strip(), 20, f"{name} runs")
        self.running[name] = psutil.Process(int(file.read_text()))

    def start_controller(self, *arguments: str) -> None:
        """Start slurmctld and wait until it answers; ``-c`` makes it forget all jobs."""
        (self.folder / "slurmctld.pid").unlink(missing_ok=True)
        # -i: a state that was half-written by a killed controller is no reason not to start
        subprocess.run(["slurmctld", "-i", *arguments], check=True, capture_output=True, timeout=60)
        self._note("slurmctld")
        wait_for(answers, 30, "the controller answers")

    def kill_controller(self) -> None:
        """Kill slurmctld."""
        self._end("slurmctld", signal.SIGKILL)

    def start_node(self, node: str) -> None:
        """Start the slurmd of a node."""
        (self.folder / f"slurmd-{node}.pid").unlink(missing_ok=True)
        subprocess.run(["slurmd", "-N", node], check=True, capture_output=True, timeout=60)
        self._note(f"slurmd-{node}")

    def kill_node(self, node: str) -> None:
        """Let a node die: its slurmd, the steps that it started and all that runs in them."""
        self._end(f"slurmd-{node}", signal.SIGKILL)
        for process in processes_here():
            # slurmstepd names the job, not the node; the node stands in the environment of what it started
            with suppress(psutil.Error):
                if process.environ().get("SLURMD_NODENAME") == node:
                    for one in (*process.parents(), process):
                        if one.name() == "slurmstepd":
                            one.kill()
                    process.kill()

    def _end(self, name: str, how: signal.Signals) -> None:
        process = self.running.pop(name, None)
        if process is None:
            return
        with suppress(psutil.NoSuchProcess):
            process.send_signal(how)
            try:
                process.wait(20)
            except psutil.TimeoutExpired:
                process.kill()

    def ready(self) -> bool:
        """Return whether all nodes can take jobs."""
        states = self.ask("sinfo", "-h", "-N", "-o", "%N %t").split("\n")
        return len({line.split()[0] for line in states if line.endswith((" idle", " mix", " alloc"))}) == len(NODES)

    def ask(self, *words: str, check: bool = True) -> str:
        """Return what one of Slurm's commands says."""
        return subprocess.run(words, check=check, capture_output=True, text=True, timeout=60).stdout.strip()

    def wait_for_state(self, job: str, state: str) -> None:
        """Wait until a job is in a state."""
        wait_for(lambda: self.ask("squeue", "-h", "-t", "all", "-j", job, "-o", "%T") == state, 90, f"job {job} is {state}")

    def stop(self) -> None:
        """Stop what was started, and put back what was in /etc/slurm."""
        with suppress(subprocess.SubprocessError):
            self.ask("scancel", "--user=root", check=False)
            wait_for(lambda: not self.ask("squeue", "-h", check=False), 20, "no job is left")
        for name in [name for name in self.running if name != "munged"]:
            # their state is thrown away: no reason to let them write it down
            self._end(name, signal.SIGKILL)
        self._end("munged", signal.SIGTERM)
        self._unconfigure()
        self.lock.close()


@contextmanager
def started() -> Iterator[Cluster]:
    """Start a Slurm, and stop it in the end; not below a folder of the user's, since munge's socket must be open to all."""
    with tempfile.TemporaryDirectory(prefix="cohortex-slurm-", dir="/tmp") as folder:
        cluster = Cluster(Path(folder))
        try:
            cluster.start()
            yield cluster
        finally:
            cluster.stop()
