"""Vectors of 16 float32 in compiled loops, for those that the compiler does not make vectors of by itself.

A vector is one register where the processor has AVX-512; elsewhere the compiler takes two or four, and the numbers are the same. Every
element goes through the same operations wherever in a row it lies, so results do not depend on where a block begins.
"""

from __future__ import annotations

import operator
from collections.abc import Callable
from typing import Any

from llvmlite import ir
from numba import extending, types
from numba.core import cgutils
from numba.extending import models, overload, register_model

LANES = 16

intrinsic: Any = extending.intrinsic
"""What it makes is called without the first argument."""

_LANES = ir.VectorType(ir.FloatType(), LANES)
_WHOLE = ir.VectorType(ir.IntType(32), LANES)


class _Vector(types.Type):
    """The type of 16 float32."""

    def __init__(self) -> None:
        super().__init__(name="vector_of_16_float32")


vector = _Vector()


@register_model(_Vector)
class _VectorModel(models.PrimitiveModel):
    def __init__(self, manager: Any, kind: Any) -> None:
        super().__init__(manager, kind, _LANES)


def _place(context: Any, builder: Any, kind: Any, array: Any, index: Any) -> Any:
    """Return the address of 16 elements of a contiguous one-dimensional array."""
    data = cgutils.create_struct_proxy(kind)(context, builder, value=array).data  # pyright: ignore[reportOptionalCall]
    return builder.bitcast(builder.gep(data, [index]), _LANES.as_pointer())


def _checked(array: Any) -> None:
    if not (isinstance(array, types.Array) and array.ndim == 1 and array.layout == "C" and array.dtype == types.float32):
        raise TypeError("vectors are loaded from contiguous one-dimensional float32 arrays")


@intrinsic
def load(typingctx, array, index):
    """Return the 16 elements of a contiguous one-dimensional array from an index on."""
    _checked(array)

    def built(context, builder, signature, arguments):
        read = builder.load(_place(context, builder, signature.args[0], *arguments))
        read.align = 4
        return read

    return vector(array, types.intp), built


@intrinsic
def store(typingctx, array, index, values):
    """Set the 16 elements of a contiguous one-dimensional array from an index on."""
    _checked(array)

    def built(context, builder, signature, arguments):
        written = builder.store(arguments[2], _place(context, builder, signature.args[0], *arguments[:2]))
        written.align = 4
        return context.get_dummy_value()

    return types.none(array, types.intp, values), built


@intrinsic
def spread(typingctx, value):
    """Return a vector with one number in all elements."""

    def built(context, builder, signature, arguments):
        first = builder.insert_element(ir.Constant(_LANES, ir.Undefined), arguments[0], ir.Constant(ir.IntType(32), 0))
        return builder.shuffle_vector(first, ir.Constant(_LANES, ir.Undefined), ir.Constant(_WHOLE, [0] * LANES))

    return vector(types.float32), built


@intrinsic
def moved_in(typingctx, before, here):
    """Return the vector that begins one element earlier than `here`: the last element of the one before it comes first."""

    def built(context, builder, signature, arguments):
        order = list(range(LANES - 1, 2 * LANES - 1))
        return builder.shuffle_vector(*arguments, ir.Constant(_WHOLE, order))

    return vector(vector, vector), built


def _called(name: str, count: int) -> Any:
    """Return an operation of LLVM on vectors."""

    def made(typingctx, *kinds):
        def built(context, builder, signature, arguments):
            kind = ir.FunctionType(_LANES, [_LANES] * count)
            return builder.call(cgutils.get_or_insert_function(builder.module, kind, f"llvm.{name}.v{LANES}f32"), arguments)

        return vector(*[vector] * count), built

    return made


@intrinsic
def times_plus(typingctx, a, b, c):
    """Return a * b + c, as one operation where the processor has it."""
    return _called("fmuladd", 3)(typingctx, a, b, c)


@intrinsic
def root(typingctx, a):
    """Return the square root."""
    return _called("sqrt", 1)(typingctx, a)


def _chosen(comparison: str) -> Any:
    def made(typingctx, a, b):
        def built(context, builder, signature, arguments):
            return builder.select(builder.fcmp_ordered(comparison, *arguments), *arguments)

        return vector(vector, vector), built

    return made


@intrinsic
def larger(typingctx, a, b):
    """Return the larger of two, b where one is NaN."""
    return _chosen(">")(typingctx, a, b)


@intrinsic
def smaller(typingctx, a, b):
    """Return the smaller of two, b where one is NaN."""
    return _chosen("<")(typingctx, a, b)


@intrinsic
def with_sign(typingctx, a, b):
    """Return a where b is above 0, else -a."""

    def built(context, builder, signature, arguments):
        above = builder.fcmp_ordered(">", arguments[1], ir.Constant(_LANES, [0.0] * LANES))
        return builder.select(above, arguments[0], builder.fneg(arguments[0]))

    return vector(vector, vector), built


@intrinsic
def times_power(typingctx, value, shifted):
    """Return value * 2^n, where `shifted` is n + 1.5 * 2^23, whose last bits are the whole number n; overflow is not looked for."""

    def built(context, builder, signature, arguments):
        bits = [builder.bitcast(argument, _WHOLE) for argument in arguments]
        exponent = builder.shl(bits[1], ir.Constant(_WHOLE, [23] * LANES))
        return builder.bitcast(builder.add(bits[0], exponent), _LANES)

    return vector(vector, vector), built


def _arithmetic(name: str) -> Any:
    @intrinsic
    def operation(typingctx, a, b):
        def built(context, builder, signature, arguments):
            return getattr(builder, name)(*arguments)

        return vector(vector, vector), built

    return operation


def _stand_for(symbol: Callable[[Any, Any], Any], name: str) -> None:
    """Have an operator of Python mean an instruction where both sides are vectors."""
    operation = _arithmetic(name)

    @overload(symbol, inline="always")
    def implement(a, b):
        if isinstance(a, _Vector) and isinstance(b, _Vector):
            return lambda a, b: operation(a, b)
        return None


for _symbol, _name in ((operator.add, "fadd"), (operator.sub, "fsub"), (operator.mul, "fmul"), (operator.truediv, "fdiv")):
    _stand_for(_symbol, _name)
