import pytest
import torch

from training.adversarial import discriminator_loss, feature_matching_loss, generator_loss
from training.discriminators import PatchDiscriminator, PeriodDiscriminator, ResolutionDiscriminator, waveform_discriminators
from training.spectral_losses import multi_resolution_stft_loss


@pytest.mark.parametrize(("kind", "generated"), [("hinge", -1.0), ("lsgan", 0.0)])
def test_a_perfect_discriminator_has_no_loss(kind, generated):
    real, fake = [torch.ones(2, 5)] * 2, [torch.full((2, 5), generated)] * 2
    assert discriminator_loss(kind, real, fake) == 0
    assert discriminator_loss(kind, fake, real) > 2


@pytest.mark.parametrize("kind", ["hinge", "lsgan"])
def test_the_generator_wants_the_scores_of_real_material(kind):
    scores = torch.zeros(3, 4, requires_grad=True)
    generator_loss(kind, [scores]).backward()
    assert bool((scores.grad < 0).all())
    assert generator_loss("lsgan", [torch.ones(3, 4)]) == 0


def test_feature_matching_leaves_the_scores_out_and_sums_over_maps():
    one = [[torch.zeros(2, 3), torch.zeros(2, 3), torch.zeros(2, 1)]] * 2
    other = [[torch.ones(2, 3), torch.full((2, 3), 2.0), torch.full((2, 1), 9.0)]] * 2
    assert feature_matching_loss(one, other) == 6


@pytest.mark.parametrize(
    ("kind", "arguments", "shape"),
    [
        (PatchDiscriminator, (2, 4, 3), (2, 2, 128, 32)),
        (PeriodDiscriminator, (7, 4), (2, 5000)),
        (ResolutionDiscriminator, (512, 8), (2, 5000)),
    ],
)
def test_a_discriminator_tells_two_kinds_of_material_apart(kind, arguments, shape):
    torch.manual_seed(0)
    discriminator = kind(*arguments)
    optimizer = torch.optim.Adam(discriminator.parameters(), 3e-3)
    losses = []
    for _ in range(40):
        noise = torch.randn(shape)
        smooth = noise.cumsum(-1) / shape[-1] ** 0.5
        loss = discriminator_loss("hinge", [discriminator(noise)[-1]], [discriminator(smooth)[-1]])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    assert losses[-1] < 0.5 * losses[0]


def test_crops_of_a_batch_are_judged_apart():
    patches = PatchDiscriminator(2, 4, 2)
    images = torch.randn(3, 2, 128, 16)
    torch.testing.assert_close(patches(images)[-1][1:2], patches(images[1:2])[-1])
    waveforms = torch.randn(3, 4000)
    for discriminator in waveform_discriminators((2, 3), (512,), 2):
        torch.testing.assert_close(discriminator(waveforms)[-1][1:2], discriminator(waveforms[1:2])[-1])


def test_the_full_patch_discriminator_judges_patches_of_70():
    image = torch.zeros(1, 2, 128, 128, requires_grad=True)
    scores = PatchDiscriminator(2, 2, 3)(image)[-1]
    scores[0, 0, 7, 7].backward()
    (columns,) = torch.where(image.grad.abs().sum(dim=(0, 1, 2)) > 0)
    assert int(columns.max() - columns.min()) + 1 == 70


def test_the_stft_loss_is_zero_for_equal_waveforms_and_grows_with_the_error():
    torch.manual_seed(0)
    real, error = torch.randn(2, 8000), torch.randn(2, 8000)
    losses = [float(multi_resolution_stft_loss(real + scale * error, real, (256, 1024))) for scale in (0.0, 0.1, 0.5)]
    assert losses[0] == 0
    assert 0.05 < losses[1] < losses[2]


def test_the_stft_loss_has_finite_gradients_in_silence():
    silent = torch.zeros(1, 4000, requires_grad=True)
    multi_resolution_stft_loss(silent, torch.zeros(1, 4000), (512,)).backward()
    assert silent.grad.isfinite().all()
