"""The terms on logits as their authors' code computes them: one straightforward function each, for comparison.

Written anew after the code that each term's docstring names (``lit-distill methods NAME``), step by step and with the
tensors that are made there; where authors released none, after the formula of the paper as one writes it down. The
names of the functions' arguments are those of ``tests/loss_cases.py``.
"""

import math
from collections.abc import Callable

import torch
from loss_cases import CELLS
from torch import Tensor, nn
from torch.nn import functional as F


def kd(student: Tensor, teacher: Tensor, target: Tensor | None = None, temperature: float = 4.0) -> Tensor:
    log_q, p = F.log_softmax(student / temperature, 1), F.softmax(teacher / temperature, 1)
    return temperature**2 * F.kl_div(log_q, p, reduction="none").sum(1).mean()


def logit_mse(student: Tensor, teacher: Tensor, target: Tensor) -> Tensor:
    return F.mse_loss(student, teacher)


def bkd(student: Tensor, teacher: Tensor, target: Tensor) -> Tensor:
    return F.binary_cross_entropy_with_logits(student, teacher.softmax(1))


def label_mask(logits: Tensor, target: Tensor) -> Tensor:
    return torch.zeros_like(logits).scatter_(1, target.unsqueeze(1), 1).bool()


def others_mask(logits: Tensor, target: Tensor) -> Tensor:
    return torch.ones_like(logits).scatter_(1, target.unsqueeze(1), 0).bool()


def two(p: Tensor, first: Tensor, second: Tensor) -> Tensor:
    return torch.cat([(p * first).sum(1, keepdim=True), (p * second).sum(1, keepdim=True)], 1)


def dkd(student: Tensor, teacher: Tensor, target: Tensor) -> Tensor:
    alpha, beta, temperature = 1.0, 8.0, 4.0
    label, others = label_mask(student, target), others_mask(student, target)
    q, p = F.softmax(student / temperature, 1), F.softmax(teacher / temperature, 1)
    log_q, p = torch.log(two(q, label, others)), two(p, label, others)
    first = F.kl_div(log_q, p, reduction="sum") * temperature**2 / len(target)
    rest_p = F.softmax(teacher / temperature - 1000.0 * label, 1)
    rest_log_q = F.log_softmax(student / temperature - 1000.0 * label, 1)
    second = F.kl_div(rest_log_q, rest_p, reduction="sum") * temperature**2 / len(target)
    return alpha * first + beta * second


def nkd(student: Tensor, teacher: Tensor, target: Tensor) -> Tensor:
    gamma, temperature = 1.5, 1.0
    label = target.unsqueeze(1)
    log_q, p = F.log_softmax(student, 1), F.softmax(teacher, 1)
    first = -(p.gather(1, label).detach() * log_q.gather(1, label)).mean()
    mask = others_mask(student, target)
    rest_s, rest_t = student[mask].reshape(len(student), -1), teacher[mask].reshape(len(student), -1)
    log_q, p = F.log_softmax(rest_s / temperature, 1), F.softmax(rest_t / temperature, 1)
    return first - gamma * temperature**2 * (p * log_q).sum(1).mean()


def uskd(student: Tensor, weak: Tensor, target: Tensor) -> Tensor:
    alpha, beta, mu = 1.0, 0.1, 0.005
    size, classes = student.shape
    label = target.unsqueeze(1)
    sure = F.softmax(student, 1).gather(1, label) ** 2
    sure = (sure + torch.ones_like(label) - sure.mean(0, True)).detach()
    log_q = F.log_softmax(student, 1)
    log_label = log_q.gather(1, label)
    first = -(sure * log_label).sum(1).mean()
    smooth = torch.zeros_like(student).scatter_(1, label, 0.9) + 0.1 * torch.ones_like(student) / classes
    third = -(mu * smooth * F.log_softmax(weak, 1)).sum(1).mean()
    w = F.softmax(weak, 1)
    scores = w / (1 - w.gather(1, label).sum(1, True) + 1e-6) + log_q / (1 - log_label.sum(1, True) + 1e-6)
    _, order = torch.sort(scores, descending=True, dim=-1)
    zipf = (1 / torch.arange(1, classes + 1)).repeat(size, 1).gather(1, torch.argsort(order))
    mask = others_mask(student, target)
    rest = F.log_softmax(student[mask].reshape(size, -1), 1)
    ranked = zipf[mask].reshape(size, -1)
    ranked = (ranked / ranked.sum(1, keepdim=True)).detach()
    return alpha * first - beta * (ranked * rest).sum(1).mean() + third


def correlation(a: Tensor, b: Tensor) -> Tensor:
    a, b = a - a.mean(1).unsqueeze(1), b - b.mean(1).unsqueeze(1)
    return (a * b).sum(1) / (a.norm(dim=1) * b.norm(dim=1) + 1e-8)


def dist(student: Tensor, teacher: Tensor, target: Tensor) -> Tensor:
    temperature = 4.0
    q, p = (student / temperature).softmax(1), (teacher / temperature).softmax(1)
    inter = 1 - correlation(q, p).mean()
    intra = 1 - correlation(q.transpose(0, 1), p.transpose(0, 1)).mean()
    return temperature**2 * (inter + intra)


def powers(student: Tensor, teacher: Tensor) -> tuple[Tensor, Tensor]:
    p = torch.pow(torch.softmax(teacher, 1), 0.1)
    norm = torch.sum(p, 1)
    p = p / norm.unsqueeze(1)
    return norm, torch.sum(F.kl_div(F.log_softmax(student, 1), p, reduction="none"), 1)


def ttm(student: Tensor, teacher: Tensor, target: Tensor) -> Tensor:
    return torch.mean(powers(student, teacher)[1])


def wttm(student: Tensor, teacher: Tensor, target: Tensor) -> Tensor:
    norm, rows = powers(student, teacher)
    return torch.mean(norm * rows)


def wsld(student: Tensor, teacher: Tensor, target: Tensor) -> Tensor:
    alpha, temperature = 2.25, 4.0
    soft = -torch.sum(F.softmax(teacher / temperature, 1) * F.log_softmax(student / temperature, 1), 1, keepdim=True)
    one_hot = F.one_hot(target, student.shape[1]).float()
    of_student = -torch.sum(one_hot * F.log_softmax(student.detach(), 1), 1, keepdim=True)
    of_teacher = -torch.sum(one_hot * F.log_softmax(teacher.detach(), 1), 1, keepdim=True)
    weight = 1 - torch.exp(-torch.max(of_student / (of_teacher + 1e-7), torch.zeros(1)))
    return alpha * temperature**2 * torch.mean(weight * soft)


def luminet(student: Tensor, teacher: Tensor, target: Tensor) -> Tensor:
    def perception(logits: Tensor) -> Tensor:
        mean, variance = torch.mean(logits, 0, keepdim=True), torch.var(logits, 0, keepdim=True, unbiased=False)
        return (logits - mean) / torch.sqrt(variance + 1e-5)

    s, t = perception(student), perception(teacher)
    return 33.0**2 * F.kl_div(F.log_softmax(s / 4.0, 1), F.softmax(t / 4.0, 1), reduction="batchmean")


def dtkd(student: Tensor, teacher: Tensor, target: Tensor) -> Tensor:
    alpha, beta, temperature = 3.0, 1.0, 4.0
    a, b = student.max(1, keepdim=True)[0], teacher.max(1, keepdim=True)[0]
    of_student, of_teacher = 2 * a / (b + a) * temperature, 2 * b / (b + a) * temperature
    rows = F.kl_div(F.log_softmax(student / of_student, 1), F.softmax(teacher / of_teacher, 1), reduction="none")
    dynamic = (rows.sum(1, keepdim=True) * of_teacher * of_student).mean()
    return alpha * dynamic + beta * kd(student, teacher, temperature=temperature)


def rld(student: Tensor, teacher: Tensor, target: Tensor) -> Tensor:
    alpha, beta, temperature = 1.0, 8.0, 4.0
    top = torch.argmax(teacher, 1)
    q = two(F.softmax(student, 1), label_mask(student, target), others_mask(student, target))
    p = two(F.softmax(teacher, 1), label_mask(teacher, top), others_mask(teacher, top))
    first = F.kl_div(torch.log(q), p, reduction="batchmean")
    hidden = torch.where(teacher >= torch.gather(teacher, 1, target.unsqueeze(1)), 1, 0).bool()
    log_q = F.log_softmax((student / temperature).masked_fill(hidden, -1e9), 1)
    p = F.softmax((teacher / temperature).masked_fill(hidden, -1e9), 1)
    return alpha * first + beta * temperature**2 * F.kl_div(log_q, p, reduction="batchmean")


def skd(student: Tensor, teacher: Tensor, target: Tensor) -> Tensor:
    instance = F.kl_div(F.log_softmax(student / 4.0, 1), F.softmax(teacher / 4.0, 1), reduction="batchmean")
    s, t = F.normalize(student, dim=1), F.normalize(teacher, dim=1)
    difference = s @ s.T - t @ t.T
    inverse = torch.inverse(torch.cov(difference.T) + 0.1 * torch.eye(len(s)))
    forms = torch.einsum("ij,jk,ik->i", difference, inverse, difference)
    return instance + torch.sqrt(forms).mean()


def tfkd_reg(student: Tensor, teacher: Tensor, target: Tensor) -> Tensor:
    correct, temperature = 0.99, 20.0
    virtual = torch.ones_like(student) * (1 - correct) / (student.shape[1] - 1)
    for i in range(len(student)):
        virtual[i, target[i]] = correct
    return F.kl_div(F.log_softmax(student, 1), F.softmax(virtual / temperature, 1), reduction="none").mean()


def tfkd_self(student: Tensor, teacher: Tensor, target: Tensor) -> Tensor:
    log_q, p = F.log_softmax(student / 20.0, 1), F.softmax(teacher / 20.0, 1)
    return F.kl_div(log_q, p, reduction="none").mean() * 20.0**2


def pld(student: Tensor, teacher: Tensor, target: Tensor) -> Tensor:
    _, order = teacher.scatter(1, target.unsqueeze(1), math.inf).sort(descending=True, dim=-1)
    scores = student.gather(1, order)
    left = torch.logcumsumexp(scores.flip(dims=[1]), 1).flip(dims=[1])
    weights = F.softmax(teacher, 1).gather(1, order)
    return torch.mean(torch.sum(weights * (left - scores), 1))


def ofa(student: Tensor, teacher: Tensor, target: Tensor) -> Tensor:
    label = F.one_hot(target, student.shape[1])
    q, p = F.softmax(student, 1), F.softmax(teacher, 1)
    return torch.sum(-((p + label) ** 1.0 - label) * torch.log(q), -1).mean()


def dhkd(student: Tensor, teacher: Tensor) -> Tensor:
    q = torch.clamp(torch.sigmoid((student - teacher) / 2.0), min=1e-8, max=1 - 1e-8)
    p = torch.full_like(q, 0.5)
    loss = F.kl_div(torch.log(q), p, reduction="none") + F.kl_div(torch.log(1 - q), 1 - p, reduction="none")
    return 2.0**2 * loss.sum() / len(student)


def deit_hard(class_head: Tensor, token_head: Tensor, teacher: Tensor, target: Tensor) -> Tensor:
    return 0.5 * F.cross_entropy(class_head, target) + 0.5 * F.cross_entropy(token_head, teacher.argmax(1))


def deit_soft(class_head: Tensor, token_head: Tensor, teacher: Tensor, target: Tensor) -> Tensor:
    log_q, log_p = F.log_softmax(token_head / 3.0, 1), F.log_softmax(teacher / 3.0, 1)
    soft = F.kl_div(log_q, log_p, reduction="sum", log_target=True) * 3.0**2 / len(teacher)
    return 0.9 * F.cross_entropy(class_head, target) + 0.1 * soft


def mlld(student: Tensor, teacher: Tensor, target: Tensor) -> Tensor:
    (student_weak, student_strong), (teacher_weak, teacher_strong) = student.chunk(2), teacher.chunk(2)

    def of_classes(student: Tensor, teacher: Tensor, temperature: float) -> Tensor:
        q, p = F.softmax(student / temperature, 1), F.softmax(teacher / temperature, 1)
        return ((torch.mm(p.transpose(1, 0), p) - torch.mm(q.transpose(1, 0), q)) ** 2).sum() / student.shape[1]

    def of_batch(student: Tensor, teacher: Tensor, temperature: float) -> Tensor:
        q, p = F.softmax(student / temperature, 1), F.softmax(teacher / temperature, 1)
        return ((torch.mm(p, p.transpose(1, 0)) - torch.mm(q, q.transpose(1, 0))) ** 2).sum() / len(student)

    p = F.softmax(teacher_weak.detach(), 1)
    mask, class_mask = (x.le(x.quantile(0.5)).bool() for x in (p.max(1)[0], p.sum(0)))
    weak, strong = (student_weak, teacher_weak), (student_strong, teacher_strong)
    loss = torch.zeros(())
    for t in (4.0, 3.0, 5.0, 2.0, 6.0):
        loss = loss + (kd(*weak, temperature=t) * mask).mean()
        loss = loss + kd(*(strong if t in (4.0, 3.0, 5.0) else weak), temperature=t)
        loss = loss + (of_classes(*weak, t) * class_mask).mean() + (of_batch(*weak, t) * mask).mean()
    return loss


def crld(student: Tensor, teacher: Tensor, target: Tensor) -> Tensor:
    (student_weak, student_strong), (teacher_weak, teacher_strong) = student.chunk(2), teacher.chunk(2)

    def rows(student: Tensor, teacher: Tensor) -> Tensor:
        log_q, p = F.log_softmax(student / 4.0, 1), F.softmax(teacher / 4.0, 1)
        return F.kl_div(log_q, p, reduction="none").sum(1) * 4.0**2

    weak = F.softmax(teacher_weak.detach(), 1).max(1)[0].ge(0.9).bool()
    strong = F.softmax(teacher_strong.detach(), 1).max(1)[0].ge(0.2).bool()
    within = ((rows(student_weak, teacher_weak) + rows(student_strong, teacher_strong)) * weak).mean()
    across = ((rows(student_strong, teacher_weak) + rows(student_weak, teacher_strong)) * strong).mean()
    return 2.0 * within + 0.5 * across


def sdd(student: Tensor, teacher: Tensor, target: Tensor) -> Tensor:
    # the cells of the authors' networks come as (batch, classes, cells)
    s, t = (x.transpose(1, 2).permute(2, 0, 1).reshape(-1, x.shape[-1]) for x in (student, teacher))
    labels = target.repeat(CELLS)
    rows = F.kl_div(F.log_softmax(s / 4.0, 1), F.softmax(t / 4.0, 1), reduction="none") * 4.0**2
    rows[torch.isnan(rows)] = 0.0
    rows = torch.sum(rows, 1)
    right = torch.argmax(t, 1) == labels
    right_as_a_whole = right[: len(target)].repeat(CELLS)
    weight = torch.zeros_like(rows)
    weight[right == right_as_a_whole] = 1.0
    weight[right != right_as_a_whole] = 2.0
    return torch.sum(rows * weight) / len(labels)


def wkdl(student: Tensor, teacher: Tensor, target: Tensor, costs: Tensor) -> Tensor:
    gamma, temperature, regularisation, iterations = 600.0, 8.0, 0.05, 10
    size, classes = student.shape
    label = target.unsqueeze(1)
    log_q, p = F.log_softmax(student, 1), F.softmax(teacher, 1)
    first = -(p.gather(1, label).detach() * log_q.gather(1, label)).mean()
    mask = others_mask(student, target)
    q = F.softmax(student[mask].reshape(size, -1) / temperature, -1)
    p = F.softmax(teacher[mask].reshape(size, -1) / temperature, -1)
    pairs = mask.unsqueeze(1) * mask.unsqueeze(2)
    cost = costs.repeat(size, 1, 1)[pairs].reshape(size, classes - 1, classes - 1)
    cost = F.relu(cost) + 1e-8
    q, p = q.unsqueeze(-1), p.unsqueeze(-1)
    u = torch.ones_like(q) / (classes - 1)
    kernel = torch.exp(-cost / regularisation)
    for _ in range(iterations):
        v = p / (torch.bmm(kernel.transpose(2, 1), u) + 1e-8)
        u = q / (torch.bmm(kernel, v) + 1e-8)
    flow = u.reshape(size, -1, 1) * kernel * v.reshape(size, 1, -1)
    return first + gamma * (flow * cost).sum(-1).sum(-1).mean()


def byot(exit_logits: Tensor, deepest: Tensor, target: Tensor) -> Tensor:
    log_q, p = F.log_softmax(exit_logits / 3.0, 1), F.softmax(deepest / 3.0, 1)
    return 0.7 * F.cross_entropy(exit_logits, target) + 0.3 * F.kl_div(log_q, p, reduction="batchmean")


def hierarchical(student: Tensor, early: Tensor, teacher: Tensor, target: Tensor) -> Tensor:
    return 0.5 * kd(early, teacher) + kd(student, teacher)


def lelp(student: Tensor, split: Tensor, teacher: Tensor, coordinates: Tensor) -> Tensor:
    within = F.softmax(coordinates, -1)
    p = F.softmax(teacher / 4.0, -1).unsqueeze(-1) * within
    q = F.softmax(student / 4.0, -1).unsqueeze(-1) * F.softmax(split / 4.0, -1)
    return 4.0**2 * F.kl_div(torch.log(q).flatten(1), p.flatten(1), reduction="batchmean")


def meal_v2(student: Tensor, teacher: Tensor, discriminator: nn.Module) -> Tensor:
    log_q, p = F.log_softmax(student, 1), F.softmax(teacher, 1)
    answers = torch.cat([log_q, F.log_softmax(teacher, 1)])
    whose = torch.cat([torch.ones(len(student), 1), torch.zeros(len(student), 1)])
    return -(log_q * p).sum(1).mean() + F.binary_cross_entropy_with_logits(discriminator(answers), whose)


def ssld(student: Tensor, teacher: Tensor, target: Tensor) -> Tensor:
    q, p = F.softmax(student, -1), F.softmax(teacher, -1)
    forward, reverse = (F.kl_div(torch.log(a), b, reduction="none").sum(-1) for a, b in ((q, p), (p, q)))
    return (forward + reverse).mean() / 2


def churn_reduction(student: Tensor, teacher: Tensor, target: Tensor) -> Tensor:
    return F.cross_entropy(student, 0.5 * F.softmax(teacher, 1) + 0.5 * F.one_hot(target, student.shape[1]))


def anchor_rcp(student: Tensor, teacher: Tensor, target: Tensor) -> Tensor:
    label = F.one_hot(target, student.shape[1])
    right = (teacher.argmax(1) == target).unsqueeze(1)
    mixed = torch.where(right, 0.5 * F.softmax(teacher, 1) + 0.5 * label, 0.5 * label)
    return F.cross_entropy(student, mixed)


def fkd(student: Tensor, teacher: Tensor, target: Tensor) -> Tensor:
    return torch.mean(torch.sum(-F.softmax(teacher, 1) * F.log_softmax(student, 1), 1))


def ferkd(student: Tensor, teacher: Tensor, target: Tensor) -> Tensor:
    p, classes = F.softmax(teacher, 1), student.shape[1]
    sure = p.gather(1, target.unsqueeze(1))
    smooth = torch.full_like(p, 0.1 / (classes - 1)).scatter_(1, target.unsqueeze(1), 0.9)
    labels, kept = torch.where(sure < 0.3, smooth, p), ((sure >= 0.15) & (sure <= 1.0)).squeeze(1)
    return torch.mean(torch.sum(-labels[kept] * F.log_softmax(student[kept], 1), 1))


def probability_mse(student: Tensor, teacher: Tensor, target: Tensor) -> Tensor:
    return F.mse_loss(F.softmax(student, 1), F.softmax(teacher, 1))


def forward_kl(student: Tensor, teacher: Tensor, target: Tensor) -> Tensor:
    log_q, log_p = F.log_softmax(student, -1), F.log_softmax(teacher, -1)
    return F.kl_div(log_q, log_p, reduction="none", log_target=True).sum() / len(student)


def cross_entropy(student: Tensor, teacher: Tensor) -> Tensor:
    infinite = torch.isinf(student)
    p, log_q = F.softmax(teacher, -1), F.log_softmax(student, -1)
    return -torch.masked_fill(p * log_q, infinite, 0).sum(-1).mean()


def reverse_kl(student: Tensor, teacher: Tensor, target: Tensor) -> Tensor:
    q, log_q, log_p = F.softmax(student, -1), F.log_softmax(student, -1), F.log_softmax(teacher, -1)
    infinite = torch.isinf(teacher) | torch.isinf(student)
    rows = torch.masked_fill(q * log_p, infinite, 0)
    rows = rows - torch.masked_fill(q * log_q, infinite, 0)
    return -rows.sum(-1).mean()


def mixed_kl(student: Tensor, teacher: Tensor, target: Tensor) -> Tensor:
    return 0.5 * cross_entropy(student, teacher) + 0.5 * reverse_kl(student, teacher, target)


def jsd(student: Tensor, teacher: Tensor, target: Tensor) -> Tensor:
    beta = torch.tensor(0.5)
    log_q, log_p = F.log_softmax(student, -1), F.log_softmax(teacher, -1)
    mixture = torch.logsumexp(torch.stack([log_q + torch.log1p(-beta), log_p + torch.log(beta)]), dim=0)
    of_teacher = F.kl_div(mixture, log_p, reduction="none", log_target=True)
    of_student = F.kl_div(mixture, log_q, reduction="none", log_target=True)
    return (beta * of_teacher + (1 - beta) * of_student).sum() / len(student)


def normalised_jsd(student: Tensor, teacher: Tensor, target: Tensor) -> Tensor:
    return 4 * jsd(student, teacher, target)


def skew_forward_kl(student: Tensor, teacher: Tensor, target: Tensor) -> Tensor:
    p, q = F.softmax(teacher, -1), F.softmax(student, -1)
    log_mixture = torch.log(0.1 * p + 0.9 * q)
    infinite = torch.isinf(student) | torch.isinf(teacher)
    return -torch.masked_fill(p * log_mixture, infinite, 0).sum(-1).mean()


def skew_reverse_kl(student: Tensor, teacher: Tensor, target: Tensor) -> Tensor:
    p, q = F.softmax(teacher, -1), F.softmax(student, -1)
    mixture = 0.9 * p + 0.1 * q
    log_q, log_mixture = F.log_softmax(student, -1), torch.log(mixture)
    infinite = torch.isinf(student) | torch.isinf(teacher)
    rows = torch.masked_fill(q * log_mixture, infinite, 0)
    rows = rows - torch.masked_fill(q * log_q, infinite, 0)
    return -rows.sum(-1).mean()


def tvd(student: Tensor, teacher: Tensor, target: Tensor) -> Tensor:
    p, q = F.softmax(teacher, -1), F.softmax(student, -1)
    infinite = torch.isinf(student) | torch.isinf(teacher)
    return (0.5 * torch.masked_fill(torch.abs(p - q), infinite, 0)).sum(-1).mean()


def alpha_beta(student: Tensor, teacher: Tensor, target: Tensor) -> Tensor:
    alpha, beta = 0.2, 0.7
    p, q = F.softmax(teacher, -1), F.softmax(student, -1)
    infinite = torch.isinf(student) | torch.isinf(teacher)
    rows = (torch.pow(p, alpha) * torch.pow(q, beta)).masked_fill(infinite, 0)
    rows = rows - (alpha / (alpha + beta) * torch.pow(p, alpha + beta)).masked_fill(infinite, 0)
    rows = rows - (beta / (alpha + beta) * torch.pow(q, alpha + beta)).masked_fill(infinite, 0)
    return (-rows.sum(-1) / (alpha * beta)).mean()


def adaptive_kl(student: Tensor, teacher: Tensor, target: Tensor) -> Tensor:
    p, q = F.softmax(teacher, -1), F.softmax(student, -1).detach()
    ordered, order = p.sort(dim=-1, descending=True)
    errors = torch.abs(ordered - q.gather(-1, order))
    tail = torch.cumsum(ordered, -1) > 0.5
    tail[:, 0] = False
    of_head, of_tail = errors.masked_fill(tail, 0.0).sum(-1), errors.masked_fill(~tail, 0.0).sum(-1)
    infinite = torch.isinf(student)

    def kl(teacher: Tensor, student: Tensor, share: Tensor) -> Tensor:
        p, log_p, log_q = F.softmax(teacher, -1), F.log_softmax(teacher, -1), F.log_softmax(student, -1)
        entropy, cross = ((p * x).masked_fill(infinite, 0).sum(-1) for x in (log_p, log_q))
        return ((entropy - cross) * share).mean()

    both = of_head + of_tail
    return kl(teacher, student, of_head / both) + kl(student, teacher, of_tail / both)


def entropy(teacher: Tensor, **_: object) -> Tensor:
    """What a cross entropy is above a divergence; it has no gradient for the student."""
    return torch.distributions.Categorical(logits=teacher).entropy().mean()


REFERENCES: dict[str, Callable[..., Tensor]] = {
    "AnchorRCP": anchor_rcp,
    "BKD": bkd,
    "BYOT": byot,
    "CRLD": crld,
    "ChurnReduction": churn_reduction,
    "DHKD": dhkd,
    "DIST": dist,
    "DKD": dkd,
    "DTKD": dtkd,
    "DeiTHard": deit_hard,
    "DeiTSoft": deit_soft,
    "DivergenceKD(AdaptiveKL)": adaptive_kl,
    "DivergenceKD(AlphaBeta)": alpha_beta,
    "DivergenceKD(ForwardKL)": forward_kl,
    "DivergenceKD(JSD)": jsd,
    "DivergenceKD(MixedKL)": mixed_kl,
    "DivergenceKD(NormalisedJSD)": normalised_jsd,
    "DivergenceKD(ReverseKL)": reverse_kl,
    "DivergenceKD(SkewForwardKL)": skew_forward_kl,
    "DivergenceKD(SkewReverseKL)": skew_reverse_kl,
    "DivergenceKD(TVD)": tvd,
    "FKD": fkd,
    "FerKD": ferkd,
    "Hierarchical": hierarchical,
    "KD": kd,
    "LELP": lelp,
    "LogitMSE": logit_mse,
    "LumiNet": luminet,
    "MEALV2": meal_v2,
    "MLLD": mlld,
    "NKD": nkd,
    "OFA": ofa,
    "PLD": pld,
    "ProbabilityMSE": probability_mse,
    "RLD": rld,
    "SDD": sdd,
    "SKD": skd,
    "SSLD": ssld,
    "TTM": ttm,
    "TfKDReg": tfkd_reg,
    "TfKDSelf": tfkd_self,
    "USKD": uskd,
    "WKDL": wkdl,
    "WSLD": wsld,
    "WTTM": wttm,
}

#: By how much a reference exceeds the term where its authors leave out what the student cannot change.
CONSTANTS: dict[str, Callable[..., Tensor]] = {
    "DivergenceKD(MixedKL)": lambda **given: entropy(**given) / 2,
    "DivergenceKD(SkewForwardKL)": entropy,
    "MEALV2": entropy,
}
