"""Say what proposals are: by a file of class scores, or by the detector's own classifier."""

from avfusion.data.annotations import read_annotations
from avfusion.data.class_scores import read_class_scores, write_class_scores
from avfusion.data.proposals import read_ranked
from avfusion.engine.checkpoint import read_checkpoint
from avfusion.engine.ranking import classify
from avfusion.fusion.streams import load_streams
from avfusion.runlog import job

with job(snakemake.log[0], snakemake.params.threads):
    options = snakemake.params.experiment
    checkpoint = read_checkpoint(snakemake.input.checkpoint)
    test = read_annotations(snakemake.input.annotations).subset(snakemake.params.subset).videos
    ranked = read_ranked(snakemake.input.proposals)
    ranked = {video: value for video, value in ranked.items() if video in test}
    if snakemake.params.class_scores:
        scores = read_class_scores(snakemake.params.class_scores, checkpoint.labels)
        scores = {video: value for video, value in scores.items() if video in ranked}
    else:
        features = load_streams(
            {stream: snakemake.input[stream] for stream in options["streams"]},
            ranked,
            options["fusion"],
            snakemake.params.missing_audio,
        )
        scores = classify(checkpoint, features, ranked)
    write_class_scores(snakemake.output[0], scores, checkpoint.labels)
