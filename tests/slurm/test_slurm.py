"""The tiny dataset through profiles/slurm, on a SLURM of one node that this test starts."""

import csv
import os
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from snakemake_runs import ROOT, checkout

CLUSTER = Path(__file__).with_name("cluster.sh")
CONFIG = Path("/etc/slurm/slurm.conf")
OPTIONS = (
    *("--slurm-status-command", "squeue", "--slurm-no-account"),
    *("--slurm-init-seconds-before-status-checks", "13", "--latency-wait", "5", "--jobs", "4"),
    *("--default-resources", "mem_mb=1000", "runtime=10", "slurm_partition=test"),
    # The node is this machine, however small: what real media need would not fit.
    *("--set-resources", *(f"{rule}:mem_mb=1000" for rule in ("train", "predict", "extract_features"))),
)

pytestmark = pytest.mark.slurm


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A running SLURM; the folder of its files."""
    missing = [name for name in ("slurmctld", "slurmd", "sbatch", "munged") if not shutil.which(name)]
    if missing:
        pytest.skip(f"needs {', '.join(missing)} (Debian packages slurm-wlm and munge)")
    if os.geteuid() != 0:
        pytest.skip("needs root to start SLURM")
    if CONFIG.exists():
        pytest.skip(f"{CONFIG} is there: this machine has a SLURM of its own")
    folder = tmp_path_factory.mktemp("slurm")
    folder.parent.chmod(0o755)  # munged trusts no folder that others cannot look into
    subprocess.run([CLUSTER, "start", folder], check=True, timeout=60)
    yield folder
    subprocess.run([CLUSTER, "stop", folder], check=True, timeout=60)


def test_the_tiny_dataset_runs_on_slurm(cluster: Path, tmp_path: Path) -> None:
    scratch = checkout(tmp_path)
    scratch.profile = ROOT / "profiles" / "slurm"
    scratch.options = OPTIONS
    keep(tmp_path / "config" / "datasets" / "tiny.yaml", {"muses-rgb", "muses-audio"})
    output = scratch.run("results/tiny/mAP.tsv")
    submitted = re.findall(r"submitted with SLURM jobid (\d+)", output)
    assert len(submitted) >= 10, "jobs went past the cluster"
    assert f"JobId={submitted[-1]} done" in (cluster / "slurmctld.log").read_text()
    with (tmp_path / "results" / "tiny" / "mAP.tsv").open() as stream:
        assert [row["experiment"] for row in csv.DictReader(stream, delimiter="\t")] == [
            "muses-rgb",
            "muses-audio",
        ]
    assert "Nothing to be done" in scratch.run("results/tiny/mAP.tsv")


def keep(dataset: Path, experiments: set[str]) -> None:
    """Leave only some experiments in a dataset's file, to save time."""
    head, _ = dataset.read_text().split("experiments:\n")
    dataset.write_text(
        head + "experiments:\n" + "".join(f"  {name}:\n" for name in sorted(experiments, reverse=True))
    )
