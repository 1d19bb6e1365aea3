"""Generator of SMGAN, in three dimensions or two (You et al. 2018)."""

from __future__ import annotations

from cohortex.models.denoise.layers import ConvStack


class Smgan(ConvStack):
    """Generator of You et al., Structurally-sensitive multi-scale deep neural network for low-dose CT denoising, IEEE Access 6, 2018.

    Eight convolutions of 3 x 3 x 3 with 32 filters, the last with one, on (n, 1, x, y, z): a slice is cleaned with the help of its
    neighbours. Its critic is `cohortex.models.denoise.critics.ConvCritic`, in as many dimensions. As in `WganVgg` the layers keep the size
    of their input and the last one has no ReLU.

    Parameters
    ----------
    dimensions : {3, 2}
        The two-dimensional twin, which the paper compares with, has 3 x 3 kernels.
    filters : int
        32 in the paper: 167,841 parameters in three dimensions.
    """

    def __init__(self, dimensions: int = 3, filters: int = 32):
        super().__init__(dimensions, filters, 8)


def smgan(dimensions: int = 3, filters: int = 32) -> Smgan:
    """Build the generator."""
    return Smgan(dimensions, filters)
