"""Flash attention's Triton kernels: one forward, two backward. In: pointers to heads. Out: heads, or gradients. Next: flash.

Each program makes one tile of its result and nobody else writes there, so there are no atomic additions and the same inputs give the
same bits. Scores are kept in base 2. Queries are the last of the keys' positions: query i stands at position k_len - q_len + i.
Names: M queries, N keys and E columns of a tile. Source: Dao 2023, arXiv:2307.08691, algorithms 1 and 2.
"""

from __future__ import annotations

import triton
import triton.language as tl


@triton.jit
def _load(base, rows, stride, length, E: tl.constexpr, BLOCK_E: tl.constexpr):
    """Rows of a matrix, zeros behind its end: (rows, BLOCK_E)."""
    columns = tl.arange(0, BLOCK_E)
    inside = rows[:, None] < length
    if E != BLOCK_E:
        inside = inside & (columns[None, :] < E)
    return tl.load(base + rows[:, None] * stride + columns[None, :], mask=inside, other=0.0)


@triton.jit
def _store(base, rows, stride, length, tile, E: tl.constexpr, BLOCK_E: tl.constexpr):
    columns = tl.arange(0, BLOCK_E)
    inside = rows[:, None] < length
    if E != BLOCK_E:
        inside = inside & (columns[None, :] < E)
    tl.store(base + rows[:, None] * stride + columns[None, :], tile.to(base.dtype.element_ty), mask=inside)


@triton.jit
def _masked(
    scores, queries, keys, query_docs, key_docs, slope, window,
    MASKED: tl.constexpr, WINDOWED: tl.constexpr, ALIBI: tl.constexpr, DOCUMENTS: tl.constexpr,
):  # fmt: skip
    """Add the distance's bias and hide what a query may not see; positions and ids are laid out as the scores' rows and columns."""
    if ALIBI:
        scores += slope * (keys - queries)
    if MASKED:
        visible = queries >= keys
        if WINDOWED:
            visible = visible & (queries - keys < window)
        if DOCUMENTS:
            visible = visible & (query_docs == key_docs)
        scores = tl.where(visible, scores, float("-inf"))
    return scores


@triton.jit
def _key_bounds(
    queries_from, q_tile, k_len, window, first_key,
    BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, WINDOWED: tl.constexpr, DOCUMENTS: tl.constexpr,
):  # fmt: skip
    """Where a tile of queries begins to see keys, where it sees whole tiles, where it stops to, and where it ends: multiples of N."""
    end = tl.minimum(queries_from + BLOCK_M, k_len)
    begin = 0
    if WINDOWED:
        begin = tl.maximum(queries_from - window + 1, 0) // BLOCK_N * BLOCK_N
    if DOCUMENTS:
        begin = tl.maximum(begin, tl.load(first_key + q_tile) // BLOCK_N * BLOCK_N)
    whole_end = tl.maximum((queries_from + 1) // BLOCK_N * BLOCK_N, begin)
    whole = begin
    if WINDOWED:
        whole = tl.minimum(tl.maximum(tl.cdiv(tl.maximum(end - window, 0), BLOCK_N) * BLOCK_N, begin), whole_end)
    if DOCUMENTS:  # every tile may hold a border
        whole, whole_end = begin, begin
    return begin, whole, whole_end, end


@triton.jit
def _query_bounds(
    keys_from, k_tile, q_len, offset, window, last_query,
    BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, WINDOWED: tl.constexpr, DOCUMENTS: tl.constexpr,
):  # fmt: skip
    """The same for a tile of keys: which queries see it."""
    begin = tl.maximum(keys_from - offset, 0) // BLOCK_M * BLOCK_M
    end = q_len
    if WINDOWED:
        end = tl.maximum(tl.minimum(end, keys_from + BLOCK_N - 1 + window - offset), begin)
    if DOCUMENTS:
        end = tl.maximum(tl.minimum(end, tl.load(last_query + k_tile)), begin)
    whole = tl.minimum(tl.maximum(tl.cdiv(tl.maximum(keys_from + BLOCK_N - 1 - offset, 0), BLOCK_M) * BLOCK_M, begin), end)
    whole_end = end
    if WINDOWED:
        whole_end = tl.maximum(tl.minimum(tl.maximum(keys_from + window - offset, 0) // BLOCK_M * BLOCK_M, end), whole)
    if DOCUMENTS:
        whole, whole_end = end, end
    return begin, whole, whole_end, end


@triton.jit
def _forward_span(
    total, norm, top, q, k, v, queries, query_docs, doc_ids, slope, begin, end, k_stride, v_stride, k_len, scale, window,
    MASKED: tl.constexpr, WINDOWED: tl.constexpr, ALIBI: tl.constexpr, DOCUMENTS: tl.constexpr,
    E: tl.constexpr, BLOCK_E: tl.constexpr, BLOCK_N: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """Go over the keys from `begin` to `end`; `total` is the weighted sum, `norm` the weights' sum, `top` the largest score so far."""
    for start in range(begin, end, BLOCK_N):
        keys = start + tl.arange(0, BLOCK_N)
        k_tile = _load(k, keys, k_stride, k_len, E, BLOCK_E)  # (N, E)
        key_docs = tl.load(doc_ids + keys, mask=keys < k_len, other=-1)[None, :] if DOCUMENTS else 0
        scores = tl.dot(q, tl.trans(k_tile), input_precision=PRECISION) * scale  # (M, N)
        scores = _masked(scores, queries[:, None], keys[None, :], query_docs, key_docs, slope, window, MASKED, WINDOWED, ALIBI, DOCUMENTS)
        new_top = tl.maximum(top, tl.max(scores, 1))
        level = new_top
        if MASKED:
            level = tl.where(new_top == float("-inf"), 0.0, new_top)  # a row may have seen nothing yet
        weights = tl.exp2(scores - level[:, None])
        shrink = tl.exp2(top - level)
        v_tile = _load(v, keys, v_stride, k_len, E, BLOCK_E)  # (N, E)
        total = total * shrink[:, None]
        total = tl.dot(weights.to(v_tile.dtype), v_tile, total, input_precision=PRECISION)  # (M, E)
        norm = norm * shrink + tl.sum(weights, 1)
        top = new_top
    return total, norm, top


@triton.jit
def forward_kernel(
    q, k, v, out, log_norm, doc_ids, slopes, first_key,
    q_batch, q_head, q_stride, k_batch, k_head, k_stride, v_batch, v_head, v_stride,
    heads, groups, q_len, k_len, scale, window,
    WINDOWED: tl.constexpr, ALIBI: tl.constexpr, DOCUMENTS: tl.constexpr,
    E: tl.constexpr, BLOCK_E: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """One tile of queries of one head. `out` is (B, T, H, E) in memory, `log_norm` (B, H, T) in base 2."""
    tiles = tl.cdiv(q_len, BLOCK_M)
    tile = tiles - 1 - tl.program_id(0) % tiles  # the longest first
    batch, head = (tl.program_id(0) // tiles // heads).to(tl.int64), (tl.program_id(0) // tiles % heads).to(tl.int64)
    offset = k_len - q_len
    rows = tile * BLOCK_M + tl.arange(0, BLOCK_M)
    k += batch * k_batch + head // groups * k_head
    v += batch * v_batch + head // groups * v_head
    if DOCUMENTS:
        doc_ids += batch * k_len
    q_tile = _load(q + batch * q_batch + head * q_head, rows, q_stride, q_len, E, BLOCK_E)  # (M, E)
    slope = tl.load(slopes + head) * 1.4426950408889634 if ALIBI else 0.0
    query_docs = tl.load(doc_ids + offset + rows, mask=rows < q_len, other=-2)[:, None] if DOCUMENTS else 0
    begin, whole, whole_end, end = _key_bounds(
        offset + tile * BLOCK_M, batch * tiles + tile, k_len, window, first_key, BLOCK_M, BLOCK_N, WINDOWED, DOCUMENTS
    )
    total = tl.zeros((BLOCK_M, BLOCK_E), tl.float32)
    norm = tl.zeros((BLOCK_M,), tl.float32)
    top = tl.full((BLOCK_M,), float("-inf"), tl.float32)
    if WINDOWED and not DOCUMENTS:
        total, norm, top = _forward_span(
            total, norm, top, q_tile, k, v, offset + rows, query_docs, doc_ids, slope, begin, whole, k_stride, v_stride, k_len, scale,
            window, True, WINDOWED, ALIBI, DOCUMENTS, E, BLOCK_E, BLOCK_N, PRECISION,
        )  # fmt: skip
    if not DOCUMENTS:
        total, norm, top = _forward_span(
            total, norm, top, q_tile, k, v, offset + rows, query_docs, doc_ids, slope, whole, whole_end, k_stride, v_stride, k_len, scale,
            window, False, WINDOWED, ALIBI, DOCUMENTS, E, BLOCK_E, BLOCK_N, PRECISION,
        )  # fmt: skip
    total, norm, top = _forward_span(
        total, norm, top, q_tile, k, v, offset + rows, query_docs, doc_ids, slope, whole_end, end, k_stride, v_stride, k_len, scale,
        window, True, WINDOWED, ALIBI, DOCUMENTS, E, BLOCK_E, BLOCK_N, PRECISION,
    )  # fmt: skip
    norm = tl.where(rows < q_len, norm, 1.0)
    _store(out + (batch * q_len * heads + head) * E, rows, heads * E, q_len, total / norm[:, None], E, BLOCK_E)
    tl.store(log_norm + (batch * heads + head) * q_len + rows, top + tl.log2(norm), mask=rows < q_len)


@triton.jit
def _query_gradient_span(
    gradient, q, d_out, log_norm, delta, k, v, queries, query_docs, doc_ids, slope, begin, end, k_stride, v_stride, k_len, scale, window,
    MASKED: tl.constexpr, WINDOWED: tl.constexpr, ALIBI: tl.constexpr, DOCUMENTS: tl.constexpr,
    E: tl.constexpr, BLOCK_E: tl.constexpr, BLOCK_N: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    for start in range(begin, end, BLOCK_N):
        keys = start + tl.arange(0, BLOCK_N)
        k_tile = _load(k, keys, k_stride, k_len, E, BLOCK_E)  # (N, E)
        v_tile = _load(v, keys, v_stride, k_len, E, BLOCK_E)  # (N, E)
        key_docs = tl.load(doc_ids + keys, mask=keys < k_len, other=-1)[None, :] if DOCUMENTS else 0
        scores = tl.dot(q, tl.trans(k_tile), input_precision=PRECISION) * scale  # (M, N)
        scores = _masked(scores, queries[:, None], keys[None, :], query_docs, key_docs, slope, window, MASKED, WINDOWED, ALIBI, DOCUMENTS)
        d_weights = tl.dot(d_out, tl.trans(v_tile), input_precision=PRECISION)  # (M, N)
        d_scores = tl.exp2(scores - log_norm[:, None]) * (d_weights - delta[:, None])
        gradient = tl.dot(d_scores.to(k_tile.dtype), k_tile, gradient, input_precision=PRECISION)  # (M, E)
    return gradient


@triton.jit
def query_gradient_kernel(
    q, k, v, out, d_out, log_norm, delta, dq, doc_ids, slopes, first_key,
    q_batch, q_head, q_stride, k_batch, k_head, k_stride, v_batch, v_head, v_stride,
    heads, groups, q_len, k_len, scale, window, unscaled,
    WINDOWED: tl.constexpr, ALIBI: tl.constexpr, DOCUMENTS: tl.constexpr,
    E: tl.constexpr, BLOCK_E: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """One tile of one head's query gradient, and of `delta`, the sum of each row of out * d_out, which the other kernel needs."""
    tiles = tl.cdiv(q_len, BLOCK_M)
    tile = tiles - 1 - tl.program_id(0) % tiles
    batch, head = (tl.program_id(0) // tiles // heads).to(tl.int64), (tl.program_id(0) // tiles % heads).to(tl.int64)
    offset = k_len - q_len
    rows = tile * BLOCK_M + tl.arange(0, BLOCK_M)
    k += batch * k_batch + head // groups * k_head
    v += batch * v_batch + head // groups * v_head
    if DOCUMENTS:
        doc_ids += batch * k_len
    here, there = (batch * q_len * heads + head) * E, (batch * heads + head) * q_len + rows
    q_tile = _load(q + batch * q_batch + head * q_head, rows, q_stride, q_len, E, BLOCK_E)  # (M, E)
    d_out_tile = _load(d_out + here, rows, heads * E, q_len, E, BLOCK_E)  # (M, E)
    out_tile = _load(out + here, rows, heads * E, q_len, E, BLOCK_E)  # (M, E)
    delta_tile = tl.sum(out_tile.to(tl.float32) * d_out_tile.to(tl.float32), 1)  # (M,)
    tl.store(delta + there, delta_tile, mask=rows < q_len)
    level = tl.load(log_norm + there, mask=rows < q_len, other=0.0)
    slope = tl.load(slopes + head) * 1.4426950408889634 if ALIBI else 0.0
    query_docs = tl.load(doc_ids + offset + rows, mask=rows < q_len, other=-2)[:, None] if DOCUMENTS else 0
    begin, whole, whole_end, end = _key_bounds(
        offset + tile * BLOCK_M, batch * tiles + tile, k_len, window, first_key, BLOCK_M, BLOCK_N, WINDOWED, DOCUMENTS
    )
    total = tl.zeros((BLOCK_M, BLOCK_E), tl.float32)
    if WINDOWED and not DOCUMENTS:
        total = _query_gradient_span(
            total, q_tile, d_out_tile, level, delta_tile, k, v, offset + rows, query_docs, doc_ids, slope, begin, whole, k_stride,
            v_stride, k_len, scale, window, True, WINDOWED, ALIBI, DOCUMENTS, E, BLOCK_E, BLOCK_N, PRECISION,
        )  # fmt: skip
    if not DOCUMENTS:
        total = _query_gradient_span(
            total, q_tile, d_out_tile, level, delta_tile, k, v, offset + rows, query_docs, doc_ids, slope, whole, whole_end, k_stride,
            v_stride, k_len, scale, window, False, WINDOWED, ALIBI, DOCUMENTS, E, BLOCK_E, BLOCK_N, PRECISION,
        )  # fmt: skip
    total = _query_gradient_span(
        total, q_tile, d_out_tile, level, delta_tile, k, v, offset + rows, query_docs, doc_ids, slope, whole_end, end, k_stride,
        v_stride, k_len, scale, window, True, WINDOWED, ALIBI, DOCUMENTS, E, BLOCK_E, BLOCK_N, PRECISION,
    )  # fmt: skip
    _store(dq + here, rows, heads * E, q_len, total * unscaled, E, BLOCK_E)


@triton.jit
def _key_gradient_span(
    dk, dv, k, v, q, d_out, log_norm, delta, keys, key_docs, doc_ids, slope, begin, end, q_stride, d_stride, q_len, offset, scale, window,
    MASKED: tl.constexpr, WINDOWED: tl.constexpr, ALIBI: tl.constexpr, DOCUMENTS: tl.constexpr,
    E: tl.constexpr, BLOCK_E: tl.constexpr, BLOCK_M: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """Go over the queries of one head; scores stand transposed, keys as rows, so that no tile has to be turned."""
    for start in range(begin, end, BLOCK_M):
        rows = start + tl.arange(0, BLOCK_M)
        q_tile = _load(q, rows, q_stride, q_len, E, BLOCK_E)  # (M, E)
        d_out_tile = _load(d_out, rows, d_stride, q_len, E, BLOCK_E)  # (M, E)
        level = tl.load(log_norm + rows, mask=rows < q_len, other=0.0)
        delta_tile = tl.load(delta + rows, mask=rows < q_len, other=0.0)
        query_docs = tl.load(doc_ids + offset + rows, mask=rows < q_len, other=-2)[None, :] if DOCUMENTS else 0
        scores = tl.dot(k, tl.trans(q_tile), input_precision=PRECISION) * scale  # (N, M)
        scores = _masked(
            scores, (offset + rows)[None, :], keys[:, None], query_docs, key_docs, slope, window, MASKED, WINDOWED, ALIBI, DOCUMENTS
        )
        weights = tl.exp2(scores - level[None, :])
        dv = tl.dot(weights.to(d_out_tile.dtype), d_out_tile, dv, input_precision=PRECISION)  # (N, E)
        d_weights = tl.dot(v, tl.trans(d_out_tile), input_precision=PRECISION)  # (N, M)
        d_scores = weights * (d_weights - delta_tile[None, :])
        dk = tl.dot(d_scores.to(q_tile.dtype), q_tile, dk, input_precision=PRECISION)  # (N, E)
    return dk, dv


@triton.jit
def key_gradient_kernel(
    q, k, v, d_out, log_norm, delta, dk, dv, doc_ids, slopes, last_query,
    q_batch, q_head, q_stride, k_batch, k_head, k_stride, v_batch, v_head, v_stride,
    heads, groups, q_len, k_len, scale, window, unscaled,
    WINDOWED: tl.constexpr, ALIBI: tl.constexpr, DOCUMENTS: tl.constexpr,
    E: tl.constexpr, BLOCK_E: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """One tile of one key head's gradients, over all query heads that share it. `dk` and `dv` are (B, S, K, E) in memory."""
    tiles, kv_heads = tl.cdiv(k_len, BLOCK_N), heads // groups
    tile = tl.program_id(0) % tiles  # the longest first
    batch, kv_head = (tl.program_id(0) // tiles // kv_heads).to(tl.int64), (tl.program_id(0) // tiles % kv_heads).to(tl.int64)
    offset = k_len - q_len
    keys = tile * BLOCK_N + tl.arange(0, BLOCK_N)
    if DOCUMENTS:
        doc_ids += batch * k_len
    k_tile = _load(k + batch * k_batch + kv_head * k_head, keys, k_stride, k_len, E, BLOCK_E)  # (N, E)
    v_tile = _load(v + batch * v_batch + kv_head * v_head, keys, v_stride, k_len, E, BLOCK_E)  # (N, E)
    key_docs = tl.load(doc_ids + keys, mask=keys < k_len, other=-1)[:, None] if DOCUMENTS else 0
    begin, whole, whole_end, end = _query_bounds(
        tile * BLOCK_N, batch * tiles + tile, q_len, offset, window, last_query, BLOCK_M, BLOCK_N, WINDOWED, DOCUMENTS
    )
    dk_tile = tl.zeros((BLOCK_N, BLOCK_E), tl.float32)
    dv_tile = tl.zeros((BLOCK_N, BLOCK_E), tl.float32)
    for group in range(groups):
        head = kv_head * groups + group
        slope = tl.load(slopes + head) * 1.4426950408889634 if ALIBI else 0.0
        q_base, d_base = q + batch * q_batch + head * q_head, d_out + (batch * q_len * heads + head) * E
        row = (batch * heads + head) * q_len
        dk_tile, dv_tile = _key_gradient_span(
            dk_tile, dv_tile, k_tile, v_tile, q_base, d_base, log_norm + row, delta + row, keys, key_docs, doc_ids, slope, begin, whole,
            q_stride, heads * E, q_len, offset, scale, window, True, WINDOWED, ALIBI, DOCUMENTS, E, BLOCK_E, BLOCK_M, PRECISION,
        )  # fmt: skip
        if not DOCUMENTS:
            dk_tile, dv_tile = _key_gradient_span(
                dk_tile, dv_tile, k_tile, v_tile, q_base, d_base, log_norm + row, delta + row, keys, key_docs, doc_ids, slope, whole,
                whole_end, q_stride, heads * E, q_len, offset, scale, window, False, WINDOWED, ALIBI, DOCUMENTS, E, BLOCK_E, BLOCK_M,
                PRECISION,
            )  # fmt: skip
        if WINDOWED and not DOCUMENTS:
            dk_tile, dv_tile = _key_gradient_span(
                dk_tile, dv_tile, k_tile, v_tile, q_base, d_base, log_norm + row, delta + row, keys, key_docs, doc_ids, slope, whole_end,
                end, q_stride, heads * E, q_len, offset, scale, window, True, WINDOWED, ALIBI, DOCUMENTS, E, BLOCK_E, BLOCK_M, PRECISION,
            )  # fmt: skip
    there = (batch * k_len * kv_heads + kv_head) * E
    _store(dk + there, keys, kv_heads * E, k_len, dk_tile * unscaled, E, BLOCK_E)
    _store(dv + there, keys, kv_heads * E, k_len, dv_tile, E, BLOCK_E)
