"""Write the annotations of the videos that `render_videos` renders."""

from avfusion.data.annotations import write_annotations
from avfusion.demo.config import DemoConfig
from avfusion.demo.scenes import annotations, plan
from avfusion.runlog import job

with job(snakemake.log[0]):
    source = f"config/datasets/{snakemake.wildcards.dataset}.yaml"
    config = DemoConfig.from_mapping(snakemake.params.demo, source)
    write_annotations(snakemake.output[0], annotations(plan(config, snakemake.params.seed)))
