"""Classic cells against those of torchrecurrent with the same weights: whole, step by step, and in every gradient."""

import pytest
import torch
from peers import same, scattered

import recurra

WIDTH, HIDDEN, BATCH, TIME = 6, 5, 3, 13


def matrices(theirs):
    return {"to_gates.weight": theirs.weight_ih, "recurrent": theirs.weight_hh}


def gates(theirs):
    """Both biases are added to the same gates."""
    return matrices(theirs) | {"to_gates.bias": theirs.bias_ih + theirs.bias_hh}


def first(theirs):
    """The state reaches the first gates only."""
    around = torch.cat([theirs.bias_hh, torch.zeros(len(theirs.bias_ih) - len(theirs.bias_hh))])
    return matrices(theirs) | {"to_gates.bias": theirs.bias_ih + around}


def last(theirs):
    """The state reaches the last gates only."""
    around = torch.cat([torch.zeros(len(theirs.bias_ih) - len(theirs.bias_hh)), theirs.bias_hh])
    return matrices(theirs) | {"to_gates.bias": theirs.bias_ih + around}


def janet(theirs):
    """Theirs trains beta; ours and the paper do not."""
    del theirs.beta
    theirs.beta = 0.7
    return gates(theirs)


def ran(theirs):
    zero = torch.zeros(HIDDEN)
    return matrices(theirs) | {"to_gates.bias": torch.cat([zero, theirs.bias_ih + theirs.bias_hh])}


def minimal(theirs):
    return {
        "to_gates.weight": theirs.weight_ih,
        "to_gates.bias": theirs.bias_ih,
        "recurrent": theirs.weight_hh,
        "to_update.weight": theirs.weight_mm,
        "to_update.bias": theirs.bias_hh,
    }


def fast_rnn(theirs):
    return gates(theirs) | {"alpha": theirs.alpha.squeeze(0), "beta": theirs.beta.squeeze(0)}


def fast_grnn(theirs):
    gate, inward = (theirs.bias_ih + theirs.bias_hh).chunk(2)
    weights = matrices(theirs) | {"to_gates.bias": inward, "gate_bias": gate - inward}
    return weights | {"zeta": theirs.zeta.squeeze(0), "nu": theirs.nu.squeeze(0)}


def multiplicative(theirs):
    """Their state has a bias before it meets x, which ours and the paper have not: it is zero."""
    m, rest = theirs.bias_ih[:HIDDEN], theirs.bias_ih[HIDDEN:]
    return matrices(theirs) | {
        "to_gates.bias": torch.cat([m, rest + theirs.bias_mh]),
        "recurrent": torch.cat([theirs.weight_hh, theirs.weight_mh]),
    }


def peephole(theirs):
    return gates(theirs) | {"peepholes": theirs.weight_ph.unflatten(0, (3, -1))}


def oscillators(theirs):
    return matrices(theirs) | {
        "to_gates.bias": theirs.bias_ih + theirs.bias_hh + theirs.bias_ch,
        "recurrent": torch.cat([theirs.weight_hh, theirs.weight_ch]),
    }


def undamped(theirs):
    weights = {"to_hidden.weight": theirs.weight_ih, "to_hidden.bias": theirs.bias_ih + theirs.bias_hh}
    return weights | {"recurrent": theirs.weight_hh, "pace": theirs.weight_ch}


def independent(theirs):
    weights = {"to_hidden.weight": theirs.weight_ih, "to_hidden.bias": theirs.bias_ih + theirs.bias_hh}
    return weights | {"recurrent": theirs.vector_u}


def antisymmetric(theirs):
    """Theirs have the gate first."""
    gate, inward = theirs.bias_ih.chunk(2)
    return {
        "to_gates.weight": torch.cat(theirs.weight_ih.chunk(2)[::-1]),
        "to_gates.bias": torch.cat([inward + theirs.bias_hh, gate]),
        "recurrent": theirs.weight_hh,
    }


COUPLED = {"dt": 0.2, "gamma": 0.7, "epsilon": 0.9}
PACED = {"dt": 0.2, "alpha": 0.5}
PEERS = {
    "mgu": ("mgu", {}, "torchrecurrent.MGU", {}, gates),
    "janet": ("janet", {"beta": 0.7}, "torchrecurrent.JANET", {}, janet),
    "ugrnn": ("ugrnn", {}, "torchrecurrent.UGRNN", {}, gates),
    "light-gru": ("light-gru", {}, "torchrecurrent.LiGRU", {}, gates),
    "ran": ("ran", {}, "torchrecurrent.RAN", {}, ran),
    "minimal-rnn": ("minimal-rnn", {}, "torchrecurrent.MinimalRNN", {}, minimal),
    "star": ("star", {}, "torchrecurrent.STAR", {}, last),
    "cfn": ("cfn", {}, "torchrecurrent.CFN", {}, first),
    "fast-rnn": ("fast-rnn", {}, "torchrecurrent.FastRNN", {}, fast_rnn),
    "fast-grnn": ("fast-grnn", {}, "torchrecurrent.FastGRNN", {"nonlinearity": "sigmoid"}, fast_grnn),
    "multiplicative-lstm": (
        "multiplicative-lstm", {}, "torchrecurrent.MultiplicativeLSTM", {"recurrent_bias": False}, multiplicative,
    ),
    "peephole-lstm": ("peephole-lstm", {}, "torchrecurrent.PeepholeLSTM", {}, peephole),
    "co-rnn": ("co-rnn", COUPLED, "torchrecurrent.coRNN", COUPLED, oscillators),
    "unicornn": ("unicornn", PACED, "torchrecurrent.UnICORNN", PACED, undamped),
    "ind-rnn, relu": ("ind-rnn", {}, "torchrecurrent.IndRNN", {"nonlinearity": "relu"}, independent),
    "ind-rnn, tanh": ("ind-rnn", {"nonlinearity": "tanh"}, "torchrecurrent.IndRNN", {}, independent),
    "antisymmetric-rnn": (
        "antisymmetric-rnn", {"dt": 0.3, "gamma": 0.2},
        "torchrecurrent.GatedAntisymmetricRNN", {"epsilon": 0.3, "gamma": 0.2}, antisymmetric,
    ),
}  # fmt: skip
"""Ours with its options, theirs with its options, and our weights from those of their cell."""


@pytest.mark.parametrize("case", PEERS)
def test_cell_is_theirs(case):
    package = pytest.importorskip("torchrecurrent")
    name, ours, kind, options, weights = PEERS[case]
    theirs = getattr(package, kind.partition(".")[2])(WIDTH, HIDDEN, batch_first=True, **options)
    theirs = scattered(theirs, torch.float64)
    x = torch.randn(BATCH, TIME, WIDTH, dtype=torch.float64)
    layer = recurra.layer(name, WIDTH, hidden=HIDDEN, **ours).double()
    same(layer, weights(theirs.cells[0]), theirs, x, lambda x: theirs(x)[0])
