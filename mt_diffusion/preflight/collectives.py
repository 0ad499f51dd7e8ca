"""What a compiled program sends between devices, read from its HLO text."""

import collections
import dataclasses
import math
import re
from typing import NamedTuple

KINDS = {"all-reduce", "all-gather", "reduce-scatter", "all-to-all"}
KINDS |= {"collective-permute", "collective-broadcast", "ragged-all-to-all"}

HEADER = re.compile(r"^(ENTRY )?%?([\w.\-]+) \(.*\{$")
ASSIGNMENT = re.compile(r"^\s+(?:ROOT )?%?[\w.\-]+ = (.*)$")
OPCODE = re.compile(r"\s*([\w\-]+)\(")
ARRAY = re.compile(r"\b(pred|[a-z]+\d\w*)\[([\d,]*)\]")
CALLED = re.compile(
    r"\b(?:calls|to_apply|body|true_computation|false_computation)=%?([\w.\-]+)"
)
BRANCHES = re.compile(r"\bbranch_computations=\{([^}]*)\}")
CONDITION = re.compile(r"\bcondition=%?([\w.\-]+)")
TRIPS = re.compile(r'"known_trip_count":\{"n":"(\d+)"\}')
CONSTANT = re.compile(r"s32\[\][^ ]* constant\((\d+)\)")


@dataclasses.dataclass(frozen=True)
class Collective:
    """All collectives of a kind and dtype in one run of the program, of one device.

    bytes: of the arrays that are reduced, gathered or exchanged, the whole of each.
    sent: bytes that each device sends to do so, by the best (ring) algorithms.
    """

    kind: str
    dtype: str
    count: int
    bytes: float
    sent: float


class Instruction(NamedTuple):
    """result: its type, as text. line: all after the equals sign."""

    result: str
    opcode: str
    line: str


def find(hlo: str, num_devices: int) -> list[Collective]:
    """The collectives of a compiled program, as `as_text` gives it.

    Those in a loop count as often as it turns, in a conditional those of the branch
    that sends most. Raises ValueError for a loop around one whose turns are not known.
    """
    computations, entry = parse(hlo)
    known: dict[str, dict] = {}

    def total(name: str) -> dict:
        if name not in known:
            known[name] = collections.Counter()
            for instruction in computations.get(name, ()):
                known[name].update(of(instruction))
        return known[name]

    def of(instruction: Instruction) -> dict:
        kind = instruction.opcode.removesuffix("-start")
        if kind in KINDS:
            return measure(kind, instruction, num_devices)
        if instruction.opcode.endswith(("-done", "-update")):
            return {}  # of what its start has counted
        parts = [total(name) for name in CALLED.findall(instruction.line)]
        if branches := BRANCHES.search(instruction.line):
            names = [name.strip().lstrip("%") for name in branches[1].split(",")]
            parts = [total(name) for name in names]
        if instruction.opcode == "conditional":
            return max(parts, key=sent, default={})
        if instruction.opcode == "while" and any(parts):
            turns = count_turns(instruction.line, computations)
            return {
                key: turns * number for part in parts for key, number in part.items()
            }
        return sum(map(collections.Counter, parts), collections.Counter())

    found = total(entry)
    groups = sorted({key[:2] for key in found})
    fields = ("count", "bytes", "sent")
    return [Collective(*g, **{f: found[*g, f] for f in fields}) for g in groups]


def sent(part: dict) -> float:
    """Bytes that a computation sends."""
    return sum(number for (_, _, field), number in part.items() if field == "sent")


def parse(hlo: str) -> tuple[dict[str, list[Instruction]], str]:
    """({computation: its instructions}, name of the entry)."""
    computations: dict[str, list[Instruction]] = {}
    entry, name = "", ""
    for line in hlo.splitlines():
        if header := HEADER.match(line):
            name = header[2]
            computations[name] = []
            entry = name if header[1] else entry
        elif found := ASSIGNMENT.match(line):
            result = result_type(found[1])
            rest = found[1][len(result) :]
            if opcode := OPCODE.match(rest):
                computations[name].append(Instruction(result, opcode[1], found[1]))
    return computations, entry


def result_type(text: str) -> str:
    """The type that a line begins with; tuples nest, and layouts have parentheses."""
    if not text.startswith("("):
        return text.split(" ", 1)[0]
    depth = 0
    for i, character in enumerate(text):
        depth += (character == "(") - (character == ")")
        if not depth:
            return text[: i + 1]
    raise ValueError(f"unbalanced type in the HLO: {text[:80]}")


def measure(kind: str, instruction: Instruction, num_devices: int) -> dict:
    """{(kind, dtype, field): number} of one collective."""
    result = instruction.result
    is_start = instruction.opcode.endswith("-start")
    if is_start and kind != "all-reduce":  # (operands, results, ...)
        result = elements(result)[1]
    size = group_size(instruction.line, num_devices)
    found: dict[tuple[str, str, str], float] = collections.defaultdict(float)
    for dtype, shape in ARRAY.findall(result):
        number = nbytes(dtype, shape) * (size if kind == "reduce-scatter" else 1)
        found[kind, dtype, "bytes"] += number
        found[kind, dtype, "sent"] += number * share_sent(kind, size)
        found[kind, dtype, "count"] = 1
    return found


def share_sent(kind: str, size: int) -> float:
    """Of an array, how much each of a group of `size` devices sends."""
    if kind == "all-reduce":
        return 2 * (size - 1) / size
    return 1.0 if kind.startswith("collective") else (size - 1) / size


def elements(tuple_type: str) -> list[str]:
    """The types in a tuple's."""
    found, rest = [], tuple_type[1:-1]
    while rest := re.sub(r"^(,|\s|/\*.*?\*/)*", "", rest):
        found.append(result_type(rest).rstrip(","))
        rest = rest[len(found[-1]) :]
    return found


def nbytes(dtype: str, shape: str) -> float:
    """Bytes of an array; sub-byte types are packed."""
    bits = 8 if dtype == "pred" else int(re.findall(r"\d+", dtype)[0])
    return bits / 8 * math.prod(int(n) for n in shape.split(",") if n)


def group_size(line: str, num_devices: int) -> int:
    """How many devices take part together in a collective."""
    if listed := re.search(r"replica_groups=\{\{([\d,]+)\}", line):
        return listed[1].count(",") + 1
    if iota := re.search(r"replica_groups=\[\d+,(\d+)\]<=", line):
        return int(iota[1])
    if mesh := re.search(r"replica_groups=mesh\[(.*?)\] \{(.*?)\}", line):
        sizes = dict(re.findall(r"'([^']+)'=(\d+)", mesh[1]))
        axes = re.findall(r"'([^']+)'(?::\(\d+\)(\d+))?", mesh[2])
        return math.prod(int(part or sizes[axis]) for axis, part in axes)
    return num_devices


def count_turns(line: str, computations: dict[str, list[Instruction]]) -> int:
    """How often a loop turns: as XLA says, or the one bound in its condition."""
    if trips := TRIPS.search(line):
        return int(trips[1])
    condition = computations[CONDITION.findall(line)[0]]
    bounds = [int(c[1]) for i in condition if (c := CONSTANT.match(i.line))]
    if len(bounds) != 1:
        raise ValueError(f"how often does this loop turn? {line[:200]}")
    return bounds[0]
