"""The one error graft raises for a fault that its user can mend."""

from __future__ import annotations


class GraftError(Exception):
    """A fault in what the user gave: data, parameters, weights, a server's address.

    Args:
        problem: The bad value and where it came from, as one sentence.
        fix: What to change so that the next attempt works.

    Everything else that is raised (KeyError, RuntimeError ...) is a fault in graft itself.
    """

    def __init__(self, problem: str, fix: str) -> None:
        super().__init__(problem, fix)
        self.problem = problem
        self.fix = fix

    def __str__(self) -> str:
        return f"{self.problem}\n  fix: {self.fix}"
