"""What a restored database must answer: an assertion of a policy, and the answer that came. Pure.

A sentence about an answer tells numbers and times; a text is never repeated, because it may be a customer's.
"""

from datetime import UTC, datetime, timedelta
from math import isfinite

from backupd.model import Answer
from backupd.policy.model import Assertion
from backupd.policy.words import written


def judge(asserted: Assertion, answer: Answer, *, before: float | None = None, taken_at: datetime) -> tuple[bool, str]:
    """Whether an answer is what was asserted, and a sentence that says so.

    Args:
        asserted: by the policy.
        answer: the first column of the first row.
        before: what the last drill that passed was answered, if that was a number.
        taken_at: when the snapshot was taken.
    """
    said: list[str] = []
    passed = True
    for good, why in _looked_at(asserted, answer, before, taken_at):
        passed = passed and good
        said.append(why)
    return passed, ", ".join([_spoken(answer), *said])


def number_in(answer: Answer) -> float | int | None:
    """The answer as a number that the next drill may be compared with; None if it is none."""
    if isinstance(answer, bool) or not isinstance(answer, int | float):
        return None
    try:
        return answer if isfinite(answer) else None
    except OverflowError:  # a whole number beyond all that a float can hold
        return None


def _looked_at(asserted: Assertion, answer: Answer, before: float | None, taken_at: datetime) -> list[tuple[bool, str]]:
    number, found = number_in(answer), []
    if asserted.min is not None:
        found.append((number is not None and number >= asserted.min, f"at least {asserted.min:,} wanted"))
    if asserted.max is not None:
        found.append((number is not None and number <= asserted.max, f"at most {asserted.max:,} wanted"))
    if asserted.equals is not None:
        equal = _equal(answer, asserted.equals)
        found.append((equal, "as wanted" if equal else "not the value that is wanted"))
    if asserted.max_drop is not None:
        found.append(_dropped(number, before, asserted.max_drop))
    if asserted.within is not None:
        found.append(_fresh(answer, taken_at, asserted.within))
    return found


def _equal(answer: Answer, wanted: float | int | str) -> bool:
    if isinstance(answer, bool):
        return wanted in ({1, "1", "true", "t"} if answer else {0, "0", "false", "f"})
    if isinstance(wanted, str):
        return answer is not None and not isinstance(answer, datetime) and str(answer) == wanted
    return number_in(answer) == wanted


def _dropped(number: float | None, before: float | None, most: float) -> tuple[bool, str]:
    """Whether a number has not fallen by more than so many per cent since the last drill."""
    if number is None:
        return False, f"at most {most:g} % fewer than the drill before wanted"
    if before is None or before <= 0:
        return True, "no drill before to compare with"
    drop = (before - number) / before * 100
    change = f"{drop:.1f} % fewer than" if drop > 0 else f"{-drop:.1f} % more than" if drop < 0 else "as many as"
    return drop <= most, f"{change} {before:,} at the drill before, at most {most:g} % fewer wanted"


def _fresh(answer: Answer, taken_at: datetime, within: timedelta) -> tuple[bool, str]:
    """Whether a time is near the one at which the snapshot was taken: what is far ahead of it says nothing about it."""
    moment = _moment(answer)
    wanted = f"within {written(within)} of the snapshot wanted"
    return moment is not None and abs(taken_at - moment) <= within, wanted


def _moment(answer: Answer) -> datetime | None:
    if isinstance(answer, str):
        try:
            answer = datetime.fromisoformat(answer)
        except ValueError:
            return None
    if not isinstance(answer, datetime):
        return None
    return answer if answer.tzinfo else answer.replace(tzinfo=UTC)


def _spoken(answer: Answer) -> str:
    """The answer, as far as it may be told."""
    if answer is None:
        return "NULL"
    if isinstance(answer, str):
        return "a text"
    if isinstance(answer, datetime):
        return answer.isoformat(" ", "seconds")
    return str(answer).lower() if isinstance(answer, bool) else f"{answer:,}"
