"""One run of the whole path, from dataset to bundle, for all tests of it."""

import pytest

from tests.e2e.pipeline import Pipeline, msd, side_by_side, write_inputs


@pytest.fixture(scope="session")
def pipeline(tmp_path_factory: pytest.TempPathFactory) -> Pipeline:
    """Every offline step, done; nobody changes the folders."""
    made = write_inputs(tmp_path_factory.mktemp("pipeline"))
    for done in (
        *side_by_side(made.distill, made.train_plain),
        msd(*made.train),
        msd(*made.evaluate),
        msd(*made.export),
    ):
        assert done.returncode == 0, done.stdout + done.stderr
        assert "done before" not in done.stdout
    return made
