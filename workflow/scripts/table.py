"""Write the result table: a row per experiment."""

from avfusion.report.table import ResultRow, write_table
from avfusion.runlog import job

with job(snakemake.log[0]):
    write_table(snakemake.output[0], [ResultRow(**row) for row in snakemake.params.rows])
