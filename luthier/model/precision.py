"""Types that matrix products run in. In: a recipe's word. Out: torch's type. Next: decoder, whose weights stay fp32."""

from __future__ import annotations

import torch

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
TOLERANCE = {"fp32": 1e-4, "bf16": 4e-2, "fp16": 1e-2}
"""Largest difference of outputs and gradients between two ways to compute the same, as a share of their largest value."""
