"""Passwords are masked wherever an address stands, and nothing else is."""

import json

import pytest

from menvae.masking import holds_password, masked, without_passwords


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("postgresql+psycopg2://me:secret@db:5432/mlflow", "postgresql+psycopg2://me:***@db:5432/mlflow"),
        ("https://me:se:c@ret@host/api", "https://me:***@host/api"),
        ("mysql://me:se/cret@host/db", "mysql://me:***@host/db"),
        ("mysql://me:1234@host/db", "mysql://me:***@host/db"),
        ("mysql://me:123/ab@host/db", "mysql://me:***@host/db"),
        ("http://host:5000/a@b", "http://host:***@b"),  # may be the password 5000/a
        ("https://token@host/api", "https://***@host/api"),
        (
            "git+https://token:x-oauth-basic@host/a and https://token:@host",
            "git+https://***@host/a and https://***@host",
        ),
        ("http://:secret@host", "http://:***@host"),
        ("mssql://host/db?user=me&PWD=secret&x=1", "mssql://host/db?user=me&PWD=***&x=1"),
        (
            "a -m tracking.uri=http://me:secret@a b=http://me:secret@b",
            "a -m tracking.uri=http://me:***@a b=http://me:***@b",
        ),
        ("https://account/data?sv=2024&sig=ab%2Fc&se=1", "https://account/data?sv=2024&sig=***&se=1"),
        (
            "hydra.job.env_set.MLFLOW_TRACKING_PASSWORD=a&b seed=1",
            "hydra.job.env_set.MLFLOW_TRACKING_PASSWORD=*** seed=1",
        ),
        (
            "++hydra.launcher.environment={A: 1, HF_TOKEN: 'a b', B: 2}",
            "++hydra.launcher.environment={A: 1, HF_TOKEN: ***, B: 2}",
        ),
        # no password
        ("hydra.launcher.KEY=VALUE model.class_token=true", "hydra.launcher.KEY=VALUE model.class_token=true"),
        ("http://host:5000/a/b", "http://host:5000/a/b"),
        ("postgresql://me@host/db", "postgresql://me@host/db"),
        ("wasbs://container@account.blob.core/a", "wasbs://container@account.blob.core/a"),
        ("sqlite:////data/a:b@c/mlflow.db", "sqlite:////data/a:b@c/mlflow.db"),
        ("me@host: a sentence, at 12:30", "me@host: a sentence, at 12:30"),
        ("", ""),
    ],
)
def test_passwords_of_addresses(text: str, expected: str) -> None:
    assert without_passwords(text) == expected
    assert without_passwords(expected) == expected


def test_a_configuration_is_masked_in_depth_and_not_changed() -> None:
    config = {"tracking": {"uri": "http://me:secret@host", "trackers": [{"uri": "http://me:secret@host"}]}, "seed": 1}
    assert masked(config) == {
        "tracking": {"uri": "http://me:***@host", "trackers": [{"uri": "http://me:***@host"}]},
        "seed": 1,
    }
    assert config["tracking"]["uri"] == "http://me:secret@host"
    variables = {"env_set": {"AWS_SECRET_ACCESS_KEY": "secret", "MLFLOW_TRACKING_URI": "http://host"}}
    assert masked(variables) == {"env_set": {"AWS_SECRET_ACCESS_KEY": "***", "MLFLOW_TRACKING_URI": "http://host"}}


@pytest.mark.parametrize(
    "text",
    [
        *("me:secret@db", "postgresql://me:secret@db", "https://token@host", "http://host", "a?b=1", "a?password=1"),
        *("A;PWD=1", "HF_TOKEN=a", "HF_TOKEN: a", "HF_TOKEN", "class_token=a", "SECRET='a b'", "S3_KEY=a", "a&sig=b"),
    ],
)
@pytest.mark.parametrize("key", ["uri", "WANDB_API_KEY"])
def test_a_password_is_found_where_one_is_masked(key: str, text: str) -> None:
    content = {"tracking": {key: text, "seed": 1, "names": [text]}}
    assert holds_password(content, json.dumps(content)) is (masked(content) != content)
