"""One run of the whole path, from dataset to bundle, for all tests of it."""

import pytest
import torch

from tests.e2e.pipeline import Pipeline, write_inputs
from tests.service.live import run_msd


@pytest.fixture(scope="session")
def pipeline(tmp_path_factory: pytest.TempPathFactory) -> Pipeline:
    """Every offline step, done; nobody changes the folders."""
    made = write_inputs(tmp_path_factory.mktemp("pipeline"))
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    for line in (made.distill, made.train, made.train_plain, made.evaluate, made.export):
        # In this process, which spares each of them the loading of torch.
        done = run_msd(*map(str, line))
        assert done.returncode == 0, done.stdout + done.stderr
        assert "done before" not in done.stdout
    torch.set_num_threads(threads)
    return made
