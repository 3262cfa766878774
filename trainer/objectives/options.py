"""Options of a method: the keyword arguments that its objective is made with, and their ranges."""

from __future__ import annotations

import inspect
import math
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final, get_type_hints

from index.errors import RunError
from trainer.objectives.objective import Objective, Within

Number = int | float

LARGEST_INT: Final = 2**31 - 1
"""Of a whole number that sizes are made of."""


@dataclass(frozen=True)
class Option:
    """One option; whole numbers are told by the default, which is the paper's."""

    name: str
    default: Number
    within: Within | None

    def checked(self, value: Number) -> Number:
        """The value in the default's type.

        Raises:
            RunError: it is out of range, or not whole where that is meant.
        """
        whole = isinstance(self.default, int)
        if self.within is None:
            fits, expected = value > 0, "above 0"
        elif math.isinf(self.within.most):
            fits, expected = value >= self.within.least, f"{self.within.least:g} or more"
        else:
            fits = self.within.least <= value <= self.within.most
            expected = f"{self.within.least:g} to {self.within.most:g}"
        most = LARGEST_INT if whole else sys.float_info.max
        if not (fits and value <= most and (not whole or value == int(value))):
            kind = "a whole number" if whole else "a number"
            raise RunError(f"{self.name} is {value:g}, expected {kind} {expected}")
        return type(self.default)(value)


def options_of(method: type[Objective]) -> dict[str, Option]:
    """What a method takes, by name."""
    hints = get_type_hints(method.__init__, include_extras=True)
    parameters = inspect.signature(method).parameters.values()
    return {
        each.name: Option(each.name, each.default, _within(hints[each.name]))
        for each in parameters
        if each.kind is each.KEYWORD_ONLY
    }


def complete(
    method: str, taken: Mapping[str, Option], given: Mapping[str, Number]
) -> dict[str, Number]:
    """All options of a method: those that were given, checked, and the paper's for the rest.

    Raises:
        RunError: the method takes none of that name, or a value is out of its range.
    """
    for name, value in given.items():
        if name not in taken:
            raise RunError(
                f"option {name} is {value:g}, expected none: {method} takes {', '.join(taken)}"
            )
    return {
        name: option.checked(given[name]) if name in given else option.default
        for name, option in taken.items()
    }


def _within(hint: object) -> Within | None:
    said = getattr(hint, "__metadata__", ())
    return next((each for each in said if isinstance(each, Within)), None)
