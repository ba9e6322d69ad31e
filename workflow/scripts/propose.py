"""Let a trained detector propose segments of the videos to train on and to evaluate on."""

from avfusion.data.annotations import read_annotations
from avfusion.data.proposals import write_proposals
from avfusion.engine.checkpoint import read_checkpoint
from avfusion.engine.predict import propose
from avfusion.fusion.streams import load_streams
from avfusion.runlog import job

with job(snakemake.log[0], snakemake.params.threads):
    options, name = snakemake.params.experiment, snakemake.wildcards.experiment
    annotations = read_annotations(snakemake.input.annotations)
    subsets = dict.fromkeys(snakemake.params.subsets.values())
    videos = [video for subset in subsets for video in annotations.subset(subset).videos]
    features = load_streams(
        {stream: snakemake.input[stream] for stream in options["streams"]},
        videos,
        options["fusion"],
        snakemake.params.missing_audio,
    )
    checkpoint = read_checkpoint(snakemake.input.checkpoint)
    proposals = propose(checkpoint, features, videos, snakemake.params.device)
    write_proposals(snakemake.output[0], proposals, source=f"{name}, seed {snakemake.wildcards.seed}")
