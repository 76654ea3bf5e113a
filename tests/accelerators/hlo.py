"""What a step of training does, counted in the text of an optimized HLO module.

A kernel is an instruction of the loop's body that runs on its own: a fusion, a convolution, a copy. Its bytes are those of its
operands and results in the device's main memory; of an operand that a fusion only slices or gathers from, what is taken. So
bytes are exact for the program, and an upper bound for the memory bus where a cache holds an operand.
"""

import collections
import dataclasses
import functools
import math
import re
from collections.abc import Iterator

_SIZES = {"pred": 1, "u8": 1, "s8": 1, "u16": 2, "s16": 2, "bf16": 2, "f16": 2, "f64": 8, "s64": 8, "u64": 8, "s4": 1}
_ARRAY = re.compile(r"\b(pred|bf16|[suf]\d+)\[([\d,]*)\](\{[^}]*\})?")
_INSTRUCTION = re.compile(r"^\s*(ROOT )?%?([\w.\-]+) = (\(.*?\)|\S+) ([\w\-]+)\((.*)$")
_NO_KERNEL = {"parameter", "get-tuple-element", "tuple", "bitcast", "constant", "after-all", "partition-id", "iota"}
_TAKES = {"dynamic-slice", "gather", "slice"}
_PASSES = {"bitcast", "reshape", "convert", "copy", "transpose"}


@dataclasses.dataclass(frozen=True)
class Instruction:
    name: str
    shape: str
    opcode: str
    operands: tuple[str, ...]
    attributes: str
    root: bool

    def attribute(self, name: str) -> str:
        found = re.search(rf'\b{name}=(?:%|")?([\w.\-$]+)', self.attributes)
        return found[1] if found else ""

    @property
    def trip_count(self) -> int | None:
        """Iterations of a while, where the compiler knows them."""
        found = re.search(r'"known_trip_count":\{"n":"(\d+)"', self.attributes)
        return int(found[1]) if found else None

    @property
    def cycles(self) -> int:
        """As libtpu estimates them; 0 elsewhere."""
        found = re.search(r'"estimated_cycles":"(\d+)"', self.attributes)
        return int(found[1]) if found else 0


def arrays(shape: str) -> list[tuple[str, tuple[int, ...], bool]]:
    """(type, sizes, in main memory) of each array of an instruction's result. S(1) is a TPU's vector memory."""
    found = _ARRAY.findall(shape)
    return [(kind, tuple(int(n) for n in sizes.split(",") if n), "S(1)" not in layout) for kind, sizes, layout in found]


def size(shape: str) -> int:
    """Bytes in main memory."""
    return sum(_SIZES.get(kind, 4) * math.prod(sizes) for kind, sizes, main in arrays(shape) if main)


# Of an H100 SXM, what programs reach: bytes/s from main memory, and from the cache where a kernel's bytes fit in it;
# operations/s of TF32 and of bfloat16 tensor cores; seconds from the start of a kernel to that of the next in a CUDA graph.
_MEMORY, _CACHE, _CACHE_BYTES, _START = 2.9e12, 5.5e12, 40e6, 1.5e-6
_FLOPS = {"f32": 350e12, "bf16": 700e12}
_TPU_HERTZ = 1.5e9  # v5e


@dataclasses.dataclass(frozen=True)
class Step:
    """A step of training: what runs in the body of the loop over steps.

    Attributes:
      kernels: how many are started.
      megabytes: read and written, 10^6.
      convolutions: calls of a convolution library, or convolution instructions, by type of their operands.
      products: matrix products, by type.
      scatters: scatter instructions, inside of fusions too.
      cycles: estimated by libtpu; 0 on a GPU.
      microseconds: a model, not a measurement. Of a TPU its cycles; of an H100 each kernel takes the longest of its bytes, its
        products and its start.
    """

    kernels: int
    megabytes: float
    convolutions: dict[str, int]
    products: dict[str, int]
    scatters: int
    cycles: int
    microseconds: float


class Module:
    """Computations of an HLO module by name."""

    def __init__(self, text: str):
        self.text = text
        self.computations: dict[str, list[Instruction]] = {}
        lines: list[Instruction] = []
        for line in text.splitlines():
            if opened := re.match(r"^(?:ENTRY )?%?([\w.\-]+) \(.*\{$", line):
                lines = self.computations[opened[1]] = []
            elif found := _INSTRUCTION.match(line):
                lines.append(_instruction(found))

    @functools.cached_property
    def loop(self) -> Instruction:
        """The loop over the steps: the one with the longest body; of several, the one whose length is known."""
        loops = [i for lines in self.computations.values() for i in lines if i.opcode == "while"]
        return max(loops, key=lambda i: (i.trip_count is not None, len(self.computations[i.attribute("body")])))

    def step(self) -> Step:
        """Counts of the loop's body."""
        kernels, total, cycles, seconds = 0, 0, 0, 0.0
        kinds: dict[str, collections.Counter[str]] = {"convolution": collections.Counter(), "dot": collections.Counter()}
        scatters = 0
        for times, scope, instruction in self._run(self.loop.attribute("body")):
            kernels += times
            moved, computing = self._bytes(scope, instruction), 0.0
            total += times * moved
            cycles += times * instruction.cycles
            for inner_scope, inner in self._inside(scope, instruction):
                scatters += inner.opcode == "scatter"
                if kind := _kind(inner):
                    dtype = arrays(inner_scope[inner.operands[0]].shape)[0][0]
                    kinds[kind][dtype] += 1
                    computing += _flops(inner, inner_scope) / _FLOPS.get(dtype, _FLOPS["f32"])
            seconds += times * max(moved / (_CACHE if moved < _CACHE_BYTES else _MEMORY), computing, _START)
        found = {name: dict(sorted(counts.items())) for name, counts in kinds.items()}
        microseconds = round((cycles / _TPU_HERTZ if cycles else seconds) * 1e6, 1)
        return Step(kernels, round(total / 1e6, 2), found["convolution"], found["dot"], scatters, cycles, microseconds)

    def _run(self, name: str, times: int = 1) -> Iterator[tuple[int, dict[str, Instruction], Instruction]]:
        """Instructions that run on their own, with how often, and what stands beside them."""
        scope = {i.name: i for i in self.computations[name]}
        for instruction in self.computations[name]:
            if instruction.opcode == "while":
                yield from self._run(instruction.attribute("body"), times * (instruction.trip_count or 1))
            elif instruction.opcode in ("call", "async-start"):
                yield from self._run(instruction.attribute("to_apply") or instruction.attribute("calls"), times)
            elif instruction.opcode not in _NO_KERNEL and not instruction.opcode.endswith("-done"):
                yield times, scope, instruction

    def _inside(self, scope: dict[str, Instruction], instruction: Instruction) -> Iterator[tuple[dict, Instruction]]:
        yield scope, instruction
        if instruction.opcode == "fusion":
            lines = self.computations[instruction.attribute("calls")]
            inner = {i.name: i for i in lines}
            for line in lines:
                yield from self._inside(inner, line)

    def _bytes(self, scope: dict[str, Instruction], instruction: Instruction) -> int:
        written, called = size(instruction.shape), self.computations.get(instruction.attribute("calls"), [])
        read, updated = 0, self._updated(called)
        for number, name in enumerate(instruction.operands):
            if name not in instruction.operands[:number] and name in scope:
                whole = size(scope[name].shape)
                taken = self._taken(called, number)
                read += whole if taken is None else min(whole, taken)
        if instruction.opcode.endswith("-start"):  # its result holds the operand too
            written = read
        return read + (written if updated is None else min(written, updated))

    @staticmethod
    def _taken(lines: list[Instruction], number: int) -> int | None:
        """Bytes that a fusion takes of its operand, if it only slices or gathers from it."""
        names = {i.name for i in lines if i.opcode == "parameter" and i.operands == (str(number),)}
        if not names:
            return None
        taken = 0
        for line in lines:
            if not names & set(line.operands):
                continue
            if line.opcode in _PASSES:
                names.add(line.name)
            elif line.opcode in _TAKES and line.operands[0] in names:
                taken += size(line.shape)
            elif line.opcode != "dynamic-update-slice" or line.operands[0] not in names:
                return None
        return taken

    @staticmethod
    def _updated(lines: list[Instruction]) -> int | None:
        """Bytes that a fusion writes into an array that it updates in place."""
        by_name = {i.name: i for i in lines}
        for line in lines:
            if line.root and line.opcode == "dynamic-update-slice":
                return size(by_name[line.operands[1]].shape)
        return None


def _kind(instruction: Instruction) -> str:
    """'convolution', 'dot' or nothing."""
    target = instruction.attribute("custom_call_target")
    if instruction.opcode == "convolution" or "cudnn$conv" in target:
        return "convolution"
    return "dot" if instruction.opcode == "dot" or "gemm" in target or "matmul" in target else ""


def _flops(instruction: Instruction, scope: dict[str, Instruction]) -> float:
    """Twice the products of a convolution or matrix product; 0 for a matrix product of a library."""
    left, right, out = (
        arrays(shape)[0][1] for shape in (*(scope[name].shape for name in instruction.operands[:2]), instruction.shape)
    )
    if instruction.opcode == "dot":
        contracted = re.search(r"lhs_contracting_dims=\{([\d,]+)\}", instruction.attributes)
        return 2 * math.prod(out) * math.prod(left[int(i)] for i in contracted[1].split(",")) if contracted else 0
    labels = re.search(r"dim_labels=(\w+)_(\w+)->(\w+)", instruction.attributes)
    if not labels:
        return 0
    window = re.search(r"size=([\dx]+)", instruction.attributes)
    taps = math.prod(int(n) for n in window[1].split("x")) if window else 1
    target = instruction.attribute("custom_call_target")
    if "BackwardFilter" in target:  # the image, the gradient of the output -> the kernel
        groups = re.search(r"feature_group_count=(\d+)", instruction.attributes)
        return 2 * math.prod(right) * taps * left[labels[1].index("f")] / (int(groups[1]) if groups else 1)
    if "BackwardInput" in target:  # the gradient of the output, the kernel -> the image
        groups = re.search(r"feature_group_count=(\d+)", instruction.attributes)
        return 2 * math.prod(left) * taps * out[labels[3].index("f")] / (int(groups[1]) if groups else 1)
    return 2 * math.prod(out) * taps * right[labels[2].index("i")]


def _instruction(found: re.Match[str]) -> Instruction:
    root, name, shape, opcode, rest = found.groups()
    depth = 1
    for end, letter in enumerate(rest):  # noqa: B007
        depth += (letter == "(") - (letter == ")")
        if not depth:
            break
    inside = rest[:end]
    operands = (inside,) if opcode == "parameter" else tuple(re.findall(r"%([\w.\-]+)", inside))
    return Instruction(name, shape, opcode, operands, rest[end + 1 :], bool(root))
