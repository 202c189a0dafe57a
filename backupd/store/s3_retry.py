"""Trying again, within bounds: how often, how long, how far apart.

boto's own retries are off and this loop stands in for them, because a create-only write must know that an attempt whose
answer was lost went before, and because boto knows no deadline over all attempts. It must never try again what cannot
succeed.
"""

import random
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TypeVar

from backupd.store.s3_errors import Failure, final_error, may_pass

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Patience:
    """How long one call of the store may go on.

    Attributes:
        attempts: tries in all.
        deadline: seconds from the first try after which no other one begins.
        first_wait: seconds before the second try, at most; doubled each time.
        longest_wait: seconds between two tries, at most.
        sleep, monotonic, between: the outside world.
    """

    attempts: int = 8
    deadline: float = 300.0
    first_wait: float = 0.25
    longest_wait: float = 20.0
    sleep: Callable[[float], None] = time.sleep
    monotonic: Callable[[], float] = time.monotonic
    between: Callable[[float, float], float] = field(default=random.uniform)

    def insist(self, name: str | None, attempt: Callable[[int], T]) -> T:
        """Call `attempt` with the number of tries before it, until it succeeds or nothing more may help.

        Waits are drawn from the whole span up to the doubled bound ("full jitter"), so that many writers that were
        told to slow down do not come back together; a server's Retry-After is the least wait.

        Raises:
            StoreError: the word for the last Failure.
        """
        end = self.monotonic() + self.deadline
        bound = self.first_wait
        for tries in range(self.attempts):
            try:
                return attempt(tries)
            except Failure as failure:
                wait = max(self.between(0, bound), min(failure.retry_after, self.longest_wait))
                last = tries + 1 == self.attempts or self.monotonic() + wait > end
                if last or not may_pass(failure):
                    raise final_error(failure, name) from failure
            self.sleep(wait)
            bound = min(bound * 2, self.longest_wait)
        raise ValueError("attempts must be at least 1")
