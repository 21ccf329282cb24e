"""Requests and tokens per minute, and requests under way, of each tenant on this server.

Counted in memory by the `limits` library, in windows that begin with a tenant's first request
and last a minute. Several servers over one database each count for themselves.
"""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Literal

from limits import RateLimitItem, RateLimitItemPerSecond
from limits.storage import MemoryStorage
from limits.strategies import FixedWindowRateLimiter

from motet.errors import RateLimited
from motet.tenancy.quotas import Quota

Kind = Literal["requests", "tokens"]

_BUSY_RETRY_S = 1.0


class Rates:
    """Belongs to the event loop. `window_s`: how long a "minute" is; tests make it shorter."""

    def __init__(self, window_s: int = 60) -> None:
        self._window_s = window_s
        self._storage = MemoryStorage()
        self._limiter = FixedWindowRateLimiter(self._storage)
        self._under_way: dict[str, int] = {}

    def count_request(self, tenant: str, quota: Quota) -> None:
        """Raises RateLimited, and then counts nothing."""
        if quota.requests_per_minute is not None:
            self._take("requests", tenant, quota.requests_per_minute, 1)

    @contextmanager
    def under_way(self, tenant: str, quota: Quota) -> Iterator[None]:
        """Holds one of the tenant's places for requests at the same time. Raises RateLimited."""
        number = self._under_way.get(tenant, 0)
        if quota.max_concurrent is not None and number >= quota.max_concurrent:
            raise RateLimited(
                f"Rate limit reached for concurrent requests: Limit {quota.max_concurrent}. "
                "Please try again when one has ended.",
                kind="requests",
                retry_s=_BUSY_RETRY_S,
            )
        self._under_way[tenant] = number + 1
        try:
            yield
        finally:
            left = self._under_way[tenant] - 1
            if left:
                self._under_way[tenant] = left
            else:
                del self._under_way[tenant]

    def reserve(self, tenant: str, quota: Quota, num_tokens: int) -> "Reservation":
        """Counts the most tokens that a request may come to. Raises RateLimited, and then counts
        nothing."""
        if quota.tokens_per_minute is None:
            return Reservation(None, "", 0.0, 0)
        item = self._take("tokens", tenant, quota.tokens_per_minute, num_tokens)
        key = item.key_for("tokens", tenant)
        return Reservation(self._storage, key, self._storage.get_expiry(key), num_tokens)

    def headers(self, tenant: str, quota: Quota) -> dict[str, str]:
        """OpenAI's rate-limit headers, as of now, for the limits that there are."""
        found: dict[str, str] = {}
        amounts: tuple[tuple[Kind, int | None], ...] = (
            ("requests", quota.requests_per_minute),
            ("tokens", quota.tokens_per_minute),
        )
        for kind, amount in amounts:
            if amount is not None:
                stats = self._limiter.get_window_stats(self._item(amount), kind, tenant)
                wait_s = max(stats.reset_time - time.time(), 0.0)
                found[f"x-ratelimit-limit-{kind}"] = str(amount)
                found[f"x-ratelimit-remaining-{kind}"] = str(max(stats.remaining, 0))
                found[f"x-ratelimit-reset-{kind}"] = duration(wait_s)
        return found

    def _take(self, kind: Kind, tenant: str, amount: int, cost: int) -> RateLimitItem:
        item = self._item(amount)
        if cost > amount:
            raise RateLimited(
                f"Request too large for {kind} per min: Limit {amount}, Requested {cost}. Shorten "
                "the prompt, or lower max_tokens or n.",
                kind=kind,
            )
        # A refused hit would count in a fixed window, and keep a busy client out for good.
        if not self._limiter.test(item, kind, tenant, cost=cost):
            stats = self._limiter.get_window_stats(item, kind, tenant)
            wait_s = max(stats.reset_time - time.time(), 0.001)
            raise RateLimited(
                f"Rate limit reached for {kind} per min: Limit {amount}, Used "
                f"{amount - max(stats.remaining, 0)}, Requested {cost}. Please try again in "
                f"{duration(wait_s)}.",
                kind=kind,
                retry_s=wait_s,
            )
        self._limiter.hit(item, kind, tenant, cost=cost)
        return item

    def _item(self, amount: int) -> RateLimitItem:
        return RateLimitItemPerSecond(amount, self._window_s, namespace="motet")


class Reservation:
    """Tokens counted for one request before it runs."""

    def __init__(
        self, storage: MemoryStorage | None, key: str, window_end: float, num_tokens: int
    ) -> None:
        """storage: None where no tokens are counted. window_end: of that in which they count."""
        self._storage = storage
        self._key = key
        self._window_end = window_end
        self._num_tokens = num_tokens

    def settle(self, num_used: int) -> None:
        """Gives back what was not used, if the window they were counted in has not ended."""
        storage = self._storage
        unused = self._num_tokens - num_used
        if storage is None or unused <= 0:
            return
        storage.get(self._key)  # forgets a window that has ended
        if storage.get_expiry(self._key) == self._window_end:
            storage.decr(self._key, unused)


def duration(seconds: float) -> str:
    """As OpenAI's headers write it: 120ms, 7.66s, 6m0s."""
    if seconds < 1:
        return f"{round(seconds * 1000)}ms"
    minutes, rest = divmod(seconds, 60)
    text = f"{rest:.3f}".rstrip("0").rstrip(".")
    return f"{int(minutes)}m{text}s" if minutes else f"{text}s"
