"""Whether a plan has the models that a request names."""

from __future__ import annotations

import pytest

from sentinel.error import ModelNotAllowed
from sentinel.governance.port import AuthenticatedUser
from sentinel.middleware.model_check import ModelCheck, check

ALL = AuthenticatedUser("ana", "ana@corp.test")
SOME = AuthenticatedUser("bo", "bo@corp.test", ("gpt-4o*",))
NONE = AuthenticatedUser("cy", "cy@corp.test", ())


def refused(user: AuthenticatedUser, **named: str) -> str | None:
    """The field at fault, None where nothing is. named: places by models."""
    with pytest.raises(ModelNotAllowed) as caught:
        check(user, named)
    assert (caught.value.status, caught.value.code) == (403, "model_not_allowed")
    return caught.value.param


def test_a_plan_without_a_list_has_all() -> None:
    """Also what is not named."""
    check(ALL, {"anything": "model", "": "model"})


def test_a_plan_has_what_its_globs_match() -> None:
    """The first that they do not is told."""
    check(SOME, {"gpt-4o-mini": "model"})
    assert refused(SOME, **{"gpt-4o": "model", "o3": "tools[0].model"}) == "tools[0].model"
    assert refused(NONE, **{"gpt-4o": "model"}) == "model"


def test_one_must_be_named() -> None:
    """Unless the plan has all by its list, too."""
    with pytest.raises(ModelNotAllowed, match="must name one"):
        check(SOME, {"": "model"})
    check(AuthenticatedUser("di", "di@corp.test", ("*",)), {"": "model"})


def test_a_request_that_passes() -> None:
    """What it names is judged as it comes; whether it names one, at its end."""
    for user, needed in ((ALL, False), (SOME, True), (NONE, True)):
        assert ModelCheck(user, takes_model=False).is_needed is needed
    models = ModelCheck(SOME, takes_model=True)
    models.so_far({})
    models.all({"gpt-4o": "model"})
    for judge, named in ((models.all, {}), (models.all, {"o3": "model"}), (models.so_far, {"o3": "model"})):
        with pytest.raises(ModelNotAllowed):
            judge(named)
    ModelCheck(SOME, takes_model=False).all({})
    ModelCheck(ALL, takes_model=True).all({})
