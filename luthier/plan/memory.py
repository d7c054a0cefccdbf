"""Memory of training and of decoding, and bytes on disk. In: a model's shape and a micro-batch. Out: bytes by part. Next: report.

Weights, gradients and optimizer state are exact. Activations are an estimate, within a few per cent: what automatic differentiation keeps
for the backward pass; a compiled model computes the inside of norms again and keeps less, but its compiler takes memory of its own.
"""

from __future__ import annotations

from functools import cache

from luthier.config.model import ModelConfig
from luthier.config.training import OptimSection, TrainingSection
from luthier.plan.parameters import count

FP32, BF16 = 4, 2
PROGRAM_BYTES = round(0.6 * 2**30)
"""Python, torch, its thread pools, and what malloc cannot use again, without compiling; measured with torch 2.13 on Linux."""
COMPILED_PROGRAM_BYTES, COMPILER_BYTES = round(0.48 * 2**30), round(0.26 * 2**30)
"""The same where compiled code runs, and what compiling it takes; what torch compiled before, it only reads. Measured as above."""
EARLIER_BYTES = round(0.2 * 2**30)
"""What reading text, making a tokenizer and packing leave of libraries and compiled kernels in a process that then trains; measured."""
HEAD_CHUNK_TOKENS = 1024
"""Tokens whose logits exist at one time; as in the training objective."""
QUERY_BLOCK = 128
"""Queries that attention on a CPU takes at one time; as in the model."""


def optimizer_bytes(config: ModelConfig, settings: OptimSection) -> int:
    """Two fp32 moments a parameter for AdamW; one for the blocks' matrices under Muon."""
    parts = count(config)
    matrices = parts["attention"] + parts["mlp"] if settings.name == "muon" else 0
    return 2 * FP32 * (parts["total"] - matrices) + FP32 * matrices


def activation_bytes_per_token(
    config: ModelConfig, seq_len: int, precision: str, *, fused_attention: bool = False, compiled: bool = False
) -> float:
    """Estimate what the backward pass needs of one token in a row of `seq_len`, all layers together.

    RMSNorm keeps its input and its normalised input in fp32, LayerNorm its input, and both give their result in the compute type; SwiGLU
    keeps four tensors of width F, an MLP without a gate two. A switch keeps what it multiplies; dropout its factors, on a GPU as bytes.
    A compiled model keeps of a norm only its input and result, in the compute type, and of SwiGLU three tensors.
    """
    item = FP32 if precision == "fp32" else BF16
    c, norm = config, 2 * config.d_model * item if compiled else _norm_bytes(config, item)
    wide = (3 if compiled else 4) if c.mlp == "swiglu" else 2
    block = 2 * norm + wide * c.d_ff * item
    dropped = c.d_model * (1 if fused_attention else item) if c.dropout else 0
    block += (c.d_model * item if c.residual_scalars else 0) + 2 * dropped
    attention = sum(_attention_bytes(c, layer, seq_len, item, fused_attention) for layer in range(c.n_layers))
    around = (2 * c.d_model * item if c.residual_scalars else 0) + dropped
    return c.n_layers * block + attention + norm + around


def _norm_bytes(config: ModelConfig, item: int) -> int:
    return config.d_model * ((2 if config.norm == "rmsnorm" else 1) * FP32 + item)


def _attention_bytes(config: ModelConfig, layer: int, seq_len: int, item: int, fused: bool) -> float:
    """What attention of one layer keeps of one token: queries, the keys and values of every query head, and its result.

    Where no kernel fuses it, also its weights for the positions that a block of queries may see: in fp32 from the softmax and, cast, in
    the compute type; else the logarithm of each row's normaliser.
    """
    c = config
    kept = 4 * c.n_heads * c.head_dim * item
    kept += (c.n_heads + c.n_kv_heads) * c.head_dim * 2 * FP32 if c.qk_norm else 0
    kept += c.n_kv_heads * c.head_dim * item if c.has_value_embedding(layer) else 0
    return kept + (FP32 * c.n_heads if fused else _score_bytes(c, layer, seq_len, item))


def _score_bytes(config: ModelConfig, layer: int, seq_len: int, item: int) -> float:
    """Attention's weights of one token in one layer, in blocks of queries."""
    seen = _positions_seen(seq_len, config.window_of(layer) or seq_len)
    return config.n_heads * seen / seq_len * (FP32 + (item if item != FP32 else 0))


@cache  # layers are alike
def _positions_seen(seq_len: int, window: int) -> int:
    """Positions whose weights are computed, for all queries together, in blocks of these."""
    seen = 0
    for start in range(0, seq_len, QUERY_BLOCK):
        end = min(start + QUERY_BLOCK, seq_len)
        seen += (end - start) * (end - max(0, start - window + 1))
    return seen


def kept_bytes_per_token(
    config: ModelConfig, seq_len: int, precision: str, checkpointing: str, *, fused_attention: bool = False, compiled: bool = False
) -> float:
    """What `activation_bytes_per_token` says, with activation checkpointing.

    Of every block only its input is kept, or its input and the results of products and attention; one block is whole at a time.
    """
    everything = activation_bytes_per_token(config, seq_len, precision, fused_attention=fused_attention, compiled=compiled)
    if checkpointing == "off":
        return everything
    item = FP32 if precision == "fp32" else BF16
    norm = _norm_bytes(config, item)
    heads, wide = 2 * config.n_heads + 2 * config.n_kv_heads, 2 if config.mlp == "swiglu" else 1
    results = 2 * config.d_model + heads * config.head_dim + wide * config.d_ff if checkpointing == "selective" else 0
    return config.n_layers * (config.d_model + results) * item + (everything - norm) / config.n_layers + norm


def training_bytes(
    config: ModelConfig,
    settings: OptimSection,
    rows: int,
    seq_len: int,
    precision: str,
    *,
    on_gpu: bool = False,
    checkpointing: str = "off",
    compiled: bool = False,
    after_data: bool = False,
) -> dict[str, int]:
    """Bytes by part at the peak of a step with micro-batches of `rows`; weights and gradients are fp32.

    The copy that a checkpoint is written from is in main memory, which counts where that is the device's, as do the compiler and what
    earlier stages leave (`after_data`).
    """
    parts, tokens = count(config), rows * seq_len
    params, looked_up = parts["total"], parts["positions"] + parts["value embeddings"]
    item = FP32 if precision == "fp32" else BF16
    head_gradient = FP32 * config.vocab_size * config.d_model
    fused = compiled and not on_gpu
    logits = min(tokens, HEAD_CHUNK_TOKENS) * config.vocab_size * ((0 if fused else 2 * FP32) + 2 * item)
    kept = kept_bytes_per_token(config, seq_len, precision, checkpointing, fused_attention=on_gpu, compiled=fused)
    return {
        "program": COMPILED_PROGRAM_BYTES if fused else PROGRAM_BYTES,
        "compiler": COMPILER_BYTES if fused else 0,
        "earlier stages": EARLIER_BYTES if after_data and not on_gpu else 0,
        "weights": FP32 * params,
        "weights, cast": BF16 * (params - looked_up) if precision != "fp32" else 0,
        "gradients": FP32 * params,
        "optimizer": optimizer_bytes(config, settings),
        "checkpoint copy": 0 if on_gpu else checkpoint_bytes(config, settings),
        "activations": round(tokens * kept),
        "temporaries": round(tokens * _block_gradients(config, seq_len, item, kept, compiled=fused)) if not on_gpu else 0,
        "head": head_gradient + logits,
    }


def _block_gradients(config: ModelConfig, seq_len: int, item: int, kept: float, *, compiled: bool) -> float:
    """What the backward pass of one block makes of a token: gradients of what is kept, in a compiled one scores aside."""
    scores = sum(_score_bytes(config, layer, seq_len, item) for layer in range(config.n_layers)) if compiled else 0.0
    return max(0.0, kept - scores) / config.n_layers


def kv_cache_bytes_per_token(config: ModelConfig, bytes_per_value: int = BF16) -> int:
    """Bytes that keys and values of one position take in all layers."""
    return 2 * config.n_layers * config.n_kv_heads * config.head_dim * bytes_per_value


def checkpoint_bytes(config: ModelConfig, settings: OptimSection) -> int:
    """Bytes of one training checkpoint: fp32 weights and optimizer state."""
    return FP32 * count(config)["total"] + optimizer_bytes(config, settings)


def checkpoints_on_disk(settings: TrainingSection) -> int:
    """The most checkpoints that are on the disk at one time: those that are kept, and the one being written."""
    rollback = "rollback" in (settings.on_nonfinite, settings.on_spike)
    return settings.keep_checkpoints + 1 + settings.keep_best + rollback
