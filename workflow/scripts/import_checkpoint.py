"""Take a released checkpoint in place of training the detector of an experiment."""

from avfusion.data.annotations import read_annotations
from avfusion.engine.import_checkpoint import import_checkpoint
from avfusion.fusion.streams import load_streams
from avfusion.runlog import job

with job(snakemake.log[0], threads=1):
    options = snakemake.params.experiment
    annotations = read_annotations(snakemake.input.annotations)
    features = load_streams(
        {stream: snakemake.input[stream] for stream in options["streams"]},
        annotations.videos,
        options["fusion"],
        snakemake.params.missing_audio,
    )
    import_checkpoint(
        snakemake.params.path,
        snakemake.output.checkpoint,
        options["detector"],
        annotations.labels,
        next(iter(features.values())).widths,
        snakemake.params.model,
    )
