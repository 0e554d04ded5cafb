"""Drawings, by matplotlib (``pip install "logitless[plot]"``); nothing here touches pyplot."""

from __future__ import annotations

from typing import TYPE_CHECKING

from .calibration import Calibration

if TYPE_CHECKING:
    from matplotlib.axes import Axes


def reliability(calibration: Calibration, ax: Axes | None = None) -> Axes:
    """Draw how often predictions were right over how sure of them a model was.

    A bar for each bin, as high as the part of its predictions that was right, and a point at their
    mean confidence: on the diagonal where that is what it says, below it where a model is too sure.

    Parameters
    ----------
    calibration : Calibration
        What `logitless.calibration_error` found.
    ax : matplotlib.axes.Axes, optional
        Where to draw; else in a figure of its own, which pyplot does not know.

    Returns
    -------
    matplotlib.axes.Axes
        ``reliability(found).figure.savefig("reliability.svg")`` saves it.

    Raises
    ------
    ModuleNotFoundError
        matplotlib is not installed.
    TypeError
        `calibration` is something else.

    Notes
    -----
    The reliability diagram of M. H. DeGroot and S. E. Fienberg, "The comparison and evaluation of
    forecasters", 1983.

    Examples
    --------
    >>> import logitless as ll
    >>> from logitless.plot import reliability
    >>> ax = reliability(ll.calibration_error([0.9, 0.8, 0.7], [True, True, False], bins=5))
    >>> ax.get_xlabel(), ax.get_title()
    ('confidence', 'ECE 0.200, 3 predictions')
    """
    if not isinstance(calibration, Calibration):
        raise TypeError("`calibration` must be what `logitless.calibration_error` gives, got "
                        f"{type(calibration).__name__}")
    ax = _axes() if ax is None else ax
    edges, there = calibration.edges, calibration.count > 0
    ax.plot([0, 1], [0, 1], color="0.6", linewidth=1, linestyle="--")
    ax.bar(edges[:-1][there], calibration.accuracy[there], (edges[1:] - edges[:-1])[there],
           align="edge", color="C0", edgecolor="white", alpha=0.6, label="right")
    ax.plot(calibration.confidence[there], calibration.accuracy[there], color="C1", marker="o",
            linestyle="none", markersize=4, label="mean confidence")
    ax.set(xlim=(0, 1), ylim=(0, 1), xlabel="confidence", ylabel="accuracy", aspect="equal",
           title=f"ECE {calibration.ece:.3f}, {calibration.count.sum():,} predictions")
    return ax


def _axes() -> Axes:
    try:
        from matplotlib.figure import Figure
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(
            'logitless.plot needs matplotlib: pip install "logitless[plot]"', name=error.name
        ) from error
    return Figure(figsize=(4, 4), layout="constrained").subplots()
