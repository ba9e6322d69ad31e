"""Make detections of scores: the best ones, without duplicates, with refined boundaries."""

from avfusion.data.detections import write_detections
from avfusion.data.manifest import read_manifest
from avfusion.data.scores import read_scores
from avfusion.engine.postprocess import detections_from_scores
from avfusion.runlog import job

with job(snakemake.log[0], threads=1):
    scores, labels = read_scores(snakemake.input.scores)
    durations = {row.id: row.duration for row in read_manifest(snakemake.input.manifest)}
    options = snakemake.params.postprocess
    write_detections(snakemake.output[0], detections_from_scores(scores, labels, durations, options))
