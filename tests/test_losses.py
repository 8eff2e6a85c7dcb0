"""The losses, held against plain computations of what they are said to be."""

import math

import pytest
import torch
from torch import nn

from colorize.config.sections import LossConfig
from colorize.losses import ChromaLoss, ContentLoss, adversarial_loss, critic_loss
from colorize.networks.vgg import VGGFeatures
from colorize.runtime.errors import UserError
from colorize.training.objective import Objective

STD = torch.tensor([0.229, 0.224, 0.225]).view(3, 1, 1)
MEAN = torch.tensor([0.485, 0.456, 0.406]).view(3, 1, 1)


@pytest.fixture(scope="module")
def vgg() -> VGGFeatures:
    torch.manual_seed(0)
    return VGGFeatures("vgg16")


@pytest.fixture
def images() -> tuple[torch.Tensor, torch.Tensor]:
    """Prediction and target."""
    torch.manual_seed(1)
    return torch.rand(2, 3, 33, 40), torch.rand(2, 3, 33, 40)


def test_vgg_features_are_the_relus_before_pools():
    for name, layers in {"vgg16": (15, 22, 29), "vgg16_bn": (22, 32, 42)}.items():
        with torch.device("meta"):
            features = VGGFeatures(name).features
            whole = VGGFeatures(name, layers=(43 if name == "vgg16_bn" else 30,)).features
        assert len(features) == layers[-1] + 1
        for layer in layers:
            assert isinstance(whole[layer], nn.ReLU)
            assert isinstance(whole[layer + 1], nn.MaxPool2d)


def test_vgg_is_never_trained(vgg):
    parent = nn.ModuleList([vgg]).train()
    assert parent.training
    assert not any(module.training for module in vgg.modules())
    assert not any(p.requires_grad for p in vgg.parameters())


def test_vgg_initialisation_follows_the_seed():
    def weight(seed: int) -> torch.Tensor:
        torch.manual_seed(seed)
        return VGGFeatures("vgg16", layers=(1,)).features[0].weight

    assert torch.equal(weight(0), weight(0))
    assert not torch.equal(weight(0), weight(1))


def test_identical_images_have_no_distance(vgg, images):
    terms = ContentLoss(vgg, LossConfig())(images[0], images[0])
    assert list(terms) == ["pixel", "feature_0", "feature_1", "feature_2"]
    assert all(term == 0 for term in terms.values())


@pytest.mark.parametrize("pixel", ["mse", "l1"])
def test_content_loss_is_what_it_says(vgg, images, pixel):
    prediction, target = images
    weights = LossConfig(pixel=pixel, pixel_weight=4.0, feature_weights=[2.0, 3.0, 0.5])
    terms = ContentLoss(vgg, weights)(prediction, target)

    def normalized(image: torch.Tensor) -> torch.Tensor:
        return (image - MEAN) / STD

    pixels = (nn.MSELoss() if pixel == "mse" else nn.L1Loss())(normalized(prediction), normalized(target))
    torch.testing.assert_close(terms["pixel"], 4 * pixels)
    for position, (end, weight) in enumerate([(16, 2.0), (23, 3.0), (30, 0.5)]):
        sides = [vgg.features[:end](normalized(image)) for image in images]
        torch.testing.assert_close(terms[f"feature_{position}"], weight * nn.L1Loss()(*sides))


def test_gradient_reaches_the_prediction_only(vgg, images):
    prediction, target = (image.clone().requires_grad_() for image in images)
    for name, term in ContentLoss(vgg, LossConfig())(prediction, target).items():
        (gradient,) = torch.autograd.grad(term, prediction, retain_graph=True)
        assert gradient.abs().sum() > 0, name
    sum(ContentLoss(vgg, LossConfig())(prediction, target).values()).backward()
    assert target.grad is None
    assert all(p.grad is None for p in vgg.parameters())


def test_terms_without_weight_are_left_out(vgg, images):
    features = ["feature_0", "feature_1", "feature_2"]
    assert list(ContentLoss(vgg, LossConfig(pixel_weight=0.0))(*images)) == features
    assert list(ContentLoss(vgg, LossConfig(feature_weights=[0.0, 1.0, 0.0]))(*images)) == ["pixel", "feature_1"]
    assert list(ContentLoss(None, LossConfig())(*images)) == ["pixel"]


def test_bad_options_are_named(vgg):
    with pytest.raises(UserError, match="2 feature weights for 3 VGG layers"):
        ContentLoss(vgg, LossConfig(feature_weights=[1.0, 2.0]))
    for layers in ((), (5, 3), (31,), (-1,)):
        with pytest.raises(UserError, match="ascending"), torch.device("meta"):
            VGGFeatures("vgg16", layers=layers)


def test_bfloat16_autocast(vgg, images):
    prediction, target = images[0].requires_grad_(), images[1]
    expected = ContentLoss(vgg, LossConfig())(prediction, target)
    with torch.autocast("cpu", torch.bfloat16):
        terms = ContentLoss(vgg, LossConfig())(prediction, target)
        logits = prediction.mean(dim=(1, 2, 3)).bfloat16()
        terms |= {"critic": critic_loss(logits, logits), "adversarial": adversarial_loss(logits)}
    for name, term in terms.items():
        assert term.dtype == torch.float32
        if name in expected:
            torch.testing.assert_close(term, expected[name], rtol=0.02, atol=0)
    sum(terms.values()).backward()
    assert prediction.grad is not None
    assert prediction.grad.isfinite().all()


def test_adversarial_losses():
    real, fake = torch.tensor([0.5, -1.0, 2.0]), torch.tensor([-0.3, 0.7, 0.1])
    right = -(torch.sigmoid(real).log().mean() + (1 - torch.sigmoid(fake)).log().mean()) / 2
    torch.testing.assert_close(critic_loss(real, fake), right)
    torch.testing.assert_close(adversarial_loss(fake), -torch.sigmoid(fake).log().mean())
    assert critic_loss(torch.zeros(4), torch.zeros(4)).item() == pytest.approx(math.log(2))
    assert adversarial_loss(torch.tensor([-200.0])).item() == pytest.approx(200)


def test_critic_accuracy():
    weights, images = LossConfig(), torch.zeros(4, 3, 2, 2)
    objective = Objective(ContentLoss(None, weights), ChromaLoss(weights), weights)
    logits = torch.tensor([1.0, -1.0, 2.0, 3.0, -1.0, 4.0, 0.0, 2.0])
    for said, expected in ((logits, (0.75, 0.5)), (torch.zeros(8), (0, 1))):
        judged = objective.judge(lambda _, said=said: said, images, images)
        assert (judged["accuracy_real"].item(), judged["accuracy_fake"].item()) == expected
