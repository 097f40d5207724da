"""LLVM IR as text: typed SSA values, structured control flow, and nothing a pass has to clean up.

Text is twenty times faster to build than `llvmlite.ir` objects, and no IR pass runs on it, so
every helper emits the form instruction selection wants. Floating-point operations carry no
fast-math flag at all: `fma` is explicit, and is a multiply and an add where the target has none.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

from netc.codegen.cpu.flow import Branch, Loop
from netc.codegen.cpu.target import Target
from netc.codegen.cpu.values import FALSE, NULL, TRUE, Int, Val, const_float, const_int, vec

__all__ = [
    "FALSE",
    "KERNEL_PARAMS",
    "NULL",
    "TRUE",
    "Branch",
    "Function",
    "Int",
    "Loop",
    "Module",
    "Val",
    "const_float",
    "const_int",
    "vec",
]

KERNEL_PARAMS = ("ptr", "i64", "i64")  # args, tid, nthreads


@dataclass
class Module:
    """Functions, the intrinsics they call and the constants they read; `text()` is the whole."""

    target: Target
    functions: list[Function] = field(default_factory=list)
    _globals: dict[str, str] = field(default_factory=dict)
    _declared: dict[str, str] = field(default_factory=dict)

    def function(
        self,
        name: str,
        params: Sequence[str] = KERNEL_PARAMS,
        ret: str = "void",
        *,
        internal: bool = False,
    ) -> Function:
        """A new function; its parameters are `function.args`."""
        made = Function(self, name, tuple(params), ret, internal)
        self.functions.append(made)
        return made

    def kernel(self) -> Function:
        """A new kernel, named by its number: names of a net never reach generated text."""
        return self.function(f"k{len(self.functions)}")

    def declare(self, name: str, ret: str, params: Sequence[str]) -> str:
        """An intrinsic by its full name; declared once."""
        self._declared[name] = f"declare {ret} @{name}({', '.join(params)})"
        return name

    def external(self, name: str, params: Sequence[str]) -> Val:
        """A function of another module of the same image, declared once."""
        self._declared[name] = f"declare hidden void @{name}({', '.join(params)})"
        return Val("ptr", f"@{name}")

    def refers_to(self, name: str) -> bool:
        """Whether a function of that name is declared."""
        return name in self._declared

    def constant(self, element: str, values: Sequence[int | float], align: int = 64) -> Val:
        """A read-only array in the image; equal arrays are one."""
        whole = element != "float"
        items = ", ".join(
            str(const_int(int(v), element) if whole else const_float(v)) for v in values
        )
        body = f"private unnamed_addr constant [{len(values)} x {element}] [{items}], align {align}"
        name = self._globals.setdefault(body, f"@c{len(self._globals)}")
        return Val("ptr", name)

    def define(self, name: str, body: str) -> None:
        """A global of a form `constant` does not know, such as a table of code distances."""
        self._globals[body] = name

    def text(self) -> str:
        """The module as LLVM assembly."""
        width = 8 * self.target.vector_bytes
        attributes = f'attributes #0 = {{ nounwind "min-legal-vector-width"="{width}"'
        attributes += f' "prefer-vector-width"="{width}" }}'
        parts = [f'target triple = "{self.target.triple}"']
        parts += [f"{name} = {body}" for body, name in self._globals.items()]
        parts += self._declared.values()
        parts += [f.text() for f in self.functions]
        return "\n".join([*parts, attributes, ""])


class Function:
    """Builds one function body, a line at a time, in SSA form."""

    def __init__(
        self, module: Module, name: str, params: tuple[str, ...], ret: str, internal: bool
    ) -> None:
        self.module = module
        self.target = module.target
        self.name = name
        self.params = params
        self.ret_type = ret
        self.internal = internal
        self.args = [Val(t, f"%a{i}") for i, t in enumerate(params)]
        self.block = "entry"
        self._lines: list[str] = []
        self._allocas: list[str] = []
        self._count = 0

    # ---- the text -------------------------------------------------------------------------

    def text(self) -> str:
        """The function as LLVM assembly."""
        linkage = "internal " if self.internal else "hidden "  # hidden: no detour by a GOT
        params = ", ".join(str(a) for a in self.args)
        head = f"define {linkage}{self.ret_type} @{self.name}({params}) noinline #0 {{\nentry:"
        return "\n".join([head, *self._allocas, *self._lines, "}"])

    @property
    def pointer(self) -> Val:
        """This function's address."""
        return Val("ptr", f"@{self.name}")

    def emit(self, line: str) -> None:
        """One instruction without a result."""
        self._lines.append(f"  {line}")

    def value(self, type: str, text: str) -> Val:
        """One instruction with a result."""
        result = self._fresh(type)
        self._lines.append(f"  {result.name} = {text}")
        return result

    def label(self, name: str) -> None:
        """Begin a basic block."""
        self._lines.append(f"{name}:")
        self.block = name

    def new_label(self) -> str:
        """An unused block name."""
        self._count += 1
        return f"b{self._count}"

    def _fresh(self, type: str) -> Val:
        self._count += 1
        return Val(type, f"%v{self._count}")

    # ---- integers -------------------------------------------------------------------------

    def const(self, value: Int, type: str = "i64") -> Val:
        """A Python int as a constant; a value as it is."""
        return value if isinstance(value, Val) else const_int(value, type)

    def _binary(self, op: str, a: Int, b: Int) -> Val:
        type = a.type if isinstance(a, Val) else b.type if isinstance(b, Val) else "i64"
        left, right = self.const(a, type), self.const(b, type)
        return self.value(type, f"{op} {left}, {right.name}")

    def add(self, a: Int, b: Int) -> Val:
        """a + b; nothing is emitted for a zero."""
        if isinstance(b, int) and b == 0:
            return self.const(a)
        return self._binary("add", a, b)

    def sub(self, a: Int, b: Int) -> Val:
        """a - b."""
        return self._binary("sub", a, b)

    def mul(self, a: Int, b: Int) -> Val:
        """a · b; nothing is emitted for a one."""
        if isinstance(b, int) and b == 1:
            return self.const(a)
        return self._binary("mul", a, b)

    def sdiv(self, a: Int, b: Int) -> Val:
        """a / b toward zero."""
        return self._binary("sdiv", a, b)

    def srem(self, a: Int, b: Int) -> Val:
        """a - b · (a / b)."""
        return self._binary("srem", a, b)

    def and_(self, a: Int, b: Int) -> Val:
        """Bitwise and."""
        return self._binary("and", a, b)

    def or_(self, a: Int, b: Int) -> Val:
        """Bitwise or."""
        return self._binary("or", a, b)

    def xor(self, a: Int, b: Int) -> Val:
        """Bitwise exclusive or."""
        return self._binary("xor", a, b)

    def shl(self, a: Int, b: Int) -> Val:
        """a · 2^b."""
        return self._binary("shl", a, b)

    def lshr(self, a: Int, b: Int) -> Val:
        """a / 2^b, unsigned."""
        return self._binary("lshr", a, b)

    def ashr(self, a: Int, b: Int) -> Val:
        """floor(a / 2^b), signed."""
        return self._binary("ashr", a, b)

    def icmp(self, predicate: str, a: Int, b: Int) -> Val:
        """An integer or pointer comparison: eq ne slt sle sgt sge ult ule ugt uge."""
        type = a.type if isinstance(a, Val) else b.type if isinstance(b, Val) else "i64"
        left, right = self.const(a, type), self.const(b, type)
        return self.value(vec(left.lanes, "i1"), f"icmp {predicate} {left}, {right.name}")

    def smin(self, a: Int, b: Int) -> Val:
        """The lesser of two signed integers."""
        left = self.const(a, b.type if isinstance(b, Val) else "i64")
        return self.select(self.icmp("slt", left, b), left, self.const(b, left.type))

    def smax(self, a: Int, b: Int) -> Val:
        """The greater of two signed integers."""
        left = self.const(a, b.type if isinstance(b, Val) else "i64")
        return self.select(self.icmp("sgt", left, b), left, self.const(b, left.type))

    def cast(self, op: str, a: Val, type: str) -> Val:
        """sext zext trunc sitofp fptosi bitcast ptrtoint inttoptr, as LLVM spells them."""
        return self.value(type, f"{op} {a} to {type}")

    def sext(self, a: Val, type: str = "i64") -> Val:
        """Sign-extended."""
        return self.cast("sext", a, type)

    def zext(self, a: Val, type: str = "i64") -> Val:
        """Zero-extended."""
        return self.cast("zext", a, type)

    # ---- floats ---------------------------------------------------------------------------

    def f32(self, value: float, lanes: int = 1) -> Val:
        """A float32 constant in every lane."""
        return const_float(value, vec(lanes))

    def f64(self, value: float) -> Val:
        """A float64 constant."""
        return const_float(value, "double")

    def fadd(self, a: Val, b: Val) -> Val:
        """a + b."""
        return self.value(a.type, f"fadd {a}, {b.name}")

    def fsub(self, a: Val, b: Val) -> Val:
        """a - b."""
        return self.value(a.type, f"fsub {a}, {b.name}")

    def fmul(self, a: Val, b: Val) -> Val:
        """a · b."""
        return self.value(a.type, f"fmul {a}, {b.name}")

    def fdiv(self, a: Val, b: Val) -> Val:
        """a / b."""
        return self.value(a.type, f"fdiv {a}, {b.name}")

    def fneg(self, a: Val) -> Val:
        """-a, sign bit only."""
        return self.value(a.type, f"fneg {a}")

    def fma(self, a: Val, b: Val, c: Val) -> Val:
        """a · b + c, rounded once where the target can."""
        if not self.target.fma:
            return self.fadd(self.fmul(a, b), c)
        return self.intrinsic("llvm.fma", a, b, c)

    def add_pairs(self, a: Val, b: Val, c: Val) -> Val:
        """c + the products of neighbours, two bfloat16 in each float32 lane of a and b."""
        type = vec(2 * a.lanes, "bfloat")
        pairs = [self.cast("bitcast", v, type) for v in (a, b)]
        name = "llvm.x86.avx512bf16.dpbf16ps.512"
        if not self.target.is_x86:
            name = "llvm.aarch64.neon.bfdot.v4f32.v8bf16"
        self.module.declare(name, c.type, [c.type, type, type])
        return self.value(c.type, f"call {c.type} @{name}({c}, {pairs[0]}, {pairs[1]})")

    def add_quads(self, a: Val, b: Val, c: Val) -> Val:
        """c + the products of neighbours, four bytes in each lane of a and b, all whole numbers.

        Those of a are without a sign on x86, and signed elsewhere; those of b are signed.
        """
        wide, type = vec(a.lanes, "i32"), vec(4 * a.lanes, "i8")
        name = f"llvm.x86.avx512.vpdpbusd.{32 * a.lanes}"
        if self.target.is_x86:
            type = wide  # as the intrinsic was first declared, which every version reads
        else:
            name = "llvm.aarch64.neon.sdot.v4i32.v16i8"
        x, y, total = (self.cast("bitcast", v, t) for v, t in ((a, type), (b, type), (c, wide)))
        self.module.declare(name, wide, [wide, type, type])
        made = self.value(wide, f"call {wide} @{name}({total}, {x}, {y})")
        return self.cast("bitcast", made, c.type)

    def fcmp(self, predicate: str, a: Val, b: Val) -> Val:
        """A float comparison: oeq olt ogt ole oge one uno une ult …"""
        return self.value(vec(a.lanes, "i1"), f"fcmp {predicate} {a}, {b.name}")

    def select(self, condition: Val, a: Val, b: Val) -> Val:
        """a where the condition holds, else b."""
        return self.value(a.type, f"select {condition}, {a}, {b}")

    def intrinsic(self, name: str, *args: Val) -> Val:
        """An intrinsic overloaded on its first argument only: llvm.sqrt, llvm.floor, …"""
        type = args[0].type
        short = type if args[0].lanes == 1 else f"v{args[0].lanes}{args[0].element}"
        suffix = short.replace("float", "f32").replace("double", "f64")
        full = self.module.declare(f"{name}.{suffix}", type, [a.type for a in args])
        return self.value(type, f"call {type} @{full}({', '.join(map(str, args))})")

    # ---- vectors --------------------------------------------------------------------------

    def splat(self, a: Val, lanes: int) -> Val:
        """A scalar in every lane; itself for one lane."""
        if lanes == 1:
            return a
        type = vec(lanes, a.type)
        first = self.value(type, f"insertelement {type} poison, {a}, i64 0")
        return self.shuffle(first, first, [0] * lanes)

    def shuffle(self, a: Val, b: Val, lanes: Sequence[int]) -> Val:
        """Lanes picked from a (0 …) and b (after a's); -1 is anything."""
        mask = ", ".join(f"i32 {i}" if i >= 0 else "i32 poison" for i in lanes)
        picks = f"<{len(lanes)} x i32> <{mask}>"
        return self.value(vec(len(lanes), a.element), f"shufflevector {a}, {b}, {picks}")

    def extract(self, a: Val, lane: Int) -> Val:
        """One lane; a scalar is its own only lane."""
        if a.lanes == 1:
            return a
        return self.value(a.element, f"extractelement {a}, {self.const(lane)}")

    def insert(self, a: Val, item: Val, lane: Int) -> Val:
        """a with one lane replaced."""
        if a.lanes == 1:
            return item
        return self.value(a.type, f"insertelement {a}, {item}, {self.const(lane)}")

    def iota(self, lanes: int, element: str = "i32") -> Val:
        """0, 1, 2, … in the lanes."""
        items = ", ".join(f"{element} {i}" for i in range(lanes))
        return Val(vec(lanes, element), f"<{items}>" if lanes > 1 else "0")

    def lane_mask(self, count: Val, lanes: int) -> Val:
        """True in the first `count` (i64) lanes."""
        limit = self.splat(self.cast("trunc", count, "i32"), lanes)
        return self.icmp("slt", self.iota(lanes), limit)

    # ---- memory ---------------------------------------------------------------------------

    def gep(self, base: Val, offset: Int, scale: int = 1) -> Val:
        """base + offset · scale bytes."""
        if isinstance(offset, int) and offset == 0:
            return base
        unit = {1: "i8", 2: "i16", 4: "i32", 8: "i64"}.get(scale, f"[{scale} x i8]")
        return self.value("ptr", f"getelementptr {unit}, {base}, {self.const(offset)}")

    def load(self, type: str, pointer: Val, align: int = 4) -> Val:
        """Read one value."""
        return self.value(type, f"load {type}, {pointer}, align {align}")

    def store(self, value: Val, pointer: Val, align: int = 4) -> None:
        """Write one value."""
        self.emit(f"store {value}, {pointer}, align {align}")

    def slot(self, args: Val, index: int, type: str = "i64") -> Val:
        """The 8-byte slot `index` of an argument block, as `i64` or `ptr`."""
        return self.load(type, self.gep(args, 8 * index), 8)

    def masked_load(self, pointer: Val, mask: Val, type: str, align: int = 4) -> Val:
        """Lanes under the mask, zero elsewhere; memory outside the mask is not touched."""
        lanes = mask.lanes
        if lanes == 1:
            raise ValueError("a masked load needs a vector type")
        params = ["ptr", mask.type, type]
        name = self.module.declare(f"llvm.masked.load.v{lanes}f32.p0", type, params)
        rest = f"ptr align {align} {pointer.name}, {mask}, {type} zeroinitializer"
        return self.value(type, f"call {type} @{name}({rest})")

    def masked_store(self, value: Val, pointer: Val, mask: Val, align: int = 4) -> None:
        """Write the lanes under the mask."""
        params = [value.type, "ptr", mask.type]
        name = self.module.declare(f"llvm.masked.store.v{value.lanes}f32.p0", "void", params)
        self.emit(f"call void @{name}({value}, ptr align {align} {pointer.name}, {mask})")

    def alloca(self, size: int, align: int = 64) -> Val:
        """Bytes on the stack, reserved once at entry."""
        slot = self._fresh("ptr")
        self._allocas.append(f"  {slot.name} = alloca [{size} x i8], align {align}")
        return slot

    def prefetch(self, pointer: Val, locality: int = 3) -> None:
        """Ask for the line at `pointer` to be read soon."""
        name = self.module.declare("llvm.prefetch.p0", "void", ["ptr", "i32", "i32", "i32"])
        self.emit(f"call void @{name}({pointer}, i32 0, i32 {locality}, i32 1)")

    def atomic_load(self, type: str, pointer: Val, order: str = "acquire") -> Val:
        """An atomic read."""
        align = int(type[1:]) // 8 if type.startswith("i") else 8
        return self.value(type, f"load atomic {type}, {pointer} {order}, align {align}")

    def atomic_store(self, value: Val, pointer: Val, order: str = "release") -> None:
        """An atomic write."""
        align = int(value.type[1:]) // 8 if value.type.startswith("i") else 8
        self.emit(f"store atomic {value}, {pointer} {order}, align {align}")

    def atomic_add(self, pointer: Val, value: Val, order: str = "seq_cst") -> Val:
        """Add atomically; the value before."""
        return self.value(value.type, f"atomicrmw add {pointer}, {value} {order}")

    def fence(self, order: str = "seq_cst") -> None:
        """A memory fence."""
        self.emit(f"fence {order}")

    # ---- control --------------------------------------------------------------------------

    @contextmanager
    def loop(
        self, start: Int, stop: Int, step: Int = 1, carry: Sequence[Val] = ()
    ) -> Iterator[Loop]:
        """for index in start … stop by step (> 0), tested at the bottom behind a guard."""
        first, last = self.const(start), self.const(stop)
        before, body, after = self.block, self.new_label(), self.new_label()
        entered = self.icmp("slt", first, last)
        self.emit(f"br {entered}, label %{body}, label %{after}")
        self.label(body)
        mark = len(self._lines)
        turn = Loop(self._fresh(first.type), [self._fresh(v.type) for v in carry])
        yield turn
        following = turn.following if turn.following is not None else turn.values
        advanced = self.add(turn.index, self.const(step, first.type))
        again = self.icmp("slt", advanced, last)
        if turn.done is not None:
            again = self.and_(again, self.xor(turn.done, TRUE))
        end = self.block
        self.emit(f"br {again}, label %{body}, label %{after}")
        rows = zip((turn.index, *turn.values), (first, *carry), (advanced, *following), strict=True)
        self._lines[mark:mark] = [
            f"  {p.name} = phi {p.type} [{a.name}, %{before}], [{b.name}, %{end}]"
            for p, a, b in rows
        ]
        self.label(after)
        turn.results = [
            self.value(a.type, f"phi {a.type} [{a.name}, %{before}], [{b.name}, %{end}]")
            for a, b in zip(carry, following, strict=True)
        ]

    @contextmanager
    def if_(self, condition: Val) -> Iterator[Branch]:
        """The block under a condition; `otherwise()` inside begins its other side."""
        then, other, join = self.new_label(), self.new_label(), self.new_label()
        self.emit(f"br {condition}, label %{then}, label %{other}")
        self.label(then)
        branch = Branch(self, other, join)
        yield branch
        if not branch._split:
            branch.otherwise()
        branch.close()
        self.label(join)
        (left, yes), (right, no) = branch.given
        branch.results = [
            self.value(a.type, f"phi {a.type} [{a.name}, %{left}], [{b.name}, %{right}]")
            for a, b in zip(yes, no, strict=True)
        ]

    def call(self, callee: Val | Function, *args: Val, ret: str = "void") -> Val:
        """Call a function of this module, or through a function pointer."""
        target = callee.pointer if isinstance(callee, Function) else callee
        type = callee.ret_type if isinstance(callee, Function) else ret
        text = f"call {type} {target.name}({', '.join(map(str, args))})"
        if type != "void":
            return self.value(type, text)
        self.emit(text)
        return Val("void", "")

    def ret(self, value: Val | None = None) -> None:
        """Return."""
        self.emit("ret void" if value is None else f"ret {value}")
