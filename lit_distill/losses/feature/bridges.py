"""Maps of the student with as many channels as the teacher's."""

from collections.abc import Sequence

from torch import Tensor, nn

from lit_distill.core.projectors import LinearProjector
from lit_distill.errors import InputError
from lit_distill.losses.views import as_map


class Bridges(nn.ModuleList):
    """A 1x1 convolution for each pair of layers whose numbers of channels differ; nothing where they are equal.

    They are trained with the student and dropped after.

    Example:
        >>> import torch
        >>> pairs = [(torch.zeros(2, 3, 4, 4), torch.zeros(2, 5, 4, 4)), (torch.zeros(2, 6), torch.zeros(2, 6))]
        >>> bridges = Bridges()
        >>> bridges.build(pairs)
        >>> [student.shape for student, teacher in bridges(pairs)]
        [torch.Size([2, 5, 4, 4]), torch.Size([2, 6, 1, 1])]
    """

    def build(self, pairs: Sequence[tuple[Tensor, Tensor]]) -> None:
        """Create them, each on the device of the student's activation.

        Args:
            pairs: Example activations of student and teacher.
        """
        for s, t in ((as_map(s), as_map(t)) for s, t in pairs):
            if s.shape[1] == t.shape[1]:
                self.append(nn.Identity())
                continue
            bridge = LinearProjector()
            bridge.build(s, t)
            self.append(bridge)

    def forward(self, pairs: Sequence[tuple[Tensor, Tensor]]) -> list[tuple[Tensor, Tensor]]:
        """Both activations of each pair as maps, the student's with the teacher's number of channels.

        Args:
            pairs: Activations of student and teacher: maps, tokens or vectors.

        Raises:
            InputError: Before :meth:`build`.
        """
        if len(self) != len(pairs):
            raise InputError("the loss must be built with the outputs of a dry run before it is called, got no build()")
        return [(bridge(as_map(s)), as_map(t)) for bridge, (s, t) in zip(self, pairs, strict=True)]
