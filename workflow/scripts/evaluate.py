"""Evaluate the detections of one experiment and seed."""

from avfusion.data.annotations import read_annotations
from avfusion.data.detections import read_detections
from avfusion.evaluation.mean_ap import evaluate
from avfusion.files import write_json
from avfusion.runlog import job

with job(snakemake.log[0]):
    annotations = read_annotations(snakemake.input.annotations).subset(snakemake.params.subset)
    detections = read_detections(snakemake.input.detections)
    write_json(snakemake.output[0], evaluate(detections, annotations, snakemake.params.tiou).to_json())
