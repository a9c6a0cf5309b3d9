"""The feature and relational terms as their authors' code computes them, one straightforward function each.

Written anew after the code that each term's docstring names (``lit-distill methods NAME``), step by step and with the
tensors that are made there. Each gets the term itself, whose learnt layers it calls, so that both have the same, and
what both networks said. Tokens become maps as one writes it down: without the class token, as a copy.
"""

import math
from collections.abc import Callable
from itertools import pairwise

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from lit_distill.core.outputs import Outputs
from lit_distill.losses import CRD, DistillLoss
from lit_distill.losses.draws import Draws
from lit_distill.losses.relational.banks import negatives


def as_map(x: Tensor) -> Tensor:
    if x.dim() == 3:
        side = math.isqrt(x.shape[1])
        return x[:, 1:].transpose(1, 2).reshape(len(x), -1, side, side)
    return x if x.dim() == 4 else x[:, :, None, None]


def maps(loss: DistillLoss, student: Outputs, teacher: Outputs) -> list[tuple[Tensor, Tensor]]:
    return [(as_map(s), as_map(t)) for s, t in loss.pairs(student, teacher)]


def vectors(loss: DistillLoss, student: Outputs, teacher: Outputs) -> tuple[Tensor, Tensor]:
    ((s, t),) = loss.pairs(student, teacher)
    return tuple(x if x.dim() == 2 else x.mean((2, 3)) if x.dim() == 4 else x[:, 1:].mean(1) for x in (s, t))


# ----------------------------------------------------------------------------------------------------------------------
# Feature terms


def ab(loss: DistillLoss, student: Outputs, teacher: Outputs, target: Tensor) -> Tensor:
    def criterion(source: Tensor, wanted: Tensor, margin: float) -> Tensor:
        below, above = (source > -margin) & (wanted <= 0), (source <= margin) & (wanted > 0)
        return torch.abs((source + margin).pow(2) * below.float() + (source - margin).pow(2) * above.float()).sum()

    pairs, total = maps(loss, student, teacher), 0.0
    for i, (connect, (s, t)) in enumerate(zip(loss.connectors, pairs, strict=True)):
        total = total + criterion(connect(s), t, loss.margin) / 2 ** (len(pairs) - i - 1)
    return total / len(target) / 1000 * 3


def at(loss: DistillLoss, student: Outputs, teacher: Outputs, target: Tensor) -> Tensor:
    def attention(x: Tensor) -> Tensor:
        return F.normalize(x.pow(2).mean(1).view(x.size(0), -1))

    return sum((attention(s) - attention(t)).pow(2).mean() for s, t in maps(loss, student, teacher))


def catkd(loss: DistillLoss, student: Outputs, teacher: Outputs, target: Tensor) -> Tensor:
    cams = []
    for x, classifier in zip(maps(loss, student, teacher)[0], loss.classifiers, strict=True):
        cam = F.conv2d(x, classifier.weight[:, :, None, None])
        cam = F.adaptive_avg_pool2d(cam, (2, 2))
        cams.append(F.normalize(cam.reshape(*cam.shape[:2], -1), dim=-1))
    return F.mse_loss(cams[0], cams[1])


def cwd(loss: DistillLoss, student: Outputs, teacher: Outputs, target: Tensor) -> Tensor:
    total, tau = 0.0, 4.0
    for s, t in loss.bridges(maps(loss, student, teacher)):
        size, channels, height, width = s.shape
        p = F.softmax(t.reshape(-1, height * width) / tau, dim=1)
        s, t = s.reshape(-1, height * width) / tau, t.reshape(-1, height * width) / tau
        gap = torch.sum(p * F.log_softmax(t, dim=1) - p * F.log_softmax(s, dim=1)) * tau**2
        total = total + gap / (channels * size)
    return total


def fitnet(loss: DistillLoss, student: Outputs, teacher: Outputs, target: Tensor) -> Tensor:
    pairs = maps(loss, student, teacher)
    return sum(F.mse_loss(regress(s), t) for regress, (s, t) in zip(loss.regressors, pairs, strict=True))


def fsp(loss: DistillLoss, student: Outputs, teacher: Outputs, target: Tensor) -> Tensor:
    def flow(bottom: Tensor, top: Tensor) -> Tensor:
        if bottom.shape[2] > top.shape[2]:
            bottom = F.adaptive_avg_pool2d(bottom, (top.shape[2], top.shape[3]))
        bottom, top = bottom.unsqueeze(1), top.unsqueeze(2)
        bottom = bottom.view(*bottom.shape[:3], -1)
        top = top.view(*top.shape[:3], -1)
        return (bottom * top).mean(-1)

    pairs = maps(loss, student, teacher)
    if loss.bridges:
        pairs = [(bridge(s), t) for bridge, (s, t) in zip(loss.bridges, pairs, strict=True)]
    steps = list(pairwise(pairs))
    return sum((flow(s, s_next) - flow(t, t_next)).pow(2).mean() for (s, t), (s_next, t_next) in steps)


def ft(loss: DistillLoss, student: Outputs, teacher: Outputs, target: Tensor) -> Tensor:
    ((s, t),) = maps(loss, student, teacher)
    (translate,), (encode,), (decode,) = loss.translators, loss.encoders, loss.decoders
    factor, own = encode(t), translate(s)
    wanted = factor.detach()
    gap = F.l1_loss(F.normalize(own.reshape(own.size(0), -1)), F.normalize(wanted.reshape(wanted.size(0), -1)))
    return gap + loss.reconstruction_weight * F.mse_loss(decode(factor), t)


def hidden_mse(loss: DistillLoss, student: Outputs, teacher: Outputs, target: Tensor) -> Tensor:
    pairs = loss.pairs(student, teacher)
    return sum(F.mse_loss(bridge(s), t) for bridge, (s, t) in zip(loss.bridges, pairs, strict=True))


def hidden_cosine(loss: DistillLoss, student: Outputs, teacher: Outputs, target: Tensor) -> Tensor:
    total = 0.0
    for bridge, (s, t) in zip(loss.bridges, loss.pairs(student, teacher), strict=True):
        s = bridge(s)
        if s.dim() == 4:
            s, t = (x.permute(0, 2, 3, 1) for x in (s, t))
        s, t = (x.reshape(-1, x.size(-1)) for x in (s, t))
        total = total + F.cosine_embedding_loss(s, t, s.new_ones(s.size(0)))
    return total


def ickd(loss: DistillLoss, student: Outputs, teacher: Outputs, target: Tensor) -> Tensor:
    def products(x: Tensor) -> Tensor:
        x = x.reshape(x.size(0), x.size(1), -1)
        return F.normalize(torch.bmm(x, x.permute(0, 2, 1)), dim=2)

    total = 0.0
    for embed, (s, t) in zip(loss.embeddings, maps(loss, student, teacher), strict=True):
        given, wanted = products(embed(s)), products(t)
        total = total + F.mse_loss(given, wanted, reduction="sum") / (t.size(1) * t.size(0))
    return total


class MGD(nn.Module):
    def __init__(self, loss: DistillLoss) -> None:
        super().__init__()
        self.loss, self.draws = loss, Draws(loss.draws.seed)

    def forward(self, student: Outputs, teacher: Outputs, target: Tensor) -> Tensor:
        total = 0.0
        for generator, (s, t) in zip(self.loss.generators, maps(self.loss, student, teacher), strict=True):
            given = generator.align(s)
            size, channels, _, _ = t.shape
            noise = torch.rand((size, channels, 1, 1), generator=self.draws.generator(s.device))
            kept = torch.where(noise < self.loss.ratio, 0, 1)
            made = generator.generation(torch.mul(given, kept))
            total = total + F.mse_loss(made, t, reduction="sum") / size
        return total


def nst(loss: DistillLoss, student: Outputs, teacher: Outputs, target: Tensor) -> Tensor:
    def kernel(a: Tensor, b: Tensor) -> Tensor:
        return (a.unsqueeze(1) * b.unsqueeze(2)).sum(-1).pow(2)

    total = 0.0
    for s, t in maps(loss, student, teacher):
        s, t = (F.normalize(x.view(x.shape[0], x.shape[1], -1), dim=2) for x in (s, t))
        total = total + kernel(t, t).mean().detach() + kernel(s, s).mean() - 2 * kernel(s, t).mean()
    return total


def ofd(loss: DistillLoss, student: Outputs, teacher: Outputs, target: Tensor) -> Tensor:
    pairs, total = maps(loss, student, teacher), 0.0
    for i, (connect, (s, t)) in enumerate(zip(loss.connectors, pairs, strict=True)):
        s, t = connect(s), torch.max(t, connect.margin[None, :, None, None])
        gap = F.mse_loss(s, t, reduction="none")
        gap = gap * ((s > t) | (t > 0)).float()
        total = total + gap.sum() / 2 ** (len(pairs) - i - 1)
    return total / len(target) / 1000


def pkd(loss: DistillLoss, student: Outputs, teacher: Outputs, target: Tensor) -> Tensor:
    def standardised(x: Tensor) -> Tensor:
        size, channels, height, width = x.shape
        x = x.permute(1, 0, 2, 3).reshape(channels, -1)
        x = (x - x.mean(dim=-1, keepdim=True)) / (x.std(dim=-1, keepdim=True) + 1e-6)
        return x.reshape(channels, size, height, width).permute(1, 0, 2, 3)

    pairs = loss.bridges(maps(loss, student, teacher))
    return sum(F.mse_loss(standardised(s), standardised(t)) / 2 for s, t in pairs)


def reviewkd(loss: DistillLoss, student: Outputs, teacher: Outputs, target: Tensor) -> Tensor:
    def context(s: Tensor, t: Tensor) -> Tensor:
        value, factor, total = F.mse_loss(s, t, reduction="mean"), 1.0, 1.0
        for side in (4, 2, 1):
            if side >= s.shape[2]:
                continue
            small, wanted = F.adaptive_avg_pool2d(s, (side, side)), F.adaptive_avg_pool2d(t, (side, side))
            factor /= 2.0
            value = value + F.mse_loss(small, wanted, reduction="mean") * factor
            total += factor
        return value / total

    total, deeper = 0.0, None
    for fusion, (x, t) in zip(reversed(loss.fusions), reversed(maps(loss, student, teacher)), strict=True):
        size, _, height, width = x.shape
        x = fusion.enter(x)
        if fusion.attention is not None:
            deeper = F.interpolate(deeper, (height, width), mode="nearest")
            z = fusion.attention(torch.cat([x, deeper], dim=1))
            x = x * z[:, 0].view(size, 1, height, width) + deeper * z[:, 1].view(size, 1, height, width)
        if x.shape[-1] != t.shape[-1]:
            x = F.interpolate(x, t.shape[2:], mode="nearest")
        deeper = x
        total = total + context(fusion.leave(x), t)
    return total


def simkd(loss: DistillLoss, student: Outputs, teacher: Outputs, target: Tensor) -> Tensor:
    return sum(F.mse_loss(s, t) for s, t in maps(loss, student, teacher))


def srd(loss: DistillLoss, student: Outputs, teacher: Outputs, target: Tensor) -> Tensor:
    s, t = vectors(loss, student, teacher)
    s, t = (F.batch_norm(x, None, None, training=True, eps=1e-4) for x in (loss.projector(s), t))
    return torch.log((s - t).abs().pow(4.0).sum())


def srrl(loss: DistillLoss, student: Outputs, teacher: Outputs, target: Tensor) -> Tensor:
    ((s, t),) = loss.pairs(student, teacher)
    x = loss.connector(as_map(s))
    feature = F.avg_pool2d(x, x.shape[2]).flatten(1)
    (classifier,) = loss.classifier
    return F.mse_loss(feature, t) + F.mse_loss(classifier(feature), teacher.logits)


def vid(loss: DistillLoss, student: Outputs, teacher: Outputs, target: Tensor) -> Tensor:
    total = 0.0
    for net, (s, t) in zip(loss.regressors, maps(loss, student, teacher), strict=True):
        mean = net.regressor(s)
        variance = (torch.log(1.0 + torch.exp(net.rho)) + net.eps).view(1, -1, 1, 1)
        total = total + torch.mean(0.5 * ((mean - t) ** 2 / variance + torch.log(variance)))
    return total


class ViTKD(nn.Module):
    def __init__(self, loss: DistillLoss) -> None:
        super().__init__()
        self.loss, self.draws = loss, Draws(loss.draws.seed)

    def forward(self, student: Outputs, teacher: Outputs, target: Tensor) -> Tensor:
        *first, (s, t) = [(s[:, 1:], t[:, 1:]) for s, t in self.loss.pairs(student, teacher)]
        mimicked = 0.0
        for align, (x, y) in zip(self.loss.aligners, first, strict=True):
            mimicked = mimicked + F.mse_loss(align(x), y, reduction="sum") / len(x)
        (generator,) = self.loss.generators
        x = generator.align(s)
        size, count, width = x.shape
        keep = int(count * (1 - self.loss.ratio))
        order = torch.argsort(torch.rand((size, count), generator=self.draws.generator(x.device)), dim=1)
        back = torch.argsort(order, dim=1)
        kept = torch.gather(x, 1, order[:, :keep].unsqueeze(-1).repeat(1, 1, width))
        mask = torch.ones(size, count)
        mask[:, :keep] = 0
        mask = torch.gather(mask, 1, back).unsqueeze(-1)
        whole = torch.cat([kept, generator.mask_token.repeat(size, count - keep, 1)], 1)
        whole = torch.gather(whole, 1, back.unsqueeze(-1).repeat(1, 1, width))
        side = math.isqrt(count)
        made = generator.generation(whole.reshape(size, side, side, width).permute(0, 3, 1, 2))
        made = made.flatten(2).transpose(1, 2)
        generated = F.mse_loss(torch.mul(made, mask), torch.mul(t, mask), reduction="sum") / size / self.loss.ratio
        return self.loss.mimic_weight * mimicked + self.loss.generate_weight * generated


def vkd(loss: DistillLoss, student: Outputs, teacher: Outputs, target: Tensor) -> Tensor:
    s, t = vectors(loss, student, teacher)
    return F.smooth_l1_loss(loss.projectors[0](s), F.layer_norm(t, (t.shape[1],)))


def wkdf(loss: DistillLoss, student: Outputs, teacher: Outputs, target: Tensor) -> Tensor:
    ((s, t),) = maps(loss, student, teacher)
    (s_mean, s_std), (t_mean, t_std) = (
        (x.mean(-1), torch.sqrt(x.var(-1) + loss.eps))
        for x in (y.reshape(y.size(0), y.size(1), -1) for y in (loss.projectors[0](s), t))
    )
    size = len(target)
    return (
        loss.mean_weight * F.mse_loss(s_mean, t_mean, reduction="sum") / size
        + F.mse_loss(s_std, t_std, reduction="sum") / size
    )


# ----------------------------------------------------------------------------------------------------------------------
# Relational terms


def cc(loss: DistillLoss, student: Outputs, teacher: Outputs, target: Tensor) -> Tensor:
    def correlations(x: Tensor) -> Tensor:
        x = F.normalize(x, p=2, dim=-1)
        similarity = torch.matmul(x, x.transpose(0, 1))
        total = torch.zeros_like(similarity)
        for power in range(loss.order + 1):
            factor = math.exp(-2 * loss.gamma) * (2 * loss.gamma) ** power / math.factorial(power)
            total = total + factor * torch.pow(similarity, power)
        return total

    s, t = vectors(loss, student, teacher)
    return F.mse_loss(correlations(s), correlations(t))


def cc_code(loss: DistillLoss, student: Outputs, teacher: Outputs, target: Tensor) -> Tensor:
    s, t = vectors(loss, student, teacher)
    delta = torch.abs(loss.embeds_student[0](s) - loss.embeds_teacher[0](t))
    return torch.mean((delta[:-1] * delta[1:]).sum(1))


class Crd(nn.Module):
    """With the negatives that the term is going to draw, which is not counted."""

    def __init__(self, loss: CRD, index: Tensor, target: Tensor) -> None:
        super().__init__()
        self.loss, self.index = loss, index
        state = loss.banks.state
        self.memory = {"student": state["student"].clone(), "teacher": state["teacher"].clone()}
        self.z: list[Tensor] = []
        classes = state["classes"].scatter(0, index, target)
        draws = loss.banks.draws(len(index), loss.negatives, index.device)
        # the rows of draws belong to the samples in the order of their index
        drawn = negatives(classes, target, draws[index.argsort().argsort()])
        self.rows = torch.cat([index.unsqueeze(1), drawn], 1)

    def forward(self, student: Outputs, teacher: Outputs, target: Tensor) -> Tensor:
        def embedded(x: Tensor, linear: nn.Linear) -> Tensor:
            x = linear(x.view(x.shape[0], -1))
            return x.div(x.pow(2).sum(1, keepdim=True).pow(0.5))

        s, t = vectors(self.loss, student, teacher)
        v_s, v_t = embedded(s, self.loss.embed_student), embedded(t, self.loss.embed_teacher)
        size, width, count = len(v_s), v_s.size(1), self.rows.size(1) - 1
        scores = []
        for anchor, memory in ((v_s, self.memory["teacher"]), (v_t, self.memory["student"])):
            weight = torch.index_select(memory, 0, self.rows.view(-1)).detach().view(size, count + 1, width)
            scores.append(torch.exp(torch.div(torch.bmm(weight, anchor.view(size, width, 1)), self.loss.temperature)))
        samples, momentum = self.loss.samples, self.loss.banks.momentum
        self.z = self.z or [x.detach().mean() * samples for x in scores]
        with torch.no_grad():
            for memory, v in zip(self.memory.values(), (v_s, v_t), strict=True):
                row = torch.index_select(memory, 0, self.index.view(-1))
                row = row.mul(momentum).add(torch.mul(v, 1 - momentum))
                memory.index_copy_(0, self.index, row.div(row.pow(2).sum(1, keepdim=True).pow(0.5)))
        total, noise, eps = 0.0, 1 / samples, 1e-7
        for x, z in zip(scores, self.z, strict=True):
            x = torch.div(x, z).contiguous()
            positive, rest = x.select(1, 0), x.narrow(1, 1, count)
            right = torch.div(positive, positive.add(count * noise + eps)).log()
            wrong = torch.div(rest.clone().fill_(count * noise), rest.add(count * noise + eps)).log()
            total = total - (right.sum(0) + wrong.view(-1, 1).sum(0)) / size
        return total.squeeze()


def sampled(by_class: list[np.ndarray], target: list[int], count: int) -> np.ndarray:
    """Negatives as the data set of CRD draws them, sample by sample, from lists by class made beforehand."""
    return np.stack([np.random.choice(by_class[y], count, replace=count > len(by_class[y])) for y in target])


def irg(loss: DistillLoss, student: Outputs, teacher: Outputs, target: Tensor) -> Tensor:
    eps = 1e-12

    def edges(x: Tensor) -> Tensor:
        x = x.view(x.size(0), -1)
        square, product = x.pow(2).sum(dim=1), torch.mm(x, x.t())
        distances = (square.unsqueeze(1) + square.unsqueeze(0) - 2 * product).clamp(min=eps).clone()
        distances[range(len(x)), range(len(x))] = 0
        return distances / distances.max()

    def moved(first: Tensor, second: Tensor) -> Tensor:
        if first.size(2) > second.size(2):
            first = F.adaptive_avg_pool2d(first, (second.size(2), second.size(3)))
        if first.size(1) < second.size(1):
            second = (second[:, 0::2] + second[:, 1::2]) / 2.0
        first, second = first.reshape(first.size(0), -1), second.reshape(second.size(0), -1)
        distances = torch.sum(torch.pow(first - second, 2), dim=-1).clamp(min=eps)
        return distances / distances.max()

    pairs = loss.pairs(student, teacher)
    total = loss.edge_weight * sum(F.mse_loss(edges(s), edges(t)) for s, t in pairs) / len(pairs)
    total = total + loss.vertex_weight * F.mse_loss(student.logits, teacher.logits)
    layers = [(as_map(s), as_map(t)) for s, t in pairs if s.dim() > 2]
    steps = list(pairwise(layers))
    moves = sum(F.mse_loss(moved(s, s_next), moved(t, t_next)) for (s, t), (s_next, t_next) in steps)
    return total + loss.transform_weight * moves / len(steps)


def kdsvd(loss: DistillLoss, student: Outputs, teacher: Outputs, target: Tensor) -> Tensor:
    def svd(x: Tensor, count: int) -> tuple[Tensor, Tensor]:
        x = x.reshape(x.size(0), x.size(1), -1).transpose(-2, -1)
        _, s, v = torch.svd(x)
        return F.normalize(s[:, :count], dim=1), F.normalize(v[:, :, :count], dim=1)

    def aligned(a: Tensor, b: Tensor) -> Tensor:
        cosine = torch.matmul(a.transpose(-2, -1), b)
        largest, _ = torch.max(torch.abs(cosine), 1, keepdim=True)
        mask = torch.where(torch.eq(largest, torch.abs(cosine)), torch.sign(cosine), torch.zeros_like(cosine))
        return torch.matmul(a, mask)

    before, terms = None, []
    for bridge, (s, t) in zip(loss.projectors, maps(loss, student, teacher), strict=True):
        values, v_t = svd(t, loss.k)
        v_t = v_t * torch.where(v_t.sum(1, keepdim=True) < 0, -1, 1)  # left open there, and free
        v_s = aligned(svd(bridge(s), loss.k + 3)[1], v_t)
        now = v_s * values.unsqueeze(1), v_t * values.unsqueeze(1)
        if before is not None:
            one, other = (
                torch.exp(-(b.unsqueeze(2) - a.unsqueeze(1)).pow(2) / 8) for a, b in zip(before, now, strict=True)
            )
            squares = (one - other.detach()).pow(2)
            terms.append(torch.where(torch.isfinite(squares), squares, torch.zeros_like(squares)).sum())
        before = now
    return sum(terms) / len(target)


def pkt(loss: DistillLoss, student: Outputs, teacher: Outputs, target: Tensor) -> Tensor:
    def similarities(x: Tensor) -> Tensor:
        x = x / (torch.sqrt(torch.sum(x**2, dim=1, keepdim=True)) + loss.eps)
        x = torch.where(x != x, 0, x)
        similarity = (torch.mm(x, x.transpose(0, 1)) + 1.0) / 2.0
        return similarity / torch.sum(similarity, dim=1, keepdim=True)

    p, q = (similarities(x) for x in vectors(loss, student, teacher))
    return torch.mean(q * torch.log((q + loss.eps) / (p + loss.eps)))


def rkd(loss: DistillLoss, student: Outputs, teacher: Outputs, target: Tensor) -> Tensor:
    def distances(e: Tensor) -> Tensor:
        square, product = e.pow(2).sum(dim=1), e @ e.t()
        apart = (square.unsqueeze(1) + square.unsqueeze(0) - 2 * product).clamp(min=1e-12).sqrt().clone()
        apart[range(len(e)), range(len(e))] = 0
        return apart / apart[apart > 0].mean()

    def angles(e: Tensor) -> Tensor:
        directions = F.normalize(e.unsqueeze(0) - e.unsqueeze(1), p=2, dim=2)
        return torch.bmm(directions, directions.transpose(1, 2)).view(-1)

    s, t = vectors(loss, student, teacher)
    total = 0.0
    for weight, of in ((loss.distance_weight, distances), (loss.angle_weight, angles)):
        if weight > 0:
            with torch.no_grad():
                wanted = of(t)
            total = total + weight * F.smooth_l1_loss(of(s), wanted, reduction="mean")
    return total


def semckd(loss: DistillLoss, student: Outputs, teacher: Outputs, target: Tensor) -> Tensor:
    def embedded(x: Tensor, net: nn.Module) -> Tensor:
        flat = x.reshape(x.size(0), -1)
        made = net(torch.mm(flat, flat.t()))
        return made.div(made.pow(2).sum(1, keepdim=True).pow(0.5))

    pairs = maps(loss, student, teacher)
    learnt, taught = ([x for x, _ in pairs], [x for _, x in pairs])
    queries = torch.stack([embedded(x, net) for x, net in zip(learnt, loss.queries, strict=True)], 1)
    keys = torch.stack([embedded(x, net) for x, net in zip(taught, loss.keys, strict=True)], 2)
    attention = F.softmax(torch.bmm(queries, keys) / loss.temperature, dim=-1)
    size, nets = len(target), iter(loss.bridges)
    errors = torch.zeros(size, len(learnt), len(taught))
    for i, s in enumerate(learnt):
        for j, t in enumerate(taught):
            given, wanted = s, t
            if s.shape[2] > t.shape[2]:
                given = F.adaptive_avg_pool2d(s, t.shape[2:])
            else:
                wanted = F.adaptive_avg_pool2d(t, s.shape[2:])
            gap = F.mse_loss(next(nets)(given), wanted, reduction="none")
            errors[:, i, j] = gap.reshape(size, -1).mean(-1)
    return (attention * errors).sum() / (1.0 * size * len(learnt))


def sp(loss: DistillLoss, student: Outputs, teacher: Outputs, target: Tensor) -> Tensor:
    def similarities(x: Tensor) -> Tensor:
        x = x.view(x.shape[0], -1)
        return F.normalize(torch.mm(x, torch.t(x)))

    total = 0.0
    for s, t in loss.pairs(student, teacher):
        difference = similarities(t) - similarities(s)
        total = total + (difference * difference).view(-1, 1).sum(0) / (len(s) * len(s))
    return total.squeeze()


REFERENCES: dict[str, Callable[..., Tensor] | type[nn.Module]] = {
    "AB": ab,
    "AT": at,
    "CATKD": catkd,
    "CC": cc,
    "CC (code)": cc_code,
    "CRD": Crd,
    "CWD": cwd,
    "FSP": fsp,
    "FT": ft,
    "FitNet": fitnet,
    "HiddenState": hidden_mse,
    "HiddenState (cosine)": hidden_cosine,
    "ICKD": ickd,
    "IRG": irg,
    "KDSVD": kdsvd,
    "MGD": MGD,
    "NST": nst,
    "OFD": ofd,
    "PKD": pkd,
    "PKT": pkt,
    "RKD": rkd,
    "RKD (angles)": rkd,
    "RKD (distances)": rkd,
    "ReviewKD": reviewkd,
    "SP": sp,
    "SRD": srd,
    "SRRL": srrl,
    "SemCKD": semckd,
    "SimKD": simkd,
    "VID": vid,
    "ViTKD": ViTKD,
    "VkD": vkd,
    "WKDF": wkdf,
}
