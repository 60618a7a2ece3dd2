"""Conditions on a configuration, such as ``model.partitions.vol + model.partitions.shape <= 40``.

A condition is parsed by Python's parser and evaluated here, node by node: no code of a configuration is executed.
"""

from __future__ import annotations

import ast
import operator
from collections.abc import Callable, Mapping
from typing import Any

from menvae.errors import UserError, nearest

_ALLOWED = (
    "allowed are keys such as model.z_dim or data.roi_size[0], numbers, texts in quotes, lists, true, false, null, "
    "+ - * /, == != < <= > >=, in, not in, and, or, not, and parentheses"
)
_MOST_CHARACTERS = 1000
_MOST_LEVELS = 50
_CONSTANTS = {"true": True, "false": False, "null": None}
_ARITHMETIC: Mapping[type[ast.operator], Callable[[Any, Any], Any]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
}
_COMPARISONS: Mapping[type[ast.cmpop], Callable[[Any, Any], bool]] = {
    ast.Eq: operator.eq,
    ast.NotEq: operator.ne,
    ast.Lt: operator.lt,
    ast.LtE: operator.le,
    ast.Gt: operator.gt,
    ast.GtE: operator.ge,
    ast.In: lambda item, items: item in items,
    ast.NotIn: lambda item, items: item not in items,
}


class Condition:
    """A condition on a configuration, checked when it is created.

    Args:
        text: the condition.
        key: configuration key that holds it, for messages.

    Raises:
        UserError: it has an error of syntax, or anything but the operators above.
    """

    def __init__(self, text: str, key: str) -> None:
        self.text, self._key = text, key
        if len(text) > _MOST_CHARACTERS:
            raise UserError(f"{key}: a condition of {len(text)} characters is not allowed; {_MOST_CHARACTERS} at most")
        try:
            self._node = ast.parse(text.strip(), mode="eval").body
        except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
            place = f" at character {error.offset}" if isinstance(error, SyntaxError) and error.offset else ""
            what = error.msg if isinstance(error, SyntaxError) else str(error) or "it is nested too deeply"
            raise UserError(f"{key}: '{text}' cannot be read{place} ({what}); {_ALLOWED}") from None
        self._check(self._node)

    def holds(self, config: Mapping[str, Any]) -> bool:
        """Return whether the condition is true.

        Args:
            config: resolved configuration, plain values.

        Raises:
            UserError: a key does not exist, a value cannot be computed or compared, or the result is no truth value.
        """
        found = self._value(self._node, config)
        if not isinstance(found, bool):
            raise UserError(f"{self._key}: '{self.text}' is {found!r}, neither true nor false; compare it with a value")
        return found

    def _check(self, node: ast.expr, level: int = 1) -> None:
        """Check that an expression has only what `_value` evaluates, nested as deeply as that can go."""
        if level > _MOST_LEVELS:
            raise UserError(f"{self._key}: '{self.text}' is nested too deeply; {_MOST_LEVELS} levels at most")
        match node:
            case ast.BoolOp(values=parts) | ast.List(elts=parts) | ast.Tuple(elts=parts):
                pass
            case ast.BinOp(left=left, op=op, right=right) if type(op) in _ARITHMETIC:
                parts = [left, right]
            case ast.UnaryOp(op=ast.Not() | ast.USub() | ast.UAdd(), operand=operand):
                parts = [operand]
            case ast.Compare(left=left, ops=ops, comparators=others) if all(type(op) in _COMPARISONS for op in ops):
                parts = [left, *others]
            case ast.Constant(value=bool() | int() | float() | str() | None):
                parts = []
            case _ if _path_of(node) is not None:
                parts = []
            case _:
                part = ast.get_source_segment(self.text.strip(), node) or self.text
                raise UserError(f"{self._key}: '{part}' is not allowed; {_ALLOWED}")
        for each in parts:
            self._check(each, level + 1)

    def _value(self, node: ast.expr, config: Mapping[str, Any]) -> Any:
        match node:
            case ast.BoolOp(op=op, values=parts):
                decides = isinstance(op, ast.Or)
                return decides if any(self._truth(part, config) is decides for part in parts) else not decides
            case ast.List(elts=parts) | ast.Tuple(elts=parts):
                return [self._value(part, config) for part in parts]
            case ast.BinOp(left=left, op=op, right=right):
                return self._calculated(
                    node, _ARITHMETIC[type(op)], self._number(left, config), self._number(right, config)
                )
            case ast.UnaryOp(op=ast.Not(), operand=operand):
                return not self._truth(operand, config)
            case ast.UnaryOp(op=op, operand=operand):
                number = self._number(operand, config)
                return -number if isinstance(op, ast.USub) else number
            case ast.Compare():
                return self._compared(node, config)
            case ast.Constant(value=value):
                return value
        return self._looked_up(node, config)

    def _compared(self, node: ast.Compare, config: Mapping[str, Any]) -> bool:
        """Return whether all comparisons of ``a < b < c`` are true."""
        left = self._value(node.left, config)
        for op, comparator in zip(node.ops, node.comparators, strict=True):
            right = self._value(comparator, config)
            if not self._calculated(node, _COMPARISONS[type(op)], left, right):
                return False
            left = right
        return True

    def _calculated(self, node: ast.expr, function: Callable[[Any, Any], Any], left: Any, right: Any) -> Any:
        try:
            return function(left, right)
        except (TypeError, ArithmeticError) as error:
            part = ast.get_source_segment(self.text.strip(), node) or self.text
            values = f"{left!r} and {right!r}".replace("None", "null")
            why = "they cannot be compared" if isinstance(error, TypeError) else error
            raise UserError(f"{self._key}: '{part}' cannot be computed with {values}: {why}") from None

    def _number(self, node: ast.expr, config: Mapping[str, Any]) -> float:
        value = self._value(node, config)
        if isinstance(value, bool) or not isinstance(value, int | float):
            part = ast.get_source_segment(self.text.strip(), node) or self.text
            shown = "null" if value is None else repr(value)
            raise UserError(f"{self._key}: '{part}' is {shown}, but + - * / need a number")
        return value

    def _truth(self, node: ast.expr, config: Mapping[str, Any]) -> bool:
        value = self._value(node, config)
        if not isinstance(value, bool):
            part = ast.get_source_segment(self.text.strip(), node) or self.text
            shown = "null" if value is None else repr(value)
            raise UserError(f"{self._key}: '{part}' is {shown}, but and, or and not need a comparison, true or false")
        return value

    def _looked_up(self, node: ast.expr, config: Mapping[str, Any]) -> Any:
        """Return the value of a key."""
        path = _path_of(node)
        assert path is not None
        if len(path) == 1 and path[0] in _CONSTANTS:
            return _CONSTANTS[str(path[0])]
        found: Any = config
        for depth, part in enumerate(path):
            known: list[str] = []
            if isinstance(found, Mapping):
                known = [str(name) for name in found]
                found = found.get(part, _MISSING)
            elif isinstance(found, list) and isinstance(part, int) and part < len(found):
                found = found[part]
            else:
                found = _MISSING
            if found is _MISSING:
                name = ".".join(map(str, path[: depth + 1]))
                hint = f"; {nearest(str(part), known)}" if known else ""
                raise UserError(f"{self._key}: no such key as {name}{hint}")
        if isinstance(found, Mapping):
            name = ".".join(map(str, path))
            such_as = f", such as {name}.{next(iter(found))}" if found else ""
            raise UserError(f"{self._key}: {name} is a section; name one of its keys{such_as}")
        return found


_MISSING = object()


def _path_of(node: ast.expr) -> list[str | int] | None:
    """Return the parts of a dotted key, or None for another expression.

    >>> _path_of(ast.parse("data.roi_size[0]", mode="eval").body)
    ['data', 'roi_size', 0]
    """
    match node:
        case ast.Name(id=name):
            return [name]
        case ast.Attribute(value=parent, attr=name):
            above = _path_of(parent)
            return None if above is None else [*above, name]
        case ast.Subscript(value=parent, slice=ast.Constant(value=str() | int() as part)):
            above = _path_of(parent)
            return None if above is None else [*above, part]
    return None
