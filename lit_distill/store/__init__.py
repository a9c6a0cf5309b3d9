"""Teacher's answers on disk: asked once, learnt from as often as wanted."""

from lit_distill.store.distiller import StoredDistiller
from lit_distill.store.make import make_labels
from lit_distill.store.soft_labels import SoftLabels
from lit_distill.store.topk import Kept, cut, expand, keep

__all__ = ["Kept", "SoftLabels", "StoredDistiller", "cut", "expand", "keep", "make_labels"]
