"""Download one published file of weights, verified."""

from pathlib import Path

from avfusion.backbones.published import FILES, fetch
from avfusion.runlog import job

with job(snakemake.log[0]):
    output = Path(snakemake.output[0])
    name = next(name for name, file in FILES.items() if file.name == output.name)
    fetch(name, output.parent, snakemake.params.get("url"))
