import torch

from lit_distill.losses.relational import sp


def test_rows_are_normalised_each_by_itself():
    student, teacher = torch.randn(5, 3).double(), torch.randn(5, 4).double()

    def rows(x):
        similarities = x @ x.T
        return torch.stack([row / row.norm() for row in similarities])

    torch.testing.assert_close(sp(student, teacher), (rows(student) - rows(teacher)).norm() ** 2 / 25)


def test_dimensions_after_the_batch_are_one():
    student, teacher = torch.randn(5, 3, 2, 2), torch.randn(5, 16, 4)
    assert sp(student, teacher) == sp(student.flatten(1), teacher.flatten(1))


def test_norms_of_samples_matter_and_that_of_all_does_not():
    torch.manual_seed(0)
    student, teacher = torch.randn(5, 3).double(), torch.randn(5, 4).double()
    torch.testing.assert_close(sp(100 * student, teacher), sp(student, teacher))
    longer = student * torch.tensor([1.0, 2.0, 1.0, 1.0, 1.0])[:, None]
    assert (sp(longer, teacher) - sp(student, teacher)).abs() > 1e-3


def test_a_sample_that_is_zero_is_like_no_other():
    student, teacher = torch.rand(5, 3).double(), torch.rand(5, 4).double()
    student[2] = 0
    student.requires_grad_()
    value = sp(student, teacher)
    (gradient,) = torch.autograd.grad(value, student)
    rows = torch.stack([r / r.norm() if r.norm() > 0 else r for r in student @ student.T])
    expected = (rows - torch.nn.functional.normalize(teacher @ teacher.T)).square().sum() / 25
    torch.testing.assert_close(value, expected)
    assert gradient.abs().max() < 10
