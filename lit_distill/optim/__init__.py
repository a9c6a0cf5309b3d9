"""Optimizers that tell the terms of an objective apart."""

from lit_distill.optim.deepkd import DeepKD
from lit_distill.optim.dot import DOT
from lit_distill.optim.term_sgd import TermSGD

__all__ = ["DOT", "DeepKD", "TermSGD"]
