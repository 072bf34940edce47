"""Each mistake of a newcomer ends in one message, which is the one that docs/mistakes.md shows."""

from pathlib import Path

import pytest

from tests.docs import generated
from tests.docs.mistakes import MISTAKES, Mistake, row_of, told

CASES = [mistake for group in MISTAKES.values() for mistake in group]


@pytest.mark.parametrize("mistake", CASES, ids=[mistake.what for mistake in CASES])
def test_mistake_is_told_as_the_page_says(mistake: Mistake, tmp_path: Path) -> None:
    message, code = told(mistake, tmp_path)

    assert code in (1, 2)
    assert 20 < len(message) < 500
    assert row_of(mistake, message) in generated.MISTAKES.read_text("utf-8"), "run `make docs-files`"


def test_page_has_no_other_mistakes() -> None:
    page = generated.MISTAKES.read_text("utf-8")

    assert page.count("\n| ") - page.count("\n| mistake |") == len(CASES) >= 40
