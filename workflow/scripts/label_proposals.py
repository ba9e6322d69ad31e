"""Make detections of ranked proposals and of what says which classes they are."""

from avfusion.data.class_scores import class_names, read_class_scores
from avfusion.data.detections import write_detections
from avfusion.data.manifest import read_manifest
from avfusion.data.proposals import read_ranked
from avfusion.engine.ranking import detections_from_proposals
from avfusion.runlog import job

with job(snakemake.log[0], threads=1):
    labels = class_names(snakemake.input.class_scores)
    classes = read_class_scores(snakemake.input.class_scores, labels)
    ranked = read_ranked(snakemake.input.proposals)
    ranked = {video: value for video, value in ranked.items() if video in classes}
    durations = {row.id: row.duration for row in read_manifest(snakemake.input.manifest)}
    options = snakemake.params.labelling
    write_detections(
        snakemake.output[0], detections_from_proposals(ranked, classes, labels, durations, options)
    )
