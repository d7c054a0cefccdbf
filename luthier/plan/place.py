"""Where a training computes. In: its settings, a machine. Out: its type, its rate, what its time costs. Next: trainings."""

from __future__ import annotations

from dataclasses import dataclass

from luthier.config.model import ModelConfig
from luthier.config.training import TrainingSection
from luthier.plan.hardware import ASSUMED_UTILISATION, Hardware
from luthier.plan.steps import compiles


@dataclass(frozen=True)
class Cost:
    """What a training takes. `None` is: not known.

    Units: seconds, kWh, US dollars
    """

    seconds: float | None = None
    energy_kwh: float | None = None
    dollars: float | None = None


@dataclass(frozen=True)
class Place:
    """A machine, or several of one kind, the type of a training's products, and whether it is compiled."""

    hardware: Hardware | None
    precision: str
    on_gpu: bool
    compiled: bool = False
    utilisation: float = ASSUMED_UTILISATION
    """Share of the peak that is reached."""

    @property
    def ranks(self) -> int:
        return self.hardware.count if self.hardware else 1

    @property
    def available(self) -> float | None:
        """Bytes of memory that one rank has."""
        return self.hardware.memory_gib * 2**30 if self.hardware and self.hardware.memory_gib > 0 else None

    @property
    def peak(self) -> float | None:
        """FLOP/s of one rank."""
        return self.hardware.rate(self.precision) if self.hardware else None

    @property
    def rate(self) -> float | None:
        """FLOP/s of all ranks together."""
        return self.peak * self.utilisation * self.ranks if self.peak else None

    def seconds(self, flops: float | None, sent_bytes: float = 0.0) -> float | None:
        """Time of so many FLOPs on all ranks, and of so many bytes that each sends while it does not compute."""
        if flops is None or self.rate is None or self.hardware is None:
            return None
        return flops / self.rate + (sent_bytes / self.hardware.interconnect if self.hardware.interconnect else 0.0)

    def cost(self, seconds: float | None) -> Cost:
        """Energy at the boards' limit, and the rent of all ranks."""
        if seconds is None or self.hardware is None:
            return Cost()
        watts, price = self.hardware.watts, self.hardware.price_per_hour
        energy = seconds * watts * self.ranks / 3.6e6 if watts else None
        return Cost(seconds, energy, seconds / 3600 * price * self.ranks if price else None)


def place_of(
    settings: TrainingSection,
    config: ModelConfig,
    hardware: Hardware | None,
    tokens: int | None,
    utilisation: float = ASSUMED_UTILISATION,
) -> Place:
    """Settle the type, and whether to compile for so many tokens, as the trainer does."""
    precision: str = settings.precision
    if precision == "auto":
        precision = "bf16" if hardware is not None and hardware.prefers_bf16 else "fp32"
    on_gpu = hardware is not None and hardware.on_gpu and settings.device != "cpu"
    return Place(hardware, precision, on_gpu, compiles(settings, config, tokens, on_gpu=on_gpu), utilisation)
