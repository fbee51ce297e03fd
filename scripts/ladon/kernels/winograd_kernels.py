"""Kernels of :mod:`ladon.kernels.winograd`: the transforms of the tiles of an image.

LLVM vector code over 16 channels at a time: numba's own loops over 16 or 36 pixels' channels are
not vectorised, since it cannot tell LLVM that source and target do not overlap. All arithmetic is
float32, also on bfloat16 images. Addresses and distances are in bytes.
"""

from __future__ import annotations

import ctypes
import functools
from collections.abc import Callable
from typing import Any

import numba
import numpy as np
from llvmlite import ir
from numba.core import cgutils
from numba.extending import intrinsic as _intrinsic

# what it makes is called with one argument fewer than it was written with
intrinsic: Any = _intrinsic

LANES = 16
# Interpolation points besides infinity. Dyadic, so that the transforms are exact in binary; those
# of six gave the least error of the sets tried (half that of 0, 1, -1, 2, -2).
_POINTS = {4: (0.0, 1.0, -1.0), 6: (0.0, 0.625, -0.625, 1.5, -1.5)}


def transform_matrices(m: int, r: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return B^T [a, a], G [a, r] and A^T [m, a] of F(m, r), a = m + r - 1 in 4, 6 (Toom-Cook)."""
    points = _POINTS[m + r - 1]
    side = m + r - 1
    b_t, g, a_t = np.zeros((side, side)), np.zeros((side, r)), np.zeros((m, side))
    for i, point in enumerate(points):
        others = [p for p in points if p != point]
        b_t[i, :-1] = np.poly(others)[::-1]
        g[i] = point ** np.arange(r) / np.prod([point - p for p in others])
        a_t[:, i] = point ** np.arange(m)
    b_t[-1] = np.poly(points)[::-1]
    g[-1, -1] = a_t[-1, -1] = 1.0
    return b_t, g, a_t


_FLOATS = ir.VectorType(ir.FloatType(), LANES)
_INTS = ir.VectorType(ir.IntType(32), LANES)
_SHORTS = ir.VectorType(ir.IntType(16), LANES)


def _splat(kind: ir.VectorType, value: float) -> ir.Constant:
    return ir.Constant(kind, [value] * LANES)


def _load(builder: ir.IRBuilder, address: ir.Value, is_bfloat16: bool) -> ir.Value:
    """Load 16 channels as float32."""
    kind = _SHORTS if is_bfloat16 else _FLOATS
    value = builder.load(builder.inttoptr(address, kind.as_pointer()), align=2)
    if not is_bfloat16:
        return value
    return builder.bitcast(builder.shl(builder.zext(value, _INTS), _splat(_INTS, 16)), _FLOATS)


def _store(builder: ir.IRBuilder, value: ir.Value, address: ir.Value, is_bfloat16: bool) -> None:
    """Store 16 channels; bfloat16 rounds to nearest, ties to even, and keeps NaN."""
    kind = _FLOATS
    if is_bfloat16:
        kind = _SHORTS
        bits = builder.bitcast(value, _INTS)
        odd = builder.and_(builder.lshr(bits, _splat(_INTS, 16)), _splat(_INTS, 1))
        rounded = builder.add(builder.add(bits, odd), _splat(_INTS, 0x7FFF))
        is_nan = builder.fcmp_unordered("uno", value, value)
        rounded = builder.select(is_nan, _splat(_INTS, 0x7FC00000), rounded)
        value = builder.trunc(builder.lshr(rounded, _splat(_INTS, 16)), _SHORTS)
    builder.store(value, builder.inttoptr(address, kind.as_pointer()), align=2)


def _combine(builder: ir.IRBuilder, weights: np.ndarray, values: list[ir.Value]) -> ir.Value:
    """Return the sum of weights * values, leaving out what is 0 and multiplications by 1."""
    total = None
    # largest first: every row of the matrices has a positive entry to begin with
    for weight, value in sorted(zip(weights, values, strict=True), key=lambda pair: -pair[0]):
        if weight == 0:
            continue
        if abs(weight) != 1:
            value = builder.fmul(value, _splat(_FLOATS, abs(weight)), flags=("contract",))
        if total is None:
            total = value
        else:
            add = builder.fadd if weight > 0 else builder.fsub
            total = add(total, value, flags=("contract",))
    return total


def _tile_transform(matrix: np.ndarray, is_bfloat16: bool, *, is_output: bool) -> Callable:
    """Compile matrix @ tile @ matrix.T for 16 channels; an output gets bias and lower bound.

    The numba function takes addresses and distances in bytes: source, source row, source column,
    target, target row, target column, bias (16 float32, outputs only), and the bound (float32).
    """
    size = matrix.shape[1]

    def generate(context, builder, _signature, args):
        source, source_row, source_column, target, target_row, target_column, bias, bound = args

        def at(start: ir.Value, row: ir.Value, column: ir.Value, i: int, j: int) -> ir.Value:
            down = builder.mul(row, ir.Constant(row.type, i))
            return builder.add(start, builder.add(down, builder.mul(column, down.type(j))))

        columns = []
        for j in range(size):
            column = [
                _load(builder, at(source, source_row, source_column, i, j), is_bfloat16)
                for i in range(size)
            ]
            columns.append([_combine(builder, weights, column) for weights in matrix])
        if is_output:
            offset = _load(builder, bias, False)
            undefined = ir.Constant(_FLOATS, ir.Undefined)
            least = builder.insert_element(undefined, bound, ir.IntType(32)(0))
            least = builder.shuffle_vector(least, undefined, _splat(_INTS, 0))
        for i in range(len(matrix)):
            row = [column[i] for column in columns]
            for j, weights in enumerate(matrix):
                value = _combine(builder, weights, row)
                if is_output:
                    value = builder.fadd(value, offset)
                    below = builder.fcmp_ordered("<", value, least)  # False for NaN, which stays
                    value = builder.select(below, least, value)
                _store(builder, value, at(target, target_row, target_column, i, j), is_bfloat16)
        return context.get_dummy_value()

    @intrinsic
    def transform(_context, source, row, column, target, down, right, bias, bound):
        return numba.void(*[numba.int64] * 7, numba.float32), generate

    return transform


@intrinsic
def _take_next(_context, pointer, index):
    """Add 1 to the int64 of that index atomically; return what it was."""

    def generate(_context, builder, _signature, args):
        numbers = builder.bitcast(args[0], ir.IntType(64).as_pointer())
        number = builder.gep(numbers, [args[1]])
        return builder.atomic_rmw("add", number, ir.IntType(64)(1), "monotonic")

    return numba.int64(pointer, numba.int64), generate


@intrinsic
def _copy(_context, target, source, count):
    """Copy count bytes; from address 0 it writes zeros."""

    def generate(context, builder, _signature, args):
        target, source = (builder.inttoptr(a, ir.IntType(8).as_pointer()) for a in args[:2])
        is_null = builder.icmp_unsigned("==", args[1], ir.IntType(64)(0))
        with builder.if_else(is_null) as (zero, copy):
            with zero:
                cgutils.memset(builder, target, args[2], 0)
            with copy:
                cgutils.raw_memcpy(builder, target, source, args[2], 1)
        return context.get_dummy_value()

    return numba.void(*[numba.int64] * 3), generate


_B4, _B6 = transform_matrices(2, 3)[0], transform_matrices(4, 3)[0]
_INPUT_4 = _tile_transform(_B4, False, is_output=False)
_INPUT_6 = _tile_transform(_B6, False, is_output=False)
_INPUT_4_BFLOAT16 = _tile_transform(_B4, True, is_output=False)
_OUTPUT_2 = _tile_transform(transform_matrices(2, 3)[2], False, is_output=True)
_OUTPUT_3 = _tile_transform(transform_matrices(3, 2)[2], False, is_output=True)
_OUTPUT_4 = _tile_transform(transform_matrices(4, 3)[2], False, is_output=True)
_OUTPUT_5 = _tile_transform(transform_matrices(5, 2)[2], False, is_output=True)
_OUTPUT_2_BFLOAT16 = _tile_transform(transform_matrices(2, 3)[2], True, is_output=True)
_OUTPUT_3_BFLOAT16 = _tile_transform(transform_matrices(3, 2)[2], True, is_output=True)

# One call of a kernel: some rows of tiles of one image. Threads take row after row, so that the
# result does not depend on their number.
JOB = np.dtype(
    [
        (name, np.int64)
        for name in (
            "next_row",  # the first row that no thread has taken; _take_next's index 0
            "next_patch",  # the first patch that no thread has taken; its index 1
            "rows",
            "first_row",  # of the image
            "tiles_across",
            "step",  # m, pixels from a tile to the next
            "size",  # pixels of a tile's side in the image: m + r - 1 (input) or m (output)
            "variant",  # of the tile transform, see _input_tile and _output_tile
            "image",  # address of the first pixel
            "height",
            "width",
            "pad_y",
            "pad_x",
            "pixel",  # bytes of a pixel, all its channels
            "item",  # bytes of a channel
            "side",  # a, tiles are stored as [tile, a, a, channel]
            "tiles",  # address of the first row's first tile
            "patches",  # address of a tile's copy for each thread, for those over the image's edge
            "patch",  # bytes of one such copy
            "bias",  # address of a float32 for each channel
        )
    ]
    + [("bound", np.float32)],
    align=True,
)


@numba.njit(nogil=True, error_model="numpy")
def _input_tile(job, source, row, target):  # pragma: no cover (compiled)
    pixel = job.pixel
    down = pixel * job.side
    for c in range(0, pixel, LANES * job.item):
        if job.variant == 0:
            _INPUT_4(source + c, row, pixel, target + c, down, pixel, 0, 0.0)
        elif job.variant == 1:
            _INPUT_6(source + c, row, pixel, target + c, down, pixel, 0, 0.0)
        else:
            _INPUT_4_BFLOAT16(source + c, row, pixel, target + c, down, pixel, 0, 0.0)


@numba.njit(nogil=True, error_model="numpy")
def _output_tile(job, source, target, row):  # pragma: no cover (compiled)
    pixel, bound = job.pixel, job.bound
    down = pixel * job.side
    for c in range(0, pixel, LANES * job.item):
        bias = job.bias + c // job.item * 4
        if job.variant == 0:
            _OUTPUT_2(source + c, down, pixel, target + c, row, pixel, bias, bound)
        elif job.variant == 1:
            _OUTPUT_3(source + c, down, pixel, target + c, row, pixel, bias, bound)
        elif job.variant == 2:
            _OUTPUT_4(source + c, down, pixel, target + c, row, pixel, bias, bound)
        elif job.variant == 3:
            _OUTPUT_5(source + c, down, pixel, target + c, row, pixel, bias, bound)
        elif job.variant == 4:
            _OUTPUT_2_BFLOAT16(source + c, down, pixel, target + c, row, pixel, bias, bound)
        else:
            _OUTPUT_3_BFLOAT16(source + c, down, pixel, target + c, row, pixel, bias, bound)


@numba.njit(nogil=True)
def _is_inside(job, top, left):  # pragma: no cover (compiled)
    return top >= 0 and left >= 0 and top + job.size <= job.height and left + job.size <= job.width


@numba.njit(nogil=True)
def _copy_patch(job, patch, top, left, is_output):  # pragma: no cover (compiled)
    """Copy a tile over the image's edge into a patch (zeros outside), or back (nothing there)."""
    for i in range(job.size):
        for j in range(job.size):
            y, x = top + i, left + j
            inside = 0 <= y < job.height and 0 <= x < job.width
            pixel = job.image + (y * job.width + x) * job.pixel if inside else 0
            in_patch = patch + (i * job.size + j) * job.pixel
            if not is_output:
                _copy(in_patch, pixel, job.pixel)
            elif inside:
                _copy(pixel, in_patch, job.pixel)


def _input_rows(pointer):  # pragma: no cover (compiled)
    job = numba.carray(pointer, 1)[0]
    patch = job.patches + job.patch * _take_next(pointer, 1)
    tile = job.side * job.side * job.pixel
    row = _take_next(pointer, 0)
    while row < job.rows:
        top = (job.first_row + row) * job.step - job.pad_y
        target = job.tiles + row * job.tiles_across * tile
        for column in range(job.tiles_across):
            left = column * job.step - job.pad_x
            if _is_inside(job, top, left):
                source = job.image + (top * job.width + left) * job.pixel
                _input_tile(job, source, job.width * job.pixel, target)
            else:
                _copy_patch(job, patch, top, left, False)
                _input_tile(job, patch, job.size * job.pixel, target)
            target += tile
        row = _take_next(pointer, 0)


def _output_rows(pointer):  # pragma: no cover (compiled)
    job = numba.carray(pointer, 1)[0]
    patch = job.patches + job.patch * _take_next(pointer, 1)
    tile = job.side * job.side * job.pixel
    row = _take_next(pointer, 0)
    while row < job.rows:
        top = (job.first_row + row) * job.step
        source = job.tiles + row * job.tiles_across * tile
        for column in range(job.tiles_across):
            left = column * job.step
            if _is_inside(job, top, left):
                target = job.image + (top * job.width + left) * job.pixel
                _output_tile(job, source, target, job.width * job.pixel)
            else:
                _output_tile(job, source, patch, job.size * job.pixel)
                _copy_patch(job, patch, top, left, True)
            source += tile
        row = _take_next(pointer, 0)


@functools.cache
def _compiled(kernel: Callable) -> Any:
    """Compile a kernel: seconds, once per installation, as numba keeps it."""
    signature = numba.void(numba.types.CPointer(numba.from_dtype(JOB)))
    return numba.cfunc(signature, cache=True)(kernel)


@functools.cache
def _run_parallel() -> Callable | None:
    """Return GOMP_parallel of the OpenMP library that PyTorch loaded, if it has one."""
    try:
        return ctypes.CDLL(None).GOMP_parallel
    except (AttributeError, OSError, TypeError):  # another OpenMP library; Windows
        return None


def transform(job: np.ndarray, threads: int, *, is_output: bool) -> None:
    """Transform the tiles of a job: image to tiles, or tiles to the image.

    Args:
        job: [1] of JOB.
        threads: how many to use at most; a patch must be there for each.
        is_output: which of the two.
    """
    job["next_row"] = job["next_patch"] = 0
    kernel = _compiled(_output_rows if is_output else _input_rows)
    parallel = _run_parallel() if threads > 1 else None
    if parallel is None:
        kernel.ctypes(ctypes.c_void_p(job.ctypes.data))
    else:
        # the team of threads that runs PyTorch's operators: another pool would have to wait
        # until that team has stopped spinning, milliseconds after each operator
        argument = ctypes.c_void_p(job.ctypes.data)
        parallel(
            ctypes.c_void_p(kernel.address), argument, ctypes.c_uint(threads), ctypes.c_uint(0)
        )
