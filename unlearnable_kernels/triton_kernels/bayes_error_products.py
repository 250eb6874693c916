"""The Triton kernel that multiplies M, of (B5) or (B7), by points: bayes_error's gradient, panel by panel.

Its tiles, parts and lists are those of bayes_error_kernels.py, which says how products are added up.
"""

import triton
import triton.language as tl


@triton.jit
def with_products(
    total, weights, row_stride, col_stride, weight_part, local, y, y_part, columns, tiles, first, count,
    PARTS: tl.constexpr, D: tl.constexpr, TILE: tl.constexpr, BLOCK_K: tl.constexpr,
):  # fmt: skip
    """total + M y, M's rows being ``local`` under the strides given, over tiles[first] … tiles[count − 1]."""
    inner = tl.arange(0, BLOCK_K)
    for k in range(first * TILE, count * TILE, BLOCK_K):
        ks = tl.multiple_of(tl.load(tiles + k // TILE) * TILE + k % TILE, BLOCK_K) + inner
        at_m = weights + local[:, None] * row_stride + ks[None, :] * col_stride
        at_y = y + ks.to(tl.int64)[:, None] * D + columns[None, :]
        m0 = tl.load(at_m)
        y0 = tl.load(at_y)
        if PARTS == 3:
            m1 = tl.load(at_m + weight_part)
            y1 = tl.load(at_y + y_part)
            fresh = tl.dot(m0, tl.load(at_y + 2 * y_part))
            fresh = tl.dot(tl.load(at_m + 2 * weight_part), y0, fresh)
            fresh = tl.dot(m1, y1, fresh)
            fresh = tl.dot(m1, y0, fresh)
            fresh = tl.dot(m0, y1, fresh)
            total += tl.dot(m0, y0, fresh)
        else:
            if PARTS == 2:
                total = tl.dot(tl.load(at_m + weight_part), y0, total)
                total = tl.dot(m0, tl.load(at_y + y_part), total)
            total = tl.dot(m0, y0, total)
    return total


@triton.jit
def with_differences(
    total, own, weights, row_stride, col_stride, weight_part, local, y_raw, columns, tiles, count,
    PARTS: tl.constexpr, D: tl.constexpr, TILE: tl.constexpr,
):  # fmt: skip
    """total + ∑ M ∘ (own − y_raw) over tiles[0] … tiles[count − 1]."""
    for k in range(count * TILE):
        of_y = tl.load(tiles + k // TILE) * TILE + k % TILE
        at_m = weights + local * row_stride + of_y * col_stride
        weight = tl.zeros((TILE,), tl.float32)
        for part in tl.static_range(PARTS):
            weight += tl.load(at_m + part * weight_part).to(tl.float32)
        other = tl.load(y_raw + of_y.to(tl.int64) * D + columns)
        total += weight[:, None] * (own - other[None, :])
    return total


@triton.jit
def sums_of(sums, panel, local, tiles, first, count, TILE: tl.constexpr):
    """sums, float32 ``[tiles, panel]``, of the rows ``local`` over tiles[first] … tiles[count − 1]."""
    total = tl.zeros((TILE,), tl.float32)
    while first < count:
        total += tl.load(sums + tl.load(tiles + first) * panel + local)
        first += 1
    return total


@triton.jit
def halves(t):
    """The left and the right columns of a tile, which stay in their threads' registers."""
    return tl.split(t.reshape(t.shape[0], 2, t.shape[1] // 2).permute(0, 2, 1))


@triton.jit
def quarters(t):
    """Four blocks of columns of a tile."""
    left, right = halves(t)
    first, second = halves(left)
    third, fourth = halves(right)
    return first, second, third, fourth


@triton.jit(do_not_specialize=["x_tiles"], do_not_specialize_on_alignment=["x_lists", "y_lists"])
def add_products(
    weights, weight_part, panel, row_sums, col_sums, x, y, x_part, y_part, x_raw, y_raw, x_grad, y_grad,
    x_first, y_first, x_tiles, x_lists, y_lists, x_lists_row, y_lists_row,
    RBF: tl.constexpr, PARTS: tl.constexpr, BOTH: tl.constexpr,
    D: tl.constexpr, TILE: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_K: tl.constexpr,
):  # fmt: skip
    """x_grad += rowsum(M) ∘ x − M y and y_grad += colsum(M) ∘ y − Mᵀ x; grid (D / BLOCK_N, tiles).

    The x_tiles tiles of x come first, then those of y; a panel of BOTH on the diagonal has those of x alone,
    each with both its roles. x_grad, y_grad: float32 ``[rows, D]``, one tensor if BOTH. weights: M, bfloat16
    ``[PARTS, panel, panel]``. row_sums: float32 ``[y tiles, panel]``, M's sums along y; col_sums: along x.
    x, y: bfloat16 ``[PARTS, rows, D]``. x_lists, y_lists: int32 ``[tiles, 2 + tiles of a panel]``: for a tile
    of one set its active tiles of the other in this panel, after their number and the number of those, the
    first ones, that are of ∑ M ∘ (x_raw − y_raw) instead.
    """
    i = tl.program_id(1)
    of_x = i < x_tiles
    of_y = i >= x_tiles
    if BOTH:
        of_y = of_y | (x_first == y_first)
    tile = tl.where(of_x, x_first // TILE + i, y_first // TILE + i - x_tiles)
    local = tl.where(of_x, i, i - x_tiles) * TILE + tl.arange(0, TILE)
    columns = tl.program_id(0) * BLOCK_N + tl.arange(0, BLOCK_N)
    x_lists += tile.to(tl.int64) * x_lists_row
    y_lists += tile.to(tl.int64) * y_lists_row
    x_count, x_wide = tl.load(x_lists, of_x, 0), tl.load(x_lists + 1, of_x, 0)
    y_count, y_wide = tl.load(y_lists, of_y, 0), tl.load(y_lists + 1, of_y, 0)
    of_panel_x, of_panel_y = x_first.to(tl.int64) * D, y_first.to(tl.int64) * D
    total = tl.zeros((TILE, BLOCK_N), tl.float32)
    total = with_products(
        total, weights, 1, panel, weight_part, local, x + of_panel_x, x_part, columns,
        y_lists + 2, y_wide, y_count, PARTS, D, TILE, BLOCK_K,
    )  # fmt: skip
    total = with_products(
        total, weights, panel, 1, weight_part, local, y + of_panel_y, y_part, columns,
        x_lists + 2, x_wide, x_count, PARTS, D, TILE, BLOCK_K,
    )  # fmt: skip
    if RBF:
        sums = sums_of(col_sums, panel, local, y_lists + 2, y_wide, y_count, TILE)
        sums += sums_of(row_sums, panel, local, x_lists + 2, x_wide, x_count, TILE)
    blocks = quarters(total) if BLOCK_N == 256 else (total,)  # 256 at once do not fit the registers
    WIDTH: tl.constexpr = 64 if BLOCK_N == 256 else BLOCK_N
    for block in tl.static_range(BLOCK_N // WIDTH):
        product = blocks[block]
        columns = tl.program_id(0) * BLOCK_N + block * WIDTH + tl.arange(0, WIDTH)
        at = (tile.to(tl.int64) * TILE + tl.arange(0, TILE))[:, None] * D + columns[None, :]
        if RBF:
            points, part_of = tl.where(of_x, x, y) + at, tl.where(of_x, x_part, y_part)
            own = tl.zeros((TILE, WIDTH), tl.float32)
            for part in tl.static_range(PARTS):
                own += tl.load(points + part * part_of).to(tl.float32)
            product = sums[:, None] * own - product
            own = tl.load(tl.where(of_x, x_raw, y_raw) + at, x_wide + y_wide > 0, 0.0)
            product = with_differences(
                product, own, weights, 1, panel, weight_part, local, x_raw + of_panel_x, columns,
                y_lists + 2, y_wide, PARTS, D, TILE,
            )  # fmt: skip
            product = with_differences(
                product, own, weights, panel, 1, weight_part, local, y_raw + of_panel_y, columns,
                x_lists + 2, x_wide, PARTS, D, TILE,
            )  # fmt: skip
        else:
            product = -product
        at_grad = tl.where(of_x, x_grad, y_grad) + at
        tl.store(at_grad, tl.load(at_grad) + product)
