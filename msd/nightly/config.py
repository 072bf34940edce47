"""The one file that `msd nightly` reads."""

from pathlib import Path
from typing import Annotated, Self

from pydantic import BaseModel, ConfigDict, Field

from msd.contract.bundle import MANIFEST
from msd.contract.errors import MsdError
from msd.feedback.gate import REVISION, Gate
from msd.feedback.impressions import Windows
from msd.step import fingerprint_of, read_toml

_Hours = Annotated[float, Field(ge=0, allow_inf_nan=False)]


class NightlyError(MsdError):
    """A night cannot begin or go on."""


class _Section(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class WindowConfig(_Section):
    """Times of the join (`msd join`), `days` of events to train on, and the share of the new impressions, the latest,
    that judge the bundles and are trained on a night later."""

    days: Annotated[float, Field(gt=0)] = 90.0
    click_hours: _Hours = 24.0
    conversion_days: _Hours = 30.0
    settle_hours: _Hours = 1.0
    conversion_settle_hours: _Hours = 24.0
    judge_share: Annotated[float, Field(gt=0, lt=1)] = 0.2

    def windows(self, now: float) -> Windows:
        """Return the join's windows at the time `now` (Unix s)."""
        return Windows(
            3_600 * self.click_hours,
            86_400 * self.conversion_days,
            3_600 * self.settle_hours,
            3_600 * self.conversion_settle_hours,
            now,
        )


class InputConfig(_Section):
    """Bounds of the new impressions: the fewest, the largest factor between their click rate and the dataset's, and the
    largest share of new clicks that join no impression."""

    impressions: Annotated[int, Field(ge=1)] = 1_000
    click_rate: Annotated[float, Field(gt=1)] = 3.0
    unjoined_clicks: Annotated[float, Field(ge=0, le=1)] = 0.5


class RefreshConfig(_Section):
    """Of `msd nightly --hourly`. `settle_minutes`: how long an impression waits for its click at least; if 99 % of the
    clicks come later, as long as they take, up to the window's `settle_hours`. `judge_minutes`: the latest impressions,
    which choose and judge; the fewest `clicks` of them. `chance`: probability that an equal bundle seems better.
    `rows`: the most impressions, the latest, that are learned from."""

    settle_minutes: Annotated[float, Field(ge=0, allow_inf_nan=False)] = 5.0
    judge_minutes: Annotated[float, Field(gt=0, allow_inf_nan=False)] = 60.0
    clicks: Annotated[int, Field(ge=1)] = 20
    chance: Annotated[float, Field(gt=0, lt=0.5)] = 0.1
    rows: Annotated[int, Field(ge=100)] = 200_000


class RolloutConfig(_Section):
    """Shares of users that a better bundle scores, one after the other, before it replaces the served one: each for
    `hold_minutes`, until it has `clicks`, and for at most `most_hours`; the last until revenue per request is surely
    higher or lower. `chance`: probability that equal bundles seem so in all looks at a stage, either way. `services`:
    addresses whose /metrics are read; one has to answer, and at most the share `errors` of their requests may fail."""

    shares: Annotated[list[Annotated[float, Field(gt=0, lt=1)]], Field(min_length=1)] = [0.01, 0.1, 0.5]
    hold_minutes: Annotated[float, Field(gt=0)] = 60.0
    most_hours: Annotated[float, Field(gt=0)] = 24.0
    clicks: Annotated[int, Field(ge=1)] = 50
    chance: Annotated[float, Field(gt=0, lt=0.5)] = 0.025
    services: list[Annotated[str, Field(pattern="^https?://[^/]")]] = []
    errors: Annotated[float, Field(ge=0, le=1)] = 0.001


class NightlyConfig(_Section):
    """The whole file. Relative paths start at its folder.

    `logs`: folders or URLs, as `msd join` takes them. `dataset`: what the first night continues. `work`: where nights
    are kept. `bundles`: the folder whose pointer `current` services follow. `corrections`: MSD_CORRECTIONS, to be
    recalibrated. `redis`: where rows are published. `refresh`: between nights. `rollout`: how a better bundle replaces
    the served one; at once without. `teach`: options of `msd teach`, to ask about what is new;
    `knowledge`: what the teacher wrote before. Without `semantics` there is no student. `train` and `export`: further
    options of these commands.
    """

    logs: Annotated[list[str], Field(min_length=1)]
    dataset: Path
    work: Path
    bundles: Path
    corrections: Path | None = None
    redis: str | None = None
    semantics: bool = True
    knowledge: Path | None = None
    teach: list[str] | None = None
    train: list[str] = []
    export: list[str] = []
    window: WindowConfig = WindowConfig()
    input: InputConfig = InputConfig()
    gate: Gate = Gate()
    refresh: RefreshConfig = RefreshConfig()
    rollout: RolloutConfig | None = None

    @property
    def bounds(self) -> str:
        """Return a fingerprint of what decides a night, given its bundle."""
        return fingerprint_of(REVISION, self.gate.model_dump(), self.rollout and self.rollout.model_dump())

    def pointed(self, name: str) -> Path | None:
        """Return the bundle to which a pointer of the folder of bundles leads; None if to none."""
        pointer = self.bundles / name
        if pointer.is_file():
            pointer = self.bundles / pointer.read_text("utf-8").strip()
        return pointer.resolve() if (pointer / MANIFEST).is_file() else None

    def served(self) -> Path:
        """Return the folder of the served bundle. Raises NightlyError."""
        bundle = self.pointed("current")
        if bundle is None:
            place = self.bundles / "current"
            raise NightlyError(f"{place}: leads to no bundle to compare with; point it to the served one")
        return bundle

    @classmethod
    def read(cls, path: Path) -> Self:
        """Read the file. Raises NightlyError."""
        config = read_toml(path, cls, NightlyError)
        base = path.resolve().parent
        places = {name: base / value for name, value in config if isinstance(value, Path)}
        logs = [log if "://" in log else str(base / log) for log in config.logs]
        return config.model_copy(update={**places, "logs": logs})
