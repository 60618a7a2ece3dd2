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
    folder_of,
    known,
    lookup,
    parts,
    register,
    unregister,
    validated,
)

Floor = Annotated[float, Field(ge=0.0)]


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


@pytest.mark.parametrize(
    ("group", "config", "sentence"),
    [
        ("term", {"name": "kl", "free_bits": -0.1}, "free_bits: -0.1 is not allowed; it should be greater than or eq"),
        ("term", {"name": "kl", "free_bits": {"vol": -1}}, "free_bits.vol: -1 is not allowed; it should be greater"),
        ("term", {"name": "kl", "free_bits": {"vol": 1, "loc": "x"}}, "free_bits.loc: 'x' is not allowed; it should"),
        (
            "term",
            {"name": "kl", "free_bits": "much"},
            "free_bits: 'much' is not allowed; it should be a valid number or an object",
        ),
        ("data", {"name": "brats", "label_map": {"ncr": 0}}, "label_map.ncr: 0 is not allowed; it should be greater"),
        ("data", {"name": "brats", "label_map": {"ncr": [1, 0]}}, "label_map.ncr.1: 0 is not allowed; it should be gr"),
        ("data", {"name": "brats", "label_map": {"ncr": "one"}}, "label_map.ncr: 'one' is not allowed; it should be a"),
        ("data", {"name": "brats", "label_map": {"edema": [0]}}, "label_map.edema: 'edema' is not allowed; it should "),
        ("data", {"name": "brats", "spacing_mm": [1, 1, -1]}, "spacing_mm.2: -1 is not allowed; it should be greater"),
        ("data", {"name": "brats", "spacing_mm": [1, 1]}, "spacing_mm.2: a value is required"),
        (
            "data",
            {"name": "brats", "spacing_mm": 4.5},
            "spacing_mm: 4.5 is not allowed; it should be a list, such as here.spacing_mm=[4.5,4.5,4.5]",
        ),
        ("data", {"name": "brats", "roi_size": "big"}, "roi_size: 'big' is not allowed; it should be a list"),
        ("encoder", {"name": "resnet", "block_means": 0}, "block_means: 0 is not allowed; it should be greater than"),
    ],
)
def test_a_value_of_several_kinds_is_told_by_its_key_alone(group: str, config: dict[str, Any], sentence: str) -> None:
    if group == "data":
        config = {"root": "somewhere", "roi_size": [32, 32, 32], **config}
    with pytest.raises(UserError) as caught:
        bind(group, config, "here")
    assert str(caught.value).startswith(f"here.{sentence}")


class Several:
    """A part with unions that no built-in part has: the number last, a word beside a number, and one inside another."""

    def __init__(
        self,
        *,
        floors: Mapping[str, Floor] | Floor = 0.0,
        count: Literal["all"] | Annotated[int, Field(ge=1)] = "all",
        nested: Mapping[str, Floor | Sequence[Floor]] | bool = False,
    ) -> None: ...


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"floors": -1}, "encoder.floors: -1 is not allowed; it should be greater than or equal to 0"),
        ({"floors": {"float": "x"}}, "encoder.floors.float: 'x' is not allowed; it should be a valid number"),
        ({"count": 0}, "encoder.count: 0 is not allowed; it should be greater than or equal to 1"),
        ({"count": "some"}, "encoder.count: 'some' is not allowed; it should be 'all'"),
        ({"nested": {"a b": [1, -1]}}, "encoder.nested.a b.1: -1 is not allowed; it should be greater than or equal"),
        ({"nested": {"0": -1}}, "encoder.nested.0: -1 is not allowed; it should be greater than or equal to 0"),
    ],
)
def test_the_error_that_says_most_is_told(changes: dict[str, Any], words: str) -> None:
    register("encoder", "several")(Several)
    try:
        with pytest.raises(UserError) as caught:
            bind("encoder", {"name": "several", **changes})
    finally:
        unregister("encoder", "several")
    assert str(caught.value).startswith(words)


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
        ({"name": ...}, "encoder.name: None is not a registered encoder; known: "),
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

    with pytest.raises(ValueError, match=r"encoder 'example' is registered twice, by .*Example and by .*other"):
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
        assert (folder / folder_of(group)).is_dir()


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
