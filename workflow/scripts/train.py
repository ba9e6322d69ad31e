"""Train the detector of one experiment with one seed."""

from avfusion.data.annotations import clip_to_duration, read_annotations
from avfusion.data.proposals import read_proposals
from avfusion.engine.control import shuffle_labels
from avfusion.engine.train import train
from avfusion.fusion.streams import load_streams
from avfusion.runlog import job

with job(snakemake.log[0], snakemake.params.threads):
    options = snakemake.params.experiment
    annotations = read_annotations(snakemake.input.annotations).subset(snakemake.params.subset)
    features = load_streams(
        {stream: snakemake.input[stream] for stream in options["streams"]},
        annotations.videos,
        options["fusion"],
        snakemake.params.missing_audio,
    )
    given = snakemake.input.proposals
    proposals = read_proposals(given, snakemake.params.best) if given else {}
    seed = int(snakemake.wildcards.seed)
    if options["labels"] == "shuffled":
        annotations = shuffle_labels(annotations, seed)
    train(
        {
            "detector": options["detector"],
            "model": snakemake.params.model,
            "training": snakemake.params.training,
        },
        features,
        proposals,
        clip_to_duration(annotations),
        seed,
        snakemake.output.checkpoint,
        snakemake.output.history,
        snakemake.params.device,
        snakemake.params.resume,
        snakemake.params.board,
        initial_path=snakemake.params.initial,
    )
