"""From what a dataset's file says of a stream to the objects that `extract` works with."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from avfusion.backbones.extract import Backbone, StreamConfig
from avfusion.backbones.published import PREFIX, check_file, local_path, published
from avfusion.backbones.vggish import PostProcessing
from avfusion.backbones.weights import SOURCES, BackboneConfig, load_backbone
from avfusion.data.streams import is_sound
from avfusion.errors import InputError
from avfusion.media.snippets import AudioGeometry, SnippetGeometry

CHANNELS = {"rgb": 3, "flow": 2}


def stream_config(name: str, streams: Mapping[str, Mapping[str, Any]]) -> StreamConfig:
    """The configuration of a stream.

    Args:
        name: of the stream.
        streams: options by stream, as config/schemas/dataset.schema.yaml describes them: of this one, and of
            the one whose grid it follows.
    """
    options = streams[name]
    if is_sound(name):
        follow = options["grid"] and _frames(streams[options["grid"]])
        scheme = options.get("scheme", "centred")
        geometry: AudioGeometry | SnippetGeometry = AudioGeometry(
            options["window"], options["stride"], follow, scheme
        )
        backbone = BackboneConfig("vggish", width=options["width"], final_relu=options["final_relu"])
    else:
        geometry = _frames(options)
        backbone = BackboneConfig(
            "i3d", CHANNELS[name], options["width"], options["endpoint"], options["layout"]
        )
    pca = options.get("pca")
    post = PostProcessing.read(local_path(pca), options.get("pca_rounding", "nearest")) if pca else None
    return StreamConfig(name, backbone, geometry, options.get("flow"), options["batch_size"], post)


def ready_backbone(
    config: StreamConfig, weights: str | None, device: str, expected_sha256: str | None = None
) -> Backbone:
    """The network of a stream with its weights, on `device`.

    Args:
        config: of the stream.
        weights: path of a file, ``published:NAME``, ``random:SEED``, or None.
        device: torch device.
        expected_sha256: hash that the file must have; None: any.

    Raises:
        MissingWeightsError: no weights were named.
        InputError: the file is not there, is another one, or does not fit.
    """
    name = config.backbone.name
    if weights and not weights.startswith("random:"):
        path = Path(local_path(weights))
        if not path.exists():
            advice = f"put the weights of {name} there ({SOURCES[name]})"
            if weights.startswith(PREFIX):
                file = published(wanted := weights.removeprefix(PREFIX))
                advice = f"fetch it: `avfusion weights {wanted}`"
                if file.converted:
                    advice += f", then `avfusion weights --convert {path.with_name(file.name)}`"
            raise InputError(path, f"does not exist; {advice}")
        check_file(path, expected_sha256)
        weights = str(path)
    module, description = load_backbone(config.name, weights, config.backbone)
    return Backbone(module.to(device).eval(), description)


def _frames(options: Mapping[str, Any]) -> SnippetGeometry:
    names = ("window", "stride", "fps", "size", "short_side", "crops")
    return SnippetGeometry(**{name: options[name] for name in names if name in options})
