"""The options of a loss, in one list, and who takes which."""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, fields
from typing import TYPE_CHECKING, Any, TypedDict, TypeVar

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import ArrayLike


F = TypeVar("F", bound=Callable[..., Any])


class _OfLoss(TypedDict, total=False):
    ignore_index: int
    class_weight: ArrayLike | None
    sample_weight: ArrayLike | None
    label_smoothing: float
    z_loss: float
    entropy_weight: float
    shift: int


class LossKeywords(_OfLoss, total=False):
    """Keywords of every function of a loss; `LinearHead.loss` says what they mean."""

    temperature: ArrayLike | None


def amount(least: float, most: float) -> Any:
    """A finite number from `least` to `most`; 0 is none of it."""
    return field(default=0.0, metadata={"limits": (least, most)})


@dataclass(frozen=True, slots=True)
class LossOptions:
    """The same with their defaults: as they came, or as an `Objective` has checked them."""

    ignore_index: int = -100
    class_weight: Any = None
    sample_weight: Any = None
    label_smoothing: float = amount(0, 1)
    z_loss: float = amount(0, math.inf)
    entropy_weight: float = amount(-math.inf, math.inf)
    shift: int = 0
    temperature: Any = None

    @property
    def change_nothing(self) -> bool:
        """Whether losses of classes within [0, n) are what they are without options."""
        if type(self.ignore_index) is not int or self.ignore_index >= 0:
            return False
        for name in LOSS[1:]:
            given, default = getattr(self, name), getattr(DEFAULTS, name)
            if type(given) is not type(default) or given != default:
                return False
        return True

    @classmethod
    def of(cls, function: str, given: Mapping[str, Any]) -> LossOptions:
        """Options that a function was called with."""
        if not given:
            return DEFAULTS
        check_keywords(function, given, LOSS)
        return cls(**given)


class _OfHead(TypedDict, total=False):
    softcap: float | None
    pack: bool
    screen: str | None
    n_threads: int | None


class HeadKeywords(_OfHead, total=False):
    """Keywords of `LinearHead`, which the functions that make one for a call take, too."""

    temperature: float


class HeadAndLossKeywords(_OfHead, _OfLoss, total=False):
    """Both: a number as `temperature` is the head's, an array has one for each row."""

    temperature: ArrayLike


DEFAULTS = LossOptions()
LOSS = tuple(option.name for option in fields(LossOptions))
AMOUNTS = {option.name: option.metadata["limits"] for option in fields(LossOptions)
           if option.metadata}
HEAD = tuple(HeadKeywords.__annotations__)


def check_keywords(function: str, given: Iterable[str], known: tuple[str, ...]) -> None:
    """Refuse what a function has no such keyword for, in its name."""
    for name in given:
        if name not in known:
            hint = f"options are {', '.join(known)}"
            if name in HEAD:
                hint = "it is an option of LinearHead"
            elif name in LOSS:
                hint = "it is an option of losses"
            raise TypeError(f"{function}() got an unexpected keyword argument {name!r}: {hint}")


def parted(function: str, given: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Options of the head and those of the loss; temperatures of the rows are of the loss."""
    if not given:
        return {}, {}
    check_keywords(function, given, HEAD + LOSS)
    of_rows = "temperature" in given and has_axes(given["temperature"])
    of_head = {name for name in HEAD if name != "temperature" or not of_rows}
    return ({name: given[name] for name in given if name in of_head},
            {name: given[name] for name in given if name not in of_head})


def has_axes(value: object) -> bool:
    """Whether this is an array, or a list of what becomes one, and not a number."""
    return isinstance(value, (list, tuple)) or np.ndim(value) > 0  # type: ignore[arg-type]


def spelled_out(*lists: Callable[..., Any], **defaults: Any) -> Callable[[F], F]:
    """Have a function's signature, which help shows, list what its ``**options`` may be.

    These are the keywords of `lists`; `defaults` are those that differ.
    """

    def spell_out(function: F) -> F:
        signature = inspect.signature(function)
        own = [p for p in signature.parameters.values() if p.kind is not p.VAR_KEYWORD]
        more = {  # the head's temperature comes after the rows'
            p.name: p.replace(kind=p.KEYWORD_ONLY, default=defaults.get(p.name, p.default))
            for one in lists for p in inspect.signature(one).parameters.values()
            if p.default is not p.empty and p.name not in ("bias", *signature.parameters)
        }
        parameters = [*own, *more.values()]
        # An attribute that inspect reads and typing does not know.
        function.__signature__ = signature.replace(parameters=parameters)  # type: ignore[attr-defined]
        return function

    return spell_out
