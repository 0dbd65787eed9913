"""A small reward model on features."""

from __future__ import annotations

from torch import Tensor, nn

from lightning_select.types import Float

__all__ = ["RewardMLP"]


class RewardMLP(nn.Module):
    """A perceptron with two hidden layers that gives a score to each row of features.

    Args:
        inputs: Features of a completion.
        hidden: Width of the hidden layers.
        dropout: Share of hidden units that is dropped in training.
    """

    def __init__(self, inputs: int = 20, hidden: int = 128, dropout: float = 0.0) -> None:
        super().__init__()
        self.net = nn.Sequential(
            nn.Linear(inputs, hidden),
            nn.ReLU(),
            nn.Dropout(dropout),
            nn.Linear(hidden, hidden),
            nn.ReLU(),
            nn.Dropout(dropout),
            nn.Linear(hidden, 1),
        )

    def forward(self, features: Float[Tensor, "rows inputs"]) -> Float[Tensor, "rows"]:
        """Scores."""
        scores: Tensor = self.net(features).squeeze(-1)
        return scores
