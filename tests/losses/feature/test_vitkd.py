import pytest
import torch
from timm.models.vision_transformer import VisionTransformer
from torch.autograd import gradcheck

from lit_distill.core.outputs import Outputs
from lit_distill.errors import InputError
from lit_distill.losses import ViTKD
from lit_distill.losses.feature import masked_tokens, vitkd_generate, vitkd_mimic
from lit_distill.losses.feature.vitkd import TokenGenerator
from lit_distill.models import ConvNet, Ensemble

NAMES = ("low0", "low1", "high")


def said(width=3, tokens=17, seed=0):
    generator = torch.Generator().manual_seed(seed)
    features = {name: torch.randn(4, tokens, width, generator=generator) for name in NAMES}
    return Outputs(torch.zeros(4, 10), features)


def built(student, teacher, **given):
    torch.manual_seed(0)
    loss = ViTKD(layers={name: name for name in NAMES}, **given)
    loss.build(student, teacher)
    return loss


def vit(depth, width=8):
    return VisionTransformer(
        img_size=8, patch_size=2, in_chans=1, num_classes=10, embed_dim=width, depth=depth, num_heads=2
    )


def test_both_sums_by_hand():
    student, teacher = torch.randn(2, 4, 9, 5)
    torch.testing.assert_close(vitkd_mimic(student, teacher), (student - teacher).square().sum() / 4)
    masked = torch.rand(4, 9) < 0.4
    expected = (student - teacher)[masked].square().sum() / 4 / 0.4
    torch.testing.assert_close(vitkd_generate(student, teacher, masked, 0.4), expected)
    assert vitkd_mimic(student, student) == vitkd_generate(student, student, masked) == 0


def test_gradcheck():
    student, teacher = torch.randn(2, 2, 4, 3, dtype=torch.float64)
    masked = torch.tensor([[True, False, True, False], [False, False, True, True]])
    assert gradcheck(lambda s: vitkd_generate(s, teacher, masked) + vitkd_mimic(s, teacher), student.requires_grad_())


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_large_tokens(dtype):
    student, teacher = ((1e4 * torch.randn(2, 196, 64)).to(dtype) for _ in range(2))
    student.requires_grad_()
    value = vitkd_generate(student, teacher, torch.rand(2, 196) < 0.5) + vitkd_mimic(student, teacher)
    (gradient,) = torch.autograd.grad(value, student)
    assert value.dtype == torch.float32
    assert value.isfinite()
    assert gradient.isfinite().all()


@pytest.mark.parametrize(("ratio", "count"), [(0.5, 8), (0.25, 4), (0.01, 1), (0.3, 5), (0.99, 16)])
def test_every_sample_loses_as_many_tokens_but_not_the_same(ratio, count):
    masked = masked_tokens(torch.rand(512, 16), ratio)
    assert (masked.sum(1) == count).all()
    if count < 16:
        assert len(masked.unique(dim=0)) > 1
        assert masked.any(0).all()


def test_masked_tokens_are_not_seen_and_their_place_is_learnt():
    generator = TokenGenerator(3, 5)
    masked = masked_tokens(torch.rand(2, 16), 0.5)
    x = torch.randn(2, 16, 3, requires_grad=True)
    y = generator(x, masked)
    (gradient,) = torch.autograd.grad(y.square().sum(), x, retain_graph=True)
    assert gradient[masked].abs().max() == 0
    assert (gradient[~masked].abs().amax(1) > 0).any()
    y.square().sum().backward()
    assert generator.mask_token.grad.abs().max() > 0


def test_the_factors_and_the_sum_over_blocks():
    student, teacher = said(), said(width=5, seed=1)
    values = []
    for alpha, beta in ((1.0, 0.0), (0.0, 1.0), (0.3, 0.7)):
        loss = built(student, teacher, mimic_weight=alpha, generate_weight=beta)
        values.append(loss(student, teacher, torch.zeros(4)))
    torch.testing.assert_close(values[2], 0.3 * values[0] + 0.7 * values[1])
    mimicked = [
        vitkd_mimic(net(student.features[name][:, 1:]), teacher.features[name][:, 1:])
        for net, name in zip(loss.aligners, NAMES, strict=False)
    ]
    torch.testing.assert_close(values[0], torch.stack(mimicked).sum())


def test_prefix_tokens_do_not_count():
    student, teacher = said(), said(width=5, seed=1)
    without = [Outputs(x.logits, {n: f[:, 1:] for n, f in x.features.items()}) for x in (student, teacher)]
    loss = built(student, teacher)
    value = loss.eval()(student, teacher, torch.zeros(4))
    assert loss(*without, torch.zeros(4)) == value


def test_maps_are_tokens_and_the_larger_one_is_averaged():
    student = Outputs(torch.zeros(4, 10), {name: torch.randn(4, 3, 8, 8) for name in NAMES})
    teacher = said(width=5)
    small = Outputs(student.logits, {n: torch.nn.functional.avg_pool2d(x, 2) for n, x in student.features.items()})
    loss = built(student, teacher).eval()
    torch.testing.assert_close(loss(student, teacher, torch.zeros(4)), loss(small, teacher, torch.zeros(4)))


def test_equal_widths_need_no_linear_maps():
    student, teacher = said(), said(seed=1)
    loss = built(student, teacher)
    assert not list(loss.aligners.parameters())
    assert {name.split(".")[2] for name, _ in loss.generators.named_parameters(prefix="g")} == {
        "mask_token",
        "generation",
    }
    assert built(student, student, generate_weight=0.0)(student, student, torch.zeros(4)) == 0


def test_all_that_learns_has_a_gradient():
    student, teacher = said(), said(width=5, seed=1)
    loss = built(student, teacher)
    loss(student, teacher, torch.zeros(4)).backward()
    assert all(p.grad.abs().max() > 0 for p in loss.parameters())


def test_masks_change_in_training_alone_and_a_resumed_run_draws_them_again():
    student, teacher = said(), said(width=5, seed=1)
    loss = built(student, teacher)
    first, second = (loss(student, teacher, torch.zeros(4)) for _ in range(2))
    assert first != second
    resumed = built(student, teacher)
    resumed.load_state_dict(loss.state_dict())
    assert resumed(student, teacher, torch.zeros(4)) == loss(student, teacher, torch.zeros(4))
    loss.eval()
    values = {loss(student, teacher, torch.zeros(4)).item() for _ in range(2)}
    assert values == {first.item()}
    assert built(student, teacher, seed=1)(student, teacher, torch.zeros(4)) != first


def test_default_layers():
    loss = ViTKD(teacher="b")
    loss.choose_layers(vit(3), Ensemble({"a": ConvNet(in_channels=1, depth=2), "b": vit(5)}))
    assert loss.layers == {
        "blocks.0": "members.b.blocks.0",
        "blocks.1": "members.b.blocks.1",
        "blocks.2": "members.b.blocks.4",
    }
    with pytest.raises(InputError, match="layers must be given for fewer than 3 blocks, got none and 2 blocks"):
        ViTKD().choose_layers(vit(2), vit(5))


def test_messages():
    with pytest.raises(InputError, match="mimic_weight must be 0 or positive, got -1"):
        ViTKD(mimic_weight=-1.0)
    with pytest.raises(InputError, match="generate_weight must be 0 or positive, got -1"):
        ViTKD(generate_weight=-1.0)
    with pytest.raises(InputError, match="ratio must be between 0 and 1, got 1"):
        ViTKD(ratio=1.0)
    with pytest.raises(InputError, match="layers must be at least 2 pairs"):
        ViTKD(layers={"a": "b"})
    with pytest.raises(InputError, match="ViTKD must be built with the outputs of a dry run"):
        ViTKD(layers={name: name for name in NAMES})(said(), said(), torch.zeros(4))
    wide = Outputs(torch.zeros(4, 10), {name: torch.zeros(4, 3, 4, 8) for name in NAMES})
    with pytest.raises(InputError, match="layers must be maps as high as wide, or tokens"):
        built(wide, wide)
    with pytest.raises(InputError, match="tokens must be of one shape"):
        vitkd_mimic(torch.zeros(2, 4, 3), torch.zeros(2, 4, 5))
