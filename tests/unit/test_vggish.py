"""VGGish: shapes, options, and the PCA post-processor."""

from pathlib import Path

import numpy as np
import pytest
import torch

from avfusion.backbones.vggish import PcaParameters, VGGish
from avfusion.errors import InputError


def network(**options: object) -> VGGish:
    torch.manual_seed(0)
    return VGGish(**{"width": 1 / 32, **options}).eval()


def pca_file(path: Path, vectors: object = None, means: object = None) -> Path:
    rng = np.random.default_rng(0)
    vectors = rng.standard_normal((128, 128)) / 16 if vectors is None else vectors
    np.savez(path, pca_eigen_vectors=vectors, pca_means=rng.standard_normal(128) if means is None else means)
    return path


@pytest.mark.parametrize("count", [0, 1, 3])
def test_an_embedding_per_example(count: int) -> None:
    examples = torch.randn(count, 96, 64)
    embeddings = network()(examples)
    assert embeddings.shape == (count, 128)
    assert torch.equal(embeddings, network()(examples[:, None]))


def test_final_relu_is_all_that_differs() -> None:
    examples = torch.randn(2, 96, 64)
    bare = network(final_relu=False)(examples)
    assert (bare < 0).any()
    assert torch.equal(network()(examples), bare.relu())


def test_width_leaves_the_embedding_alone() -> None:
    with torch.device("meta"):
        small, whole = VGGish(0.125), VGGish()
    assert small.embeddings[0].weight.shape == (512, 64 * 6 * 4)
    assert whole.embeddings[0].weight.shape == (4096, 512 * 6 * 4)
    assert small.embeddings[4].weight.shape == (128, 512)
    assert list(small.state_dict()) == list(whole.state_dict())


def test_the_first_linear_layer_reads_channels_last() -> None:
    model = network()
    with torch.no_grad():
        model.embeddings[0].weight.zero_()
        model.embeddings[0].weight[0, 16 * 5 + 3] = 1  # time 1, band 1 of 4, channel 3 of 16
        model.embeddings[0].bias.zero_()
        maps = model.features(torch.randn(1, 1, 96, 64))
        assert maps.shape == (1, 16, 6, 4)
        value = model.embeddings[0](maps.permute(0, 2, 3, 1).flatten(1))[0, 0]
    assert value == maps[0, 3, 1, 1]


def test_quantisation_by_hand(tmp_path: Path) -> None:
    pca = PcaParameters.read(pca_file(tmp_path / "pca.npz", np.eye(128), np.zeros((128, 1))))
    values = np.zeros((1, 128), np.float32)
    values[0, :5] = [-9, -2, 0, 2, 9]
    values[0, 5:7] = np.array([99.6, 100.4]) / (255 / 4) - 2
    assert pca.quantise(values)[0, :7].tolist() == [0, 0, 128, 255, 255, 100, 100]
    assert pca.quantise(values, "down")[0, :7].tolist() == [0, 0, 127, 255, 255, 99, 100]


def test_projection_subtracts_the_means_first(tmp_path: Path) -> None:
    path = pca_file(tmp_path / "pca.npz")
    pca = PcaParameters.read(path)
    values = np.random.default_rng(1).standard_normal((3, 128))
    with np.load(path) as stored:
        expected = [stored["pca_eigen_vectors"] @ (value - stored["pca_means"]) for value in values]
    np.testing.assert_allclose(pca.project(values), expected, rtol=0, atol=1e-12)


def test_bad_parameter_files_are_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"none\.npz"):
        PcaParameters.read(tmp_path / "none.npz")
    with pytest.raises(InputError, match=r"\(3, 3\)"):
        PcaParameters.read(pca_file(tmp_path / "shape.npz", np.eye(3)))
    np.savez(tmp_path / "keys.npz", other=np.zeros(3))
    with pytest.raises(InputError, match=r"keys\.npz.*pca_eigen_vectors"):
        PcaParameters.read(tmp_path / "keys.npz")
    with pytest.raises(InputError, match=r"objects\.npz"):
        PcaParameters.read(pca_file(tmp_path / "objects.npz", np.array([None], dtype=object)))
    (tmp_path / "text.npz").write_text("not a zip")
    with pytest.raises(InputError, match=r"text\.npz"):
        PcaParameters.read(tmp_path / "text.npz")
