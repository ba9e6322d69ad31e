"""Ask a trained detector about the proposals of the test subset."""

from avfusion.data.annotations import read_annotations
from avfusion.data.proposals import read_proposals
from avfusion.data.scores import write_scores
from avfusion.engine.checkpoint import read_checkpoint
from avfusion.engine.predict import predict
from avfusion.fusion.streams import load_streams
from avfusion.runlog import job

with job(snakemake.log[0], snakemake.params.threads):
    options = snakemake.params.experiment
    annotations = read_annotations(snakemake.input.annotations).subset(snakemake.params.subset)
    proposals = read_proposals(snakemake.input.proposals, snakemake.params.best)
    candidates = {video: proposals[video] for video in annotations.videos if video in proposals}
    features = load_streams(
        {stream: snakemake.input[stream] for stream in options["streams"]},
        candidates,
        options["fusion"],
        snakemake.params.missing_audio,
    )
    checkpoint = read_checkpoint(snakemake.input.checkpoint)
    scores = predict(checkpoint, features, candidates, snakemake.params.device)
    write_scores(snakemake.output[0], scores, checkpoint.labels)
