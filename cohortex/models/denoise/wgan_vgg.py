"""Generator of WGAN-VGG (Yang et al. 2018)."""

from __future__ import annotations

from cohortex.models.denoise.layers import ConvStack


class WganVgg(ConvStack):
    """Generator of Yang et al., Low-dose CT image denoising using a GAN with Wasserstein distance and perceptual loss, TMI 37(6), 2018.

    Eight convolutions of 3 x 3 with 32 filters, the last with one. Its critic is `cohortex.models.denoise.critics.ConvCritic`.

    Two things differ from the authors' code: the layers keep the size of their input (zeros beyond it), so that critic and target
    see patches as large as the input, and there is no ReLU behind the last one, behind which a generator can die with all its output
    at zero.

    Parameters
    ----------
    filters : int
        32 in the paper: 56,097 parameters.
    """

    def __init__(self, filters: int = 32):
        super().__init__(2, filters, 8)


def wgan_vgg(filters: int = 32) -> WganVgg:
    """Build the generator."""
    return WganVgg(filters)
