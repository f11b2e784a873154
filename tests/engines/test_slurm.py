"""The workflow through `profiles/slurm`, on a Slurm of one node that the test starts on loopback and stops again.

The node claims 8 cores and 2 GPUs (ordinary files stand for them), so that the profile is used as it is.
"""

import os
import re
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest
from conftest import ROOT, copy_checkout, snakemake

pytestmark = pytest.mark.engines
PACKAGES = ("slurmctld", "slurmd", "slurm-client", "munge")
ETC = Path("/etc/slurm")
CONFIGURATION = """
ClusterName=sqlr1
SlurmctldHost={host}(127.0.0.1)
SlurmUser=root
AuthType=auth/munge
CommunicationParameters=NoInAddrAny,NoCtldInAddrAny
SlurmctldPort=16817
SlurmdPort=16818
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd.log
SlurmdParameters=config_overrides
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core_Memory
SchedulerParameters=sched_min_interval=0,batch_sched_delay=0,bf_interval=1
ReturnToService=2
MpiDefault=none
KillWait=5
GresTypes=gpu
NodeName={host} NodeAddr=127.0.0.1 CPUs=8 RealMemory=16000 Gres=gpu:2
PartitionName=cpu Nodes={host} Default=YES MaxTime=300
PartitionName=gpu Nodes={host} MaxTime=300
PartitionName=short Nodes={host} MaxTime=2:30:00
"""
SMOKE = ("--configfile", "workflow/config/smoke.yaml", "fast.yaml")
SLURM = ("--workflow-profile", "profiles/slurm", "--slurm-status-command", "squeue", *SMOKE)


def call(*command):
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout


@pytest.fixture(scope="module")
def slurm(tmp_path_factory):
    """A Slurm of one node, from the distribution's packages. It needs root, and a machine that is in no cluster yet."""
    if os.getuid():
        pytest.skip("Slurm's daemons need root")
    if not all(map(shutil.which, ("slurmctld", "slurmd", "sbatch", "munged"))):
        call("apt-get", "update", "-qq")
        subprocess.run(["apt-get", "install", "-qq", "--no-install-recommends", *PACKAGES], check=True,
                       stdout=subprocess.DEVNULL, env=os.environ | {"DEBIAN_FRONTEND": "noninteractive"})  # fmt: skip
    # Snakemake's plugin takes SLURM_CONF out of a job's environment, so the files have to be where Slurm looks.
    names = ("slurm.conf", "gres.conf")
    if (ETC / names[0]).exists() and "ClusterName=sqlr1\n" not in (ETC / names[0]).read_text():
        pytest.skip(f"{ETC}/slurm.conf is another cluster's")
    folder, host = tmp_path_factory.mktemp("slurm"), call("hostname", "-s").strip()
    (folder / "slurm.conf").write_text(CONFIGURATION.format(folder=folder, host=host))
    (folder / "gres.conf").write_text(f"AutoDetect=off\nName=gpu File={folder}/gpu[0-1]\n")
    for name in ("gpu0", "gpu1"):
        (folder / name).touch()
    for name in ("state", "spool"):
        (folder / name).mkdir()
    ETC.mkdir(exist_ok=True)
    for name in names:
        (ETC / name).unlink(missing_ok=True)
        (ETC / name).symlink_to(folder / name)
    munged = start_munge()
    try:
        call("slurmctld")
        call("slurmd")
        wait_for(lambda: call("sinfo", "-h", "-o", "%T", "-p", "cpu").strip() == "idle", 60)
        yield folder
    finally:
        subprocess.run(["scancel", "--user", "root"], check=False)
        for name in ("slurmd", "slurmctld"):
            if (pid := folder / f"{name}.pid").exists():
                os.kill(int(pid.read_text()), 15)
        if munged:
            munged.terminate()
        for name in names:
            (ETC / name).unlink(missing_ok=True)


def start_munge():
    """Munge's daemon, unless it runs already."""
    if subprocess.run(["munge", "-n"], capture_output=True, check=False).returncode == 0:
        return None
    if not Path("/etc/munge/munge.key").exists():
        call("mungekey", "--create", "--keyfile", "/etc/munge/munge.key")
        shutil.chown("/etc/munge/munge.key", "munge")
    Path("/run/munge").mkdir(exist_ok=True)
    shutil.chown("/run/munge", "munge")
    daemon = subprocess.Popen(["runuser", "-u", "munge", "--", "munged", "--foreground"])
    wait_for(lambda: subprocess.run(["munge", "-n"], capture_output=True, check=False).returncode == 0, 20)
    return daemon


def wait_for(condition, seconds):
    """The condition's value, once it is true."""
    end = time.monotonic() + seconds
    while not (value := condition()):
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.2)
    return value


@pytest.fixture(scope="module")
def checkout(slurm, tmp_path_factory):
    folder = copy_checkout(tmp_path_factory.mktemp("cluster"))
    shutil.copy2(ROOT / "tests/fast.yaml", folder)
    return folder


def submit(folder, *arguments):
    run = snakemake(folder, *SLURM, *arguments)
    return run.returncode, run.stdout + run.stderr


def test_a_run_time_above_the_partition_s_limit_is_refused_before_anything_is_submitted(checkout):
    code, said = submit(checkout, "--set-resources", "grpo:slurm_partition=short", "select:slurm_partition=cpu")
    assert code == 1
    assert "rule grpo: runtime is 240 minutes, partition short allows 150: Slurm would let it wait for ever" in said
    assert "rule select" not in said
    assert not (checkout / "results/smoke").exists()


def test_the_smoke_experiment_with_a_cancelled_job(checkout, slurm):
    """All stages as Slurm jobs, with the real pretrained model: minutes, most of them for starting 30 processes.

    GRPO is cancelled after its first step; the same command goes on from there. A third run finds nothing to do.
    """
    (checkout / "longer.yaml").write_text("grpo: {max_steps: 3, save_steps: 1}")
    command = [sys.executable, "-m", "snakemake", "--nocolor", *SLURM, "longer.yaml"]
    environment = {
        name: value for name, value in os.environ.items() if name not in ("MLFLOW_TRACKING_URI", "PYTHONPATH")
    }
    with (checkout / "first.log").open("w") as log:
        first = subprocess.Popen(command, cwd=checkout, env=environment, stdout=log, stderr=subprocess.STDOUT)
    try:
        seen = {}

        def saved():
            for line in call("squeue", "-h", "-o", "%i|%k").splitlines():
                job, comment = line.split("|", 1)
                seen[job] = seen.get(job) or (comment, call("scontrol", "show", "job", job))
            assert first.poll() is None, (checkout / "first.log").read_text()[-4000:]
            return list((checkout / "results/.work").glob("grpo-*/checkpoint-1/complete"))

        wait_for(saved, 900)
        running = [line.split("|")[0] for line in call("squeue", "-h", "-o", "%i|%k").splitlines() if "grpo" in line]
        assert len(running) == 1
        call("scancel", *running)
        assert first.wait(300) == 1
    finally:
        first.kill()
    by_rule = {comment.split("_wildcards")[0].removeprefix("rule_"): text for comment, text in seen.values()}
    for rule in ("cold_start", "select", "grpo"):
        assert re.search(r"Partition=gpu\b", by_rule[rule])
        assert re.search(r"gres[:/]gpu[:=]1\b", by_rule[rule]), by_rule[rule]
    assert "gpu" not in re.sub(r"\S*Command\S*|\S*Comment\S*", "", by_rule["filter"])
    code, said = submit(checkout, "longer.yaml")
    assert code == 0, said[-4000:]
    logs = (checkout / "results/smoke/logs/grpo").rglob("*.log")
    assert any("checkpoint-1\n" in path.read_text() for path in logs)
    assert (checkout / "results/smoke/report.md").is_file()
    code, said = submit(checkout, "longer.yaml")
    assert code == 0
    assert "Nothing to be done" in said
