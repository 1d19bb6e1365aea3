"""Networks that read a volume slice by slice, or a patient exam by exam: recurrent cells over features of 2-D pictures."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import nn

from cohortex.models.classify.network import ClassificationNetwork, averaged
from cohortex.models.denoise.layers import he_weights
from cohortex.models.segment.bcdunet import ConvLSTM
from cohortex.models.segment.resnet import DilatedResNet

CELLS = {"rnn": nn.RNN, "lstm": nn.LSTM, "gru": nn.GRU}


def pictures(x: torch.Tensor) -> torch.Tensor:
    """Return (n, channels, x, y, steps) as pictures (n * steps, channels, x, y)."""
    return x.movedim(-1, 1).flatten(0, 1)


def _features(channels: int, depth: int | Sequence[int], width: int, stem: str) -> DilatedResNet:
    """Return what makes maps of a picture; a `depth` that counts blocks has those without bottlenecks."""
    network = DilatedResNet(2, channels, depth, 32, stem=stem, width=width, bottleneck=None if isinstance(depth, int) else False)
    he_weights(network)
    return network


class SliceRNN(ClassificationNetwork):
    """Residual features of each slice (across the last axis), a recurrent cell over the slices in both directions, their mean.

    Parameters
    ----------
    cell : {"rnn", "lstm", "gru", "convlstm", "none"}
        The fourth is one whose gates are convolutions of the slices' maps. none: slices are averaged, the twin that cells are held
        against, which does not know their order.
    hidden : int
        Of the cell, in each direction.
    layers : int
        Of cells upon each other (of the first three).
    both : bool
        Slices are read from both ends.
    depth, width, stem
        Of the features of a slice; see `DilatedResNet`.
    dropout : float
        Before the last layer.
    """

    def __init__(
        self,
        channels: int = 1,
        classes: int = 2,
        cell: str = "lstm",
        hidden: int = 128,
        layers: int = 1,
        both: bool = True,
        depth: int | Sequence[int] = (1, 1, 1, 1),
        width: int = 16,
        stem: str = "plain",
        dropout: float = 0.2,
    ):
        super().__init__(3, channels, classes, dropout)
        self.slices = _features(channels, depth, width, stem)
        inward = self.slices.features[-1]
        self.both, self.convolutional = both, cell == "convlstm"
        ways = 2 if both else 1
        if cell == "convlstm":
            self.cells: nn.Module = nn.ModuleList(ConvLSTM(2, inward, hidden) for _ in range(ways))
        elif cell in CELLS:
            self.cells = CELLS[cell](inward, hidden, layers, batch_first=True, bidirectional=both)
        elif cell == "none":
            self.cells, hidden, ways = nn.Identity(), inward, 1
        else:
            raise ValueError(f"the cell is {', '.join(CELLS)}, convlstm or none, not {cell!r}")
        self.head = nn.Linear(ways * hidden, classes)

    def vector(self, x: torch.Tensor) -> torch.Tensor:
        """Return the features (n, width)."""
        maps = self.slices(pictures(x))[-1].unflatten(0, (len(x), x.shape[-1]))
        if isinstance(self.cells, nn.ModuleList):
            orders = [list(maps.unbind(1)), list(maps.unbind(1))[::-1]]
            return torch.cat([averaged(cell(order)) for cell, order in zip(self.cells, orders, strict=False)], 1)
        made = self.cells(maps.flatten(3).mean(3))
        return (made[0] if isinstance(made, tuple) else made).mean(1)


class TimeLSTM(nn.Module):
    """Long short-term memory that is told how long ago the step before was (Santeramo et al., DLMIA 2018).

    Parameters
    ----------
    inward, width : int
    modulation : {"gates", "cell", "none"}
        gates: the time is weighted into all four gates (the authors' first version). cell: it is weighted and added to the cell
        (their second). none: a plain LSTM, the twin that both are held against.
    """

    def __init__(self, inward: int, width: int, modulation: str = "gates"):
        super().__init__()
        self.width, self.modulation = width, modulation
        self.input, self.state = nn.Linear(inward, 4 * width), nn.Linear(width, 4 * width, bias=False)
        if modulation not in ("gates", "cell", "none"):
            raise ValueError(f"the modulation is gates, cell or none, not {modulation!r}")
        if modulation != "none":
            self.time = nn.Linear(1, 4 * width if modulation == "gates" else width, bias=False)
        # it begins by remembering
        with torch.no_grad():
            self.input.bias[width : 2 * width].fill_(1.0)

    def forward(self, x: torch.Tensor, gaps: torch.Tensor) -> torch.Tensor:
        """Return the states (n, steps, width) after each step of (n, steps, inward).

        `gaps` (n, steps) is the time since the step before; at a step where it is NaN there was none, and the state stays.
        """
        hidden = cell = x.new_zeros(len(x), self.width)
        given = self.input(x)
        there = ~gaps.isnan()
        times = gaps.nan_to_num()
        made: list[torch.Tensor] = []
        for step in range(x.shape[1]):
            logits, time = given[:, step] + self.state(hidden), times[:, step, None]
            if self.modulation == "gates":
                logits = logits + self.time(time)
            enter, forget, new, leave = logits.chunk(4, 1)
            now = torch.sigmoid(forget) * cell + torch.sigmoid(enter) * torch.tanh(new)
            if self.modulation == "cell":
                now = now + self.time(time)
            seen = there[:, step, None]
            cell = torch.where(seen, now, cell)
            hidden = torch.where(seen, torch.sigmoid(leave) * torch.tanh(now), hidden)
            made.append(hidden)
        return torch.stack(made, 1)


class ExamLSTM(ClassificationNetwork):
    """Residual features of each exam's picture (exams along the last axis, the oldest first), a time-modulated LSTM, its last state.

    Where the reports of earlier exams are known, what they say goes in beside the picture of the next exam, as in the paper.

    Parameters
    ----------
    modulation : {"gates", "cell", "none"}
        See `TimeLSTM`.
    hidden : int
        Of the LSTM.
    reports : int
        Values that the reports of the exams before give; 0 where there are none.
    depth, width, stem
        Of the features of a picture; see `DilatedResNet`. The paper's are those of AlexNet in its simulation and of an Inception network.
    dropout : float
        Before the last layer.
    """

    def __init__(
        self,
        channels: int = 1,
        classes: int = 2,
        modulation: str = "gates",
        hidden: int = 128,
        reports: int = 0,
        depth: int | Sequence[int] = (1, 1, 1, 1),
        width: int = 16,
        stem: str = "plain",
        dropout: float = 0.2,
    ):
        super().__init__(3, channels, classes, dropout)
        self.exams = _features(channels, depth, width, stem)
        inward = self.exams.features[-1]
        self.reports = reports
        self.cells = TimeLSTM(inward + reports, hidden, modulation)
        self.head = nn.Linear(hidden, classes)

    def vector(self, x: torch.Tensor, gaps: torch.Tensor | None = None, reports: torch.Tensor | None = None) -> torch.Tensor:
        """Return the last state (n, hidden); parameters as of `forward`."""
        given = averaged(self.exams(pictures(x))[-1]).unflatten(0, (len(x), x.shape[-1]))
        if self.reports:
            known = given.new_zeros(*given.shape[:2], self.reports) if reports is None else reports
            given = torch.cat([given, known], 2)
        return self.cells(given, given.new_ones(given.shape[:2]) if gaps is None else gaps)[:, -1]

    def forward(self, x: torch.Tensor, gaps: torch.Tensor | None = None, reports: torch.Tensor | None = None) -> torch.Tensor:
        """Return the logits (n, classes).

        Parameters
        ----------
        x : (n, channels, x, y, exams) tensor
        gaps : (n, exams) tensor, optional
            Time since the exam before, in one unit of about 1 (such as years); NaN where there was no exam, so that patients with few
            exams fill up the front. When absent all are 1.
        reports : (n, exams, reports) tensor, optional
            What the report of the exam before said; zeros where it is not known, and everywhere when absent.
        """
        return self.head(self.dropout(self.vector(x, gaps, reports)))
