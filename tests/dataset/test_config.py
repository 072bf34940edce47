"""dataset.toml: what is read from it, and what each wrong key is told."""

from pathlib import Path

import pytest

from msd.dataset.config import DatasetConfig, load_config
from msd.dataset.problem import DatasetError
from tests.dataset.small import CONFIG, feature


def load(folder: Path, text: str) -> DatasetConfig:
    (folder / "dataset.toml").write_text(text, encoding="utf-8")
    return load_config(folder)


def test_names_of_features_may_have_capitals(tmp_path: Path) -> None:
    text = CONFIG + feature("C14", "context", "categorical") + feature("c14", "context", "categorical")
    (tmp_path / "dataset.toml").write_text(text)
    names = [one.name for one in load_config(tmp_path).side("context")]
    assert names[-2:] == ["C14", "c14"]


def test_configuration_fills_in_defaults(tmp_path: Path) -> None:
    config = load(tmp_path, CONFIG)
    assert config.events.label == "label"
    assert config.users is not None
    assert [feature.name for feature in config.side("item")] == ["tags", "price"]
    assert (config.split.profile_window, config.split.train, config.split.valid) == (0.5, 0.8, 0.9)
    assert (config.history.length, config.ids.min_count, config.semantic_dim) == (50, 2, 128)
    assert config.features[0].source == "tags"


def test_users_and_features_may_be_left_out(tmp_path: Path) -> None:
    config = load(tmp_path, 'format = 1\nname = "x"\n[events]\nfile = "e.csv"\n[items]\nfile = "i.csv"\ntext = "{t}"\n')
    assert config.users is None
    assert config.features == []


FEATURE = feature("position", "context", "categorical")


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("format = 1", "format = 2", "format: should be 1"),
        ("format = 1", "format = true", "format: should not be true or false"),
        ("format = 1\n", "", "format: is missing"),
        ('name = "small"', 'name = "../small"', "name: should match pattern"),
        ("format = 1", "format = 1\nsemantic_dim = 2", "semantic_dim: should be greater than or equal to 8"),
        ("format = 1", "format = 1\nsplits = 3", "splits: unknown key; allowed are format, name"),
        ('file = "events.csv"', 'file = "events.csv"\nuser = "u"', "events.user: unknown key"),
        ('file = "events.csv"', 'file = "../events.csv"', "events.file: should be a path inside the dataset's folder"),
        ('file = "events.csv"', 'file = "/etc/e.csv"', "events.file: should be a path inside the dataset's folder"),
        ('file = "events.csv"', 'file = "a\\\\b.csv"', "events.file: should be a path inside the dataset's folder"),
        ('file = "events.csv"', 'file = "e.xls"', "events.file: should end in one of .parquet, .csv, .csv.gz"),
        ('side = "user"', 'side = "usr"', "features[2] (city).side: should be 'user', 'item' or 'context'"),
        ('kind = "bag"', 'kind = "set"', "features[0] (tags).kind: should be 'categorical', 'bag' or 'numeric'"),
        ('kind = "bag"', 'kind = "bag"\nmax_values = 0', "features[0] (tags).max_values: should be greater than"),
        ('kind = "bag"', 'kind = "bag"\nlog = true', "features[0] (tags): log does not go with kind 'bag'"),
        ('kind = "numeric"', 'kind = "numeric"\nbuckets = 9', "features[1] (price): buckets does not go with kind"),
        ('name = "price"', 'name = "part"', "features[1] (part): the name 'part' is reserved"),
        ('name = "price"', 'name = "label"', "features[1] (label): the name 'label' is reserved, as are user_id"),
        ('name = "price"', 'name = "Price!"', "features[1] (Price!).name: should match pattern"),
        ('name = "price"', 'name = "tags"', "these feature names occur twice: tags"),
        ("[users]", "[split]\ntrain = 0.95\n[users]", "split: the cuts should ascend"),
        ("[users]", "[split]\ntrain = 1.0\n[users]", "split.train: should be less than 1"),
        ("[users]", "[counts]\nhalf_life_days = inf\n[users]", "half_life_days: should be a finite number"),
        (
            '[users]\nfile = "users.csv"\ntext = "from {city}"\n',
            "",
            "features of the user side (city) need a [users] section",
        ),
        (CONFIG, CONFIG + FEATURE + "serving_value = true\n", "(position).serving_value: should be a string or"),
        (CONFIG, CONFIG + FEATURE + "serving_value = 1.5\n", "should be a string or a whole number"),
        (
            CONFIG,
            CONFIG + FEATURE.replace("categorical", "numeric") + 'serving_value = "1"\n',
            "serving_value of a numeric feature should be a number",
        ),
        (CONFIG, CONFIG + FEATURE.replace("context", "item") + "serving_value = 1\n", "is for context features only"),
        (CONFIG, CONFIG + "[oops\n", "cannot be read as TOML"),
        (CONFIG, f"x = {'[' * 9_999}", "cannot be read as TOML"),
        (CONFIG, CONFIG + 'name = "again"\nname = "again"\n', "cannot be read as TOML"),
    ],
)
def test_wrong_key_is_named_with_allowed_values(tmp_path: Path, old: str, new: str, message: str) -> None:
    assert old in CONFIG
    with pytest.raises(DatasetError) as error:
        load(tmp_path, CONFIG.replace(old, new, 1))
    assert message in str(error.value)
    assert "dataset.toml" in str(error.value)


def test_every_wrong_key_is_named(tmp_path: Path) -> None:
    text = CONFIG.replace("format = 1", "format = 3").replace('kind = "bag"', 'kind = "set"')
    with pytest.raises(DatasetError) as error:
        load(tmp_path, text)
    assert [problem.column for problem in error.value.problems] == ["format", "features[0] (tags).kind"]


def test_unreadable_configurations_differ(tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match="no such folder"):
        load_config(tmp_path / "nowhere")
    with pytest.raises(DatasetError, match="a dataset is a folder with this file"):
        load_config(tmp_path)
    (tmp_path / "dataset.toml").write_bytes(b"name = '\xff'")
    with pytest.raises(DatasetError, match="cannot be read as TOML"):
        load_config(tmp_path)
