import pytest
import torch

from lit_distill.errors import InputError
from lit_distill.losses.feature.bridges import Bridges


def pairs():
    maps, tokens = torch.randn(2, 3, 4, 4), torch.randn(2, 17, 6)
    return [(maps, torch.randn(2, 5, 4, 4)), (maps, torch.randn(2, 3, 2, 2)), (tokens, torch.randn(2, 7))]


def test_only_where_channels_differ():
    bridges = Bridges()
    bridges.build(pairs())
    assert [sum(p.numel() for p in bridge.parameters()) for bridge in bridges] == [3 * 5 + 5, 0, 6 * 7 + 7]
    given = pairs()
    students, teachers = zip(*bridges(given), strict=True)
    assert [x.shape for x in students] == [(2, 5, 4, 4), (2, 3, 4, 4), (2, 7, 4, 4)]
    assert [x.shape for x in teachers] == [(2, 5, 4, 4), (2, 3, 2, 2), (2, 7, 1, 1)]
    assert students[1] is given[1][0]


def test_a_dry_run_in_half_precision_makes_parameters_in_full():
    bridges = Bridges()
    bridges.build([(s.bfloat16(), t.bfloat16()) for s, t in pairs()])
    assert {p.dtype for p in bridges.parameters()} == {torch.float32}


def test_before_it_is_built():
    with pytest.raises(InputError, match=r"must be built with the outputs of a dry run .*, got no build\(\)$"):
        Bridges()(pairs())
