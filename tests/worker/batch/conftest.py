"""A context with the project's image pins."""

from __future__ import annotations

import pytest
from bouchet_worker.context import WorkerContext

from tests.worker.scenario import REPOSITORY, MakeWorkerContext


@pytest.fixture
def context(make_context: MakeWorkerContext) -> WorkerContext:
    return make_context(pins_dir=REPOSITORY / "apptainer" / "pins", recipe_dir=REPOSITORY / "apptainer")
