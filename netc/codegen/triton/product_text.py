"""The text of matrix kernels.

Sizes are parameters, so layers of different sizes share the code; windows are spelled out. A launch
may split the depth: programs of one tile store partial sums, and the last to arrive adds them in
their order, so results do not depend on who that is.
"""

from __future__ import annotations

from collections.abc import Sequence

from netc.codegen.operand import SCRATCH, Kernel, Operand
from netc.codegen.triton.body import Body, Coord, Tile
from netc.codegen.triton.lowering import Launch, Lowering
from netc.codegen.triton.product import Axis, Inner, Product
from netc.codegen.triton.source import Source
from netc.codegen.triton.tiles import SPLIT_PROGRAMS, SPLIT_TILE, Work, best
from netc.ir.dims import BATCH, Dim, evaluate, product, symbols
from netc.ir.graph import Value
from netc.ir.plan import BufferArg

NARROW = {"bf16": "tl.bfloat16", "fp16": "tl.float16"}
EVEN = 64  # chunks up to this many channels never reach beyond them where they are a multiple of it
NOMINAL = 224  # what an unknown height or width counts as when tiles are ranked


def converted(text: str, stored: str, wanted: str) -> str:
    """A tile stored in one way, in the form in which it is multiplied."""
    if stored == wanted or (stored, wanted) == ("tf32", ""):
        return text
    if wanted in NARROW:
        return f"{text}.to({NARROW[wanted]})"
    if stored in NARROW:  # has fewer bits than tf32
        return f"{text}.to(tl.float32)"
    return f"tf32({text})"


def lower_product(ctx: Lowering, k: Kernel, p: Product) -> Launch:
    """The launch of a product with its epilogue."""
    return _Writer(ctx, k, p).launch()


class _Writer:
    """Writes one matrix kernel."""

    def __init__(self, ctx: Lowering, k: Kernel, p: Product) -> None:
        self.ctx, self.k, self.p = ctx, k, p
        self.precision = ctx.precision_of(p.given.node)
        self.src = Source()
        self.body = Body(ctx, self.src, k, literal=False)
        self.variants = best(self._works(), self.precision)
        self.splits = any(v.repeat > 1 for v in self.variants)
        self.even = p.channels % EVEN == 0 and not p.flat

    def _works(self) -> list[Work]:
        """The sizes the tiles are ranked for."""
        item = self.precision.item
        run, runs = self.p.channels, self.p.count
        if self.p.flat:
            run, runs = self.p.flat * self.p.count, 1
        open_ = (self.p.rows, self.p.columns, self.p.many, run)
        named = frozenset().union(*(symbols(d) for d in open_))
        works = []
        for batch in self.ctx.batches if named else (1,):
            sizes = dict.fromkeys(named, NOMINAL) | dict(self.ctx.usual) | {BATCH: batch}
            rows, columns, many, depth = (evaluate(d, sizes) for d in open_)
            works.append(Work(max(1, rows), max(1, columns), depth, runs, max(1, many), item))
        return works

    def size(self, value: Dim, role: str) -> str:
        """A size as a parameter of its own."""
        return self.src.size(value, role)

    def along(self, axis: Axis | Inner, what: str) -> str:
        """A size of an axis as a parameter."""
        axes = (*self.p.axes, *self.p.inner)
        number = next(i for i, a in enumerate(axes) if a is axis)
        value = axis.step
        if what == "reach":
            assert isinstance(axis, Axis)
            value = 0 if axis.reach is None else axis.reach
        small = self.p.flat and what == "step"  # whose divisors decide how wide reads are
        return self.src.size(value, "" if small else f"{what}{number}")

    def launch(self) -> Launch:
        """The whole kernel."""
        src, p = self.src, self.p
        self.rows = self.size(p.rows, "across" if p.rows_side_by_side else "rows")
        self.columns = self.size(p.columns, "columns")
        self._place()
        self.group = self._group_indices()
        rows = self._row_indices()
        self._bases(rows)
        self._sum()
        if self.splits:
            self._merge()
        self._finish(rows)
        scratch = SPLIT_PROGRAMS * SPLIT_TILE * 4 if self.splits else 0
        for name in ("BM", "BN", "BK"):
            src.constant(name)
        return self.ctx.launch(src, (p.rows, p.columns, p.many), self.variants, scratch)

    def _place(self) -> None:
        """Which tile this program has: eight tile rows share their columns' weights in cache."""
        line = self.src.line
        line("pid = tl.program_id(0)")
        line(f"tm = tl.cdiv({self.rows}, BM)")
        line(f"tn = tl.cdiv({self.columns}, BN)")
        if self.splits:  # as many programs share a tile as the launch has for each
            groups = f" * {self.size(self.p.many, 'groups')}" if self.p.groups else ""
            line(f"parts = tl.num_programs(0) // (tm * tn{groups})")
            line("part = pid % parts")
            line("tile = pid // parts")
        else:
            line("parts = 1")
            line("part = 0")
            line("tile = pid")
        line("place = tile % (tm * tn)" if self.p.groups else "place = tile")
        if self.p.groups:
            line("group = tile // (tm * tn)")
        line("first = (place // (8 * tn)) * 8")
        line("high = tl.minimum(tm - first, 8)")
        line("m = (first + (place % (8 * tn)) % high) * BM + tl.arange(0, BM)")
        line("n = ((place % (8 * tn)) // high) * BN + tl.arange(0, BN)")
        line(f"mm = m < {self.rows}")
        line(f"nn = n < {self.columns}")
        # What is beyond the last is the last again, or where neighbours are read together masked.
        line("row = m" if self.p.rows_side_by_side else f"row = tl.minimum(m, {self.rows} - 1)")
        columns = self.p.columns_side_by_side
        line("col = n" if columns else f"col = tl.minimum(n, {self.columns} - 1)")
        line("kk = tl.arange(0, BK)")

    def _group_indices(self) -> list[str]:
        """The place of this program's product among those side by side, for each kind of them."""
        groups = self.p.groups
        named = [self.size(g.size, f"groups{i}") for i, g in enumerate(groups)]
        return self.src.digits("group", reversed(named[1:]))[::-1] if groups else []

    def _row_indices(self) -> list[str]:
        """The place of each row along each axis; axes along which x runs on evenly are one."""
        axes = self.p.axes
        groups: list[list[int]] = []
        for i, axis in enumerate(axes):
            if axis.size == 1 and axis.simple:
                continue
            before = axes[groups[-1][-1]] if groups else None
            if before is not None and before.runs_on_to(axis):
                groups[-1].append(i)
            else:
                groups.append([i])
        out = ["0"] * len(axes)
        sizes = (
            self.size(product(tuple(axes[i].size for i in group)), f"run{group[-1]}")
            for group in reversed(groups[1:])
        )
        for group, place in zip(reversed(groups), self.src.digits("row", sizes), strict=False):
            out[group[-1]] = place
        self.merged = all(len(g) == 1 for g in groups)  # as many places as axes
        return out

    def _bases(self, rows: Sequence[str]) -> None:
        """Where each row begins in x, and each column in w."""
        src, p = self.src, self.p
        terms = []
        self.starts: dict[Axis, str] = {}
        for axis, index in zip(p.axes, rows, strict=True):
            if axis.transposed:
                self.starts[axis] = src.let(f"{index} + {axis.pad}")
                continue
            start = index if axis.stride == 1 else f"{index} * {axis.stride}"
            if axis.pad:
                start = f"{start} - {axis.pad}"
            if axis.reach is not None:
                start = self.starts[axis] = src.let(start)
            if start != "0":
                step = self.along(axis, "step")
                terms.append(f"({start})" if step == "1" else f"({start}) * {step}")
        if not terms or all(index == "0" for index in rows):
            terms.append("0 * row")  # as many places as a tile has, also where all are one
        src.line(f"xb = {' + '.join([*terms, *self._apart('x')])}")
        column = f"col * {self.size(p.row, 'row')}"
        src.line(f"wb = {' + '.join([column, *self._apart('w')])}")

    def _apart(self, operand: str) -> list[str]:
        """How far this program's group lies from the first one in x, or in the weights."""
        terms = []
        for i, (group, place) in enumerate(zip(self.p.groups, self.group, strict=True)):
            step = group.x if operand == "x" else group.weights
            if step != 0:
                terms.append(f"{place} * {self.size(step, f'group{i}.{operand}')}")
        return terms

    # ---- the sum --------------------------------------------------------------------------

    def _sum(self) -> None:
        """The loop over the depth."""
        src, p = self.src, self.p
        self.depth = str(p.flat * p.count) if p.flat else self.size(p.channels, "depth")
        src.line(f"chunks = tl.cdiv({self.depth}, BK)")
        walks = p.count > 1 and not p.flat
        src.line(f"steps = chunks * {p.count}" if walks else "steps = chunks")
        src.line("each = tl.cdiv(steps, parts)")
        src.line("acc = tl.zeros((BM, BN), tl.float32)")
        src.line("start = part * each")
        if walks:
            src.line("tap = start // chunks")
            src.line("c0 = (start - tap * chunks) * BK")
        with src.block("for t in range(start, tl.minimum(start + each, steps)):"):
            if p.flat:
                self._flat_step()
            else:
                self._tap_step("tap" if walks else "0")
            b = "b" if p.columns_side_by_side else "tl.trans(b)"  # as its neighbours are read
            src.line(f'acc = tl.dot(a, {b}, acc, input_precision="{self.precision.input}")')
            if walks:  # without a division in every step
                src.line("c0 += BK")
                src.line(f"turn = c0 >= {self.depth}")
                src.line("c0 = tl.where(turn, 0, c0)")
                src.line("tap = tl.where(turn, tap + 1, tap)")

    def _tap_step(self, tap: str) -> None:
        """One chunk of channels at one tap: the tap is one number for all rows."""
        src, p = self.src, self.p
        src.line("c = t * BK + kk" if tap == "0" else "c = c0 + kk")
        spots = self._spots(tap)
        shift, masks = self._shift(spots, row="", column="")
        rows = f"(xb{shift})[:, None]"
        inside = [f"({' & '.join(masks)})[:, None]"] if masks else []
        inside += ["mm[:, None]"] if p.rows_side_by_side else []
        src.line(f"legal = {self._legal('[None, :]', '(1, BK)')}")
        spread = self.size(p.spread, "spread")
        across = "c[None, :]" if spread == "1" else f"(c * {spread})[None, :]"
        self._load_a(f"{rows} + {across}", [*inside, "legal"])
        lane = "c" if p.lane == 1 else f"c * {self.size(p.lane, 'lane')}"
        at = lane if tap == "0" else f"{tap} * {self.size(p.tap, 'tap')} + {lane}"
        if p.columns_side_by_side:
            deep = self._legal("[:, None]", "(BK, 1)")
            self._load_b(f"({at})[:, None] + wb[None, :]", f"({deep}) & nn[None, :]")
        else:
            self._load_b(f"wb[:, None] + ({at})[None, :]", "legal")

    def _legal(self, place: str, shape: str) -> str:
        """Which channels of a chunk there are. A mask that is all true costs nothing.

        A text is shared by layers of other sizes, and so are its variants: a chunk that divides
        the channels of one layer may be longer than those of another.
        """
        tail = f"(c < {self.depth}){place}"
        whole = f"tl.full({shape}, True, tl.int1)"
        return f"{tail} if BK > {EVEN} else {whole}" if self.even else tail

    def _flat_step(self) -> None:
        """A run of depth in which each place has a tap and a channel of its own."""
        src, p = self.src, self.p
        src.line("d = t * BK + kk")
        src.line(f"tap = d // {p.flat}" if p.flat > 1 else "tap = d")
        spots = self._spots("tap")
        last = spots[0][0]
        side_by_side = isinstance(last, Axis) and last.dilation == 1 and not last.transposed
        runs = side_by_side and last.taps > 1 and (last.step, p.spread) == (p.flat, 1)
        shift, masks = self._shift(spots, "[:, None]", "[None, :]", last if runs else None)
        if runs:  # taps and channels are neighbours in x: one run of a row of the window
            across = f"(d % {last.taps * p.flat})"
        else:
            channel = f"d % {p.flat}" if p.flat > 1 else "0 * d"
            across = f"(({channel}) * {self.size(p.spread, 'spread')})"
        inside = f"(d < {self.depth})[None, :]"
        self._load_a(f"xb[:, None]{shift} + {across}[None, :]", [*masks, inside])
        self._load_b("wb[:, None] + d[None, :]", inside)

    def _spots(self, tap: str) -> list[tuple[Axis | Inner, str]]:
        """The place of a tap along each axis with taps."""
        windows = self.p.windows
        places = self.src.digits(tap, (str(w.taps) for w in reversed(windows[1:])))
        found = list(zip(reversed(windows), places, strict=False))
        single = [(a, "0") for a in self.p.axes if a.taps == 1 and not a.simple]
        return [*found, *single]

    def _shift(
        self,
        spots: Sequence[tuple[Axis | Inner, str]],
        row: str,
        column: str,
        run: Axis | Inner | None = None,
    ) -> tuple[str, list[str]]:
        """How far a tap is from its row's beginning in x, and the masks of what is inside.

        Along the axis `run` somebody else adds the way.
        """
        shift, masks = "", []
        for w, spot in spots:
            if isinstance(w, Inner):
                shift += f" + ({spot} * {self.along(w, 'step')}){column}"
                continue
            move = spot if w.dilation == 1 else f"{spot} * {w.dilation}"
            moved = "0" if spot == "0" else f"({move}){column}"  # a number has no columns
            start = self.starts.get(w)
            if w.transposed:
                at = self.src.let(f"{start}{row} - {moved}")
                place = at if w.stride == 1 else self.src.let(f"{at} // {w.stride}")
                fits = f"({at} >= 0) & ({place} < {self.along(w, 'reach')})"
                masks.append(fits + (f" & ({at} % {w.stride} == 0)" if w.stride > 1 else ""))
                shift += f" + {place} * {self.along(w, 'step')}"
                continue
            if spot != "0" and w is not run:
                shift += f" + {moved} * {self.along(w, 'step')}"
            if w.reach is not None:
                at = self.src.let(f"{start}{row} + {moved}")
                masks.append(f"({at} >= 0) & ({at} < {self.along(w, 'reach')})")
        return shift, masks

    def _load_a(self, at: str, masks: Sequence[str]) -> None:
        stored = self.p.x.element
        pointer = self.body.pointer(self.p.x)
        inside = " & ".join(f"({m})" for m in masks)
        read = f"tl.load({pointer} + {at}, mask={inside}, other=0.0)"
        wanted = self.precision.element
        if self.p.fed is None:
            self.src.line(f"a = {converted(read, stored, wanted)}")
            return
        exact = ".to(tl.float32)" if self.p.x.is_narrow else ""
        raw = self.src.let(f"{read}{exact}")
        made = self._computed(self.p.fed, raw)
        made = self.src.let(f"tl.where({inside}, {made}, 0.0)")
        self.src.line(f"a = {converted(made, '', wanted)}")

    def _computed(self, fed: Value, raw: str) -> str:
        """What feeds the product, from a chunk of x: numbers per channel are read beside it."""
        coords = [Coord("0")] * fed.type.rank
        coords[1] = Coord("c[None, :]", "depth")
        return self.body.at(fed, coords, Tile({"depth": "legal"}, raw), {self.p.main: raw})

    def _load_b(self, at: str, mask: str) -> None:
        stored = self.p.element
        pointer = self.src.pointer(self.p.weights, stored if stored in NARROW else "fp32")
        read = f"tl.load({pointer} + {at}, mask=({mask}), other=0.0)"
        self.src.line(f"b = {converted(read, stored, self.precision.element)}")

    def _merge(self) -> None:
        """Partial sums of one tile: the program that comes last adds them all, in order."""
        src = self.src
        scratch = src.pointer(BufferArg(SCRATCH), "fp32")
        counter = src.pointer(self.ctx.zeros(4 * SPLIT_PROGRAMS), "i32")
        line = src.line
        line("last = 1")
        with src.block("if parts > 1:"):
            line("spot = tl.arange(0, BM)[:, None] * BN + tl.arange(0, BN)[None, :]")
            line(f"home = {scratch} + tile * (parts * BM * BN)")
            line("tl.store(home + part * (BM * BN) + spot, acc)")
            line("tl.debug_barrier()")
            line(f'arrived = tl.atomic_add({counter} + tile, 1, sem="acq_rel")')
            line("last = (arrived == parts - 1).to(tl.int32)")
            with src.block("if last == 1:"):
                line("tl.debug_barrier()")
                line('acc = tl.load(home + spot, cache_modifier=".cg")')
                with src.block("for s in range(1, parts):"):
                    line('acc += tl.load(home + s * (BM * BN) + spot, cache_modifier=".cg")')
                line(f"tl.store({counter} + tile, 0)")
        line("mm = mm & (m * 0 + last == 1)")

    # ---- the end --------------------------------------------------------------------------

    def _finish(self, rows: Sequence[str]) -> None:
        """Bias, epilogue and stores."""
        src, p = self.src, self.p
        tile = Tile({"row": "mm[:, None]", "col": "nn[None, :]"}, "acc")
        places = {g.axis: place for g, place in zip(p.groups, self.group, strict=True)}
        before = places.pop(p.channel_axis, None)
        channel = "n" if before is None else f"{before} * {self.columns} + n"
        if p.patches:
            coords, channel = self._patch_coords()
        else:
            coords = [self._row_coord(r) for r in self._result_rows(rows)]
        column = Coord(f"({channel})[None, :]", "col")
        others = {p.channel_axis: column, **{axis: Coord(text) for axis, text in places.items()}}
        for axis in sorted(others):
            coords.insert(axis, others[axis])
        known: dict[Value, str] = {}
        out = "acc"
        if p.bias is not None:
            bias = self.body.at(p.bias, [column], tile, known)
            out = src.let(f"acc + {bias}")
        self.body.finish(coords, tile, {**known, p.given: out})

    def _patch_coords(self) -> tuple[list[Coord], str]:
        """Windows side by side: a row is where one begins, a column a place in it and a channel."""
        src, p = self.src, self.p
        count = 1
        for taps in p.patches:
            count *= taps
        channels = self.size(p.columns // count, "channels")
        tap = src.let(f"n // {channels}")
        coords: list[Coord] = []
        rows = self._decoded([a.size for a in p.axes])
        for row, taps in zip(reversed(rows[1:]), reversed(p.patches), strict=True):
            spot = src.let(f"{tap} % {taps}")
            tap = src.let(f"{tap} // {taps}")
            place = Coord(f"({spot})[None, :]", "col")
            if row != "0":  # where there are more rows than one
                place = Coord(f"(({row}) * {taps})[:, None] + {place.text}", "row col")
            coords.insert(0, place)
        coords.insert(0, self._row_coord(rows[0]))
        return coords, f"n % {channels}"

    @staticmethod
    def _row_coord(index: str) -> Coord:
        return Coord("0") if index == "0" else Coord(f"({index})[:, None]", "row")

    def _result_rows(self, rows: Sequence[str]) -> list[str]:
        """Each row's place along the result's axes; m itself where all operands run on evenly."""
        sizes = [a.size for a in self.p.axes]
        if not sizes:
            return []
        last = max((i for i, size in enumerate(sizes) if size != 1), default=len(sizes) - 1)
        if all(self._even(o, sizes, last) for o in (*self.k.outs, *self._read_beside())):
            out = ["0"] * len(sizes)
            out[last:] = ["m", *out[last + 1 :]]
            return out
        if not self.merged:
            return list(self._decoded(sizes))
        return ["m" if r == "row" else r for r in rows]

    def _decoded(self, sizes: Sequence[Dim]) -> list[str]:
        """Each row's place along each axis, for results that run on in another way than x."""
        out = ["0"] * len(sizes)
        real = [i for i, size in enumerate(sizes) if size != 1]
        named = (self.size(sizes[i], f"size{i}") for i in reversed(real[1:]))
        for i, place in zip(reversed(real), self.src.digits("m", named), strict=False):
            out[i] = place
        return out

    def _read_beside(self) -> list[Operand]:
        """The operands of the epilogue that vary along the rows."""
        read = self.k.tail_reads()
        pairs = zip(self.k.body.inputs, self.k.ins, strict=True)
        return [o for n, o in pairs if n.out in read and self._along_rows(o)]

    def _along_rows(self, o: Operand) -> bool:
        missing = self.k.outs[0].type.rank - o.type.rank  # axes, which come first
        return any(o.type.shape[a - missing] != 1 for a in self.p.row_axes if a >= missing)

    def _even(self, o: Operand, sizes: Sequence[Dim], last: int) -> bool:
        """Whether an operand of the result's shape goes from row to row by one step."""
        if o.type.shape != self.k.outs[0].type.shape:
            return False
        strides = [o.strides[a] for a in self.p.row_axes]
        step: Dim = strides[last] if strides else 1
        for size, stride in zip(reversed(sizes), reversed(strides), strict=True):
            if size != 1 and stride != step:
                return False
            step = step * size
        return True
