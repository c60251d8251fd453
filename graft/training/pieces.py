"""A batch in several pieces, one after the other, where memory does not suffice for the whole."""

from __future__ import annotations

from collections.abc import Callable
from contextvars import ContextVar
from dataclasses import dataclass

import torch

from graft.backbones.room import out_of_memory
from graft.errors import GraftError
from graft.progress import say
from graft.training.distributed import world

MOST = 256  # a loss that needs too much memory in so many pieces is not made of `Batches`


@dataclass(frozen=True)
class Piece:
    """Which piece of how many is computed at the moment."""

    number: int = 0
    total: int = 1

    def of(self, share: slice) -> slice:
        """Its part of positions in a batch; pieces differ by one image at most.

        Raises:
            GraftError: there are more pieces than images.
        """
        images = share.stop - share.start
        if images < self.total:
            raise GraftError(
                f"memory does not suffice to train on one image at a time (a batch has {images})",
                "use a smaller network, a smaller backbone.input_size, or a machine with more memory",
            )
        start, stop = (share.start + images * at // self.total for at in (self.number, self.number + 1))
        return slice(start, stop)


WHOLE = Piece()
now: ContextVar[Piece] = ContextVar("piece", default=WHOLE)


@dataclass
class Pieces:
    """In how many pieces each batch is computed; twice as many from where memory runs out.

    The gradients of the pieces are averaged, so that what is learned is that of the whole batch, with two
    exceptions: BatchNorm normalises by each piece, and a loss between images (of a domain's statistics,
    say) is the mean of the pieces' losses.
    """

    count: int = 1

    def learn(self, compute: Callable[[], dict[str, float]], forget: Callable[[], None]) -> dict[str, float]:
        """Compute every piece of one batch; gives the means of its numbers.

        Args:
            compute: Adds a piece's gradient, divided by the number of pieces, to what is there.
            forget: Makes room for the gradients of a new batch.

        Raises:
            RuntimeError: memory does not suffice, and there are several processes, or a loss of its own.
        """
        while True:
            forget()
            numbers = self._tried(compute)
            if numbers is not None:
                return numbers
            self.count *= 2
            forget()
            if torch.cuda.is_available():
                torch.cuda.empty_cache()
            say(f"memory does not suffice for a whole batch; going on in {self.count} pieces of it")

    def _tried(self, compute: Callable[[], dict[str, float]]) -> dict[str, float] | None:
        """None where memory ran out; what was held for the piece is free again on return."""
        rows = []
        for number in range(self.count):
            token = now.set(Piece(number, self.count))
            try:
                rows.append(compute())
            except (RuntimeError, MemoryError) as error:
                if not out_of_memory(error) or world() > 1 or self.count >= MOST:
                    raise
                return None
            finally:
                now.reset(token)
        return {name: sum(row[name] for row in rows) / self.count for name in rows[0]}
