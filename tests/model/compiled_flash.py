"""Compile the flash kernels ahead of time for a kind of GPU, which need not be here; print the shared memory that each needs.

python -m tests.model.compiled_flash CAPABILITY
"""

from __future__ import annotations

import sys
from typing import Any

from triton import compile as compile_kernel
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from luthier.model import flash_kernels
from luthier.model.flash import Tile, tiles

POINTERS = {"doc_ids": "*i32", "first_key": "*i32", "last_query": "*i32", "slopes": "*fp32", "log_norm": "*fp32", "delta": "*fp32"}


def shared_memory(kernel: Any, capability: int, head_dim: int, kind: str, tile: Tile, flags: dict[str, bool]) -> int:
    """Compile one kernel. Units: bytes"""
    constants: dict[str, Any] = {
        **flags, "E": head_dim, "BLOCK_E": head_dim, "BLOCK_M": tile.m, "BLOCK_N": tile.n, "PRECISION": "ieee",
    }  # fmt: skip
    absent = set() if flags["DOCUMENTS"] else {"doc_ids", "first_key", "last_query"}
    absent |= set() if flags["ALIBI"] else {"slopes"}
    constants.update({name: None for name in kernel.arg_names if name in absent})
    signature: dict[str, str] = {}
    for name in kernel.arg_names:
        if name in constants:
            signature[name] = "constexpr"
        elif name in ("scale", "unscaled"):
            signature[name] = "fp32"
        elif name in ("heads", "groups", "q_len", "k_len", "window") or name.endswith(("_batch", "_head", "_stride")):
            signature[name] = "i32"
        else:
            signature[name] = POINTERS.get(name, f"*{kind}")
    source = ASTSource(kernel, signature, {(kernel.arg_names.index(name),): value for name, value in constants.items()})
    aligned = [
        i for i, name in enumerate(kernel.arg_names) if signature[name].startswith("*") or name.endswith(("_stride", "_head", "_batch"))
    ]
    source.attrs = {(i,): [["tt.divisibility", 16]] for i in aligned}
    options = {"num_warps": tile.warps, "num_stages": tile.stages}
    return compile_kernel(source, target=GPUTarget("cuda", capability, 32), options=options).metadata.shared


def main(capability: int) -> None:
    plain = {"WINDOWED": False, "ALIBI": False, "DOCUMENTS": False}
    masked = ({**plain, "WINDOWED": True, "ALIBI": True}, {**plain, "DOCUMENTS": True})
    for head_dim, kind, size, flags in [
        *((e, kind, size, plain) for e in (64, 128, 256) for kind, size in (("bf16", 2), ("fp32", 4))),
        *((64, "fp16", 2, flags) for flags in masked),
        (128, "bf16", 2, dict.fromkeys(plain, True)),
    ]:
        chosen = tiles(head_dim, size, roomy=capability in (80, 90))
        kernels = (flash_kernels.forward_kernel, flash_kernels.query_gradient_kernel, flash_kernels.key_gradient_kernel)
        for kernel, tile in zip(kernels, (chosen.forward, chosen.query_gradient, chosen.key_gradient), strict=True):
            print(shared_memory(kernel, capability, head_dim, kind, tile, flags), flush=True)


if __name__ == "__main__":
    main(int(sys.argv[1]))
