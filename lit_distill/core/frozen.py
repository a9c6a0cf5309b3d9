"""A network that never trains."""

from typing import Any

import torch
from torch import nn


class Frozen(nn.Module):
    """A network that never trains: eval mode, no gradients, in no checkpoint, shared by ``deepcopy``.

    It moves with its parent (device, dtype, precision plugins) but stays out of every ``state_dict``, so that
    checkpoints hold the student alone, strict loading works, and an exponential moving average of the parent
    neither copies nor averages it.

    Args:
        module: The network to freeze. Its parameters lose ``requires_grad``.

    Example:
        >>> parent = nn.ModuleDict({"student": nn.Linear(2, 2), "teacher": Frozen(nn.Linear(2, 2))})
        >>> sorted(parent.state_dict())
        ['student.bias', 'student.weight']
    """

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.module = module.requires_grad_(False)
        self.eval()
        self.register_state_dict_post_hook(self._leave_out)
        self.register_load_state_dict_pre_hook(self._put_back)

    def train(self, mode: bool = True) -> "Frozen":
        """Stay in eval mode, whatever the parent is told."""
        return super().train(False)

    @torch.no_grad()
    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """What the network says, without gradients."""
        return self.module(*args, **kwargs)

    def __deepcopy__(self, memo: dict[int, Any]) -> "Frozen":
        return self

    # The two hooks are a pair: what is left out on saving is put back on loading, so that strict loading of
    # a checkpoint without the teacher succeeds and keeps the teacher's own weights.
    @staticmethod
    def _leave_out(module: nn.Module, state_dict: dict[str, Any], prefix: str, _: Any) -> None:
        for key in [key for key in state_dict if key.startswith(prefix)]:
            del state_dict[key]

    @staticmethod
    def _put_back(module: nn.Module, state_dict: dict[str, Any], prefix: str, *_: Any) -> None:
        assert isinstance(module, Frozen)
        state_dict.update({f"{prefix}module.{k}": v for k, v in module.module.state_dict().items()})
