"""A window moves on and never back, and points that are written are those of the text, one by one as at once."""

import pytest
import torch

from recurra.errors import InputError
from recurra.models.backbone import Backbone
from recurra.tasks.script import Script
from recurra.tasks.window import Window
from recurra.testing.tolerances import assert_close
from recurra.training.fitting import Schedule, adamw


def script(width=8, pattern="gru"):
    return Script(3, Backbone(width, pattern), Backbone(width, pattern), mixtures=2, pace=0.3)


def test_a_window_is_its_equations_and_goes_on():
    window, s = Window(6, 2).double(), torch.randn(2, 7, 6, dtype=torch.float64)
    text, lengths = torch.randn(2, 4, 3, dtype=torch.float64), torch.tensor([4, 2])
    w, state, phi = window(s, text, lengths)
    for b in range(2):
        position = torch.full((2,), -0.1, dtype=torch.float64)
        for t in range(7):
            a, narrow, moves = window.to_window(s[b, t]).exp().chunk(3)
            position = position + 0.1 * moves
            seen = [(a * torch.exp(-narrow * (position - u) ** 2)).sum() for u in range(int(lengths[b]))]
            assert_close("phi", phi[b, t, : lengths[b]], torch.stack(seen))
            assert_close("w", w[b, t], sum(p * text[b, u] for u, p in enumerate(seen)))
        assert_close("position", state["position"][b], position)
    first, half, _ = window(s[:, :3], text, lengths)
    rest, last, _ = window(s[:, 3:], text, lengths, half)
    assert_close("cut", torch.cat([first, rest], 1), w)
    assert (last["position"] > half["position"]).all()


def strokes(count, each=3):
    """For every symbol a few points in a direction of its own, the pen lifted behind the last."""
    ways = torch.tensor([[1.0, 0.0], [0.0, 1.0], [-1.0, -1.0]])
    text = torch.randint(3, (count, 4))
    moves = ways[text].repeat_interleave(each, 1) + 0.05 * torch.randn(count, 4 * each, 2)
    lifted = torch.zeros(count, 4 * each, 1)
    lifted[:, each - 1 :: each] = 1
    return torch.cat([moves, lifted], -1), text


@pytest.mark.parametrize("pattern", ["gru", "mamba"])
def test_point_by_point_and_at_once(pattern):
    model = script(pattern=pattern).double().eval()
    points, text = strokes(2)
    lengths = torch.tensor([4, 3])
    raw, _, _ = model(points.double(), text, lengths)
    state = model.initial_state(2)
    for t in range(points.shape[1]):
        one, state, _ = model(points[:, t : t + 1].double(), text, lengths, state)
        assert_close(f"point {t}", one[:, 0], raw[:, t])


def test_it_learns_to_write_symbols():
    torch.manual_seed(0)
    model, lengths = script(24), torch.full((32,), 4)
    schedule = Schedule(steps=150, learning_rate=1e-2)
    optimiser = adamw(model, 0.0)
    for step in range(150):
        optimiser.param_groups[0]["lr"] = optimiser.param_groups[1]["lr"] = schedule.rate(step / 150)
        optimiser.zero_grad()
        loss = model.loss(*strokes(32), lengths)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimiser.step()
    points, text = strokes(32)
    written = model.eval().write(text, lengths, points.shape[1], bias=3.0)
    right = (written[..., :2] - points[..., :2]).square().sum(-1).sqrt() < 0.5
    assert right.float().mean() > 0.7


def test_bad_input():
    with pytest.raises(InputError, match="above is 6 wide"):
        Script(3, Backbone(4, "gru"), Backbone(6, "gru"))
    with pytest.raises(InputError, match="bias is -1"):
        script().write(torch.zeros(1, 2, dtype=torch.int64), torch.tensor([2]), 3, bias=-1)
