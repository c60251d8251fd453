"""Cron expressions: checked, and written as Kubeflow and Kubernetes want them.

Kubeflow's scheduler parses them with robfig/cron 1.2: seconds first, and 0 to 6 for the days of the week.
It accepts five fields too, but takes the first for seconds, so that "10 10 * * *" runs every hour. Five
fields mean here what they mean everywhere else: minute, hour, day of month, month, day of week.
"""

from __future__ import annotations

import re

FIELDS = ("second", "minute", "hour", "day of month", "month", "day of week")
_BOUNDS = ((0, 59), (0, 59), (0, 23), (1, 31), (1, 12), (0, 7))
_MONTHS = ("jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec")
_DAYS = ("sun", "mon", "tue", "wed", "thu", "fri", "sat")
_NAMES: dict[int, dict[str, int]] = {
    4: {name: number for number, name in enumerate(_MONTHS, 1)},
    5: {name: number for number, name in enumerate(_DAYS)},
}


def six_fields(text: str) -> str:
    """An expression of five or six fields, as six.

    Raises:
        ValueError: it has another number of fields, or one of them is out of range.
    """
    fields = text.split()
    if "=" in fields[0] if fields else False:
        raise ValueError(f"{fields[0]} is not understood by Kubeflow; give time_zone instead")
    if len(fields) not in (5, 6):
        raise ValueError(
            f"five fields (minute first) or six (second first) are needed, there are {len(fields)}"
        )
    fields = ["0", *fields] if len(fields) == 5 else fields
    return " ".join(_field(position, field) for position, field in enumerate(fields))


def five_fields(six: str) -> str:
    """What `six_fields` returned, as Kubernetes wants it.

    Raises:
        ValueError: it asks for seconds, which Kubernetes cannot count.
    """
    second, *rest = six.split()
    if second != "0":
        raise ValueError(f"its seconds are {second!r}, and Kubernetes starts jobs on the minute")
    return " ".join(rest)


def _field(position: int, field: str) -> str:
    """One field; the days of the week without 7, and else as it was written."""
    values = [_values(position, part) for part in field.split(",")]
    if position == 5 and "7" in re.split("[,-]", re.sub("/[0-9]+", "", field)):
        return ",".join(str(day) for day in sorted({day % 7 for days in values for day in days}))
    return field


def _values(position: int, part: str) -> range:
    """What a value, a range or a star stands for, each with or without a step."""
    span, slash, step = part.partition("/")
    low, high = _BOUNDS[position]
    if span in ("*", "?"):
        first, last = low, 6 if position == 5 else high
    else:
        start, dash, end = span.partition("-")
        first = _number(position, start, part)
        last = _number(position, end, part) if dash else (high if slash else first)
    if slash and not (step.isdecimal() and int(step) > 0):
        raise ValueError(f"{part!r}: the step of the {FIELDS[position]} is no positive number")
    if first > last:
        raise ValueError(f"{part!r}: the range of the {FIELDS[position]} ends before it begins")
    return range(first, last + 1, int(step) if slash else 1)


def _number(position: int, text: str, part: str) -> int:
    names = _NAMES.get(position, {})
    low, high = _BOUNDS[position]
    if text.lower() in names:
        return names[text.lower()]
    if not text.isdecimal() or not low <= int(text) <= high:
        raise ValueError(f"{part!r}: the {FIELDS[position]} lies in {low} to {high}")
    return int(text)
