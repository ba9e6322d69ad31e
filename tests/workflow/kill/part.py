"""Write a file in two halves, slowly enough to be killed in between."""

import time

from avfusion.files import atomic_path
from avfusion.runlog import job

with job(snakemake.log[0]), atomic_path(snakemake.output[0]) as path:
    path.write_text("first half, ")
    time.sleep(0.2)
    with path.open("a") as stream:
        stream.write(f"second half of {snakemake.wildcards.n}\n")
