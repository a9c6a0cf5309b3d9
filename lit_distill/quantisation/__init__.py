"""Networks whose weights and inputs are rounded while they train, and the 8-bit networks that come out."""

from lit_distill.quantisation.attach import is_quantised, quantised, unquantised, with_learnt_points
from lit_distill.quantisation.integer import as_int8

__all__ = ["as_int8", "is_quantised", "quantised", "unquantised", "with_learnt_points"]
