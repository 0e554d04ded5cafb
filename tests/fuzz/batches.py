"""A range of cases in a process of its own, which leaves behind where it was."""

from __future__ import annotations

import collections
import faulthandler
import os
import time

from .check import check, listening


def batch(first, last, until, folder):
    """How many calls of a range ended how, and complaints about them."""
    faulthandler.enable()
    counts, complaints = collections.Counter(), []
    place = os.open(os.path.join(folder, str(os.getpid())), os.O_WRONLY | os.O_CREAT)
    with listening() as heard:
        for seed in range(first, last):
            if time.time() > until:
                break
            os.pwrite(place, b"%-20d" % seed, 0)  # who dies is asked where
            try:
                found, name, end = check(seed, heard)
            except Exception as error:  # of the program itself
                found, name, end = [f"not checked: {error!r}"], "none", "not checked"
            counts[name, end] += 1
            complaints += [f"case {seed}: {name}: {text}" for text in found]
    os.close(place)
    return counts, complaints
