"""The calibration of a ranker's logits inside its graph: a piecewise linear curve, held in buffers of fixed size."""

import numpy as np
import torch
from torch import Tensor, nn

from msd.ranker.calibrate import KNOTS, Curve


class Calibrator(nn.Module):
    """Starts as the identity. A curve of fewer knots than there is room for repeats its last one."""

    knots: Tensor
    values: Tensor
    outer_slope: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("knots", torch.zeros(KNOTS))
        self.register_buffer("values", torch.zeros(KNOTS))
        self.register_buffer("outer_slope", torch.ones(()))

    def set(self, curve: Curve) -> None:
        """Takes over a curve of at most 32 knots."""
        spare = KNOTS - len(curve.knots)
        self.knots.copy_(torch.from_numpy(np.pad(curve.knots, (0, spare), "edge")))
        self.values.copy_(torch.from_numpy(np.pad(curve.values, (0, spare), "edge")))
        self.outer_slope.fill_(curve.outer_slope)

    def curve(self) -> Curve:
        """The curve that is held, without the repeated knots."""
        knots, first = np.unique(self.knots.double().cpu().numpy(), return_index=True)
        return Curve(knots, self.values.double().cpu().numpy()[first], float(self.outer_slope))

    def forward(self, logits_N: Tensor) -> Tensor:
        """[N] logits → [N] calibrated logits: each segment adds its slope times the part of it that lies below."""
        starts_S, ends_S = self.knots[:-1], self.knots[1:]
        widths_S = ends_S - starts_S
        slopes_S = torch.where(widths_S > 0, (self.values[1:] - self.values[:-1]) / widths_S.clamp(min=1e-12), 0.0)
        # Never less than 0, rather than clamped first: offsets that cancel out do not in half precision.
        below_NS = torch.relu(torch.minimum(logits_N.unsqueeze(-1), ends_S) - starts_S)
        inside_N = torch.minimum(torch.maximum(logits_N, self.knots[0]), self.knots[-1])
        return self.values[0] + (below_NS * slopes_S).sum(-1) + self.outer_slope * (logits_N - inside_N)
