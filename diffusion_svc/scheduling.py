"""Whose turn it is: the order in which songs get into forwards. Pure: it knows neither clocks nor devices, nor what a song is.

Work is measured in rows x frames. A forward is led by the first in the order and filled up, within the budget, with those after it
that still fit. The order is: class; among equals, those whose deadline is close, the closest first; then the tenant that was served least;
then the song that was served least. Every `AGEING`-th forward is led by who has waited longest instead, so that nobody starves.
"""

import enum
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Generic, TypeVar

AGEING = 8

T = TypeVar("T")


class Priority(enum.IntEnum):
    """Urgency class; a lower one always goes first."""

    INTERACTIVE = 0
    NORMAL = 1
    BATCH = 2


@dataclass(frozen=True)
class Terms:
    """What a request says about its turn.

    Attributes:
        priority: Its class.
        deadline: When it must be finished, in seconds on the clock that `Queue.choose` is told.
        tenant: Whom its work counts for.
    """

    priority: Priority = Priority.NORMAL
    deadline: float = math.inf
    tenant: str = ""


@dataclass(eq=False)
class _Entry(Generic[T]):
    item: T
    terms: Terms
    served: float  # rows x frames given to it, and to those of its tenant before it came
    waits_since: int  # forward that it was last in, or joined after


class Queue(Generic[T]):
    """Those who wait for forwards.

    A newcomer starts at the account of the least served: the past earns no credit, for songs as for tenants.

    Args:
        budget: Rows x frames of a forward. An item that wants more goes alone.
    """

    def __init__(self, budget: int) -> None:
        self.budget = budget
        self._entries: list[_Entry[T]] = []
        self._tenants: dict[str, float] = {}
        self._forwards = 0

    def __len__(self) -> int:
        return len(self._entries)

    def __iter__(self) -> Iterator[T]:
        return (entry.item for entry in self._entries)

    def add(self, item: T, terms: Terms) -> None:
        """Let an item wait. It stays, served or not, until it is removed."""
        present = {entry.terms.tenant for entry in self._entries}
        level = min((self._tenants[tenant] for tenant in present), default=0.0)
        owing = {tenant: served for tenant, served in self._tenants.items() if tenant in present or (present and served > level)}
        self._tenants = {**owing, terms.tenant: max(owing.get(terms.tenant, 0.0), level)}
        served = min((entry.served for entry in self._entries if entry.terms.tenant == terms.tenant), default=0.0)
        self._entries.append(_Entry(item, terms, served, self._forwards))

    def remove(self, unwanted: Callable[[T], bool]) -> None:
        """Drop all items of which this is true."""
        self._entries = [entry for entry in self._entries if not unwanted(entry.item)]

    def choose(self, size: Callable[[T], int], remaining_seconds: Callable[[T], float], now: float) -> list[T]:
        """The items of the next forward, charged to them and their tenants; some where any wait.

        Args:
            size: Rows x frames that an item wants in one forward.
            remaining_seconds: Predicted time to its end, were it alone.
            now: On the clock of the deadlines.
        """
        self._forwards += 1
        ranked = sorted(self._entries, key=lambda entry: self._rank(entry, remaining_seconds(entry.item), now))
        if self._forwards % AGEING == 0:
            eldest = min(self._entries, key=lambda entry: entry.waits_since, default=None)
            ranked.sort(key=lambda entry: entry is not eldest)
        chosen: list[T] = []
        total = 0
        for entry in ranked:
            own = size(entry.item)
            if chosen and total + own > self.budget:
                continue
            chosen.append(entry.item)
            total += own
            entry.served += own
            entry.waits_since = self._forwards
            self._tenants[entry.terms.tenant] += own
        return chosen

    def _rank(self, entry: _Entry[T], remaining: float, now: float) -> tuple[Priority, float, float, float]:
        slack = entry.terms.deadline - now - remaining
        if slack >= remaining:  # half of the device is still enough: no reason to go before others
            slack = math.inf
        return entry.terms.priority, slack, self._tenants[entry.terms.tenant], entry.served
