"""The Triton kernels of bayes_error: docs/maths.md (B1) to (B8), tile by tile on the tensor cores.

Rows come sorted by class and padded to whole tiles; a padded row has label -1. One launch covers a panel of
query rows (x) against some reference rows (y), and a program owns one tile. Nothing is added atomically, so
results do not depend on the schedule. ``active[x tile, y tile]`` is 0 where the whole tile underflows, or
lies below the diagonal of one set, whose pairs of tiles are formed once. It is 2 where a row is so far from
the mean, in bandwidths, that float32 cannot hold its square: there distances and the gradient come from
differences of the caller's rows, without tensor cores.

    class_sums    a tile's kernel values, summed over the rows of each class: by row and, where x and y are
                  one set, by column too, so that each pair is formed once
    add_masses    a panel's sums, over the tiles of a class, into the mass of that class around every row
    statistics    the winner's mass and all others', row by row
    pair_weights  M of one panel of x and one of y, in bfloat16 parts, and its row and column sums
    add_products  (bayes_error_products.py) rowsum(M) ∘ x − M y of that panel added to x's gradient and
                  colsum(M) ∘ y − Mᵀ x to y's

A product in float32 is a sum of products of parts: a = a₀ + a₁ + …, each part a 16-bit float; pairs of parts
too small to matter are left out. Tensor cores cut off what they add to an accumulator, a bias that grows with
the length of a chain: in ieee the pairs of parts of 32 columns go into a fresh tile, smallest first, and that
is added to the sum in float32, rounded to nearest. Emulated at D 4,096: 9e-7 where one chain gives 4e-4.

Multiply-adds for N rows among themselves, with S products for a distance (ieee 3, else 1) and P for a
gradient (ieee 6, tf32 3, bf16 1): N²D S/2 in class_sums, as many in pair_weights, N²D P in add_products.
Arguments that several kernels share, for P parts of a point, the x rows and y rows of all panels together:
    x, y                float16 (bf16: bfloat16) ``[P, rows, D]``; x_part, y_part: elements from part to part
    x_norms, y_norms    float32 ``[rows]``: squared lengths of the sums of parts
    x_labels, y_labels  int32 ``[rows]``: the class, -1 in padding
    x_own, y_own        int32 ``[rows]``: the row's name; equal names on both sides are one row
    x_raw, y_raw        float32 ``[rows, D]``: the points, scaled, not centred: differences are exact
    coefficient         float32 ``[1]``: from a product or square of scaled points to log2 of the kernel
    active              uint8 ``[x tiles, y tiles]``, rows ``active_row`` apart

Counts for N 50,000, D 512 on an H100 whose 16-bit products reach 798 TFLOP/s; not yet measured on a GPU:
    time      at best 29 ms (ieee), 13 ms (tf32), 6.4 ms (bf16)
    launches  197, in bf16 71: 7 class_sums, 7 add_masses, 1 statistics; others 91 or 28 of each
    L2 cache  TB/s at full rate: 8.3 in class_sums and pair_weights of ieee, else 12.5; half as much again if
              tiles were 64 × 128; 6.2 in add_products, in bf16 9.3 (with 128 columns tf32 8.3, bf16 12.5)
    memory    M 23, 15 or 7.5 GB, as a panel exceeds the cache; gradients and points that add_products reads
              and writes 4.7, 4.0 or 1.8; class_sums 0.2 a part (10 with y's tiles as the faster axis)
A multiprocessor holds two tiles of class_sums in tf32 and bf16 (128 registers a thread), so that one is
summed while the other multiplies, else one. What the compiler spoke against: 128 registers spill in ieee, and
in pair_weights (18 values at best, in halves of a tile); loads by TMA take more registers (ieee class_sums
247 where pointers take 226) and spill at 128.
"""

import triton
import triton.language as tl


@triton.jit
def exponents(
    x, y, x_part, y_part, x_norms, y_norms, x_raw, y_raw, x_row, y_row, coefficient, wide,
    RBF: tl.constexpr, PARTS: tl.constexpr, D: tl.constexpr, TILE: tl.constexpr, BLOCK_D: tl.constexpr,
):  # fmt: skip
    """[TILE, TILE]: log2 of the rbf kernel, or of the odds that the logistic kernel stands for.

    x, y: ``[PARTS, rows, D]``; x_part, y_part: elements in a part; norms ``[rows]``: squared, of their sum.
    wide: whether squares are summed from differences of x_raw and y_raw.
    """
    rows = x_row.to(tl.int64) + tl.arange(0, TILE)
    cols = y_row.to(tl.int64) + tl.arange(0, TILE)
    at_x = x + rows[:, None] * D + tl.arange(0, BLOCK_D)[None, :]
    at_y = y + cols[None, :] * D + tl.arange(0, BLOCK_D)[:, None]
    product = tl.zeros((TILE, TILE), tl.float32)
    for d in range(0, tl.where(wide, 0, D), BLOCK_D):
        x0 = tl.load(at_x + d)
        y0 = tl.load(at_y + d)
        if PARTS == 2:
            fresh = tl.dot(x0, tl.load(at_y + y_part + d))
            fresh = tl.dot(tl.load(at_x + x_part + d), y0, fresh)
            product += tl.dot(x0, y0, fresh)
        else:
            product = tl.dot(x0, y0, product)
    scale = tl.load(coefficient)
    if RBF:
        squares = tl.load(x_norms + rows)[:, None] + tl.load(y_norms + cols)[None, :] - 2 * product
        product = tl.where(wide, 0.0, tl.maximum(squares, 0.0))
        for d in range(tl.where(wide, D, 0)):
            apart = tl.load(x_raw + rows * D + d)[:, None] - tl.load(y_raw + cols * D + d)[None, :]
            product += apart * apart
    return scale * product


@triton.jit
def without_own(values, x_own, y_own, x_row, y_row, TILE: tl.constexpr):
    """0 where x_own and y_own, the rows' names, say that a row meets itself."""
    own = tl.load(x_own + x_row + tl.arange(0, TILE))[:, None]
    return tl.where(own == tl.load(y_own + y_row + tl.arange(0, TILE))[None, :], 0.0, values)


@triton.jit
def class_sums(
    x, y, x_part, y_part, x_norms, y_norms, x_raw, y_raw, x_labels, y_labels, x_own, y_own,
    coefficient, active, active_row,
    row_sums, col_sums, x_first, y_first, x_count, y_count,
    RBF: tl.constexpr, PARTS: tl.constexpr, BOTH: tl.constexpr,
    D: tl.constexpr, TILE: tl.constexpr, BLOCK_D: tl.constexpr,
):  # fmt: skip
    """A tile's mass by class; grid (x tiles, y tiles in two axes): a panel of x stays in the L2 cache.

    Slot (tile + class − first class of the panel) of row_sums, float32 ``[slots, x_count]``, gets a row's
    mass in that class and tile of y; of col_sums, float32 ``[slots, y_count]``, a column's.
    """
    i, j = tl.program_id(0), tl.program_id(1) + tl.program_id(2) * tl.num_programs(1)
    x_row, y_row = x_first + i * TILE, y_first + j * TILE
    if j * TILE >= y_count:
        return
    mode = tl.load(active + (x_row // TILE).to(tl.int64) * active_row + y_row // TILE)
    if mode == 0:
        return
    exponent = exponents(
        x, y, x_part, y_part, x_norms, y_norms, x_raw, y_raw, x_row, y_row, coefficient, mode == 2,
        RBF, PARTS, D, TILE, BLOCK_D,
    )  # fmt: skip
    kernel = tl.exp2(exponent) if RBF else 1 / (1 + tl.exp2(-exponent))
    kernel = without_own(kernel, x_own, y_own, x_row, y_row, TILE)
    offsets = tl.arange(0, TILE)
    label_of_col = tl.load(y_labels + y_row + offsets)
    label = tl.min(tl.where(label_of_col >= 0, label_of_col, 1 << 30))
    last = tl.max(label_of_col)
    first = tl.load(y_labels + y_first)
    while label <= last:
        sums = tl.sum(tl.where(label_of_col[None, :] == label, kernel, 0.0), 1)
        tl.store(row_sums + (j + label - first).to(tl.int64) * x_count + i * TILE + offsets, sums)
        label += 1
    if BOTH:  # noqa: SIM102 - the outer one is known when the kernel is compiled
        if y_row > x_row:
            label_of_row = tl.load(x_labels + x_row + offsets)
            label = tl.min(tl.where(label_of_row >= 0, label_of_row, 1 << 30))
            last = tl.max(label_of_row)
            first = tl.load(x_labels + x_first)
            while label <= last:
                sums = tl.sum(tl.where(label_of_row[:, None] == label, kernel, 0.0), 0)
                tl.store(col_sums + (i + label - first).to(tl.int64) * y_count + j * TILE + offsets, sums)
                label += 1


@triton.jit
def add_masses(
    row_sums, col_sums, x_first, x_end, y_first, y_count, masses, masses_count, starts, classes, y_labels,
    active, active_row,
    BOTH: tl.constexpr, TILE: tl.constexpr,
):  # fmt: skip
    """A panel's slots of a class added to its masses; grid (classes · tiles from x_first on).

    masses: float32 ``[classes, masses_count]``; its rows up to x_end get row_sums, float32
    ``[slots, x_end − x_first]``, of y's tiles from y_first on, and if BOTH those below a tile of x get
    col_sums, float32 ``[slots, y_count]``, of it. starts: int32 ``[classes + 1]``, where classes start in y.
    """
    label, i = tl.program_id(0) % classes, tl.program_id(0) // classes
    row = x_first + i * TILE
    begin, stop = tl.load(starts + label), tl.load(starts + label + 1)
    stop = tl.where(begin < stop, stop, 0)  # class_sums leaves no slot for a class without rows
    slot = label - tl.load(y_labels + y_first)
    offsets = i * TILE + tl.arange(0, TILE)
    at = masses + label.to(tl.int64) * masses_count + x_first + offsets
    total = tl.load(at)
    if BOTH:
        other = tl.maximum(begin, x_first) // TILE
        while other * TILE < tl.minimum(stop, tl.minimum(row, x_end)):
            if tl.load(active + other.to(tl.int64) * active_row + row // TILE) != 0:
                of_slot = (other - x_first // TILE + slot).to(tl.int64) * y_count
                total += tl.load(col_sums + of_slot + offsets)
            other += 1
        begin = tl.maximum(begin, row)
    other = begin // TILE
    while other * TILE < tl.where(row < x_end, stop, 0):
        if tl.load(active + (row // TILE).to(tl.int64) * active_row + other) != 0:
            of_slot = (other - y_first // TILE + slot).to(tl.int64) * (x_end - x_first)
            total += tl.load(row_sums + of_slot + offsets)
        other += 1
    tl.store(at, total)


@triton.jit
def statistics(masses, count, won, others, winner, classes, smallest, TILE: tl.constexpr):
    """The largest mass, the first class that has it, and the sum of all others (B2); grid (tiles of rows).

    masses: float32 ``[classes, count]``; won, others: float32 ``[count]``; winner: int32 ``[count]``.
    """
    rows = tl.program_id(0) * TILE + tl.arange(0, TILE)
    largest = tl.load(masses + rows)
    rest = tl.zeros((TILE,), tl.float32)
    which = tl.zeros((TILE,), tl.int32)
    label = tl.program_id(0) * 0 + 1
    while label < classes:
        mass = tl.load(masses + label.to(tl.int64) * count + rows)
        rest += tl.minimum(mass, largest)
        which = tl.where(mass > largest, label, which)
        largest = tl.maximum(mass, largest)
        label += 1
    tl.store(won + rows, largest)
    tl.store(others + rows, rest + smallest)
    tl.store(winner + rows, which)


@triton.jit
def pair_weights(
    x, y, x_part, y_part, x_norms, y_norms, x_raw, y_raw, x_labels, y_labels, x_own, y_own,
    coefficient, active, active_row,
    x_winner, x_pull, x_push, y_winner, y_pull, y_push,
    weights, row_sums, col_sums, x_first, y_first, panel,
    RBF: tl.constexpr, PARTS: tl.constexpr, BOTH: tl.constexpr, WEIGHT_PARTS: tl.constexpr,
    D: tl.constexpr, TILE: tl.constexpr, BLOCK_D: tl.constexpr,
):  # fmt: skip
    """(B5), or (B7) if BOTH, for a tile, and its sums; grid (y tiles, x tiles).

    The kernel (its slope, if logistic) times a query's pull to its winner's rows, or its push from others.
    x_winner, y_winner: int32 ``[rows]``; pull and push: float32 ``[rows]``. weights: bfloat16
    ``[WEIGHT_PARTS, panel, panel]``; row_sums: float32 ``[y tiles, panel]``; col_sums: ``[x tiles, panel]``.
    """
    j, i = tl.program_id(0), tl.program_id(1)
    x_row, y_row = x_first + i * TILE, y_first + j * TILE
    mode = tl.load(active + (x_row // TILE).to(tl.int64) * active_row + y_row // TILE)
    if mode == 0:
        return
    slope = exponents(
        x, y, x_part, y_part, x_norms, y_norms, x_raw, y_raw, x_row, y_row, coefficient, mode == 2,
        RBF, PARTS, D, TILE, BLOCK_D,
    )  # fmt: skip
    if RBF:
        slope = tl.exp2(slope)
    else:
        odds = tl.exp2(-tl.abs(slope))
        slope = odds / ((1 + odds) * (1 + odds))
    slope = without_own(slope, x_own, y_own, x_row, y_row, TILE)
    offsets = tl.arange(0, TILE)
    rows, cols = x_row + offsets, y_row + offsets
    row_label, col_label = tl.load(x_labels + rows)[:, None], tl.load(y_labels + cols)[None, :]
    won = tl.load(x_winner + rows)[:, None] == col_label
    weight = tl.where(won, tl.load(x_pull + rows)[:, None], tl.load(x_push + rows)[:, None])
    if BOTH:
        won = tl.load(y_winner + cols)[None, :] == row_label
        weight += tl.where(won, tl.load(y_pull + cols)[None, :], tl.load(y_push + cols)[None, :])
    weight = tl.where((row_label >= 0) & (col_label >= 0), weight * slope, 0.0)
    at = weights + (i * TILE + offsets)[:, None] * panel + j * TILE + offsets[None, :]
    rounded = tl.zeros((TILE, TILE), tl.float32)
    for part in tl.static_range(WEIGHT_PARTS):
        high = weight.to(tl.bfloat16)
        tl.store(at + part * panel * panel, high)
        weight -= high.to(tl.float32)
        rounded += high.to(tl.float32)
    if RBF:
        tl.store(row_sums + j * panel + i * TILE + offsets, tl.sum(rounded, 1))
        tl.store(col_sums + i * panel + j * TILE + offsets, tl.sum(rounded, 0))
