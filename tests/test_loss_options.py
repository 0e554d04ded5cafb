"""The options of losses, one list for all: who takes them, and what is said of others."""

from __future__ import annotations

import dataclasses
import functools
import inspect
import typing

import numpy as np
import pytest

import logitless as ll
from logitless._calls.options import HEAD, LOSS, HeadKeywords, LossKeywords, LossOptions
from logitless._engines.interface import Request

X, W, T = np.eye(3), np.eye(3), np.array([0, 1, 2])
HEAD_OF_X = ll.LinearHead(W)

# Calls of every function that takes options of a loss, by what its errors must call it.
LOSSES = {
    "LinearHead.loss": lambda **given: HEAD_OF_X.loss(X, T, **given),
    "LinearHead.value_and_grad": lambda **given: HEAD_OF_X.value_and_grad(X, T, **given),
    "LinearHead.score": lambda **given: HEAD_OF_X.score(X, T, **given),
    "cross_entropy": lambda **given: ll.cross_entropy(X, T, **given),
    "linear_cross_entropy": lambda **given: ll.linear_cross_entropy(X, W, T, **given),
    "linear_cross_entropy_value_and_grad":
        lambda **given: ll.linear_cross_entropy_value_and_grad(X, W, T, **given),
    "linear_score": lambda **given: ll.linear_score(X, W, T, **given),
}
# And of those that take options of the head alone.
OTHERS = {
    "linear_topk": lambda **given: ll.linear_topk(X, W, 1, **given),
    "linear_softmax": lambda **given: ll.linear_softmax(X, W, **given),
    "linear_log_softmax": lambda **given: ll.linear_log_softmax(X, W, **given),
    "linear_logsumexp": lambda **given: ll.linear_logsumexp(X, W, **given),
    "linear_argmax": lambda **given: ll.linear_argmax(X, W, **given),
}
GOOD = {"ignore_index": 1, "class_weight": [1.0, 2.0, 3.0], "sample_weight": [1.0, 2.0, 3.0],
        "label_smoothing": 0.1, "z_loss": 0.1, "entropy_weight": -0.1, "shift": 1,
        "softcap": 9.0, "temperature": 2.0, "pack": True, "screen": None, "n_threads": 1}
GOOD_OF_LOSS = GOOD | {"temperature": [1.0, 2.0, 3.0]}  # for each row


def test_there_is_one_list():
    assert tuple(LossKeywords.__annotations__) == LOSS
    assert set(GOOD) == {*LOSS, *HEAD}
    parameters = set(typing.get_type_hints(ll.LinearHead.__init__, localns={"ArrayLike": object}))
    assert set(HeadKeywords.__annotations__) == parameters - {"weight", "bias", "return"}


@pytest.mark.parametrize("name", LOSS)
@pytest.mark.parametrize("function", LOSSES)
def test_every_loss_takes_every_option(function, name):
    LOSSES[function](**{name: GOOD_OF_LOSS[name]})


@pytest.mark.parametrize("name", [name for name in HEAD if name not in LOSS])
@pytest.mark.parametrize("function", [*LOSSES, *OTHERS])
def test_functions_of_weights_take_those_of_the_head(function, name):
    call = {**LOSSES, **OTHERS}[function]
    if function.startswith("linear_"):
        call(**{name: GOOD[name]})
        return
    with pytest.raises(TypeError) as error:
        call(**{name: GOOD[name]})
    assert str(error.value) == (
        f"{function}() got an unexpected keyword argument {name!r}: it is an option of LinearHead")


@pytest.mark.parametrize("function", OTHERS)
@pytest.mark.parametrize("name", [name for name in LOSS if name not in HEAD])
def test_others_are_told_that_it_is_of_losses(function, name):
    with pytest.raises(TypeError) as error:
        OTHERS[function](**{name: GOOD[name]})
    assert str(error.value) == (
        f"{function}() got an unexpected keyword argument {name!r}: it is an option of losses")


@pytest.mark.parametrize("function", [name for name in LOSSES if name.startswith("linear_")])
def test_temperature_is_a_number_or_one_for_each_row(function):
    for value in 2.0, 2, np.float32(2), GOOD_OF_LOSS["temperature"], np.array([1, 2, 3]):
        LOSSES[function](temperature=value)


@pytest.mark.parametrize("bad", [[1.0, 2.0, 3.0], (2.0,), np.ones(3), np.ones((1, 1))], ids=repr)
@pytest.mark.parametrize("function", ["LinearHead", *OTHERS])
def test_a_head_has_one_temperature(function, bad):
    make = OTHERS.get(function, lambda **given: ll.LinearHead(W, **given))
    with pytest.raises(TypeError, match=r"of a head must be a number, .*one for each row"):
        make(temperature=bad)


@pytest.mark.parametrize("function", [*LOSSES, *OTHERS])
def test_a_misspelt_option_names_the_function_and_the_options(function):
    with pytest.raises(TypeError) as error:
        {**LOSSES, **OTHERS}[function](lable_smoothing=0.1)
    message = str(error.value)
    assert message.startswith(
        f"{function}() got an unexpected keyword argument 'lable_smoothing': options are ")
    for name in LOSS if function in LOSSES else HEAD:
        assert name in message


@pytest.mark.parametrize("function", [*LOSSES, *OTHERS])
def test_signatures_list_the_options(function):
    """As help and completion show them."""
    found = functools.reduce(getattr, function.split("."), ll)
    parameters = inspect.signature(found).parameters
    assert parameters.keys() >= {*(LOSS if function in LOSSES else ()),
                                 *(HEAD if function.startswith("linear_") else ())}
    assert not any(p.kind is p.VAR_KEYWORD for p in parameters.values())
    of_head = HEAD if function.startswith("linear_") else ()
    for name, p in parameters.items():
        if name in LOSS and name not in of_head:
            assert (p.kind, p.default) == (p.KEYWORD_ONLY, getattr(LossOptions(), name))
        elif name in of_head:
            own = inspect.signature(ll.LinearHead).parameters[name].default
            assert (p.kind, p.default) == (p.KEYWORD_ONLY, False if name == "pack" else own)


def test_options_are_told_before_anything_is_looked_at():
    with pytest.raises(TypeError, match=r"^linear_score\(\) got an unexpected"):
        ll.linear_score(None, None, None, None, lable_smoothing=0.1)


@pytest.mark.parametrize("frozen", [LossOptions(), Request(np.dtype(np.float32))], ids=repr)
def test_what_is_asked_does_not_change(frozen):
    for field in dataclasses.fields(frozen):
        with pytest.raises(dataclasses.FrozenInstanceError):
            setattr(frozen, field.name, None)
