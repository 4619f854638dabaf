"""The HyperLSTM: a small LSTM scales the rows of a large one's weights, anew at every time step."""

import torch
from torch import Tensor, nn

from recurra import options
from recurra.nn.linear import Linear
from recurra.problem import Lane
from recurra.recurrence import Paper, Recurrence


class HyperLSTM(Recurrence):
    """e_t, m_t = LSTM((h_{t-1}, x_t), e_{t-1}, m_{t-1}), the small one, of N units;  z = V e_t + v: [3, 4, Z]
    i, f, g, o = LN(d_h (W_h h_{t-1}) + d_x (W_x x_t) + d_b),  d_h, d_x, d_b = S_h z_h, S_x z_x, S_b z_b + b
    c_t = sigmoid(f) c_{t-1} + sigmoid(i) tanh(g),  h_t = sigmoid(o) tanh(LN(c_t)),  y_t = h_t.

    Lane: the layer, h and c: [H], e and m: [N]. `hyper` is N, `features` Z; `recurrent` is W_h: [4 H, H], `to_gates`
    W_x, `small` the small LSTM's weights for e and h side by side: [4 N, N + H], `scales` S: [3, 4, H, Z].
    LN normalises each gate by itself, and is left out with `norm` False: with all scales at one it is an LSTM then.
    Initialisation: V normal with deviation 0.01, and at V = 0 d_h = d_x = 1 / 10.

    Source: HyperNetworks, Ha, Dai, Le, 2016, arXiv:1609.09106, appendix A.2.2. Departures: z is of e_t, as is usual,
    not of e_{t-1}; the small LSTM has no LN; V does not start at 0, which lets no gradient through; by default
    N is H / 8 and Z is N / 4, at least 1.
    """

    lane = Lane.LAYER
    paper = Paper("HyperNetworks", "Ha, Dai, Le", 2016, "1609.09106")

    def __init__(
        self,
        width: int,
        hidden: int | None = None,
        hyper: int | None = None,
        features: int | None = None,
        norm: bool = True,
        eps: float = 1e-5,
    ):
        super().__init__(width)
        H = self.hidden = width if hidden is None else options.count("hidden", hidden)
        N = self.hyper = max(H // 8, 1) if hyper is None else options.count("hyper", hyper)
        Z = max(N // 4, 1) if features is None else options.count("features", features)
        self.norm, self.eps = options.flag("norm", norm), options.number("eps", eps, 0)
        self.to_gates, self.to_small = Linear(width, 4 * H, bias=False), Linear(width, 4 * N)
        self.recurrent = nn.Parameter(torch.empty(4 * H, H).uniform_(-(H**-0.5), H**-0.5))
        self.small = nn.Parameter(torch.empty(4 * N, N + H).uniform_(-(N**-0.5), N**-0.5))
        self.features = nn.Parameter(torch.randn(12 * Z, N) / 100)
        self.features_bias = nn.Parameter(torch.cat([torch.ones(8 * Z), torch.zeros(4 * Z)]))
        self.scales = nn.Parameter(torch.tensor([0.1 / Z, 0.1 / Z, 0]).reshape(3, 1, 1, 1).repeat(1, 4, H, Z))
        self.bias = nn.Parameter(torch.zeros(4, H))
        self.gain, self.shift = nn.Parameter(torch.ones(5, H)), nn.Parameter(torch.zeros(5, H))

    def start(self) -> dict[str, Tensor]:
        sizes = {"h": self.hidden, "c": self.hidden, "e": self.hyper, "m": self.hyper}
        return {name: torch.zeros(size) for name, size in sizes.items()}

    def inputs(self, x: Tensor) -> dict[str, Tensor]:
        return {"x": self.to_gates(x), "small": self.to_small(x)}

    def step(self, h: Tensor, c: Tensor, e: Tensor, m: Tensor, x: Tensor, small: Tensor):
        i, f, g, o = (small + self.small @ torch.cat([e, h])).chunk(4)
        m = torch.sigmoid(f) * m + torch.sigmoid(i) * torch.tanh(g)
        e = torch.sigmoid(o) * torch.tanh(m)
        z = (self.features @ e + self.features_bias).reshape(3, 4, 1, -1)
        around, into, alone = (self.scales * z).sum(-1)
        gates = around * (self.recurrent @ h).reshape(4, -1) + into * x.reshape(4, -1) + alone + self.bias
        i, f, g, o = self._normed(gates, slice(4))
        c = torch.sigmoid(f) * c + torch.sigmoid(i) * torch.tanh(g)
        h = torch.sigmoid(o) * torch.tanh(self._normed(c, 4))
        return (h, c, e, m), h

    def _normed(self, x: Tensor, rows: slice | int) -> Tensor:
        if not self.norm:
            return x
        return nn.functional.layer_norm(x, x.shape[-1:], eps=self.eps) * self.gain[rows] + self.shift[rows]
