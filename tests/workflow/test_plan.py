"""What can be known before anything runs: the plan, its size, and every kind of mistake in what was asked."""

import re
import subprocess
import sys
from pathlib import Path

import avfusion.fingerprint
import pytest
import yaml
from avfusion.experiments import members
from avfusion.fingerprint import fingerprint, third_party
from snakemake_runs import ROOT, Scratch

# Scripts that build detectors, and those that handle what they propose.
TRAINERS = {"train", "predict"}
PROPOSERS = {"propose", "classify", "pool_proposals", "label_proposals"}
SCRIPTS = sorted((ROOT / "workflow" / "scripts").glob("*.py"))
# What a package is called by those who install it and by those who import it.
DISTRIBUTIONS = {
    "py-opencv": "cv2",
    "pytorch": "torch",
    "pysoundfile": "soundfile",
    "matplotlib-base": "matplotlib",
    "tensorflow-cpu": "tensorflow",
    "yt-dlp": "yt_dlp",
    "pyyaml": "yaml",
}


@pytest.fixture
def shipped(tmp_path: Path) -> Scratch:
    """An empty folder with the configuration as it is shipped."""
    (tmp_path / "config").symlink_to(ROOT / "config")
    return Scratch(tmp_path)


def jobs(output: str) -> dict[str, int]:
    """Number of jobs by rule in what a dry run prints."""
    table = output.split("Job stats:")[-1].split("Reasons:")[0]
    return {name: int(count) for name, count in re.findall(r"^(\w+) +(\d+)$", table, flags=re.MULTILINE)}


@pytest.mark.parametrize("dataset", ["demo", "thumos14", "activitynet13"])
def test_every_dataset_has_a_table_to_ask_for(shipped: Scratch, dataset: str) -> None:
    planned = jobs(shipped.run("--dry-run", f"results/{dataset}/mAP.tsv"))
    config = yaml.safe_load((ROOT / "config" / "datasets" / f"{dataset}.yaml").read_text())
    assert planned["table"] == 1
    experiments = yaml.safe_load((ROOT / "config" / "experiments.yaml").read_text())
    trained = {name for row in config["experiments"] for name in members(experiments, row)}
    streams = {stream for name in trained for stream in experiments[name].get("streams", ())}
    assert planned["extract_features"] == config["shards"] * len(streams)
    assert planned["evaluate"] == len(config["experiments"])


def test_the_number_of_jobs_does_not_follow_the_number_of_videos(fresh: Scratch) -> None:
    before = jobs(fresh.run("--dry-run"))
    tiny = fresh.folder / "config" / "datasets" / "tiny.yaml"
    tiny.write_text(tiny.read_text().replace("train_videos: 3", "train_videos: 3000"))
    assert jobs(fresh.run("--dry-run")) == before


@pytest.mark.parametrize("target", ["manifests", "models"])
def test_stopping_points(shipped: Scratch, target: str) -> None:
    planned = jobs(shipped.run("--dry-run", target))
    assert ("train" in planned) == (target == "models")
    assert not {"predict", "table", "report"} & set(planned)


@pytest.mark.parametrize("option", ["--dag", "--rulegraph"])
def test_graphs_are_drawn_before_anything_is_there(shipped: Scratch, option: str) -> None:
    assert "digraph snakemake_dag" in shipped.run(option)


def test_the_workflow_is_clean(shipped: Scratch) -> None:
    assert "Congratulations" in shipped.run("--lint")
    subprocess.run([sys.executable, "-m", "snakefmt", "--check", "Snakefile", "rules"], cwd=ROOT, check=True)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            ["results/nope/mAP.tsv"],
            "results/nope/mAP.tsv: there is no dataset 'nope', as config/datasets/nope.yaml",
        ),
        (
            ["results/demo/scores/muses-rbg/seed0.h5"],
            "there is no experiment 'muses-rbg' in config/experiments.yaml;",
        ),
        (
            ["--config", "defualt=[demo]"],
            "config/config.yaml: unknown key 'defualt'; did you mean 'default'?",
        ),
        (
            ["--config", "default=[dmeo]"],
            "default[0]: there is no dataset 'dmeo' in config/datasets; did you mean",
        ),
    ],
)
def test_a_mistake_is_one_line(shipped: Scratch, arguments: list[str], message: str) -> None:
    *before, last = shipped.run("--dry-run", *arguments, fails=True).splitlines()
    assert last.startswith("avfusion: error: ")
    assert message in last
    assert all(line.startswith(("Using workflow specific profile", "Config file")) for line in before)


def test_a_misspelt_key_is_one_line(fresh: Scratch) -> None:
    path = fresh.folder / "config" / "datasets" / "tiny.yaml"
    path.write_text(path.read_text().replace("window: 8", "widnow: 8", 1))
    output = fresh.run("--dry-run", fails=True)
    message = "config/datasets/tiny.yaml: streams.rgb: unknown key 'widnow'; did you mean 'window'?"
    assert output.splitlines()[-1] == f"avfusion: error: {message}"


def test_files_that_a_user_must_supply_are_asked_for_in_one_line(fresh: Scratch) -> None:
    path = fresh.folder / "config" / "datasets" / "tiny.yaml"
    config = yaml.safe_load(path.read_text())
    config |= {"media": {"source": "folder", "path": "videos"}, "annotations": {"path": "tables"}}
    config.pop("backbone_training")
    for stream in config["streams"].values():
        stream["weights"] = "random:0"
    path.write_text(yaml.safe_dump(config))
    assert "convert_annotations" in jobs(fresh.run("--dry-run", "results/tiny/mAP.tsv"))
    output = fresh.run("results/tiny/annotations.json", fails=True)
    message = "avfusion: error: tables: does not exist; put the annotations there"
    assert [line for line in output.splitlines() if line.startswith(message)]
    assert not (fresh.folder / "results" / "tiny" / "annotations.json").exists()


def test_weights_for_tensorflow_are_fetched_and_converted(fresh: Scratch) -> None:
    path = fresh.folder / "config" / "datasets" / "tiny.yaml"
    path.write_text(
        path.read_text().replace("audio: {weights: trained", "audio: {weights: published:vggish_tensorflow")
    )
    output = fresh.run("--dry-run", "results/tiny/features/audio/0of2.h5")
    assert {"fetch_weights", "convert_vggish", "extract_features"} <= set(jobs(output))
    assert "train_backbone" not in jobs(output)


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.stem)
def test_scripts_are_short_and_their_environment_has_what_they_import(script: Path) -> None:
    text = script.read_text()
    assert len(text.splitlines()) <= 40
    rules = "\n".join(path.read_text() for path in (ROOT / "rules").glob("*.smk"))
    rule = next(part for part in rules.split("\nrule ") if f'scripts/{script.name}"' in part)
    assert f'code=code("{script.name}")' in rule, "a change in the package would not be seen"
    environment = re.search(r"\.\./envs/(\w+\.yaml)", rule)
    assert environment
    listed = yaml.safe_load((ROOT / "envs" / environment[1]).read_text())["dependencies"]
    names = {DISTRIBUTIONS.get(name, name) for name in (entry.split()[0] for entry in listed)}
    wanted = third_party(script, ROOT / "src" / "avfusion") - sys.stdlib_module_names
    # These are imported only in functions that no such script calls.
    assert wanted - names - {"torch"} == set()


@pytest.mark.parametrize(
    ("module", "users"),
    [
        ("fusion/decision.py", {"fuse_scores", "pool_scores"}),
        ("data/proposals.py", {"windows", "listed_proposals", *PROPOSERS, *TRAINERS, "recall"}),
        ("engine/postprocess.py", {"detections"}),
        ("engine/ranking.py", PROPOSERS - {"propose"}),
        ("evaluation/mean_ap.py", {"evaluate", "report"}),
        ("media/decode.py", {"extract_features", "train_backbone"}),
    ],
)
def test_the_fingerprints_of_exactly_those_scripts_move_that_use_a_module(
    fresh: Scratch, module: str, users: set[str]
) -> None:
    package = fresh.folder / "src" / "avfusion"
    before = {script.stem: fingerprint(script, package) for script in SCRIPTS}
    (package / module).write_text((package / module).read_text() + "\nADDED = 1\n")
    avfusion.fingerprint._read.cache_clear()
    after = {script.stem: fingerprint(script, package) for script in SCRIPTS}
    changed = {name for name in before if before[name] != after[name]}
    # A detector may come to use any part of the package; the others must not run for nothing.
    assert changed >= users
    assert changed - users <= TRAINERS | PROPOSERS | {"import_checkpoint"}


def test_every_rule_says_what_a_job_of_it_needs() -> None:
    for path in sorted((ROOT / "rules").glob("*.smk")):
        for rule in path.read_text().split("\nrule ")[1:]:
            for directive in (
                "log:",
                "benchmark:",
                "conda:",
                "resources:",
                "threads:",
                "mem_mb=",
                "runtime=",
            ):
                assert directive in rule, f"{path.name}: {rule.split(':')[0]} lacks {directive}"
