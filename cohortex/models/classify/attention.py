"""Networks that are told where to look: by ophthalmologists' attention (AG-CNN) and by lesions (LACNN)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import pairwise

import torch
from torch import nn
from torch.nn import functional

from cohortex.models.classify.network import ClassificationNetwork, Pooled, averaged, to_grid
from cohortex.models.denoise.layers import conv, he_weights
from cohortex.models.segment.layers import conv_norm, norm_of, resized, transposed
from cohortex.models.segment.resnet import DilatedResNet
from cohortex.models.segment.vgg import FEATURES, vgg_stages

SHARE = 0.5
"""Of its value, what a feature keeps where the attention is 0 (theta of Li et al.)."""


def attended(features: torch.Tensor, where: torch.Tensor, share: float = SHARE) -> torch.Tensor:
    """Return features (n, c, ...) weighted by a map (n, 1, ...) of 0..1; where it is 0 they keep `share` of their values."""
    return features * (share + (1 - share) * resized(where, features.shape[2:]))


class AttentionSubnet(nn.Module):
    """Predicts where a reader would look: residual features of four scales, joined, and brought up again by 2."""

    def __init__(self, dimensions: int, channels: int, width: int, stem: str):
        super().__init__()
        self.body = DilatedResNet(dimensions, channels, (1, 1, 1, 1), 32, stem=stem, width=width, bottleneck=False)
        self.narrow = nn.ModuleList(conv(dimensions, n, width, 1) for n in self.body.features)
        self.grow = nn.Sequential(
            conv_norm(dimensions, 4 * width, width),
            transposed(dimensions, width, width),
            nn.ReLU(inplace=True),
            conv(dimensions, width, 1, 1),
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return the map (n, 1, ...), 0..1, on twice the grid of the first scale."""
        made = self.body(x)
        size = made[0].shape[2:]
        joined = torch.cat([resized(narrow(y), size) for narrow, y in zip(self.narrow, made, strict=True)], 1)
        return torch.sigmoid(self.grow(joined))


class GuidedReLU(torch.autograd.Function):
    """ReLU of which the way back also lets nothing negative through (guided back-propagation; Springenberg et al., 2015)."""

    @staticmethod
    def forward(ctx, x: torch.Tensor) -> torch.Tensor:
        """Return what is positive."""
        ctx.save_for_backward(x)
        return x.clamp(min=0)

    @staticmethod
    def backward(ctx, grad: torch.Tensor) -> torch.Tensor:  # pyright: ignore[reportIncompatibleMethodOverride]
        """Return what is positive of the gradient, where the input was."""
        return grad.clamp(min=0) * (ctx.saved_tensors[0] > 0)


class LocalisationSubnet(nn.Module):
    """Classifies the attended image, and says by guided back-propagation which parts of its first features that comes from."""

    def __init__(self, dimensions: int, channels: int, classes: int, width: int, hidden: int, stem: str):
        super().__init__()
        self.first = conv(dimensions, channels, width, 7 if stem == "plain" else 3, stride=2 if stem == "plain" else 1)
        widths = [width, width, 2 * width, 4 * width]
        # norms of groups, not of batches: the second way through must not change what they know
        self.convolutions = nn.ModuleList(conv(dimensions, a, b) for a, b in pairwise(widths))
        self.norms = nn.ModuleList(norm_of("group", dimensions, n) for n in widths[1:])
        self.pool, self.grid = Pooled(), to_grid(dimensions, 4)
        self.dense = nn.Linear(widths[-1] * 4**dimensions, hidden)
        self.last = nn.Linear(hidden, classes)

    def features(self, x: torch.Tensor, where: torch.Tensor) -> torch.Tensor:
        """Return the first features, weighted by the attention."""
        return attended(torch.relu(self.first(x)), where)

    def logits(self, features: torch.Tensor, relu: Callable[[torch.Tensor], torch.Tensor] = torch.relu) -> torch.Tensor:
        """Return the logits (n, classes) of the first features."""
        x = features
        for convolution, norm in zip(self.convolutions, self.norms, strict=True):
            x = self.pool(relu(norm(convolution(x))))
        return self.last(relu(self.dense(self.grid(x).flatten(1))))

    def located(self, features: torch.Tensor) -> torch.Tensor:
        """Return where the likeliest class comes from, (n, 1, ...) on the grid of the first features, 0..1, without gradients."""
        with torch.inference_mode(False), torch.enable_grad():
            given = features.detach().clone().requires_grad_()
            logits = self.logits(given, GuidedReLU.apply)
            (grad,) = torch.autograd.grad(logits.amax(1).sum(), given)
        where = grad.clamp(min=0).sum(1, keepdim=True)
        most = where.flatten(1).amax(1).reshape(-1, *[1] * (where.ndim - 1))
        return where / most.clamp(min=1e-12)


class MultiScaleBlock(nn.Module):
    """Convolutions of sizes 1, 3 and 5 side by side, added to what comes in, and weighted by the parts that were located."""

    def __init__(self, dimensions: int, inward: int, outward: int):
        super().__init__()
        sizes = (1, 3, 5)
        widths = [outward // 3, outward // 3, outward - 2 * (outward // 3)]
        self.branches = nn.ModuleList(conv_norm(dimensions, inward, own, size, bias=False) for own, size in zip(widths, sizes, strict=True))
        self.join = nn.Sequential(conv(dimensions, outward, outward, 1, bias=False), norm_of("batch", dimensions, outward))
        self.shortcut = nn.Sequential(conv(dimensions, inward, outward, 1, bias=False), norm_of("batch", dimensions, outward))

    def forward(self, x: torch.Tensor, where: torch.Tensor) -> torch.Tensor:
        """Return (n, outward, ...)."""
        made = self.join(torch.cat([branch(x) for branch in self.branches], 1))
        return attended(torch.relu(made + self.shortcut(x)), where)


class AttentionGuided(ClassificationNetwork):
    """AG-CNN (Li et al.): an attention subnet, a subnet that locates pathology, and one that classifies with both maps.

    The attention weights the first features of the other two. The second classifies by itself, a further head in training (`outputs`);
    guided back-propagation of its decision gives the map that weights the features of the third. Where maps of readers' attention, or
    masks of lesions, are known, `attention_loss` teaches the first. Numbers of blocks and widths are this project's own.

    Parameters
    ----------
    width : int
        Of the first features.
    hidden : int
        Of the dense layer that locates.
    stem : {"plain", "small"}
        small: on the grid of the input, for pictures of some tens of pixels.
    attention : bool
        Off: both maps are 1 everywhere, the twin that attention is held against.
    dropout : float
        Before the last layer.
    """

    def __init__(
        self,
        dimensions: int = 2,
        channels: int = 3,
        classes: int = 2,
        width: int = 32,
        hidden: int = 256,
        stem: str = "plain",
        attention: bool = True,
        dropout: float = 0.2,
    ):
        super().__init__(dimensions, channels, classes, dropout)
        if stem not in ("plain", "small"):
            raise ValueError(f"the stem is plain or small, not {stem!r}")
        self.attention = attention
        if attention:
            self.looks = AttentionSubnet(dimensions, channels, width, stem)
            self.locates = LocalisationSubnet(dimensions, channels, classes, width, hidden, stem)
            self.outputs_weights = (1.0, 1.0)
        size, stride = (7, 2) if stem == "plain" else (3, 1)
        self.first = conv_norm(dimensions, channels, width, size, stride=stride, bias=False)
        widths = [width, width, 2 * width, 4 * width, 8 * width]
        self.blocks = nn.ModuleList(MultiScaleBlock(dimensions, a, b) for a, b in pairwise(widths))
        self.pool = Pooled()
        self.head = nn.Linear(widths[-1], classes)
        he_weights(self, self.head)

    def attention_map(self, x: torch.Tensor) -> torch.Tensor:
        """Return where the network looks, (n, 1, ...) of the input's size, 0..1."""
        return resized(self.looks(x), x.shape[2:])

    def located(self, x: torch.Tensor) -> torch.Tensor:
        """Return which parts speak for the likeliest class, (n, 1, ...) of the input's size, 0..1, without gradients."""
        return resized(self.locates.located(self.locates.features(x, self.looks(x))), x.shape[2:])

    def attention_loss(self, x: torch.Tensor, wanted: torch.Tensor) -> torch.Tensor:
        """Return the divergence of the attention from maps (n, 1, ...) that are not negative, as distributions over the image.

        Images whose map is zero everywhere do not count.
        """
        wanted = wanted.flatten(1).double()
        total = wanted.sum(1, keepdim=True)
        found = self.attention_map(x).flatten(1).double()
        wanted, found = wanted / total.clamp(min=1e-12), found / found.sum(1, keepdim=True).clamp(min=1e-12)
        apart = (torch.xlogy(wanted, wanted) - wanted * found.clamp(min=1e-12).log()).sum(1)
        there = (total[:, 0] > 0).double()
        return ((apart * there).sum() / there.sum().clamp(min=1)).to(x.dtype)

    def vector(self, x: torch.Tensor) -> torch.Tensor:
        """Return the features (n, width)."""
        return self._all(x)[0]

    def outputs(self, x: torch.Tensor) -> list[torch.Tensor]:
        """Return the logits, and those of the subnet that locates."""
        vector, further = self._all(x)
        return [self.head(self.dropout(vector)), *further]

    def _all(self, x: torch.Tensor) -> tuple[torch.Tensor, list[torch.Tensor]]:
        further: list[torch.Tensor] = []
        y = self.first(x)
        where = y.new_ones(1, 1, *y.shape[2:])
        if self.attention:
            looked = self.looks(x)
            features = self.locates.features(x, looked)
            further.append(self.locates.logits(features))
            where = self.locates.located(features)
            y = attended(y, looked)
        for block in self.blocks:
            y = self.pool(block(y, where))
        return averaged(y), further


class LesionAware(ClassificationNetwork):
    """LACNN (Fang et al.): a network that detects lesions, whose soft map weights the features of one that classifies.

    Both have the convolutions of VGG. The detector joins logits from each of its stages to one map; the other network's maps are weighted
    by it behind each stage. `lesion_loss` teaches the detector from masks; without masks the classes alone do.

    Parameters
    ----------
    depth : {11, 13, 16, 19}
        Of both; see `cohortex.models.segment.vgg`.
    features : five ints
        Of the stages of both.
    norm : str
        The paper begins with weights of photographs and has none; ``batch`` learns from nothing.
    weighting : bool
        Off: there is no detector, the twin that it is held against.
    dropout : float
        Before the last layer.
    """

    def __init__(
        self,
        dimensions: int = 2,
        channels: int = 1,
        classes: int = 4,
        depth: int = 16,
        features: Sequence[int] = FEATURES,
        norm: str = "batch",
        weighting: bool = True,
        dropout: float = 0.5,
    ):
        super().__init__(dimensions, channels, classes, dropout)
        self.weighting = weighting
        if weighting:
            self.detector = vgg_stages(depth, dimensions, channels, features, norm)
            self.sides = nn.ModuleList(conv(dimensions, n, 1, 1) for n in features)
            self.fuse = conv(dimensions, len(features), 1, 1)
        self.stages = vgg_stages(depth, dimensions, channels, features, norm)
        self.pool = Pooled()
        self.head = nn.Linear(features[-1], classes)
        he_weights(self, self.head)

    def lesion_logits(self, x: torch.Tensor) -> torch.Tensor:
        """Return the logits (n, 1, ...) of a lesion at every pixel of the input."""
        size, made = x.shape[2:], []
        for stage, side in zip(self.detector, self.sides, strict=True):
            x = stage(x)
            made.append(resized(side(x), size))
            x = self.pool(x)
        return self.fuse(torch.cat(made, 1))

    def lesion_map(self, x: torch.Tensor) -> torch.Tensor:
        """Return the soft map of lesions (n, 1, ...), 0..1."""
        return torch.sigmoid(self.lesion_logits(x))

    def lesion_loss(self, x: torch.Tensor, masks: torch.Tensor) -> torch.Tensor:
        """Return the cross-entropy of the map with masks (n, 1, ...) of 0 and 1; lesion and all else count alike, each in all."""
        masks = masks.to(x.dtype)
        share = masks.mean().clamp(1e-6, 1 - 1e-6)
        weight = masks * (0.5 / share) + (1 - masks) * (0.5 / (1 - share))
        return functional.binary_cross_entropy_with_logits(self.lesion_logits(x), masks, weight=weight)

    def vector(self, x: torch.Tensor, where: torch.Tensor | None = None) -> torch.Tensor:
        """Return the features (n, width); `where` (n, 1, ...) of 0..1 stands in for the map of the detector."""
        if self.weighting and where is None:
            where = self.lesion_map(x)
        for stage in self.stages:
            x = stage(x)
            if self.weighting and where is not None:
                # what is no lesion keeps half, so that an image without any still has features
                x = attended(x, where)
            x = self.pool(x)
        return averaged(x)
