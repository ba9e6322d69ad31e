"""Merge what several detectors say about the same proposals."""

from avfusion.fusion.decision import merge_score_files
from avfusion.runlog import job

with job(snakemake.log[0]):
    merge_score_files(snakemake.input, snakemake.params.weights, snakemake.output[0])
