from collections.abc import Callable
from typing import Any, Literal

import pytest
from torch import nn

from lit_distill.core.hparams import objects, plain
from lit_distill.distiller import Distiller


@pytest.mark.parametrize(
    "hint",
    [
        int,
        float,
        str,
        bool,
        type(None),
        int | None,
        Literal["a", "b"],
        tuple[int, ...],
        list[float],
        dict[str, int | None],
    ],
)
def test_plain_types(hint):
    assert plain(hint)


@pytest.mark.parametrize("hint", [nn.Module, Any, object, Callable, dict[str, nn.Module], nn.Module | None, list])
def test_types_of_objects(hint):
    assert not plain(hint)


def test_arguments_of_a_users_subclass_are_sorted_by_their_hints():
    class Mine(Distiller):
        def __init__(self, gamma: float, head: nn.Module, unhinted=3, **kwargs: Any) -> None:
            super().__init__(**kwargs)

    assert set(objects(Mine)) == {
        "head", "losses", "optimizer", "scheduler", "student", "teacher", "unhinted",
    }  # fmt: skip
