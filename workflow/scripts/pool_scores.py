"""Put the proposals of several experiments, each with its own scores, side by side."""

from avfusion.fusion.decision import pool_score_files
from avfusion.runlog import job

with job(snakemake.log[0]):
    pool_score_files(snakemake.input, snakemake.output[0])
