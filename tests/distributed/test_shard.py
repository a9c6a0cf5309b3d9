"""Sharding keeps what a network computes, and refuses what it would get wrong."""

import torch

from . import jobs
from .ranks import run


def test_a_sharded_network_computes_the_same(tmp_path):
    for result in run(jobs.sharded, tmp_path):
        outputs = result["outputs"]
        for name in ("trained", "frozen", "listed"):
            torch.testing.assert_close(outputs[name], outputs["plain"])
        torch.testing.assert_close(result["gradients"], result["expected"])
        # parts of 50 and more parameters that are called, and share none with the rest
        assert result["units"] == ["", "blocks.1", "blocks.1.inner.0", "head.1"]
        assert result["tied"]
        # the scalar that does not train is left alone; the frozen network is released after its forward pass
        assert result["not sharded"] == {"trained": ["scale"], "frozen": ["scale"]}


def test_what_cannot_be_sharded_is_named(tmp_path):
    first, second = run(jobs.refused, tmp_path)
    assert first == second
    assert first["outside"].startswith("model: scale of Forgetful would train unsharded")
    assert first["scalar"] == (
        "model: temperature of Learned is a scalar, which FSDP2 cannot shard; give it shape (1,)"
    )


def test_a_teacher_without_parameters(tmp_path):
    assert run(jobs.without_parameters, tmp_path) == [jobs.STEPS // jobs.EPOCHS] * 2
