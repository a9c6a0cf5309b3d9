"""Terms that compare activations of pairs of layers: one paper, one file."""

from lit_distill.losses.feature.fitnet import FitNet, fitnet

__all__ = ["FitNet", "fitnet"]
