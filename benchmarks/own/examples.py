"""The examples of this project that are measured, with their loops by hand."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from benchmarks.own.gated import lstm
from benchmarks.own.written import Written, batch_of, loop
from examples import gru_d, kalman, mixture_of_experts, mogrifier_lstm, ntm, ode_rnn, on_lstm, phased_lstm, plasticity


class MogrifierLSTM(mogrifier_lstm.MogrifierLSTM, Written):
    """See its file, as all here."""

    title = "Mogrifier LSTM"

    def by_hand(self, x: Tensor) -> Tensor:
        def step(state: tuple, x: Tensor) -> tuple[tuple, Tensor]:
            h, c = state
            for i, gate in enumerate(self.gates_of_each_other):
                if i % 2 == 0:
                    x = 2 * torch.sigmoid(gate(h)) * x
                else:
                    h = 2 * torch.sigmoid(gate(x)) * h
            h, c = lstm(self.from_x(x) + self.from_h(h), c)
            return (h, c), h

        return loop(step, batch_of(self, x), x)


class ONLSTM(on_lstm.ONLSTM, Written):
    title = "ON-LSTM"

    def by_hand(self, x: Tensor) -> Tensor:
        def step(state: tuple, x: Tensor) -> tuple[tuple, Tensor]:
            h, c = state
            of_f, of_i, f, i, g, o = (x + self.from_h(h)).split(self.sizes, 1)
            of_f = torch.softmax(of_f, 1).cumsum(1).repeat_interleave(self.chunk, 1)
            of_i = 1 - torch.softmax(of_i, 1).cumsum(1).repeat_interleave(self.chunk, 1)
            both = of_f * of_i
            f, i = torch.sigmoid(f) * both + of_f - both, torch.sigmoid(i) * both + of_i - both
            c = f * c + i * torch.tanh(g)
            h = torch.sigmoid(o) * torch.tanh(c)
            return (h, c), h

        return loop(step, batch_of(self, x), self.from_x(x))


class PhasedLSTM(phased_lstm.PhasedLSTM, Written):
    title = "phased LSTM"

    def by_hand(self, x: Tensor) -> Tensor:
        h, c, _ = batch_of(self, x)
        ys, r = [], self.open_for
        for t, now in enumerate(self.from_x(x).unbind(1)):
            phase = ((t - self.shift) % self.period) / self.period
            k = torch.where(phase < r, 2 - 2 * phase / r, self.leak * phase)
            k = torch.where(phase < r / 2, 2 * phase / r, k)
            new_h, new_c = lstm(now + self.from_h(h), c)
            h, c = k * new_h + (1 - k) * h, k * new_c + (1 - k) * c
            ys.append(h)
        return torch.stack(ys, 1)


class NTM(ntm.NTM, Written):
    title = "neural Turing machine, 16 slots"

    def by_hand(self, x: Tensor) -> Tensor:
        def moved(w: Tensor, told: Tensor, M: Tensor) -> Tensor:
            key, beta, g, s, gamma = told.split(self.addressing, 1)
            alike = torch.cosine_similarity(key[:, None], M, 2)
            g, s = torch.sigmoid(g), torch.softmax(s, 1)
            w = g * torch.softmax(torch.nn.functional.softplus(beta) * alike, 1) + (1 - g) * w
            w = s[:, :1] * w.roll(-1, 1) + s[:, 1:2] * w + s[:, 2:] * w.roll(1, 1)
            w = w ** (1 + torch.nn.functional.softplus(gamma))
            return w / w.sum(1, keepdim=True)

        def step(state: tuple, x: Tensor) -> tuple[tuple, Tensor]:
            M, h, r, reads, writes = state
            h = torch.tanh(x + self.from_h(h) + self.from_r(r))
            head, size = sum(self.addressing), M.shape[2]
            to_read, to_write, erase, add = self.to_heads(h).split([head, head, size, size], 1)
            writes = moved(writes, to_write, M)
            M = M * (1 - writes[..., None] * torch.sigmoid(erase)[:, None]) + writes[..., None] * add[:, None]
            reads = moved(reads, to_read, M)
            r = torch.bmm(reads[:, None], M)[:, 0]
            return (M, h, r, reads, writes), h + self.to_y(r)

        return loop(step, batch_of(self, x), self.from_x(x))


class KalmanBySolve(kalman.Kalman, Written):
    title = "Kalman filters 4 x 4, solve"

    def gain(self, S: Tensor, CP: Tensor) -> Tensor:
        """K^T of one filter, or of many."""
        return torch.linalg.solve(S, CP)

    def step(self, m: Tensor, P: Tensor, x: Tensor, A: Tensor, C: Tensor, Q: Tensor, R: Tensor) -> Any:
        m, P = A @ m, A @ P @ A.T + Q
        K = self.gain(C @ P @ C.T + R, C @ P).T
        m = m + K @ (x - C @ m)
        P = P - K @ C @ P
        return (m, (P + P.T) / 2), m

    def by_hand(self, x: Tensor) -> Tensor:
        read = {name: getattr(entry, "tensor", entry) for name, entry in self.inputs(x).items()}
        A, C, Q, R = (read[name] for name in "ACQR")

        def step(state: tuple, x: Tensor) -> tuple[tuple, Tensor]:
            m, P = state
            m, P = (A @ m[..., None])[..., 0], A @ P @ A.mT + Q
            K = self.gain(C @ P @ C.mT + R, C @ P).mT
            m = m + (K @ (x - (C @ m[..., None])[..., 0])[..., None])[..., 0]
            P = P - K @ C @ P
            return (m, (P + P.mT) / 2), m

        return loop(step, batch_of(self, x), read["x"]).flatten(2)


class KalmanByInverse(KalmanBySolve):
    title = "Kalman filters 4 x 4, inverse"

    def gain(self, S: Tensor, CP: Tensor) -> Tensor:
        return torch.linalg.inv(S) @ CP


class KalmanByCholesky(KalmanBySolve):
    title = "Kalman filters 4 x 4, Cholesky"

    def gain(self, S: Tensor, CP: Tensor) -> Tensor:
        return torch.cholesky_solve(CP, torch.linalg.cholesky(S))


class MixtureOfExperts(mixture_of_experts.MixtureOfExperts, Written):
    title = "mixture of experts, chosen"

    def by_hand(self, x: Tensor) -> Tensor:
        def step(state: tuple, x: Tensor) -> tuple[tuple, Tensor]:
            (h,) = state
            scores, z, candidates = (x + self.from_h(h)).split(self.sizes, 1)
            highest, chosen = torch.topk(scores, self.active, 1)
            experts = torch.tanh(candidates).unflatten(1, (-1, self.width))
            taken = experts.gather(1, chosen[..., None].expand(-1, -1, self.width))
            mixed = (torch.softmax(highest, 1)[..., None] * taken).sum(1)
            h = h + torch.sigmoid(z) * (mixed - h)
            return (h,), h

        return loop(step, batch_of(self, x), self.from_x(x))


class GRUD(gru_d.GRUD, Written):
    title = "GRU-D"

    def by_hand(self, x: Tensor) -> Tensor:
        weight, bias = self.fade_x

        def step(state: tuple, x: Tensor) -> tuple[tuple, Tensor]:
            h, last, since = state
            missing, since = torch.isnan(x), since + 1
            fade = torch.exp(-torch.relu(weight * since + bias))
            h = torch.exp(-torch.relu(self.fade_h(since))) * h
            last = torch.where(missing, last, x)
            x = torch.where(missing, fade * last + (1 - fade) * self.mean, last)
            seen = (~missing).to(x.dtype)
            r, z = torch.sigmoid(self.to_gates(torch.cat([x, h, seen], 1))).chunk(2, 1)
            h = h + z * (torch.tanh(self.to_candidate(torch.cat([x, r * h, seen], 1))) - h)
            return (h, last, torch.where(missing, since, 0)), h

        return loop(step, batch_of(self, x), x)


class ODERNN(ode_rnn.ODERNN, Written):
    title = "ODE-RNN, Runge-Kutta"

    def by_hand(self, x: Tensor) -> Tensor:
        def step(state: tuple, x: Tensor) -> tuple[tuple, Tensor]:
            (h,), dt = state, x[:, -1:]
            k1 = self.f(h)
            k2 = self.f(h + dt * k1 / 2)
            k3 = self.f(h + dt * k2 / 2)
            k4 = self.f(h + dt * k3)
            h = self.gru(x, h + dt * (k1 + 2 * k2 + 2 * k3 + k4) / 6)
            return (h,), h

        return loop(step, batch_of(self, x), x)


class Plastic(plasticity.Plastic, Written):
    title = "differentiable plasticity"

    def by_hand(self, x: Tensor) -> Tensor:
        def step(state: tuple, x: Tensor) -> tuple[tuple, Tensor]:
            before, hebb = state
            eta = torch.sigmoid(self.eta)
            h = torch.tanh(x + torch.bmm(self.W + self.alpha * hebb, before[..., None])[..., 0])
            hebb = (1 - eta) * hebb + eta * h[..., None] * before[:, None]
            return (h, hebb), h

        return loop(step, batch_of(self, x), self.from_x(x))


RECURRENCES = [MogrifierLSTM, ONLSTM, PhasedLSTM, NTM, KalmanBySolve, KalmanByInverse, KalmanByCholesky,
               MixtureOfExperts, GRUD, ODERNN, Plastic]  # fmt: skip
