"""Whether a caller's plan has the models that their request names (endpoints/named_models.py)."""

from __future__ import annotations

from sentinel.endpoints.named_models import NamedModels
from sentinel.error import ModelNotAllowed
from sentinel.governance.port import AuthenticatedUser

_MOST_TOLD = 96
"""Characters of a model's name in an error."""


def check(user: AuthenticatedUser, named: NamedModels) -> None:
    """Raises ModelNotAllowed for the first that the plan does not have, and where none is named ("")."""
    for model, param in named.items():
        if not user.may_use(model):
            raise not_allowed(model, param) if model else unnamed(param)


class ModelCheck:
    """The same of one request that is passed through. takes_model: something is generated, by the model that it names.

    is_needed: whether the caller's plan does not have all models, so that what a request names must be found.
    """

    def __init__(self, user: AuthenticatedUser, *, takes_model: bool) -> None:
        self.is_needed = user.allowed_models is not None
        self._user = user
        self._takes_model = takes_model

    def so_far(self, named: NamedModels) -> None:
        """More may be named. Raises ModelNotAllowed."""
        if named:
            check(self._user, named)

    def all(self, named: NamedModels) -> None:
        """Nothing else is named. Raises ModelNotAllowed."""
        check(self._user, named or ({"": "model"} if self._takes_model else {}))


def not_allowed(model: str, param: str = "model") -> ModelNotAllowed:
    """Why this model is refused."""
    return ModelNotAllowed(f"Your plan does not have the model '{model[:_MOST_TOLD]}'.", param=param)


def unnamed(param: str = "model") -> ModelNotAllowed:
    """The provider would take a model of its own choice."""
    return ModelNotAllowed("Your plan does not have all models, so the request must name one.", param=param)
