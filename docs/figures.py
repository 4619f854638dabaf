"""Make the pictures of the documents from the runs and benchmarks that lie in the project folder."""

from pathlib import Path

from recurra.training.plot import loss_curve

ROOT = Path(__file__).parent.parent


def main() -> None:
    """Draw every picture whose data is there."""
    metrics = ROOT / "runs/default/metrics.jsonl"
    if metrics.exists():
        loss_curve(metrics, ROOT / "docs/images/loss.png")
        print("docs/images/loss.png")


if __name__ == "__main__":
    main()
