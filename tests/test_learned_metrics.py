"""LPIPS and FID with weights from stand-in files, against figures that are computed in another way."""

from pathlib import Path

import numpy as np
import pytest
import scipy.linalg
import torch
import torchmetrics
import torchvision

from colorize.config.sections import DataConfig
from colorize.data.sources import Split, list_scenes
from colorize.evaluation import measuring, scores, tables
from colorize.evaluation.learned_metrics import Inception, Learned, Lpips, frechet_distance, moments
from colorize.evaluation.protocols import PROTOCOLS, ProtocolDataset, batches
from colorize.runtime.errors import UserError

CPU = torch.device("cpu")
HERE = DataConfig(num_workers=0)


@pytest.fixture(scope="module")
def alexnet(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A torchvision state dict with random values, without the classifier."""
    torch.manual_seed(0)
    with torch.device("meta"):
        shapes = {key: value.shape for key, value in torchvision.models.alexnet().state_dict().items()}
    state = {key: 0.05 * torch.randn(shape) for key, shape in shapes.items() if key.startswith("features.")}
    path = tmp_path_factory.mktemp("weights") / "alexnet.pth"
    torch.save(state, path)
    return path


def test_lpips_with_weights_from_a_file(alexnet: Path) -> None:
    first, second = torch.rand(2, 2, 3, 64, 64, generator=torch.Generator().manual_seed(0)).unbind()
    lpips = Lpips("lpips_alex", str(alexnet), "weights.lpips_alex").eval()
    with torch.inference_mode():
        values = lpips(first, second)
    # Zhang et al., equation 1, from the file, with the linear weights that torchmetrics brings.
    features = torchvision.models.AlexNet().features.eval()
    features.load_state_dict({key.removeprefix("features."): value for key, value in torch.load(alexnet).items()})
    path = Path(torchmetrics.__file__).parent / "functional/image/lpips_models/alex.pth"
    weights = torch.load(path, map_location="cpu")
    shift, scale = torch.tensor([-0.030, -0.088, -0.188]), torch.tensor([0.458, 0.448, 0.450])
    planes = [((2 * picture - 1) - shift.view(3, 1, 1)) / scale.view(3, 1, 1) for picture in (first, second)]
    expected, level = torch.zeros(2), 0
    for index, layer in enumerate(features):
        planes = [layer(plane) for plane in planes]
        if index in (1, 4, 7, 9, 11):
            one, other = (plane / plane.norm(dim=1, keepdim=True) for plane in planes)
            weight = weights[f"lin{level}.model.1.weight"].view(1, -1, 1, 1)
            expected, level = expected + ((one - other).square() * weight).sum(dim=1).mean(dim=(1, 2)), level + 1
    torch.testing.assert_close(values, expected, rtol=1e-3, atol=1e-6)
    assert lpips(first, first).abs().max() < 1e-6


def test_a_column_without_weights_says_so(
    alexnet: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, tmp_path: Path
) -> None:
    def no_network(*_: object, **__: object) -> None:
        raise OSError("Name or service not known")

    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    monkeypatch.setattr(torch.hub, "download_url_to_file", no_network)
    monkeypatch.setattr("torchvision.models._api.load_state_dict_from_url", no_network)
    sources = {"lpips_alex": str(alexnet), "lpips_vgg": "none", "fid": "imagenet"}
    learned = Learned(sources, "weights", CPU)
    assert set(learned.networks) == {"lpips_alex"} and set(learned.missing) == {"fid"}
    advice = f"put weights-inception-2015-12-05-6726825d.pth into {tmp_path}/checkpoints or give weights.fid=PATH"
    assert advice in learned.missing["fid"] and advice in caplog.text
    scenes = list_scenes(4, Split(val_fraction=0.5, seed=1))
    dataset = ProtocolDataset(scenes, scenes.val, PROTOCOLS["native"], scene_px=64)
    rows = measuring.with_baselines({})
    table = scores.tabulate(measuring.measure_rows(rows, batches(dataset, 2, HERE), CPU, learned), seed=0)
    assert table.rows["grey"]["lpips_alex"].mean > 0 == table.rows["truth"]["lpips_alex"].mean
    rows = scores.rows_to_json(table)
    assert rows["grey"]["fid"] == {"mean": None, "low": None, "high": None}
    assert "| no weights |" in tables.markdown(rows, ["fid"])


def test_fid_with_weights_from_a_file(tmp_path: Path) -> None:
    from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3

    class Shapes(FeatureExtractorInceptionV3):  # type: ignore[misc]
        def load_state_dict(self, *_: object) -> None:  # type: ignore[override]
            """Nothing: only names and shapes are wanted."""

    torch.manual_seed(0)
    path = tmp_path / "inception.pth"
    torch.save({}, path)
    with torch.device("meta"):
        shapes = Shapes("inception-v3-compat", ["2048"], str(path)).state_dict()
    # Views of a few random numbers, and filters that average: the file stays small, the values in range.
    state = {}
    for name, value in shapes.items():
        if value.ndim > 1:
            numbers = torch.randn(value.shape[:1]).abs() / value[0].numel()
            state[name] = numbers.view(-1, *[1] * (value.ndim - 1)).expand(value.shape)
        elif value.ndim:
            state[name] = torch.full(value.shape, float("var" in name or "weight" in name))
    state |= {name: torch.tensor(1) for name, value in shapes.items() if not value.ndim}
    torch.save(state, path)
    features = Inception(str(path), "weights.fid").eval()(torch.rand(2, 3, 64, 48))
    assert features.shape == (2, 2048) and (features.std(dim=0) > 0).any()
    torch.save({**state, "surplus": torch.zeros(1)}, path)
    with pytest.raises(UserError, match=r"weights.fid: .* is not torch-fidelity's Inception: .*surplus"):
        Inception(str(path), "weights.fid")


def test_fid_compares_each_row_with_the_truth() -> None:
    class Colours(torch.nn.Module):
        def forward(self, pictures: torch.Tensor) -> torch.Tensor:
            return pictures.mean(dim=(2, 3))

    scenes = list_scenes(12, Split(val_fraction=0.5, seed=1))
    dataset = ProtocolDataset(scenes, scenes.val, PROTOCOLS["native"], scene_px=32)
    learned = Learned({}, "weights", CPU)
    learned.networks = {"fid": Colours()}
    rows = measuring.with_baselines({})
    table = scores.tabulate(measuring.measure_rows(rows, batches(dataset, 2, HERE), CPU, learned), seed=0)
    assert table.rows["truth"]["fid"].mean == pytest.approx(0, abs=1e-9)
    assert table.rows["grey"]["fid"].mean > 0.001 and np.isnan(table.rows["grey"]["fid"].bounds).all()


def test_frechet_distance_is_scipys() -> None:
    rng = np.random.default_rng(0)
    first, second = rng.normal(size=(40, 6)), rng.normal(0.3, 2, size=(30, 6)) @ rng.normal(size=(6, 6))
    statistics = [
        sum(moments(torch.from_numpy(part)) for part in np.array_split(features, 4)) for features in (first, second)
    ]
    covariance1, covariance2 = np.cov(first.T), np.cov(second.T)
    root = scipy.linalg.sqrtm(covariance1 @ covariance2).real
    expected = ((first.mean(0) - second.mean(0)) ** 2).sum() + np.trace(covariance1 + covariance2 - 2 * root)
    assert frechet_distance(*statistics) == pytest.approx(expected)
    assert frechet_distance(statistics[0], statistics[0]) == pytest.approx(0, abs=1e-6)
    with pytest.raises(ValueError, match="at least two"):
        frechet_distance(moments(torch.zeros(1, 6)), statistics[0])
