"""AudioSet's checkpoint of VGGish for TensorFlow to a state dict of torch."""

from avfusion.backbones.convert import convert_vggish
from avfusion.runlog import job

with job(snakemake.log[0]):
    convert_vggish(snakemake.input[0], snakemake.output[0])
