"""Join the parts."""

from pathlib import Path

from avfusion.files import write_text
from avfusion.runlog import job

with job(snakemake.log[0]):
    write_text(snakemake.output[0], "".join(Path(part).read_text() for part in snakemake.input))
