"""Memory of training and of decoding, and bytes on disk. In: a model's shape and a micro-batch. Out: bytes by part. Next: report.

Weights, gradients and optimizer state are exact. Activations are an estimate: what automatic differentiation keeps for the backward
pass of a model that is not compiled, within a few per cent; a compiled one keeps less, its compiler and temporaries take as much.
"""

from __future__ import annotations

from luthier.config.model import ModelConfig
from luthier.config.training import OptimSection, TrainingSection
from luthier.plan.parameters import count

FP32, BF16 = 4, 2
PROGRAM_BYTES = round(0.6 * 2**30)
"""Python, torch and its thread pools, before a model is there; measured with torch 2.13 on Linux."""
HEAD_CHUNK_TOKENS = 1024
"""Tokens whose logits exist at one time; as in the training objective."""
QUERY_BLOCK = 128
"""Queries that attention on a CPU takes at one time; as in the model."""


def optimizer_bytes(config: ModelConfig, settings: OptimSection) -> int:
    """Two fp32 moments a parameter for AdamW; one for the blocks' matrices under Muon."""
    parts = count(config)
    matrices = parts["attention"] + parts["mlp"] if settings.name == "muon" else 0
    return 2 * FP32 * (parts["total"] - matrices) + FP32 * matrices


def activation_bytes_per_token(config: ModelConfig, seq_len: int, precision: str, *, fused_attention: bool = False) -> float:
    """Estimate what the backward pass needs of one token in a row of `seq_len`, all layers together.

    A norm keeps its input and its normalised input in fp32 and gives its result in the compute type; attention keeps the turned queries,
    the keys and values of every query head, and its result; SwiGLU keeps four tensors of width F. Where no kernel fuses it, attention
    also keeps its weights for the positions that the mask leaves: in fp32 from the softmax and, cast, in the compute type.
    """
    item = BF16 if precision == "bf16" else FP32
    norm = config.d_model * (2 * FP32 + item)
    attention: float = 4 * config.n_heads * config.head_dim * item
    if fused_attention:
        attention += FP32 * config.n_heads  # the log of each row's normaliser
    else:
        seen = (seq_len + min(QUERY_BLOCK, seq_len)) / 2
        attention += config.n_heads * seen * (FP32 + (item if item != FP32 else 0))
    return config.n_layers * (2 * norm + attention + 4 * config.d_ff * item) + norm


def training_bytes(
    config: ModelConfig, settings: OptimSection, rows: int, seq_len: int, precision: str, *, on_gpu: bool = False
) -> dict[str, int]:
    """Bytes by part at the peak of a step with micro-batches of `rows`; weights and gradients are fp32.

    The copy that a checkpoint is written from is in main memory, which counts where that is the device's.
    """
    params, tokens = count(config)["total"], rows * seq_len
    item = BF16 if precision == "bf16" else FP32
    head_gradient = FP32 * config.vocab_size * config.d_model
    logits = min(tokens, HEAD_CHUNK_TOKENS) * config.vocab_size * (2 * FP32 + 2 * item)
    return {
        "program": PROGRAM_BYTES,
        "weights": FP32 * params,
        "weights, cast": BF16 * params if precision == "bf16" else 0,
        "gradients": FP32 * params,
        "optimizer": optimizer_bytes(config, settings),
        "checkpoint copy": 0 if on_gpu else checkpoint_bytes(config, settings),
        "activations": round(tokens * activation_bytes_per_token(config, seq_len, precision, fused_attention=on_gpu)),
        "head": head_gradient + logits,
    }


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
