"""Make one list of the proposals of several experiments, and keep what each says of its own."""

from avfusion.data.class_scores import class_names, read_class_scores, write_class_scores
from avfusion.data.proposals import read_ranked, write_proposals
from avfusion.engine.ranking import pool_proposals
from avfusion.runlog import job

with job(snakemake.log[0]):
    paths = snakemake.input.class_scores
    labels = class_names(paths[0])
    classes = [read_class_scores(path, labels) for path in paths]
    members = [
        {video: value for video, value in read_ranked(path).items() if video in named}
        for path, named in zip(snakemake.input.proposals, classes, strict=True)
    ]
    pooled, scores = pool_proposals(members, classes, snakemake.params.ranking)
    write_proposals(snakemake.output.proposals, pooled, source=snakemake.wildcards.experiment)
    write_class_scores(snakemake.output.class_scores, scores, labels)
