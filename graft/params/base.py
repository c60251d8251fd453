"""What the sections of params.yaml are made of."""

from __future__ import annotations

import re
from typing import Annotated, Literal, TypeVar

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field

Fraction = Annotated[float, Field(ge=0, le=1)]
Positive = Annotated[float, Field(gt=0)]
NotNegative = Annotated[float, Field(ge=0)]
Count = Annotated[int, Field(ge=1)]
NotNegativeInt = Annotated[int, Field(ge=0)]
Seed = Annotated[int, Field(ge=0, lt=2**31)]

Size = Annotated[str, Field(pattern=r"^\d+(\.\d+)? ?([KMGT]i?)?B$")]  # such as 10 GiB
# What networks compute in; auto: bfloat16 where the hardware has units for it.
Precision = Literal["auto", "float32", "bfloat16"]

T = TypeVar("T")
# Left to a rule of the step that reads it, unless set; written `auto` in params.yaml.
Auto = Annotated[T | None, BeforeValidator(lambda value: None if value == "auto" else value)]


class Section(BaseModel):
    """One section of params.yaml: immutable, and strict about its keys."""

    model_config = ConfigDict(frozen=True, extra="forbid", validate_default=True)


def in_bytes(size: str) -> int:
    """A `Size` as a number: KiB, MiB ... count in 1024s, KB, MB ... in 1000s."""
    number, prefix, binary = re.fullmatch(r"([\d.]+) ?([KMGT]?)(i?)B", size).groups()  # type: ignore[union-attr]
    return int(float(number) * (1024 if binary else 1000) ** " KMGT".index(prefix or " "))
