"""Named parts: register them, list them, build them from a configuration.

A part is a class or a function. Arguments that code supplies come before ``*`` in its signature; keyword-only arguments
come from the configuration, and pydantic checks them against the annotations before anything is built. Names are looked
up; nothing is ever imported because of a configuration value.

>>> @register("schedule", "docs_example")
... def docs_example(progress: float, *, height: Annotated[float, Field(gt=0)] = 1.0) -> float:
...     return height * progress
>>> bind("schedule", {"name": "docs_example", "height": 2.0})(0.25)
0.5
>>> bind("schedule", {"name": "docs_example", "heigth": 2.0})
Traceback (most recent call last):
    ...
menvae.errors.UserError: schedule.heigth: no such key of 'docs_example'; did you mean 'height'? known: height
>>> unregister("schedule", "docs_example")
"""

from __future__ import annotations

import functools
import importlib
import inspect
import json
import pkgutil
import types
import typing
from collections.abc import Callable, Mapping, Sequence
from dataclasses import MISSING, dataclass, fields, is_dataclass
from importlib.metadata import entry_points
from typing import TYPE_CHECKING, Annotated, Any, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError, create_model

from menvae.errors import UserError, nearest
from menvae.groups import ENTRY_POINT_GROUP, GROUPS, configuration_folder, folder_of
from menvae.presentation.text import counted

if TYPE_CHECKING:
    from pydantic_core import ErrorDetails

__all__ = ["GROUPS", "Annotated", "Bound", "Field", "Part", "bind", "build", "configuration_folder", "discover"]
__all__ += ["folder_of", "known", "lookup", "own_keys", "parts", "parts_of", "register", "unregister", "validated"]

_OF_KEY = "[key]"
"""What pydantic appends to the location of an error in the key, not the value, of a mapping entry."""

T = TypeVar("T", bound=Callable[..., Any])
Settings = TypeVar("Settings")


class NameTakenError(ValueError):
    """Two parts of one group have the same name."""


@dataclass(frozen=True)
class Part:
    """One registered part.

    Attributes:
        group: registry group; see `folder_of` for its folder in ``conf/``.
        name: the name that configurations use.
        factory: the class or function itself.
        origin: top-level package that registered it (``menvae`` or a plugin).
        reference: paper or report behind it, for ``menvae-parts``.
    """

    group: str
    name: str
    factory: Callable[..., Any]
    origin: str
    reference: str

    @property
    def tunables(self) -> dict[str, tuple[Any, Any]]:
        """Keyword-only parameters: name -> (annotation, default); the default is ``...`` if there is none."""
        return _keyword_only(self.factory)

    @property
    def summary(self) -> str:
        """First line of the part's docstring."""
        return (inspect.getdoc(self.factory) or "").split("\n", 1)[0]

    @property
    def offers(self) -> Mapping[str, str]:
        """Outputs of an encoder or decoder that a term must train, each with the overrides that add such a term."""
        offers: Mapping[str, str] = getattr(self.factory, "offers", {})
        return offers

    @property
    def commits(self) -> tuple[str, ...]:
        """Names of features from which it updates buffers; see `menvae.encoders.Encoder`."""
        commits: tuple[str, ...] = getattr(self.factory, "commits", ())
        return commits


@dataclass(frozen=True)
class Bound:
    """A part with its checked configuration; call it with the arguments that code supplies."""

    part: Part
    settings: Mapping[str, Any]

    def __call__(self, *supplied: Any) -> Any:
        """Build the part from the arguments that code supplies."""
        return self.part.factory(*supplied, **self.settings)


_parts: dict[tuple[str, str], Part] = {}


def register(group: str, name: str, *, reference: str = "") -> Callable[[T], T]:
    """Return a decorator that registers a class or function as part ``name`` of ``group``.

    Args:
        group: one of `GROUPS`.
        name: name used by configurations; also the name of its file in the folder of the group.
        reference: paper, report or specification section behind the part.

    Raises:
        ValueError: unknown group.
        NameTakenError: the group already has a part of that name.
    """
    if group not in GROUPS:
        raise ValueError(f"registry group '{group}' does not exist; {nearest(group, GROUPS)}")

    def decorate(factory: T) -> T:
        taken = _parts.get((group, name))
        if taken is not None:
            raise NameTakenError(
                f"{group} '{name}' is registered twice, by {_where(taken.factory)} and by {_where(factory)}; rename "
                "one of them"
            )
        origin = factory.__module__.split(".", 1)[0]
        _parts[group, name] = Part(group, name, factory, origin, reference)
        return factory

    return decorate


def unregister(group: str, name: str) -> None:
    """Remove a part; for tests and notebooks that register their own parts."""
    del _parts[group, name]


@functools.cache
def discover() -> None:
    """Import every module that registers parts: the built-in packages, then installed plugins (``menvae.parts``).

    Raises:
        UserError: a plugin cannot be imported, for any reason, or uses the name of another part.
    """
    for package in GROUPS.values():
        _import_modules(package)
    _import_plugins()


def _import_plugins() -> None:
    for entry_point in entry_points(group=ENTRY_POINT_GROUP):
        before = dict(_parts)
        try:
            entry_point.load()
        except Exception as error:  # third-party code
            _parts.clear()  # or the next point of a sweep, which tries again, would find its names taken
            _parts.update(before)
            owner = f"package '{entry_point.dist.name}'" if entry_point.dist is not None else "its package"
            raise UserError(
                f"plugin '{entry_point.value}' cannot be imported: {_reason(error)}; fix or uninstall {owner}"
            ) from error


def _import_modules(package: str) -> None:
    for module in pkgutil.iter_modules(importlib.import_module(package).__path__, f"{package}."):
        importlib.import_module(module.name)


def known(group: str) -> list[str]:
    """Return the sorted names registered in ``group``."""
    discover()
    return sorted(name for part_group, name in _parts if part_group == group)


def parts() -> list[Part]:
    """Return every registered part, sorted by group (in the order of `GROUPS`) and name."""
    discover()
    order = list(GROUPS)
    return sorted(_parts.values(), key=lambda part: (order.index(part.group), part.name))


def parts_of(group: str) -> list[Part]:
    """Return the registered parts of one group, sorted by name, without importing built-in parts of other groups."""
    if not discover.cache_info().currsize:
        _import_modules(GROUPS[group])
        _import_plugins()
    return sorted((part for part in _parts.values() if part.group == group), key=lambda part: part.name)


def lookup(group: str, name: str, path: str | None = None) -> Part:
    """Return the part ``name`` of ``group``.

    Args:
        group: registry group.
        name: name of the part.
        path: configuration key of the name, for messages (default: the group).

    Raises:
        UserError: unknown name; the message lists the known names and suggests the nearest.
    """
    if (group, name) not in _parts and group in GROUPS:
        _import_modules(GROUPS[group])  # only these: menvae-sweep status needs a runner, but not torch
    if (group, name) in _parts:
        return _parts[group, name]
    names = known(group)
    if name not in names:
        raise UserError(f"{path or group}: '{name}' is not registered; {nearest(name, names)}")
    return _parts[group, name]


def bind(group: str, config: Mapping[str, Any], path: str | None = None) -> Bound:
    """Check a configuration against the part it names, without building it.

    Args:
        group: registry group.
        config: ``{"name": ..., **tunables}``.
        path: configuration key of the part, for messages (default: the group).

    Returns:
        A callable that takes the arguments that code supplies and returns the built part.

    Raises:
        UserError: unknown part, unknown key, missing key, or a value of the wrong type or out of range.
    """
    path = path or group
    if not isinstance(config, Mapping):
        raise UserError(f"{path}: {config!r} is not allowed; choose one with {group}@{path}=<name>")
    name = config.get("name")
    if not isinstance(name, str):
        raise UserError(f"{path}.name: {name!r} is not a registered {group}; {nearest('', known(group))}")
    part = lookup(group, name, path)
    settings = {key: value for key, value in config.items() if key != "name"}
    return Bound(part, _checked(_schema(part.factory), settings, path, f"'{name}'"))


def bind_inside(group: str, config: Mapping[str, Any], path: str) -> Bound:
    """Return `bind` of a part inside another one, where nothing would train what it offers, or call its ``commit``.

    Raises:
        UserError: as `bind`, or the part offers or commits something.
    """
    bound = bind(group, config, path)
    if bound.part.offers or bound.part.commits:
        raise UserError(f"{path}.name: '{bound.part.name}' is not allowed inside another part; use it as {group}")
    return bound


def own_keys(group: str, config: Mapping[str, Any]) -> tuple[dict[str, Any], list[str]]:
    """Remove keys that only other parts of the group have: settings that an experiment made for another choice.

    Args:
        group: registry group.
        config: ``{"name": ..., **tunables}``.

    Returns:
        The configuration without them, and their names. Keys that no part of the group has stay; `bind` refuses them.
    """
    name = config.get("name")
    if name not in known(group):
        return dict(config), []
    mine = {"name", *_keyword_names(_parts[group, str(name)].factory)}
    others = {key for other in known(group) for key in _keyword_names(_parts[group, other].factory)}
    foreign = [key for key in config if key not in mine and key in others]
    return {key: value for key, value in config.items() if key not in foreign}, foreign


def build(group: str, config: Mapping[str, Any], *supplied: Any, path: str | None = None) -> Any:
    """`bind` a part and build it; raises what `bind` and the part's constructor raise."""
    return bind(group, config, path)(*supplied)


def validated(settings_class: Callable[..., Settings], config: Mapping[str, Any], path: str) -> Settings:
    """Check ``config`` and return ``settings_class(**config)``, for sections that are no parts (``trainer``, ...).

    Args:
        settings_class: a dataclass whose fields are keyword-only.
        config: the settings.
        path: dotted key of the section; empty for the top level.

    Raises:
        UserError: unknown key, missing key, or a value of the wrong type or out of range.
    """
    if not isinstance(config, Mapping):
        raise UserError(f"{path}: {config!r} is not allowed; set its keys, {path}.<key>=...")
    checked = _checked(_schema(settings_class), dict(config), path, f"'{path}'" if path else "the configuration")
    return settings_class(**checked)


def _where(factory: Callable[..., Any]) -> str:
    return f"{factory.__module__}.{factory.__qualname__}"


def _reason(error: Exception) -> str:
    """Return the first line of an error message, with the error's type unless the message is clear without it."""
    line = str(error).strip().split("\n", 1)[0]
    if line and isinstance(error, ImportError | NameTakenError | UserError):
        return line
    return f"{type(error).__name__}: {line}" if line else type(error).__name__


@functools.cache
def _keyword_names(factory: Callable[..., Any]) -> tuple[str, ...]:
    parameters = inspect.signature(factory).parameters.values()
    return tuple(each.name for each in parameters if each.kind is inspect.Parameter.KEYWORD_ONLY)


def _keyword_only(factory: Callable[..., Any]) -> dict[str, tuple[Any, Any]]:
    target = factory.__init__ if inspect.isclass(factory) and not is_dataclass(factory) else factory
    hints = typing.get_type_hints(factory if is_dataclass(factory) else target, include_extras=True)
    factories = {}
    if is_dataclass(factory):
        factories = {f.name: f.default_factory for f in fields(factory) if f.default_factory is not MISSING}
    tunables: dict[str, tuple[Any, Any]] = {}
    for parameter in inspect.signature(factory).parameters.values():
        if parameter.kind is inspect.Parameter.VAR_KEYWORD:
            raise TypeError(f"{_where(factory)} takes **{parameter.name}: name every key so that typos are detected")
        if parameter.kind is not inspect.Parameter.KEYWORD_ONLY:
            continue
        if parameter.name in factories:
            default = factories[parameter.name]()
        else:
            default = ... if parameter.default is inspect.Parameter.empty else parameter.default
        tunables[parameter.name] = (hints[parameter.name], default)
    return tunables


@functools.cache
def _schema(factory: Callable[..., Any]) -> type[BaseModel]:
    definitions: dict[str, Any] = _keyword_only(factory)
    configuration = ConfigDict(
        extra="forbid", arbitrary_types_allowed=True, allow_inf_nan=False, protected_namespaces=()
    )
    return create_model(factory.__qualname__, __config__=configuration, **definitions)


def _checked(schema: type[BaseModel], settings: dict[str, Any], path: str, owner: str) -> dict[str, Any]:
    # validated from JSON, pydantic refuses true for 1 and "3" for 3, but still accepts a list for a tuple
    text = json.dumps(settings, default=str)
    try:
        model = schema.model_validate_json(text, strict=True)
    except ValidationError as error:
        raise UserError(_sentence(error, json.loads(text), schema, path, owner)) from None
    return {name: getattr(model, name) for name in schema.model_fields}


def _sentence(error: ValidationError, settings: Any, schema: type[BaseModel], path: str, owner: str) -> str:
    errors = _most_specific(error.errors(), settings)
    first, keys = errors[0], _keys(errors[0], settings)
    location = ".".join([path, *keys]).removeprefix(".")
    if first["type"] == "extra_forbidden":
        return f"{location}: no such key of {owner}; {nearest(keys[-1], schema.model_fields)}"
    if first["type"] == "missing":
        return f"{location}: a value is required"
    allowed = list(dict.fromkeys(_allowed(each) for each in errors))
    others = "".join(f" or {text.removeprefix('should be ')}" for text in allowed[1:])
    example = _list_of(first["input"], schema.model_fields[keys[0]].annotation) if len(keys) == 1 else ""
    such_as = f", such as {location}={example}" if example and _LIST in allowed else ""
    sentence = f"{location}: {first['input']!r} is not allowed; it {allowed[0]}{others}"
    return f"{sentence.replace(_LIST, 'should be a list')}{such_as}"


def _allowed(error: ErrorDetails) -> str:
    """Return the words after "it" of a message; those of pydantic about lengths begin with the name of a type."""
    if error["type"] in ("too_short", "too_long"):
        word, length = ("least", "min_length") if error["type"] == "too_short" else ("most", "max_length")
        return f"should have at {word} {counted(error['ctx'][length], 'item')}"
    return error["msg"].removeprefix("Value error, ").removeprefix("Input ")


_UNIONS = (typing.Union, types.UnionType)
_LIST = "should be a valid array"  # as pydantic calls a list or tuple of JSON


def _list_of(value: object, annotation: Any) -> str:
    """Write a number as the list that a type wants, as on the command line; empty if it wants none or is no number.

    >>> _list_of(4.5, tuple[float, float, float] | None), _list_of(4, Sequence[int]), _list_of(4, int)
    ('[4.5,4.5,4.5]', '[4]', '')
    """
    if isinstance(value, bool) or not isinstance(value, int | float):
        return ""
    members = typing.get_args(annotation) if typing.get_origin(annotation) in _UNIONS else (annotation,)
    for member in members:
        origin, arguments = typing.get_origin(member), typing.get_args(member)
        if origin is tuple and ... not in arguments:
            return f"[{','.join([str(value)] * len(arguments))}]"
        if isinstance(origin, type) and issubclass(origin, Sequence):
            return f"[{value}]"
    return ""


def _most_specific(errors: Sequence[ErrorDetails], settings: Any) -> list[ErrorDetails]:
    """Return the first error, or for a union, whose members each report errors, the most specific ones.

    These belong to the member that the value matches best: the errors deepest inside the value, then those about the
    value rather than its type. All concern one key, which may take what any of them allows.
    """
    first = errors[0]
    location, are_keys = first["loc"], _are_keys(first, settings)
    if all(are_keys) or location[-1] == _OF_KEY:
        return [first]
    union = location[: are_keys.index(False)]
    of_union = [error for error in errors if error["loc"][: len(union)] == union]

    def nearness(error: ErrorDetails) -> tuple[int, int]:
        kind = error["type"]
        return sum(_are_keys(error, settings)), 0 if kind.endswith("_type") else 1 if kind == "literal_error" else 2

    best = max(of_union, key=nearness)
    return [
        error
        for error in of_union
        if nearness(error) == nearness(best) and _keys(error, settings) == _keys(best, settings)
    ]


def _keys(error: ErrorDetails, settings: Any) -> list[str]:
    """Return the location of an error as keys of the settings."""
    return [str(part) for part, is_key in zip(error["loc"], _are_keys(error, settings), strict=True) if is_key]


def _are_keys(error: ErrorDetails, settings: Any) -> list[bool]:
    """Return which parts of a location are keys of the settings.

    Pydantic adds others: the union member that it tried, and a mark for an error in a key rather than its value.
    """
    found, value = [], settings
    for part in error["loc"]:
        if isinstance(value, list):
            is_key = isinstance(part, int) and part < len(value)
        else:
            is_key = isinstance(value, dict) and part in value
        found.append(is_key)
        value = value[part] if is_key else value
    if error["type"] == "missing":  # the last part is a key, though not in the settings
        found[-1] = True
    return found
