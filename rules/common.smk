# Shared by the other files here: the checked configuration, the wildcards, and small helpers.
import os
import re
import sys
from pathlib import Path

# Jobs run the package that lies beside this Snakefile, whatever else is installed: it is what the
# fingerprints below are taken of. They end when this process does (avfusion.runlog).
SOURCES = Path(workflow.basedir) / "src"
sys.path[:0] = [str(SOURCES), str(Path(workflow.basedir) / "workflow")]
search = os.pathsep.join(filter(None, [str(SOURCES), os.environ.get("PYTHONPATH")]))
os.environ.update(PYTHONPATH=search, AVFUSION_PARENT=str(os.getpid()))

from avfusion.backbones.published import FILES, PREFIX, local_path
from avfusion.config import describe, describe_stream, load_workflow
from avfusion.config import runs as table_runs
from avfusion.data.streams import SOUND, is_sound
from avfusion.errors import InputError
from avfusion.experiments import is_trained, needed, proposal_source, proposes
from avfusion.fingerprint import fingerprint
from stale_locks import join_the_living

try:
    CONFIG = load_workflow(config, Path(workflow.basedir) / "config" / "schemas")
    if workflow.is_main_process:
        for argument in sys.argv[1:]:
            CONFIG.check_path(argument)
except InputError as error:
    # A WorkflowError would wrap this one line into four lines about the Snakefile, where nothing is wrong.
    sys.exit(f"avfusion: error: {error}")

if workflow.is_main_process and join_the_living(Path(".snakemake")):
    print("The last run was killed: its locks have been removed.", file=sys.stderr)


def one_of(names):
    """Pattern of a wildcard that can be any of `names` (nothing at all if there are none)."""
    return "|".join(map(re.escape, names)) or "(?!)"


RENDERED = [
    name
    for name, dataset in CONFIG.datasets.items()
    if dataset["media"]["source"] == "render"
]
# An experiment trains a detector or fuses others, and makes proposals or scores given ones.
TRAINED = [name for name, options in CONFIG.experiments.items() if is_trained(options)]
PROPOSING = [name for name in CONFIG.experiments if proposes(CONFIG.experiments, name)]


def experiments_that(proposing, trained=None):
    """Pattern of the experiments that make proposals or score them, and train a detector or fuse others."""
    return one_of(
        [
            name
            for name in CONFIG.experiments
            if (name in PROPOSING) == proposing and trained in (name in TRAINED, None)
        ]
    )


def fused_by(scheme):
    """Pattern of the experiments that fuse scores by a scheme of decision fusion."""
    return one_of(
        [
            name
            for name, options in CONFIG.experiments.items()
            if options.get("fuse") == scheme and name not in PROPOSING
        ]
    )


wildcard_constraints:
    dataset=one_of(CONFIG.datasets),
    stream="rgb|flow|audio(_[a-z0-9]+)?",
    table="(-full)?",
    shard="[0-9]+of[0-9]+",
    experiment=one_of(CONFIG.experiments),
    seed="[0-9]+",


def code(script):
    """Fingerprint of the package code behind a script: as a param it makes Snakemake see changes there."""
    sources = {"avfusion.ops": Path(workflow.basedir) / "csrc"}
    return fingerprint(
        Path(workflow.basedir) / "workflow" / "scripts" / script,
        SOURCES / "avfusion",
        sources,
    )


def option(*keys):
    """Function of the wildcards that looks up an option of the dataset: option("threads", "features")."""

    def look_up(wildcards):
        value = CONFIG.datasets[wildcards.dataset]
        for key in keys:
            value = value[getattr(wildcards, key[1:-1]) if key.startswith("{") else key]
        return value

    return look_up


def demo(wildcards):
    """What the generator of rendered videos is told."""
    media = CONFIG.datasets[wildcards.dataset]["media"]
    return {key: value for key, value in media.items() if key not in ("source", "seed")}


def shards(dataset):
    """Names of the shards of a dataset: 0of4, 1of4, ..."""
    count = CONFIG.datasets[dataset]["shards"]
    return [f"{index}of{count}" for index in range(count)]


def per_shard(pattern):
    """Function of the wildcards that gives `pattern` for every shard of the dataset."""
    return lambda wildcards: expand(
        pattern, shard=shards(wildcards.dataset), allow_missing=True
    )


def runs(wildcards):
    """Experiment and seed of every row of a table."""
    return table_runs(CONFIG, wildcards.dataset, wildcards.get("table") == "-full")


def for_default(*patterns):
    """Paths for the datasets that `default` names; a pattern is a text or a function of the dataset."""
    return [
        path
        for dataset in CONFIG.options["default"]
        for pattern in patterns
        for path in (
            [pattern.format(dataset=dataset)]
            if isinstance(pattern, str)
            else pattern(dataset)
        )
    ]


def feature_files(dataset):
    """Features of all streams and shards."""
    pattern = "results/{dataset}/features/{stream}/{shard}.h5"
    streams = CONFIG.datasets[dataset]["streams"]
    return expand(pattern, dataset=dataset, stream=streams, shard=shards(dataset))


def checkpoints(dataset):
    """Trained detectors of all experiments, also of those that are only fused into others."""
    pattern = "results/{dataset}/models/{run[0]}/seed{run[1]}/checkpoint.pt"
    trained = {
        (member, seed)
        for name, seed in table_runs(CONFIG, dataset)
        for member in needed(CONFIG.experiments, CONFIG.datasets[dataset], name)
    }
    return expand(pattern, dataset=dataset, run=sorted(trained))


def if_there(path):
    """`path` as an input only if it exists: what a user has to supply may be missing in a dry run.

    The job that needs it says then what to put where, in one line.
    """
    return [path] if path and os.path.exists(path) else []


def whose_media_are(*sources):
    """Pattern of the datasets whose videos come from one of `sources`."""
    datasets = CONFIG.datasets.items()
    return one_of(
        [name for name, value in datasets if value["media"]["source"] in sources]
    )


def dataset_file(wildcards):
    """The file that describes a dataset."""
    return str(Path(CONFIG.options["datasets"]) / f"{wildcards.dataset}.yaml")


def annotation_files(wildcards):
    """Annotations of a dataset that are files here."""
    spec = option("annotations")(wildcards)
    paths = spec["path"] if isinstance(spec, dict) else spec
    return [
        path
        for each in ([paths] if isinstance(paths, str) else paths)
        for path in if_there(each)
    ]


def media_options(*names):
    """Function of the wildcards that gives those options of the media on which the videos depend.

    The others (a password, the number of attempts) are read by the job itself: they are no reason to run again,
    and a password has no place in the records that Snakemake keeps.
    """

    def look_up(wildcards):
        media = CONFIG.datasets[wildcards.dataset]["media"]
        return {name: media[name] for name in names}

    return look_up


def gpus(wildcards):
    """GPUs that a job asks the scheduler for."""
    return 0 if CONFIG.datasets[wildcards.dataset]["device"] == "cpu" else 1


def weights(wildcards):
    """Weights of a stream's backbone: a file, "published:NAME", "random:SEED", or None."""
    value = option("streams", "{stream}", "weights")(wildcards)
    if value != "trained":
        return value
    # All streams of sound hear with one backbone.
    kind = SOUND if is_sound(wildcards.stream) else wildcards.stream
    return f"results/{wildcards.dataset}/backbones/{kind}.pt"


def weights_files(wildcards):
    """The files behind a stream's weights that a rule makes, or that are there already."""
    stream = option("streams", "{stream}")(wildcards)
    found = []
    for given in (stream["weights"], stream.get("pca")):
        if given == "trained":
            found.append(weights(wildcards))
        elif given and given.startswith(PREFIX):
            found.append(local_path(given))
        else:
            found += if_there(given)
    return found


def stream_options(wildcards):
    """Options of a stream, and of the one whose snippets it follows."""
    streams = CONFIG.datasets[wildcards.dataset]["streams"]
    names = {wildcards.stream, streams[wildcards.stream].get("grid")} - {None}
    return {name: streams[name] for name in sorted(names)}


def experiment(wildcards):
    """Options of the experiment."""
    return CONFIG.experiments[wildcards.experiment]


def model(wildcards):
    """Options of the experiment's detector on this dataset."""
    options = option("detectors", experiment(wildcards)["detector"])(wildcards)
    options = {key: value for key, value in options.items() if key != "training"}
    attends = experiment(wildcards)["fusion"] == "rm_attention"
    return options | {"attention": 1} if attends else options


def training(wildcards):
    """How the experiment's detector is trained on this dataset."""
    return option("detectors", experiment(wildcards)["detector"], "training")(wildcards)


def released(wildcards):
    """The released checkpoint of an experiment."""
    return CONFIG.datasets[wildcards.dataset]["checkpoints"][wildcards.experiment]


def initial(wildcards):
    """The checkpoint from which the training of an experiment begins; None: from random weights."""
    return CONFIG.datasets[wildcards.dataset]["initial"].get(wildcards.experiment)


def initial_file(wildcards):
    """`initial` as an input: if it is there, or a training makes it."""
    path = initial(wildcards)
    return [path] if path and path.startswith("results/") else if_there(path)


def board(wildcards):
    """Folder of the training's TensorBoard logs; None if they are not wanted."""
    place = f"{wildcards.dataset}/{wildcards.experiment}/seed{wildcards.seed}"
    return f"logs/tensorboard/{place}" if CONFIG.options["tensorboard"] else None


def proposals(wildcards):
    """The proposals that the experiment scores; nothing if it makes its own."""
    dataset = CONFIG.datasets[wildcards.dataset]
    source = proposal_source(CONFIG.experiments, dataset, wildcards.experiment)
    if source is None:
        return []
    run = f"{source}/seed{wildcards.seed}" if source in CONFIG.experiments else source
    return f"results/{wildcards.dataset}/proposals/{run}.h5"


def features_of(wildcards):
    """Feature files of every stream that the experiment sees, by the name of the stream."""
    pattern = "results/{dataset}/features/{stream}/{shard}.h5"
    return {
        stream: expand(
            pattern,
            dataset=wildcards.dataset,
            stream=stream,
            shard=shards(wildcards.dataset),
        )
        for stream in experiment(wildcards)["streams"]
    }


def of_members(kind):
    """Function of the wildcards: what the experiments that one is fused of have made, "scores" or "proposals"."""

    def paths(wildcards):
        return expand(
            "results/{dataset}/{kind}/{member}/seed{seed}.h5",
            dataset=wildcards.dataset,
            kind=kind,
            seed=wildcards.seed,
            member=experiment(wildcards)["of"],
        )

    return paths


def evaluations_of(wildcards):
    """Evaluations of all experiments and seeds of a table."""
    pattern = "results/{dataset}/evaluation/{run[0]}/seed{run[1]}.json"
    return expand(pattern, dataset=wildcards.dataset, run=runs(wildcards))


def recalled(wildcards):
    """Proposals whose recall the report shows: by the name of their source, the place in its folder."""
    first = {}
    for name, seed in runs(wildcards):
        if name in PROPOSING:
            first.setdefault(name, f"{name}/seed{seed}")
    if first and option("proposals", "windows")(wildcards):
        first["windows"] = "windows"
    return first


def recalls_of(wildcards):
    """Recall of the proposals that experiments of a table make (first seed), and of the windows."""
    pattern = "results/{dataset}/recall/{source}.json"
    sources = recalled(wildcards).values()
    return expand(pattern, dataset=wildcards.dataset, source=sources)


def table_rows(wildcards):
    """What the table says of every experiment beside its figures."""
    dataset = CONFIG.datasets[wildcards.dataset]
    paths = evaluations_of(wildcards)
    return [
        {
            "experiment": name,
            **describe(CONFIG.experiments, dataset, name),
            "evaluations": {
                seed: path
                for (run, seed), path in zip(runs(wildcards), paths, strict=True)
                if run == name
            },
        }
        for name in dict.fromkeys(name for name, _ in runs(wildcards))
    ]


def first_detections_of(wildcards):
    """Detections of the first seed of every experiment, for the pictures."""
    pattern = "results/{dataset}/detections/{run[0]}/seed{run[1]}.json"
    first = {}
    for name, seed in runs(wildcards):
        first.setdefault(name, seed)
    return expand(pattern, dataset=wildcards.dataset, run=first.items())


def title(wildcards):
    """Name of the dataset in the report."""
    return option("title")(wildcards) or wildcards.dataset


def report_note(wildcards):
    """What a reader must know before believing the figures."""
    if wildcards.dataset not in RENDERED:
        return ""
    return "Synthetic videos that the workflow rendered: these figures say nothing about real video."


def proposal_facts(dataset):
    """Where proposals come from, in a few words."""
    windows, source = dataset["proposals"]["windows"], dataset["proposals"]["source"]
    return (
        f"windows of {windows['lengths']} s"
        if source == "windows" and windows
        else source
    )


def facts(wildcards):
    """How the figures came about, for the end of the report."""
    dataset = CONFIG.datasets[wildcards.dataset]
    return {
        "streams": "; ".join(
            f"{name}: {describe_stream(options)}"
            for name, options in dataset["streams"].items()
        ),
        "proposals": proposal_facts(dataset),
        "videos without sound": dataset["missing_audio"],
        "seeds": sorted({seed for _, seed in runs(wildcards)}),
    }
