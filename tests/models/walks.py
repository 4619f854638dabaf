"""The same tokens by other ways through a model."""

import torch


def other_ways(model, x, expected, end):
    """Tokens x [3, 11] in pieces, one by one and packed come to the outputs `expected` and the state `end`."""
    state, pieces = None, []
    for piece in x.split([1, 0, 4, 6], 1):
        y, state = model(piece, state)
        pieces.append(y)
    torch.testing.assert_close(torch.cat(pieces, 1), expected)
    state = None
    for t, token in enumerate(x.unbind(1)):
        y, state = model.advance(token, state)
        torch.testing.assert_close(y, expected[:, t])
    for name, value in end.items():
        torch.testing.assert_close(state[name], value)
    assert state.keys() == model.initial_state(3).keys()
    packed = model(torch.cat([x[:1], x[1:2]], 1), resets=torch.arange(22)[None] == 11)[0]
    torch.testing.assert_close(packed[:, 11:], expected[1:2])
