"""The section of a study that says where it is run."""

from typing import Annotated, Literal

from pydantic import Field

from grokscope.spec import Spec

Name = Literal["local", "slurm", "ray"]
Count = Annotated[int, Field(ge=1)]


class ExecutionSpec(Spec):
    """Where and with what the jobs of a study are done. Part of no run: a study can change it at any time."""

    executor: Name = "local"
    """local: worker processes on this machine; slurm: job arrays; ray: tasks."""
    workers: Count | None = None
    """Jobs at a time. None: local, one per usable core; slurm and ray, as many as the cluster takes."""
    threads: Count | None = None
    """Of PyTorch in each worker, for runs that are new; part of what a run's bits depend on. None: local,
    usable cores // workers; slurm and ray, `cpus`."""
    cpus: Count = 1
    """Cores of a worker (slurm, ray)."""
    gpus: Annotated[int, Field(ge=0)] = 0
    """GPUs of a worker (slurm, ray)."""
    memory: Annotated[str, Field(pattern=r"^[1-9]\d*[MG]$")] | None = None
    """Of a worker, as in 800M or 4G (slurm, ray); None: what the site gives."""
    minutes: Count = 60
    """Time limit of a job (slurm)."""
    save_seconds: Annotated[int, Field(ge=10)] = 120
    """So long before the limit a job saves and queues again (slurm)."""
    runs_per_job: Count = 1
    """Runs that one job is meant for, one after another (slurm): there are so many fewer jobs than runs."""
    account: str | None = None
    """Who pays (slurm)."""
    partition: str | None = None
    """Which queue (slurm)."""
    options: tuple[Annotated[str, Field(pattern=r"^--[a-z]")], ...] = ()
    """Further options of sbatch, as in --qos=long (slurm)."""
    activate: str | None = None
    """Shell line that comes first in a job, as in `source venv/bin/activate` (slurm)."""
    python: str | None = None
    """Shell words that start Python in a job, as in `apptainer exec lab.sif python` (slurm); None: `python`
    after `activate`, without it the Python of this process."""
    address: str | None = None
    """Of the Ray cluster; None: RAY_ADDRESS, one that runs here, or a new one on this machine (ray)."""
    store: str | None = None
    """URL that fsspec can write to, as in s3://lab/studies/mine: the study is kept there too, and what is not
    here is fetched from there; None: it lies in its directory alone."""
