import pytest
import torch

from .golden_table import adapter_of, names
from .untrained import untrained, workshop  # noqa: F401 -- fixtures


def pytest_terminal_summary(terminalreporter):
    """List the golden cases that nothing checks."""
    missing = [name for name in names() if adapter_of(name) is None]
    if missing:
        terminalreporter.section(f"golden cases not covered: {len(missing)}")
        for name in missing:
            terminalreporter.write_line(name)


# What modules make while they are collected, and what each test draws, is the same in every run.
torch.manual_seed(0)


@pytest.fixture(autouse=True)
def seeded():
    torch.manual_seed(0)
