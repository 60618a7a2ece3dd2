from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Annotated, Any, Literal

import pytest

from menvae.errors import UserError
from menvae.registry import (
    GROUPS,
    Field,
    bind,
    build,
    configuration_folder,
    known,
    lookup,
    parts,
    register,
    unregister,
    validated,
)


class Example:
    """An example of a part.

    More words.
    """

    def __init__(
        self,
        size: int,
        *,
        width: Annotated[int, Field(ge=8, multiple_of=8)] = 16,
        mode: Literal["near", "far"] = "near",
        rate: float = 0.5,
        partitions: Mapping[str, int | None] | None = None,
        required: Sequence[str],
    ) -> None:
        self.size, self.width, self.mode, self.rate = size, width, mode, rate
        self.partitions, self.required = partitions, required


@pytest.fixture
def example() -> Iterator[type[Example]]:
    register("encoder", "example", reference="a paper")(Example)
    yield Example
    unregister("encoder", "example")


VALID: dict[str, Any] = {"name": "example", "required": ["a"]}


def test_supplied_values_come_first_and_configured_ones_by_name(example: type[Example]) -> None:
    part = build("encoder", {**VALID, "width": 24, "partitions": {"vol": 3, "rest": None}}, 5)
    assert (part.size, part.width, part.mode, part.required) == (5, 24, "near", ["a"])
    assert list(part.partitions.items()) == [("vol", 3), ("rest", None)]


def test_binding_builds_nothing(example: type[Example]) -> None:
    bound = bind("encoder", VALID)
    assert bound.settings == {"width": 16, "mode": "near", "rate": 0.5, "partitions": None, "required": ["a"]}
    assert bound(1) is not bound(1)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"widht": 8}, "encoder.widht: no such key of 'example'; did you mean 'width'? known: mode, partitions,"),
        ({"width": 4}, "encoder.width: 4 is not allowed; it should be a multiple of 8"),
        ({"width": 12}, "encoder.width: 12 is not allowed; it should be a multiple of 8"),
        ({"width": "wide"}, "encoder.width: 'wide' is not allowed; it should be a valid integer"),
        ({"width": 16.5}, "encoder.width: 16.5 is not allowed; it should be a valid integer"),
        ({"mode": "middle"}, "encoder.mode: 'middle' is not allowed; it should be 'near' or 'far'"),
        ({"rate": float("nan")}, "encoder.rate: nan is not allowed; it should be a finite number"),
        ({"rate": None}, "encoder.rate: None is not allowed; it should be a valid number"),
        ({"partitions": {"vol": "x"}}, "encoder.partitions.vol: 'x' is not allowed"),
        ({"required": ...}, "encoder.required: a value is required"),
        ({"name": "exmaple"}, "encoder: 'exmaple' is not registered; did you mean 'example'? known: "),
        ({"name": ...}, "encoder.name: None is not a name of a encoder; known: "),
    ],
)
def test_wrong_configuration_is_one_sentence(example: type[Example], changes: dict[str, Any], words: str) -> None:
    config = {key: value for key, value in {**VALID, **changes}.items() if value is not ...}
    with pytest.raises(UserError) as caught:
        bind("encoder", config)
    assert str(caught.value).startswith(words)
    assert "\n" not in str(caught.value)
    assert caught.value.__cause__ is None


def test_message_says_where_the_configuration_stands(example: type[Example]) -> None:
    with pytest.raises(UserError, match=r"^model\.heads\.vol\.width: 4"):
        bind("encoder", {**VALID, "width": 4}, "model.heads.vol")


def test_name_taken_twice_names_both_places(example: type[Example]) -> None:
    def other() -> None: ...

    with pytest.raises(ValueError, match=r"encoder 'example' is registered twice: by .*Example and .*other"):
        register("encoder", "example")(other)
    assert lookup("encoder", "example").factory is example


def test_unknown_group_is_refused() -> None:
    with pytest.raises(ValueError, match="did you mean 'encoder'"):
        register("encodr", "x")


def test_typos_cannot_hide_in_keyword_arguments() -> None:
    @register("head", "swallows")
    def swallows(*, width: int = 1, **others: int) -> None: ...

    try:
        with pytest.raises(TypeError, match=r"takes \*\*others"):
            bind("head", {"name": "swallows"})
    finally:
        unregister("head", "swallows")


def test_part_describes_itself(example: type[Example]) -> None:
    part = lookup("encoder", "example")
    assert part.summary == "An example of a part."
    assert part.reference == "a paper"
    assert part.origin == __name__.split(".", 1)[0]
    assert list(part.tunables) == ["width", "mode", "rate", "partitions", "required"]
    assert part.tunables["rate"][1] == 0.5
    assert part.tunables["required"][1] is ...


def test_every_group_has_built_in_parts_and_a_configuration_folder() -> None:
    folder = configuration_folder("menvae")
    assert folder is not None
    assert {part.group for part in parts() if part.origin == "menvae"} == set(GROUPS)
    for group in GROUPS:
        assert known(group)
        assert (folder / group).is_dir()


def test_package_without_configuration_has_no_folder() -> None:
    assert configuration_folder("json") is None
    assert configuration_folder("no_such_package_anywhere") is None


@dataclass(frozen=True, kw_only=True)
class Settings:
    epochs: Annotated[int, Field(ge=1)] = 3
    names: list[str] = field(default_factory=lambda: ["a"])


def test_dataclasses_of_settings_are_checked_too() -> None:
    assert validated(Settings, {"epochs": 5}, "trainer") == Settings(epochs=5)
    for config, words in (
        ({"epochs": 0}, "trainer.epochs: 0 is not allowed"),
        ({"epoch": 1}, "trainer.epoch: no such key of 'trainer'; did you mean 'epochs'?"),
        ({"names": "a"}, "trainer.names: 'a' is not allowed"),
    ):
        with pytest.raises(UserError) as caught:
            validated(Settings, config, "trainer")
        assert str(caught.value).startswith(words)


def test_function_is_a_part_as_good_as_a_class(monkeypatch: pytest.MonkeyPatch) -> None:
    @register("optimizer", "function_example")
    def function_example(parameters: list[int], *, rate: float = 0.1) -> tuple[list[int], float]:
        return parameters, rate

    try:
        function: Callable[..., Any] = bind("optimizer", {"name": "function_example", "rate": 1})
        assert function([1, 2]) == ([1, 2], 1.0)
    finally:
        unregister("optimizer", "function_example")
