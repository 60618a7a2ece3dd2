"""No configuration key appears or disappears unnoticed."""

from golden import keys


def test_configuration_keys_are_what_they_were() -> None:
    changed = keys.differences(keys.keys())
    assert not changed, "\n".join(
        ["configuration keys changed; if that is meant: python tests/golden --write keys", *changed]
    )
