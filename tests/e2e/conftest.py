"""One run of the whole path, from dataset to bundle, for all tests of it."""

import pytest

from tests.e2e.pipeline import Pipeline, write_inputs
from tests.service.live import run_msd
from tests.student.small import short_student


@pytest.fixture(scope="session")
def pipeline(tmp_path_factory: pytest.TempPathFactory) -> Pipeline:
    """Every offline step, done with a student of two layers; nobody changes the folders. A newcomer's is whole."""
    made = write_inputs(tmp_path_factory.mktemp("pipeline"))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("msd.student.step.new_student", short_student)
        for line in (made.distill, made.train, made.train_plain, made.evaluate, made.export):
            # In this process, which spares each of them the loading of torch.
            done = run_msd(*map(str, line))
            assert done.returncode == 0, done.stdout + done.stderr
            assert "done before" not in done.stdout
    return made
