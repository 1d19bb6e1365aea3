"""A shrinkage network: a learnable redundant 4^3 frame whose coefficients a small 3-D U-Net weights."""

from __future__ import annotations

import math
from collections.abc import Iterator

import torch
from torch import nn
from torch.nn import functional

EDGE = 4
"""Edge of the frame's windows in voxels; they lie two voxels apart."""

SATURATED = 6.0
"""Coefficients beyond so many standard deviations of the noise all say the same: there is signal."""


THRESHOLD, STEEPNESS = 2.8, 2.0
"""Where half of a coefficient is taken for noise before the training, and how sharply that changes."""

PLANES = 2**14
"""Windows that inference looks at in one step, about."""


SLAB = 2**16
"""Windows of the inner tensors that inference makes in one step, about."""


class FrameUnet(nn.Module):
    """Shrinkage of the coefficients of a redundant block transform, each by a factor that a U-Net gives.

    The image is in units of the standard deviation of its noise. Windows of 4^3 voxels, two voxels apart along each axis, are analysed by
    64 learnable functions that begin as the discrete cosine transform, as in the redundant block DCT (Yu and Sapiro, DCT image
    denoising: a simple and effective image denoising algorithm, Image Processing On Line 1, 2011, doi:10.5201/ipol.2011.ys-dct), there
    with a threshold. Here a residual U-Net of two resolutions (two and four voxels; after Ronneberger et al., U-Net: convolutional
    networks for biomedical image segmentation, MICCAI 2015, doi:10.1007/978-3-319-24574-4_28) looks at the coefficients and at
    their magnitudes and gives the share of each coefficient that is noise, and a small correction. What is taken away is put
    together by as many learnable functions and subtracted, so large values lose no digits in bfloat16. The image is
    held at half resolution throughout (eight voxels are eight channels), which is what makes it fast.

    Parameters
    ----------
    fine, coarse : int
        Channels at two and at four voxels.
    blocks : int
        Residual blocks at four voxels; at two there is one block before them and one after them.
    """

    halo = 40
    """An output voxel depends on input voxels at most 37 away; a multiple of `multiple`, so that blocks keep the grid of the windows."""

    in_noise_units = True
    """Its input's noise has a standard deviation of 1."""

    multiple = 4
    """Blocks of a volume begin at multiples of it, or the windows of a block would not be those of the volume."""

    def __init__(self, fine: int = 48, coarse: int = 96, blocks: int = 2):
        super().__init__()
        frame = _on_half_grid(cosines())
        level = torch.ones(len(frame), 1, 1, 1, 1)
        # The mean of a window would saturate at once.
        level[0] = 1 / 8
        self.analysis = nn.Parameter(frame * level)
        self.synthesis = nn.Parameter((frame / level).flip((2, 3, 4)).transpose(0, 1).contiguous() / 8)
        count = len(frame)
        self.values = nn.Conv3d(count, fine, 1)
        self.sizes = nn.Conv3d(count, fine, 1, bias=False)
        self.before = Residual(fine)
        self.down = nn.Conv3d(fine, coarse, 2, stride=2)
        self.middle = nn.Sequential(*(Residual(coarse) for _ in range(blocks)))
        self.up = nn.ConvTranspose3d(coarse, fine, 2, stride=2)
        self.after = Residual(fine)
        self.noise = nn.Conv3d(fine, count, 1)
        self.significance = nn.Parameter(torch.full((1, count, 1, 1, 1), -float(STEEPNESS)))
        self.correction = nn.Conv3d(fine, 8, 1)
        self.begin_as_threshold()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return the image without its noise.

        Parameters
        ----------
        x : (n, 1, x, y, z) float32 tensor
            In units of the noise, 0 where there is no signal.

        Returns
        -------
        tensor of the same shape, float32
        """
        shape = x.shape[2:]
        # Windows cover every voxel eight times, those at the border too, and their number is even along each axis.
        ends = [size % 4 if size % 4 >= 2 else size % 4 + 4 for size in (-n % 4 for n in reversed(shape))]
        image = to_half_grid(functional.pad(x.float(), [side for end in ends for side in (2, end)], mode="replicate"))
        if torch.is_grad_enabled():
            y = torch.relu(self.before(self.seen(image)))
            y = self.after(y + self.up(self.middle(torch.relu(self.down(y)))))
            removed = self.noise_of(image, y, 0, image.shape[2])
        else:
            removed = self.removed(image)
        made = from_half_grid(image - removed)
        return made[(..., *(slice(2, 2 + size) for size in shape))]

    def removed(self, image: torch.Tensor) -> torch.Tensor:
        """Return what is taken away from the cells of an image (n, 8, a, b, c), float32, without gradients.

        It is made some planes at a time: what looks at one window at a time so stays in the cache. Large arrays are used again, since
        the system gives new memory so slowly that it costs as much as half of a convolution.
        """
        planes = image.shape[2]
        step = max(1, PLANES // (image.shape[3] * image.shape[4]))
        y = _filled(planes - 1, ((a, self.seen(image[:, :, a : a + step + 1])) for a in range(0, planes - 1, step)))
        one, two = torch.empty_like(y), torch.empty_like(y)
        self.before.by_planes(y, one, two).relu_()
        coarse = torch.relu_(self.down(one))
        other, room = torch.empty_like(coarse), torch.empty_like(coarse)
        for block in self.middle:
            block.by_planes(coarse, other, room)  # pyright: ignore[reportCallIssue]
            coarse, other = other, coarse
        for a, b in _slabs(coarse):
            torch.add(one[:, :, 2 * a : 2 * b], self.up(coarse[:, :, a:b]), out=y[:, :, 2 * a : 2 * b])
        self.after.by_planes(y, one, two)
        return _filled(planes, ((a, self.noise_of(image, one, a, min(a + step, planes))) for a in range(0, planes, step)))

    def begin_as_threshold(self) -> None:
        """Set the first weights such that the network takes away coefficients below `THRESHOLD`, whatever the U-Net says, and no mean."""
        first = torch.full((EDGE**3,), STEEPNESS * THRESHOLD)
        first[0] = -5.0
        with torch.no_grad():
            self.noise.weight.mul_(0.1)
            self.noise.bias = nn.Parameter(first)
            self.significance[:, 0] = 0
            for parameter in self.correction.parameters():
                parameter.zero_()

    def seen(self, image: torch.Tensor) -> torch.Tensor:
        """Return what the U-Net looks at (n, fine, windows) of the cells of some planes, of which there is one more than windows."""
        seen = functional.conv3d(image, self.analysis).clamp_(-SATURATED, SATURATED)
        return torch.relu_(self.values(seen) + self.sizes(seen.abs()))

    def noise_of(self, image: torch.Tensor, y: torch.Tensor, start: int, stop: int) -> torch.Tensor:
        """Return what is taken away from the cells of the planes from `start` to `stop`, float32."""
        first, last = max(start - 1, 0), min(stop, y.shape[2])
        y = y[:, :, first:last]
        found = functional.conv3d(image[:, :, first : last + 1], self.analysis)
        found = found * torch.sigmoid(torch.addcmul(self.noise(y), found.abs(), self.significance.to(found.dtype)))
        # Cells of the first and the last plane lie in windows on one side only.
        ends = (start == 0, stop > last)
        made = functional.conv3d(functional.pad(found, (1, 1, 1, 1, *ends)), self.synthesis)
        correction = functional.pad(self.correction(y), (0, 1, 0, 1, 0, ends[1]))
        return (made + correction[:, :, start - first :]).float()


class Residual(nn.Module):
    """Three convolutions over the neighbours in a plane, of x and y, y and z, x and z, whose result is added to what they look at.

    Together they reach as far as two of 3^3 at half of the cost, which leaves time for more channels (after Qiu et al., Learning
    spatio-temporal representation with pseudo-3D residual networks, ICCV 2017, doi:10.1109/ICCV.2017.590).
    """

    def __init__(self, channels: int):
        super().__init__()
        self.first = nn.Conv3d(channels, channels, (3, 3, 1), padding=(1, 1, 0))
        self.second = nn.Conv3d(channels, channels, (1, 3, 3), padding=(0, 1, 1))
        self.third = nn.Conv3d(channels, channels, (3, 1, 3), padding=(1, 0, 1))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return what it makes of a tensor (n, channels, x, y, z)."""
        return x + self.third(torch.relu_(self.second(torch.relu_(self.first(x)))))

    def by_planes(self, x: torch.Tensor, one: torch.Tensor, two: torch.Tensor) -> torch.Tensor:
        """Do so some planes at a time, without gradients; the result is in `one`, both arrays are of the kind of `x`."""
        for a, b in _slabs(x):
            torch.clamp_min(planes_of(self.first, x, a, b), 0, out=one[:, :, a:b])
        for a, b in _slabs(x):
            torch.clamp_min(planes_of(self.second, one, a, b), 0, out=two[:, :, a:b])
        for a, b in _slabs(x):
            torch.add(x[:, :, a:b], planes_of(self.third, two, a, b), out=one[:, :, a:b])
        return one


def planes_of(convolution: nn.Conv3d, x: torch.Tensor, start: int, stop: int) -> torch.Tensor:
    """Return the planes from `start` to `stop` along x of what a convolution, which keeps the grid, makes of a tensor."""
    reach = convolution.kernel_size[0] // 2
    first, last = max(start - reach, 0), min(stop + reach, x.shape[2])
    part, ends = x[:, :, first:last], (first - start + reach, stop + reach - last)
    if any(ends):
        part = functional.pad(part, (0, 0, 0, 0, *ends))
    _, *sides = convolution.padding
    return functional.conv3d(part, convolution.weight, convolution.bias, padding=(0, *map(int, sides)))


def cosines() -> torch.Tensor:
    """Return the orthonormal basis of the discrete cosine transform of a 4^3 window, (64, 4, 4, 4)."""
    at, order = torch.arange(EDGE), torch.arange(EDGE)[:, None]
    basis = torch.cos(math.pi * (at + 0.5) * order / EDGE) * math.sqrt(2 / EDGE)
    basis[0] /= math.sqrt(2)
    return torch.einsum("ai,bj,ck->abcijk", basis, basis, basis).reshape(EDGE**3, EDGE, EDGE, EDGE)


def to_half_grid(x: torch.Tensor) -> torch.Tensor:
    """Return (n, 1, 2 a, 2 b, 2 c) as (n, 8, a, b, c), channels last: the eight voxels of each cell of 2^3."""
    n, _, a, b, c = (size // 2 if axis > 1 else size for axis, size in enumerate(x.shape))
    cells = x.reshape(n, a, 2, b, 2, c, 2).permute(0, 2, 4, 6, 1, 3, 5).reshape(n, 8, a, b, c)
    return cells.contiguous(memory_format=torch.channels_last_3d)


def from_half_grid(x: torch.Tensor) -> torch.Tensor:
    """Undo `to_half_grid`."""
    n, _, a, b, c = x.shape
    return x.reshape(n, 2, 2, 2, a, b, c).permute(0, 4, 1, 5, 2, 6, 3).reshape(n, 1, 2 * a, 2 * b, 2 * c)


def _filled(planes: int, parts: Iterator[tuple[int, torch.Tensor]]) -> torch.Tensor:
    """Return an array of so many planes with parts in it, each with the plane at which it begins."""
    made: torch.Tensor | None = None
    for start, part in parts:
        if made is None:
            n, channels, _, *sides = part.shape
            made = torch.empty((n, channels, planes, *sides), dtype=part.dtype, device=part.device, memory_format=torch.channels_last_3d)
        made[:, :, start : start + part.shape[2]] = part
    assert made is not None
    return made


def _slabs(x: torch.Tensor) -> list[tuple[int, int]]:
    """Return the planes, from and to, that are made in one step."""
    planes, step = x.shape[2], max(1, SLAB // (x.shape[3] * x.shape[4]))
    return [(start, min(start + step, planes)) for start in range(0, planes, step)]


def _on_half_grid(windows: torch.Tensor) -> torch.Tensor:
    """Return functions on windows (m, 4, 4, 4) as kernels (m, 8, 2, 2, 2) of what `to_half_grid` gives."""
    m = len(windows)
    return windows.reshape(m, 2, 2, 2, 2, 2, 2).permute(0, 2, 4, 6, 1, 3, 5).reshape(m, 8, 2, 2, 2).contiguous()


def frame_unet(fine: int = 48, coarse: int = 96, blocks: int = 2) -> FrameUnet:
    """Build the network."""
    return FrameUnet(fine, coarse, blocks)
