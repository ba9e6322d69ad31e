"""Bring the annotations of a dataset into one format."""

from avfusion.data.annotation_source import obtain_annotations
from avfusion.data.annotations import write_annotations
from avfusion.runlog import job

with job(snakemake.log[0]):
    params = snakemake.params
    annotations = obtain_annotations(params.spec, params.folder, params.subsets.values(), params.config)
    write_annotations(snakemake.output[0], annotations)
