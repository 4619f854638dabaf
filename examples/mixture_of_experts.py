"""A recurrent cell that chooses, at every time step, which of its experts make the next state."""

import torch
from torch import nn

from recurra import Lane, Recurrence


class MixtureOfExperts(Recurrence):
    """E experts, tanh(W_e x_t + U_e h_{t-1} + b_e) [D] each, of which the `active` with the highest score are mixed:

        scores = W_s x_t + U_s h_{t-1} + b_s   [E],     p = softmax of the highest scores,
        h_t = (1 - z) h_{t-1} + z sum of p_e expert_e,     z = sigmoid(W_z x_t + U_z h_{t-1} + b_z).

    Lane: the layer. y_t = h_t. The paper mixes feed-forward experts of a token; here they are the candidates of a
    gated cell. All experts are computed and the chosen ones taken: what is left out has no gradient, as in the paper.
    Its noise and its loss that balances the experts are left out.

    Source: Outrageously Large Neural Networks: The Sparsely-Gated Mixture-of-Experts Layer, Shazeer, Mirhoseini,
    Maziarz, Davis, Le, Hinton, Dean, 2017, arXiv:1701.06538.
    """

    lane = Lane.LAYER

    def __init__(self, width: int, experts: int = 4, active: int = 2):
        super().__init__(width)
        self.active = active
        self.sizes = [experts, width, experts * width]
        self.from_x = nn.Linear(width, sum(self.sizes))
        self.from_h = nn.Linear(width, sum(self.sizes), bias=False)

    def start(self):
        return {"h": torch.zeros(self.width)}

    def inputs(self, x):
        return {"x": self.from_x(x)}

    def step(self, h, x):
        scores, z, candidates = (x + self.from_h(h)).split(self.sizes)
        highest, chosen = torch.topk(scores, self.active)
        experts = torch.tanh(candidates).view(-1, self.width)
        mixed = torch.softmax(highest, 0) @ experts[chosen]
        h = h + torch.sigmoid(z) * (mixed - h)
        return h, h
