import copy

import lightning as L
import pytest
import torch
from torch.utils.data import DataLoader, TensorDataset

from lit_distill.callbacks.cka import LayerCKA
from lit_distill.distiller import Distiller
from lit_distill.errors import InputError
from lit_distill.losses import KD
from lit_distill.metrics.cka import cka
from lit_distill.models import MLP
from lit_distill.supervised import Supervised


def module(student, teacher):
    return Distiller(
        student=student, teacher=teacher, losses={"kd": KD()}, optimizer=torch.optim.Adam, input_shape=(1, 2, 2)
    )


def net(hidden, seed):
    torch.manual_seed(seed)
    return MLP(input_shape=(1, 2, 2), num_classes=3, hidden=(hidden,))


def validated(pl_module, callback, x):
    loader = DataLoader(TensorDataset(x, torch.zeros(len(x), dtype=torch.long)), batch_size=len(x))
    trainer = L.Trainer(accelerator="cpu", logger=False, enable_progress_bar=False, callbacks=[callback])
    return trainer.validate(pl_module, loader, verbose=False)[0]


def first_layer(network):
    return next(name for name, child in network.named_modules() if isinstance(child, torch.nn.Linear))


def test_equals_the_metric_on_the_layers_and_is_one_for_equal_networks():
    student, teacher = net(6, 0), net(9, 1)
    layer = first_layer(student)
    x = torch.randn(40, 1, 2, 2, generator=torch.Generator().manual_seed(0))
    logged = validated(module(student, teacher), LayerCKA({layer: layer}), x)
    with torch.no_grad():
        expected = cka(student.get_submodule(layer)(x.flatten(1)), teacher.get_submodule(layer)(x.flatten(1)))
    assert logged[f"val/cka/{layer}"] == pytest.approx(float(expected), abs=1e-5)
    twin = validated(module(student, copy.deepcopy(student)), LayerCKA({layer: layer}), x)
    assert twin[f"val/cka/{layer}"] == pytest.approx(1.0, abs=1e-5)
    assert logged[f"val/cka/{layer}"] < 0.99


def test_errors():
    with pytest.raises(InputError, match="LayerCKA got none"):
        LayerCKA({})
    with pytest.raises(InputError, match="no submodule 'nothing'"):
        validated(module(net(3, 0), net(3, 1)), LayerCKA({"nothing": "nothing"}), torch.randn(4, 1, 2, 2))
    alone = Supervised(student=net(3, 0), optimizer=torch.optim.Adam, input_shape=(1, 2, 2))
    with pytest.raises(InputError, match="Supervised has none"):
        validated(alone, LayerCKA({"a": "a"}), torch.randn(4, 1, 2, 2))
