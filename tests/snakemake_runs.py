"""Running Snakemake in a scratch folder, as a person would: a process of its own, and its output as text."""

import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[1]
PROFILE = ROOT / "profiles" / "default"
TINY = ROOT / "tests" / "workflow" / "config"
PARTS = (
    "Snakefile",
    "rules",
    "workflow",
    "profiles",
    "envs",
    "src",
    "csrc",
    "config/schemas",
    "config/experiments.yaml",
)


@dataclass
class Scratch:
    """A folder in which a workflow runs."""

    folder: Path
    snakefile: Path = ROOT / "Snakefile"
    options: tuple[str, ...] = ()
    profile: Path = PROFILE

    def command(self, *arguments: str) -> list[str]:
        """The command line of a run with two cores."""
        return [
            *(sys.executable, "-m", "snakemake", "--snakefile", str(self.snakefile)),
            *("--workflow-profile", str(self.profile), *arguments, "--cores", "2", *self.options),
        ]

    def start(self, *arguments: str) -> "subprocess.Popen[str]":
        """Start a run; its output is in `output.txt` of the folder."""
        with (self.folder / "output.txt").open("w") as output:
            return subprocess.Popen(
                self.command(*arguments),
                cwd=self.folder,
                stdout=output,
                stderr=subprocess.STDOUT,
                text=True,
            )

    def run(self, *arguments: str, fails: bool = False) -> str:
        """Run to the end; what it printed. Fails the test, with all logs, if it ends other than expected."""
        code = self.start(*arguments).wait(timeout=600)
        output = (self.folder / "output.txt").read_text()
        assert (code != 0) == fails, f"exit status {code}\n{output}\n{self.logs()}"
        return output

    def logs(self) -> str:
        """All log files of rules, with their names."""
        return "\n".join(f"--- {p}\n{p.read_text()}" for p in sorted(self.folder.glob("logs/**/*.log")))


def checkout(folder: Path) -> Scratch:
    """A copy of the workflow, whose package a test may change, with the configuration of the tiny dataset."""
    ignored = shutil.ignore_patterns("__pycache__", "*.egg-info")
    for part in PARTS:
        (folder / part).parent.mkdir(parents=True, exist_ok=True)
        if (ROOT / part).is_dir():
            shutil.copytree(ROOT / part, folder / part, ignore=ignored)
        else:
            shutil.copy2(ROOT / part, folder / part)
    shutil.copytree(TINY, folder / "config", dirs_exist_ok=True)
    return Scratch(folder, folder / "Snakefile")
