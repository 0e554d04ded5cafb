"""The options of a loss, in one list, and who takes which."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any, TypedDict

if TYPE_CHECKING:
    from numpy.typing import ArrayLike


class LossKeywords(TypedDict, total=False):
    """Keywords of every function of a loss; `LinearHead.loss` says what they mean."""

    ignore_index: int
    class_weight: ArrayLike | None
    sample_weight: ArrayLike | None
    label_smoothing: float
    z_loss: float
    shift: int


@dataclass(frozen=True, slots=True)
class LossOptions:
    """The same with their defaults, as they came: an `Objective` checks them."""

    ignore_index: int = -100
    class_weight: ArrayLike | None = None
    sample_weight: ArrayLike | None = None
    label_smoothing: float = 0.0
    z_loss: float = 0.0
    shift: int = 0

    @property
    def change_nothing(self) -> bool:
        """Whether losses of classes within [0, n) are what they are without options."""
        return (
            self.class_weight is self.sample_weight is None
            and type(self.label_smoothing) is type(self.z_loss) is float
            and self.label_smoothing == self.z_loss == 0
            and type(self.shift) is type(self.ignore_index) is int
            and self.shift == 0 > self.ignore_index
        )

    @classmethod
    def of(cls, function: str, given: Mapping[str, Any]) -> LossOptions:
        """Options that a function was called with."""
        if not given:
            return DEFAULTS
        check_keywords(function, given, LOSS)
        return cls(**given)


class HeadKeywords(TypedDict, total=False):
    """Keywords of `LinearHead`, which the functions that make one for a call take, too."""

    softcap: float | None
    temperature: float
    pack: bool
    screen: str | None
    n_threads: int | None


class HeadAndLossKeywords(HeadKeywords, LossKeywords, total=False):
    """Both."""


DEFAULTS = LossOptions()
LOSS = tuple(field.name for field in fields(LossOptions))
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
    """Options of the head and those of the loss."""
    if not given:
        return {}, {}
    check_keywords(function, given, HEAD + LOSS)
    return ({name: given[name] for name in given if name in HEAD},
            {name: given[name] for name in given if name in LOSS})
