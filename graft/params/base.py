"""What the sections of params.yaml are made of."""

from __future__ import annotations

from typing import Annotated, TypeVar

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field

Fraction = Annotated[float, Field(ge=0, le=1)]
Positive = Annotated[float, Field(gt=0)]
NotNegative = Annotated[float, Field(ge=0)]
Count = Annotated[int, Field(ge=1)]
NotNegativeInt = Annotated[int, Field(ge=0)]
Seed = Annotated[int, Field(ge=0, lt=2**31)]

T = TypeVar("T")
# Left to a rule of the step that reads it, unless set; written `auto` in params.yaml.
Auto = Annotated[T | None, BeforeValidator(lambda value: None if value == "auto" else value)]


class Section(BaseModel):
    """One section of params.yaml: immutable, and strict about its keys."""

    model_config = ConfigDict(frozen=True, extra="forbid", validate_default=True)
