"""Terms that compare relations between the samples of a batch: one paper, one file."""

from lit_distill.losses.relational.rkd import RKD, rkd_angle, rkd_distance

__all__ = ["RKD", "rkd_angle", "rkd_distance"]
