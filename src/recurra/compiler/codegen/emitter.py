"""Writes LLVM IR: typed values, arithmetic on scalars and vectors alike, loops. Knows nothing of recurrences."""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

FLOATS = {"float": 32, "double": 64}


@dataclass(frozen=True)
class Type:
    """A scalar LLVM type, or `width` of them side by side."""

    scalar: str
    width: int = 1

    def __str__(self) -> str:
        return self.scalar if self.width == 1 else f"<{self.width} x {self.scalar}>"

    @property
    def is_float(self) -> bool:
        return self.scalar in FLOATS

    @property
    def bits(self) -> int:
        return FLOATS.get(self.scalar) or int(self.scalar[1:])

    def of(self, scalar: str) -> Type:
        """As many of another scalar type."""
        return Type(scalar, self.width)

    @property
    def suffix(self) -> str:
        """The type's name inside an intrinsic's name."""
        scalar = f"f{self.bits}" if self.is_float else self.scalar
        return scalar if self.width == 1 else f"v{self.width}{scalar}"


I64 = Type("i64")
PTR = Type("ptr")


@dataclass(frozen=True)
class Value:
    """A name or a literal in the IR, with its type."""

    text: str
    type: Type

    def __str__(self) -> str:
        return f"{self.type} {self.text}"


@dataclass(frozen=True)
class Variable:
    """A mutable value; the compiler keeps it in a register."""

    address: str
    type: Type


class Emitter:
    """Collects the text of one function. Methods append instructions and return the Value they compute."""

    def __init__(self) -> None:
        self.lines: list[str] = []
        self.entry: list[str] = []
        self.declarations: set[str] = set()
        self.metadata: set[str] = set()
        self._count = 0
        self._block = "entry"

    # --- the plumbing -------------------------------------------------------------------------------------------
    def fresh(self, hint: str = "v") -> str:
        self._count += 1
        return f"%{hint}{self._count}"

    def comment(self, text: str) -> None:
        self.lines.append(f"  ; {text}")

    def instruction(self, type: Type, text: str, hint: str = "v") -> Value:
        name = self.fresh(hint)
        self.lines.append(f"  {name} = {text}")
        return Value(name, type)

    def intrinsic(self, name: str, type: Type, *args: Value, result: Type | None = None) -> Value:
        """Call `llvm.<name>.<type>`."""
        result, full = result or type, f"@llvm.{name}.{type.suffix}"
        self.declarations.add(f"declare {result} {full}({', '.join(str(arg.type) for arg in args)})")
        return self.instruction(result, f"call {result} {full}({', '.join(map(str, args))})")

    def clear_at_entry(self, pointer: Value, size: int) -> None:
        """Fill `size` bytes with zeros once, where the function begins."""
        self.declarations.add("declare void @llvm.memset.p0.i64(ptr, i8, i64, i1)")
        self.entry.append(f"  call void @llvm.memset.p0.i64(ptr {pointer.text}, i8 0, i64 {size}, i1 false)")

    def block(self, label: str) -> None:
        self.lines.append(f"{label}:")
        self._block = label

    def jump(self, label: str) -> None:
        self.lines.append(f"  br label %{label}")

    def label(self, hint: str) -> str:
        return self.fresh(hint)[1:]

    # --- constants and conversions ------------------------------------------------------------------------------
    def constant(self, value: float, type: Type) -> Value:
        """`value` in every element. Floats are written bit for bit."""
        literal = float_literal(value, type.scalar) if type.is_float else str(int(value))
        if type.width == 1:
            return Value(literal, type)
        return Value(f"splat ({type.scalar} {literal})", type)

    def numbers(self, values: Sequence[float], scalar: str) -> Value:
        """The address of numbers that are part of the code."""
        texts = ", ".join(f"{scalar} {float_literal(value, scalar)}" for value in values)
        name = f"@numbers.{hashlib.sha256(texts.encode()).hexdigest()[:16]}"
        self.declarations.add(f"{name} = private unnamed_addr constant [{len(values)} x {scalar}] [{texts}]")
        return Value(name, PTR)

    def splat(self, value: Value, width: int) -> Value:
        """A scalar repeated `width` times."""
        if width == 1 or value.type.width == width:
            return value
        if not value.text.startswith("%"):
            return Value(f"splat ({value})", Type(value.type.scalar, width))
        type = Type(value.type.scalar, width)
        one = self.instruction(type, f"insertelement {type} poison, {value}, i64 0")
        return self.instruction(type, f"shufflevector {one}, {type} poison, <{width} x i32> zeroinitializer")

    def convert(self, operation: str, value: Value, scalar: str) -> Value:
        """bitcast, fptosi, sitofp, uitofp, zext, sext, trunc, fpext, fptrunc, inttoptr ... to `scalar`."""
        type = value.type.of(scalar)
        return value if type == value.type else self.instruction(type, f"{operation} {value} to {type}")

    # --- floating point -----------------------------------------------------------------------------------------
    def _binary(self, operation: str, a: Value, b: Value) -> Value:
        if a.type != b.type:
            raise TypeError(f"{operation} of {a.type} and {b.type}")
        return self.instruction(a.type, f"{operation} {a}, {b.text}")

    def add(self, a: Value, b: Value) -> Value:
        return self._binary("fadd" if a.type.is_float else "add", a, b)

    def sub(self, a: Value, b: Value) -> Value:
        return self._binary("fsub" if a.type.is_float else "sub", a, b)

    def mul(self, a: Value, b: Value) -> Value:
        return self._binary("fmul" if a.type.is_float else "mul", a, b)

    def fusible(self, operation: str, a: Value, b: Value) -> Value:
        """ "add", "sub" or "mul" of floats, where a product and the sum it goes into may be rounded once, together."""
        return self._binary(f"f{operation} contract", a, b)

    def div(self, a: Value, b: Value) -> Value:
        return self._binary("fdiv" if a.type.is_float else "sdiv", a, b)

    def remainder(self, a: Value, b: Value) -> Value:
        """What dividing floats to a whole number leaves, with the sign of a; exact, and a call per number."""
        return self._binary("frem", a, b)

    def neg(self, a: Value) -> Value:
        return self.instruction(a.type, f"fneg {a}")

    def fma(self, a: Value, b: Value, c: Value) -> Value:
        """a * b + c, rounded once."""
        return self.intrinsic("fma", a.type, a, b, c)

    def sqrt(self, a: Value) -> Value:
        return self.intrinsic("sqrt", a.type, a)

    def abs(self, a: Value) -> Value:
        return self.intrinsic("fabs", a.type, a)

    def copysign(self, size: Value, sign: Value) -> Value:
        return self.intrinsic("copysign", size.type, size, sign)

    def round_even(self, a: Value) -> Value:
        """To the nearest whole number, ties to even, still a float."""
        return self.intrinsic("roundeven", a.type, a)

    # --- comparison and choice ----------------------------------------------------------------------------------
    def compare(self, predicate: str, a: Value, b: Value) -> Value:
        """Floats: oeq olt ole ogt oge (false on NaN), une, uno, ult ... Integers: eq ne slt sle sgt sge."""
        operation = "fcmp" if a.type.is_float else "icmp"
        return self.instruction(a.type.of("i1"), f"{operation} {predicate} {a}, {b.text}")

    def select(self, condition: Value, yes: Value, no: Value) -> Value:
        return self.instruction(yes.type, f"select {condition}, {yes}, {no}")

    # --- integers and bits --------------------------------------------------------------------------------------
    def bitwise(self, operation: str, a: Value, b: Value) -> Value:
        """and, or, xor, shl, lshr, ashr."""
        return self._binary(operation, a, b)

    # --- memory -------------------------------------------------------------------------------------------------
    def offset(self, pointer: Value, index: Value, scalar: str) -> Value:
        """The address `index` elements of type `scalar` further on."""
        return self.instruction(PTR, f"getelementptr {scalar}, {pointer}, {index}", "p")

    def load(self, pointer: Value, type: Type, align: int | None = None) -> Value:
        return self.instruction(type, f"load {type}, {pointer}, align {align or max(1, Type(type.scalar).bits // 8)}")

    def store(self, value: Value, pointer: Value, align: int | None = None) -> None:
        self.lines.append(f"  store {value}, {pointer}, align {align or max(1, Type(value.type.scalar).bits // 8)}")

    def fetch_ahead(self, pointer: Value, write: bool = False) -> None:
        """Bring a line of memory nearer that is read or written soon; no memory need be there."""
        self.declarations.add("declare void @llvm.prefetch.p0(ptr, i32 immarg, i32 immarg, i32 immarg)")
        self.lines.append(f"  call void @llvm.prefetch.p0({pointer}, i32 {int(write)}, i32 2, i32 1)")

    def store_past_caches(self, value: Value, pointer: Value) -> None:
        """Write a vector that nobody reads soon; `pointer` must be aligned to its size.

        Saves fetching the line that is overwritten. Other threads see it only after a `fence`.
        """
        size = value.type.width * value.type.bits // 8
        self.lines.append(f"  store {value}, {pointer}, align {size}, !nontemporal !0")
        self.metadata.add("!0 = !{i32 1}")

    def fence(self) -> None:
        """What was written before is there for all threads from here on."""
        self.lines.append("  fence seq_cst")

    def variable(self, initial: Value) -> Variable:
        name = self.fresh("var")
        self.entry.append(f"  {name} = alloca {initial.type}")
        self.lines.append(f"  store {initial}, ptr {name}")
        return Variable(name, initial.type)

    def get(self, variable: Variable) -> Value:
        return self.instruction(variable.type, f"load {variable.type}, ptr {variable.address}")

    def set(self, variable: Variable, value: Value) -> None:
        self.lines.append(f"  store {value}, ptr {variable.address}")

    def any(self, flags: Value) -> Value:
        """Whether one of a vector of flags is set."""
        if flags.type.width == 1:
            return flags
        name = f"@llvm.vector.reduce.or.{flags.type.suffix}"
        self.declarations.add(f"declare i1 {name}({flags.type})")
        return self.instruction(Type("i1"), f"call i1 {name}({flags})")

    def sum_elements(self, vector: Value) -> Value:
        """The sum of a vector's elements, in pairs."""
        if vector.type.width == 1:
            return vector
        scalar = Type(vector.type.scalar)
        self.declarations.add(
            f"declare {scalar} @llvm.vector.reduce.fadd.{vector.type.suffix}({scalar}, {vector.type})"
        )
        return self.instruction(
            scalar, f"call reassoc {scalar} @llvm.vector.reduce.fadd.{vector.type.suffix}({scalar} -0.0, {vector})"
        )

    # --- control ------------------------------------------------------------------------------------------------
    @contextmanager
    def loop(self, start: Value | int, stop: Value | int, step: int = 1, down: bool = False) -> Iterator[Value]:
        """for i in range(start, stop, step), i an i64; with `down`, the same numbers from the last to the first
        (then `step` must be 1)."""
        first, last = (self.constant(v, I64) if isinstance(v, int) else v for v in (start, stop))
        before, head, body, after = self._block, self.label("head"), self.label("body"), self.label("after")
        self.jump(head)
        self.block(head)
        count, index_next = self.fresh("i"), self.fresh("next")
        # The phi names the block that jumps back, which is known only after the body: its line is filled in then.
        place = len(self.lines)
        self.lines.append("")
        inside = self.compare("slt", Value(count, I64), last)
        self.lines.append(f"  br {inside}, label %{body}, label %{after}")
        self.block(body)
        index = Value(count, I64)
        if down:
            # Counting up and mirroring: i = first + last - 1 - count.
            top = self.sub(self.add(first, last), self.constant(1, I64))
            index = self.sub(top, index)
        yield index
        self.lines.append(f"  {index_next} = add nsw i64 {count}, {step}")
        self.lines[place] = f"  {count} = phi i64 [ {first.text}, %{before} ], [ {index_next}, %{self._block} ]"
        self.jump(head)
        self.block(after)

    @contextmanager
    def when(self, condition: Value) -> Iterator[None]:
        """Run the body only if the scalar `condition` holds."""
        body, after = self.label("then"), self.label("endif")
        self.lines.append(f"  br {condition}, label %{body}, label %{after}")
        self.block(body)
        yield
        self.jump(after)
        self.block(after)

    def function(self, name: str, arguments: list[tuple[str, Type]]) -> str:
        """The whole function as text; pointers among the arguments do not alias one another."""
        args = ", ".join(f"ptr noalias %{n}" if t == PTR else f"{t} %{n}" for n, t in arguments)
        body = ["entry:", *self.entry, *self.lines, "  ret void"]
        return (
            f"define void @{name}({args}) {{\n"
            + "\n".join(body)
            + "\n}\n"
            + "\n".join(sorted(self.declarations | self.metadata))
            + "\n"
        )


def float_literal(value: float, scalar: str) -> str:
    """LLVM writes floats exactly as the hexadecimal bits of the double they equal."""
    if scalar == "float":
        value = struct.unpack("f", struct.pack("f", value))[0]
    return f"0x{struct.unpack('Q', struct.pack('d', value))[0]:016X}"
