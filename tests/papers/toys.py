"""Small problems that a part is made for, and the training of models on them."""

from collections.abc import Callable

from torch import Tensor, nn

from recurra.training.fitting import adamw


def trained(model: nn.Module, loss: Callable[[], Tensor], steps: int = 150, rate: float = 1e-2) -> float:
    """Train on a loss of fresh data each time; gives the mean of the last ones."""
    optimiser, last = adamw(model, 0.0), []
    model.train()
    for step in range(steps):
        for group in optimiser.param_groups:
            group["lr"] = rate * min(1.0, 2 * (1 - step / steps))
        value = loss()
        optimiser.zero_grad()
        value.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimiser.step()
        last.append(value.item())
    model.eval()
    return sum(last[-20:]) / len(last[-20:])


def right(raw: Tensor, target: Tensor) -> float:
    """The share of targets, those that are there, for which raw numbers are highest."""
    return float((raw.argmax(-1) == target)[target >= 0].double().mean())


def surprise(raw: Tensor, target: Tensor) -> Tensor:
    """The cross entropy of targets [...], negative where there is none."""
    return nn.functional.cross_entropy(raw.flatten(0, -2), target.flatten(), ignore_index=-1)


class Reader(nn.Module):
    """Symbols through a layer to classes."""

    def __init__(self, layer: nn.Module, symbols: int, classes: int):
        super().__init__()
        self.embed, self.layer = nn.Embedding(symbols, layer.width), layer
        self.head = nn.Linear(layer.output_width, classes)

    def forward(self, symbols: Tensor) -> Tensor:
        return self.head(self.layer(self.embed(symbols))[0])


def grown(
    model: nn.Module, draw: Callable[[int, int], tuple[Tensor, Tensor]], longest: int, steps: int, rate: float = 1e-2
) -> float:
    """Train on sequences that begin short and grow to the longest: `draw` gives symbols and targets of a length."""
    lengths = iter(min(longest, 3 + step // 6) for step in range(steps))

    def loss() -> Tensor:
        symbols, targets = draw(64, next(lengths))
        return surprise(model(symbols), targets)

    return trained(model, loss, steps, rate)
