"""What an engine needs to know of the LoRA adapters that it will serve."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from tasks.generation.policy import Adapter, Policy

if TYPE_CHECKING:
    from tasks.plan.adapter_source import LoraSlots


@dataclass(frozen=True, kw_only=True)
class LoraSpec:
    """All adapters of an engine, which it loads when it starts, and the room for them.

    ``slots`` adapters may be in one batch, ``held`` in host memory, each of at most ``rank``.
    """

    adapters: tuple[Adapter, ...]
    slots: int
    held: int
    rank: int

    @classmethod
    def of(cls, policies: Iterable[Policy], room: "LoraSlots | None") -> "LoraSpec | None":
        """Return the adapters of ``policies`` and the ``room`` for them; None without adapters."""
        adapters = tuple(policy.adapter for policy in policies if policy.adapter is not None)
        return cls.with_room(room, adapters) if adapters else None

    @classmethod
    def with_room(cls, room: "LoraSlots | None", adapters: tuple[Adapter, ...] = ()) -> "LoraSpec | None":
        """Return the ``room`` with ``adapters`` in it; None without room."""
        if room is None:
            return None
        return cls(adapters=adapters, slots=room.slots, held=room.held, rank=room.rank)
