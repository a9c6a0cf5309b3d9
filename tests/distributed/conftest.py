from pathlib import Path

import pytest

# Lightning itself: it checks pytrees in a way that torch deprecates, and warns that a frozen teacher is in eval mode.
UPSTREAM = ("ignore:.*LeafSpec.*:FutureWarning", "ignore:Found .* in eval mode at the start of training")


def pytest_collection_modifyitems(items):
    for item in items:
        if Path(__file__).parent in item.path.parents:
            item.add_marker(pytest.mark.distributed)
            for warning in UPSTREAM:
                item.add_marker(pytest.mark.filterwarnings(warning))
