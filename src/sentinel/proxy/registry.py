"""Where a request goes: the targets that a model has, and in which order they are tried. Conducts.

With the environment alone there is one target for every model. With a file (provider_config.py) the longest pattern
that fits a model names its targets: weights share them out, fallbacks come behind. A target that fails is left alone
for a while (breaker.py).
"""

from __future__ import annotations

import math
import random
from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace

from sentinel.error import ModelNotFound, ServiceUnavailable
from sentinel.prices.catalog import UNPRICED, Prices
from sentinel.provider_config import FORMATS, ModelSpec
from sentinel.proxy.additions import Additions
from sentinel.proxy.breaker import Breaker
from sentinel.proxy.provider import AiProvider, ProviderPool, SocketProvider
from sentinel.proxy.trace import NOWHERE, Place
from sentinel.proxy.translate import Translator

OTHER = "other"
"""What a provider must speak that gets what has no format of its own, and what has no model."""
_KEY = "#"
"""In a place, between a provider's name, which has no such character, and that of one of its keys."""
MOST_ATTEMPTS = 3
_MOST_BREAKERS = 1_000
"""Of one route, which may be that of a prefix: a client may make up any name."""

_RETRY_SHARE, _MOST_RETRIES, _FIRST_RETRIES = 0.2, 1_000.0, 100.0
"""At most a fifth of all requests go to a second target, else an outage of one would be the double of it for all; so
many may at once, since the first second of an outage meets all that is in flight."""


class Route:
    """How a model is reached at one target.

    name: the same in every process. model: its name there, None = as the client has it.
    max_tokens_field, stream_usage, renames_maximum: as in provider_config.py.
    """

    __slots__ = (
        "_breakers", "concurrency", "in_flight", "max_tokens_field", "model", "name", "renames_maximum", "stream_usage",
        "weight",
    )  # fmt: skip

    def __init__(
        self,
        model: str | None = None,
        weight: int = 1,
        concurrency: int | None = None,
        max_tokens_field: str | None = None,
        *,
        stream_usage: bool = True,
        renames_maximum: bool = False,
        name: str = "",
    ) -> None:
        self.name = name
        self.model = model
        self.weight = weight
        self.concurrency = concurrency
        self.max_tokens_field = max_tokens_field
        self.stream_usage = stream_usage
        self.renames_maximum = renames_maximum
        self.in_flight = 0
        self._breakers: OrderedDict[str, Breaker] = OrderedDict()

    def breaker(self, what: str) -> Breaker:
        """That of one format and model: what one of them is refused for says nothing of the others."""
        found = self._breakers.get(what)
        if found is None:
            found = self._breakers[what] = Breaker()
            if len(self._breakers) > _MOST_BREAKERS:
                self._breakers.popitem(last=False)
        return found

    def left_alone(self, now: float) -> int:
        """How many of its breakers are open."""
        return sum(each.wait_seconds(now) > 0 for each in self._breakers.values())

    @property
    def is_full(self) -> bool:
        """Whether as many requests are there as may be."""
        return self.concurrency is not None and self.in_flight >= self.concurrency


@dataclass(frozen=True, slots=True)
class Target:
    """A provider, by its name, and what it was found to refuse of our additions. sockets: the same over WebSockets.

    formats: that it speaks, None = all. route: of a model there; None where there is nothing to choose between. prices:
    of its models. translator: between the client's format and one that it speaks, where it does not speak that.
    pool: the provider, where it has several keys; socket_key: the name of the one that sockets have then.
    place: what traces say of it.
    """

    name: str
    provider: AiProvider
    additions: Additions = field(default_factory=Additions)
    sockets: SocketProvider | None = None
    formats: frozenset[str] | None = None
    route: Route | None = None
    prices: Prices = UNPRICED
    translator: Translator | None = None
    pool: ProviderPool | None = None
    socket_key: str = ""
    place: Place = NOWHERE

    def speaks(self, format_name: str) -> bool:
        """Whether it speaks this format."""
        return self.formats is None or (format_name if format_name in FORMATS else OTHER) in self.formats


@dataclass(frozen=True, slots=True)
class Served:
    """The targets of the models that a pattern fits."""

    spec: ModelSpec
    targets: tuple[Target, ...]
    fallback: tuple[Target, ...]


class Registry:
    """Maps a model to its targets. providers: one target for each provider, in the order of the file.

    served: what models have entries; chance: 0 to 1. on_opened: told the name of a route, what of it is left alone, and
    for how many seconds.
    """

    on_opened: Callable[[str, str, float], None] = staticmethod(lambda _name, _what, _seconds: None)

    def __init__(
        self,
        *providers: Target,
        served: Iterable[Served] = (),
        chance: Callable[[], float] = random.random,
        home: str = "",
    ) -> None:
        self._home = home
        self._chance = chance
        self._retries = _FIRST_RETRIES
        self.take(providers, served)

    def take(self, providers: Sequence[Target], served: Iterable[Served] = ()) -> None:
        """From now on these serve; what has begun goes on where it is."""
        self.providers = tuple(providers)
        self.served = tuple(served)
        self._exact = {each.spec.pattern: each for each in self.served if each.spec.is_exact}
        prefixes = [each for each in self.served if not each.spec.is_exact]
        self._prefixes = sorted(prefixes, key=lambda each: -len(each.spec.pattern))
        has_pool = any(each.pool is not None for each in self.providers)
        self.is_many = len(self.providers) > 1 or has_pool or bool(self._home)
        self._translating: dict[tuple[str, int], Target | None] = {}
        self.only = self.providers[0] if len(self.providers) == 1 else None
        self.plain = self.only if self.only is not None and self.only.route is None else None

    @property
    def home(self) -> str:
        """The provider of whatever names none, and of records that are older than the others are.

        is_many: there are several places where an object may be: providers, or keys of one.
        """
        if self._home:
            return self._home
        first = next((each for each in self.providers if each.speaks(OTHER)), self.providers[0])
        return first.name

    def targets(
        self, format_name: str, model: str, place: str = "", *, may_translate: bool = False
    ) -> Sequence[Target]:
        """The targets of this model that speak this format, in the order in which they are tried; at least one.

        model: empty for what has none: then it is the first provider that takes such. place: where that is which the
        request names, and no other has it (`place_of`). may_translate: where none speaks the format, those that speak
        one that it can be translated into. Raises ModelNotFound.
        """
        if self.plain is not None:
            return self.providers
        if place:
            return (self._at(place, model),)
        found = self.entry_of(model) if model else None
        if found is None:
            return (self._without_entry(format_name, model, may_translate=may_translate),)
        targets = [target for target in found.targets if target.speaks(format_name)]
        fallback = [target for target in found.fallback if target.speaks(format_name)]
        if not targets and not fallback and may_translate:
            targets = self._translated(format_name, found.targets)
            fallback = self._translated(format_name, found.fallback)
        if not targets and not fallback:
            raise self._not_spoken(model, [*found.targets, *found.fallback])
        return [*self._shuffled(targets), *fallback]

    def with_sockets(self, format_name: str, model: str, place: str = "") -> Target:
        """The first of them that has WebSockets; one without where none has. As in `targets`. Raises ModelNotFound."""
        if model or place or self.plain is not None:
            targets = self.targets(format_name, model, place)
        else:
            speaking = [target for target in self.providers if target.speaks(format_name)]
            targets = speaking or self.targets(format_name, "")
        return next((target for target in targets if target.sockets is not None), targets[0])

    def _translated(self, format_name: str, targets: Iterable[Target]) -> list[Target]:
        """Those that speak a format that this one can be translated into."""
        found = []
        for target in targets:
            key = format_name, id(target)
            if key not in self._translating:
                self._translating[key] = _with_translator(format_name, target)
            if (translating := self._translating[key]) is not None:
                found.append(translating)
        return found

    def entry_of(self, model: str) -> Served | None:
        """The entry of this model: its own, else that of the longest prefix; None if none fits."""
        found = self._exact.get(model)
        if found is None:
            found = next((each for each in self._prefixes if each.spec.fits(model)), None)
        return found

    def prices(self, format_name: str, model: str) -> Prices:
        """What this model costs where it is served; of one that no file names nobody knows."""
        try:
            return self.targets(format_name, model)[0].prices
        except ModelNotFound:
            return UNPRICED

    def _at(self, place: str, model: str) -> Target:
        found = self.entry_of(model) if model else None
        targets = () if found is None else (*found.targets, *found.fallback)
        name, _, key = place.partition(_KEY)
        target = next((each for each in (*targets, *self.providers) if each.name == name), None)
        if target is None:
            raise ModelNotFound("The provider of what the request names is there no more.")
        if model and found is None and self.only is None:
            raise ModelNotFound(f"The model '{model[:96]}' does not exist.", param="model")
        return target if target.pool is None else replace(target, provider=target.pool.of(key))

    def _without_entry(self, format_name: str, model: str, *, may_translate: bool) -> Target:
        """The only provider there is; for what has no model the first that takes such. Raises ModelNotFound."""
        if not model:
            first = next((each for each in self.providers if each.speaks(format_name)), None)
            if first is not None:
                return first
            raise ModelNotFound("No provider serves requests without a model.", param="model")
        if self.only is None:
            raise ModelNotFound(f"The model '{model[:96]}' does not exist.", param="model")
        if self.only.speaks(format_name):
            return self.only
        translated = self._translated(format_name, [self.only]) if may_translate else []
        if not translated:
            raise self._not_spoken(model, [self.only])
        return translated[0]

    @staticmethod
    def _not_spoken(model: str, targets: Iterable[Target]) -> ModelNotFound:
        spoken = sorted({name for target in targets for name in target.formats or FORMATS})
        text = f"The model '{model[:96]}' is not served in this format, but as: {', '.join(spoken)}."
        return ModelNotFound(text, param="model")

    def _shuffled(self, targets: list[Target]) -> list[Target]:
        """In an order by chance, in which a weight of 9 comes before a weight of 1 nine times in ten."""
        if len(targets) < 2:
            return targets

        def key(target: Target) -> float:
            weight = 1 if target.route is None else target.route.weight
            # Efraimidis and Spirakis: the largest u^(1/w) first is a weighted sample without replacement.
            return -math.pow(max(self._chance(), 1e-12), 1 / weight)

        return sorted(targets, key=key)

    def routes(self) -> Iterator[tuple[str, Route]]:
        """Every way to a model, with its provider's name."""
        for each in self.served:
            for target in (*each.targets, *each.fallback):
                if target.route is not None:
                    yield target.name, target.route
        for target in self.providers:
            if target.route is not None:
                yield target.name, target.route

    def heard(self, name: str, what: str, until: float) -> None:
        """Another process leaves this of the route of this name alone until then (monotonic seconds)."""
        for _, route in self.routes():
            if route.name == name:
                route.breaker(what).heard(until)

    def earned(self) -> None:
        """A request goes to its first target: so much more may go to second ones."""
        self._retries = min(_MOST_RETRIES, self._retries + _RETRY_SHARE)

    def may_retry(self) -> bool:
        """Whether one more request may go to another target than its first; takes it from what may."""
        if self._retries < 1:
            return False
        self._retries -= 1
        return True


def _with_translator(format_name: str, target: Target) -> Target | None:
    spoken = target.formats or ()
    translators = (Translator.of(format_name, each) for each in FORMATS if each in spoken)
    translator = next((each for each in translators if each is not None), None)
    return None if translator is None else replace(target, translator=translator)


def place_of(target: Target, key: str) -> str:
    """Where something is that was made there. key: the name of one of several, empty where there is but one."""
    return f"{target.name}{_KEY}{key}" if key else target.name


def all_away(waits: Iterable[float]) -> ServiceUnavailable:
    """The error where no target takes requests now. waits: seconds until each does."""
    return ServiceUnavailable("Every provider of this model is away.", retry_after_seconds=max(1.0, min(waits)))
