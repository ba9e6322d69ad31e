"""Bring the annotations of a dataset into one format."""

from pathlib import Path

from avfusion.data.annotations import read_annotations, write_annotations
from avfusion.errors import InputError
from avfusion.runlog import job

with job(snakemake.log[0]):
    path = Path(snakemake.params.path)
    if not path.exists():
        problem = "put the annotations there: an ActivityNet JSON, or a folder of THUMOS14 tables"
        raise InputError(path, f"does not exist; {problem} (docs/datasets.md says where they come from)")
    annotations = read_annotations(path)
    for subset in snakemake.params.subsets.values():
        annotations.subset(subset)  # refuses a subset that the annotations do not have
    write_annotations(snakemake.output[0], annotations)
