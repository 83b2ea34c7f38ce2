import pytest

from fastgan.train.recipe import find, names
from fastgan.train.recipes.images import Settings


@pytest.mark.parametrize(
    ("setting", "value", "message"),
    [
        ("batch", 1, "batch = 1: expected at least 2"),
        ("batch", 2.5, "batch = 2.5: expected int"),
        ("batch", True, "batch = True: expected int"),
        ("lr_g", -1.0, "lr_g = -1.0: expected at least 0.0"),
        ("lr_d", float("nan"), "lr_d = nan: expected a finite number"),
        ("minutes", float("inf"), "minutes = inf: expected a finite number"),
        ("seed", 2**63, f"seed = {2**63}: expected less than {2**63}"),
        ("beta1", 1.0, "beta1 = 1.0: expected less than 1.0"),
        ("channels", 2, "channels = 2: expected one of 1, 3"),
        ("plain", 1, "plain = 1: expected bool"),
        ("penalty", "r3", "penalty = 'r3': expected one of none, r1, r1r2, wgan-gp"),
        ("penalty_weight", -1.0, "penalty_weight = -1.0: expected at least 0.0"),
        ("penalty_every", 0, "penalty_every = 0: expected at least 1"),
        ("data", None, "data = None: expected str"),
    ],
)
def test_bad_setting_is_refused(setting, value, message):
    with pytest.raises(ValueError, match=f"^{message}$"):
        Settings(**{setting: value})


def test_json_round_trip():
    config = Settings(minutes=2, seed=7)
    assert config.minutes == 2.0
    assert Settings.from_json(config.to_json()) == config


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (None, "settings are None: expected an object"),
        ([1], r"settings are \[1\]: expected an object"),
        ({"widht": 3}, "unknown setting 'widht': expected one of data, out"),
        ({"width": "3"}, "width = '3': expected int"),
    ],
)
def test_malformed_json_is_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        Settings.from_json(settings)


@pytest.mark.parametrize("name", names())
def test_defaults_are_valid(name):
    settings = find(name).Settings
    assert settings.from_json(settings().to_json()) == settings()
