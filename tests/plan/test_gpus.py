"""The table of machines, and names for several of them."""

from __future__ import annotations

from pathlib import Path

import pytest

from luthier.errors import ConfigError
from luthier.plan.gpus import TABLE, hardware
from luthier.plan.hardware import this_machine

NOWHERE = Path("nowhere")


def test_table_is_sound() -> None:
    for name, row in TABLE.items():
        assert hardware(name, NOWHERE) is row
        assert row.source and row.price_source and row.on_gpu and row.watts and row.bandwidth and row.interconnect and row.count == 1
        assert 1e12 < row.peak["fp32"] < 1e15 and 1e11 < row.bandwidth < 1e13 and 8 <= row.memory_gib <= 300
        assert row.prefers_bf16 == ("bf16" in row.peak) and 1e10 < row.interconnect < row.bandwidth
        assert row.price_per_hour is None or 0.1 < row.price_per_hour < 10


def test_several_of_one_kind() -> None:
    eight = hardware("8xH100", NOWHERE)
    assert eight.count == 8 and eight.name == TABLE["h100"].name and eight.price_per_hour == TABLE["h100"].price_per_hour
    assert hardware("2xmi300x", NOWHERE).count == 2 and hardware("mi300x", NOWHERE).count == 1
    assert hardware("2xthis", NOWHERE).name == this_machine(NOWHERE).name


@pytest.mark.parametrize("name", ["rtx9999", "0xh100", "xh100", "8x", "-1xh100", ""])
def test_unknown_name_lists_the_known(name: str) -> None:
    with pytest.raises(ConfigError, match="not in the table") as caught:
        hardware(name, NOWHERE)
    assert "rtx4090" in str(caught.value)
