"""Each PTX instruction as a C++ statement. Called by ``ptx`` alone.

After "Parallel Thread Execution ISA", NVIDIA. Integers wrap round, so they are added and multiplied as
unsigned numbers. What the functions `as`, `set` and `shuffle` do stands in `races.h`.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import NamedTuple

__all__ = ["Instruction", "statement"]

TYPES = {
    "pred": "bool",
    **{f"{kind}{bits}": f"uint{bits}_t" for kind in "bu" for bits in (8, 16, 32, 64)},
    **{f"s{bits}": f"int{bits}_t" for bits in (8, 16, 32, 64)},
    "f32": "float",
    "f64": "double",
}
SPECIAL = {
    f"%{register}.{axis}": f"{variable}.{axis}"
    for register, variable in (
        ("tid", "threadIdx"),
        ("ctaid", "blockIdx"),
        ("ntid", "blockDim"),
        ("nctaid", "gridDim"),
    )
    for axis in "xyz"
}
COMPARISONS = {"eq": "==", "ne": "!=", "lt": "<", "le": "<=", "gt": ">", "ge": ">="}
UNSIGNED_COMPARISONS = {"lo": "<", "ls": "<=", "hi": ">", "hs": ">="}
OPPOSITE = {"eq": "ne", "ne": "eq", "lt": "ge", "le": "gt", "gt": "le", "ge": "lt"}
# Floating-point operations; where `ptx` put a product into a sum, the product's own counts for it.
OPERATIONS = dict.fromkeys(("add", "sub", "mul", "div", "sqrt", "rcp"), 1) | {"fma": 2}
OPERATIONS |= dict.fromkeys(("add_product", "product_add", "sub_product", "product_sub"), 1)
LOGICAL = {"and": "&", "or": "|", "xor": "^"}


class Instruction(NamedTuple):
    """One instruction without its guard."""

    operation: list[str]
    """Its name and what follows it between dots."""
    operands: list[str]
    line: int

    @property
    def name(self) -> str:
        return self.operation[0]

    @property
    def type(self) -> str:
        return self.operation[-1]

    def unknown(self) -> NotImplementedError:
        said = ".".join(self.operation)
        return NotImplementedError(f"PTX, line {self.line}: {said} {', '.join(self.operands)}")


def statement(instruction: Instruction) -> str:
    """The C++ of an instruction; NotImplementedError where it is not known."""
    translate = _TRANSLATE.get(instruction.name)
    if translate is None:
        raise instruction.unknown()
    count = OPERATIONS.get(instruction.name, 0) if _is_float(instruction.type) else 0
    counting = f"count_{instruction.type}({count}); " if count else ""
    return counting + translate(instruction)


def _is_float(kind: str) -> bool:
    return kind.startswith("f")


def _unsigned(kind: str) -> str:
    return kind if _is_float(kind) else f"u{kind[1:]}"


def _value(operand: str, kind: str) -> str:
    """An operand read as a number of this kind."""
    if operand in SPECIAL:
        return f"({TYPES[kind]}){SPECIAL[operand]}"
    if operand.startswith("%"):
        return f"as<{TYPES[kind]}>({operand[1:]})"
    if operand[:2] in ("0f", "0F"):
        return f"as<float>((uint32_t)0x{operand[2:]}u)"
    if operand[:2] in ("0d", "0D"):
        return f"as<double>((uint64_t)0x{operand[2:]}ull)"
    if re.fullmatch(r"-?\d+", operand):
        return f"({TYPES[kind]}){operand}ll"
    # The name of an array in shared memory is its place there.
    return f"({TYPES[kind]})place_in_shared({operand})"


def _set(register: str, expression: str) -> str:
    return f"set({register[1:]}, {expression});"


def _split(vector: str) -> list[str]:
    return [part.strip() for part in vector.strip("{}").split(",")]


def _binary(i: Instruction) -> str:
    """Sums, differences and products; of a product the lower half, the upper one or both."""
    sign = {"add": "+", "sub": "-", "mul": "*"}[i.name]
    if any(word in i.operation for word in ("sat", "ftz")):
        raise i.unknown()
    if "hi" in i.operation:
        a, b = (_value(operand, i.type) for operand in i.operands[1:])
        wide = f"{'unsigned ' if i.type[0] == 'u' else ''}__int128"
        return _set(i.operands[0], f"({TYPES[i.type]})(({wide}){a} * {b} >> {i.type[1:]})")
    if "wide" in i.operation:
        wide = TYPES[f"{i.type[0]}{2 * int(i.type[1:])}"]
        return _set(
            i.operands[0], f"({wide}){_value(i.operands[1], i.type)} * {_value(i.operands[2], i.type)}"
        )
    kind = _unsigned(i.type)
    return _set(i.operands[0], f"{_value(i.operands[1], kind)} {sign} {_value(i.operands[2], kind)}")


def _multiply_add(i: Instruction) -> str:
    if "lo" not in i.operation:
        raise i.unknown()
    a, b, c = (_value(operand, _unsigned(i.type)) for operand in i.operands[1:])
    return _set(i.operands[0], f"{a} * {b} + {c}")


def _fused_multiply_add(i: Instruction) -> str:
    if i.operation[1:-1] != ["rn"]:
        raise i.unknown()
    return _fused(i, "", "")


def _fused(i: Instruction, of_product: str, of_term: str) -> str:
    """A product and a sum, rounded once."""
    a, b, c = (_value(operand, i.type) for operand in i.operands[1:])
    return _set(i.operands[0], f"std::fma({of_product}{a}, {b}, {of_term}{c})")


def _divide(i: Instruction) -> str:
    if _is_float(i.type) and i.operation[1:-1] != ["rn"]:
        raise i.unknown()
    sign = "/" if i.name == "div" else "%"
    return _set(i.operands[0], f"{_value(i.operands[1], i.type)} {sign} {_value(i.operands[2], i.type)}")


def _root(i: Instruction) -> str:
    if i.operation[1:-1] != ["rn"]:
        raise i.unknown()
    return _set(i.operands[0], f"std::sqrt({_value(i.operands[1], i.type)})")


def _reciprocal(i: Instruction) -> str:
    if i.operation[1:-1] != ["rn"]:
        raise i.unknown()
    return _set(i.operands[0], f"({TYPES[i.type]})1 / {_value(i.operands[1], i.type)}")


def _negate(i: Instruction) -> str:
    return _set(i.operands[0], f"-{_value(i.operands[1], _unsigned(i.type))}")


def _extreme(i: Instruction) -> str:
    if _is_float(i.type):
        raise i.unknown()
    sign = "<" if i.name == "min" else ">"
    a, b = (_value(operand, i.type) for operand in i.operands[1:])
    return _set(i.operands[0], f"{a} {sign} {b} ? {a} : {b}")


def _bits(i: Instruction) -> str:
    a, b = (_value(operand, i.type) for operand in i.operands[1:])
    return _set(i.operands[0], f"({TYPES[i.type]})({a} {LOGICAL[i.name]} {b})")


def _not(i: Instruction) -> str:
    sign = "!" if i.type == "pred" else "~"
    return _set(i.operands[0], f"({TYPES[i.type]}){sign}{_value(i.operands[1], i.type)}")


def _shift(i: Instruction) -> str:
    """A shift by the width of the number or more leaves nothing, or the sign."""
    bits = int(i.type[1:])
    value, count = _value(i.operands[1], i.type), _value(i.operands[2], "u32")
    sign = "<<" if i.name == "shl" else ">>"
    if i.type.startswith("s"):
        return _set(i.operands[0], f"{value} >> ({count} < {bits} ? {count} : {bits - 1})")
    return _set(i.operands[0], f"{count} < {bits} ? ({TYPES[i.type]})({value} {sign} {count}) : 0")


def _insert_bits(i: Instruction) -> str:
    a, b = (_value(operand, i.type) for operand in i.operands[1:3])
    at, count = (_value(operand, "u32") for operand in i.operands[3:])
    mask = f"((({TYPES[i.type]})1 << {count}) - 1 << {at})"
    return _set(i.operands[0], f"({TYPES[i.type]})({b} & ~{mask} | {a} << {at} & {mask})")


def _compare(i: Instruction) -> str:
    if len(i.operation) != 3:
        raise i.unknown()
    how = i.operation[1]
    a, b = (_value(operand, i.type) for operand in i.operands[1:])
    # Of floating-point numbers: false where one is NaN, unless the comparison ends in u.
    if _is_float(i.type) and len(how) == 3 and how.endswith("u"):
        expression = f"!({a} {COMPARISONS[OPPOSITE[how[:2]]]} {b})"
        if how == "equ":
            expression = f"!({a} < {b} || {a} > {b})"
    elif _is_float(i.type) and how == "ne":
        expression = f"{a} < {b} || {a} > {b}"
    elif how in COMPARISONS:
        expression = f"{a} {COMPARISONS[how]} {b}"
    elif how in UNSIGNED_COMPARISONS:
        expression = f"{a} {UNSIGNED_COMPARISONS[how]} {b}"
    else:
        raise i.unknown()
    return _set(i.operands[0], f"(bool)({expression})")


def _select(i: Instruction) -> str:
    a, b = (_value(operand, i.type) for operand in i.operands[1:3])
    return _set(i.operands[0], f"{_value(i.operands[3], 'pred')} ? {a} : {b}")


def _move(i: Instruction) -> str:
    to, source = i.operands
    if to.startswith("{"):
        parts = _split(to)
        width = int(i.type[1:]) // len(parts)
        value = _value(source, i.type)
        return " ".join(
            _set(part, f"(uint{width}_t)({value} >> {width * n})") for n, part in enumerate(parts)
        )
    if source.startswith("{"):
        parts = _split(source)
        width = int(i.type[1:]) // len(parts)
        shifted = (
            f"({TYPES[i.type]}){_value(part, f'b{width}')} << {width * n}" for n, part in enumerate(parts)
        )
        return _set(to, " | ".join(shifted))
    return _set(to, _value(source, i.type))


def _convert(i: Instruction) -> str:
    to, source = i.operation[-2:]
    rounding = i.operation[1:-2]
    # C++ rounds to nearest where a floating-point number comes out, and towards zero where it goes in.
    known = [] if _is_float(to) == _is_float(source) else ["rn"] if _is_float(to) else ["rzi"]
    if rounding not in (known, ["rn"] if (to, source) == ("f32", "f64") else known):
        raise i.unknown()
    return _set(i.operands[0], f"({TYPES[to]}){_value(i.operands[1], source)}")


def _to_global(i: Instruction) -> str:
    if i.operation[1:3] != ["to", "global"]:
        raise i.unknown()
    return _set(i.operands[0], _value(i.operands[1], "u64"))


def _address(operand: str, space: str) -> str:
    base, offset = re.fullmatch(r"\[([%$\w]+)(?:\+(-?\d+))?\]", operand).groups()  # type: ignore[union-attr]
    if space == "param":
        return f"((char*)&{base} + {offset or 0})"
    if space == "shared":
        return f"in_shared((uint32_t)({_value(base, 'u32')} + {offset or 0}))"
    return f"((char*){_value(base, 'u64')} + {offset or 0})"


def _space(i: Instruction) -> str:
    space = i.operation[1]
    if space not in ("param", "global", "shared") or "volatile" in i.operation:
        raise i.unknown()
    return space


def _load(i: Instruction) -> str:
    space, kind = _space(i), TYPES[i.type]
    parts, address = _split(i.operands[0]), _address(i.operands[1], space)
    check = "" if space == "param" else f"races::read({address}, {len(parts)} * sizeof({kind}), {i.line});"
    return check + " ".join(_set(part, f"(({kind}*){address})[{n}]") for n, part in enumerate(parts))


def _store(i: Instruction) -> str:
    space, kind = _space(i), TYPES[i.type]
    address, parts = _address(i.operands[0], space), _split(i.operands[1])
    check = f"races::write({address}, {len(parts)} * sizeof({kind}), {i.line});"
    return check + " ".join(
        f"(({kind}*){address})[{n}] = {_value(part, i.type)};" for n, part in enumerate(parts)
    )


def _branch(i: Instruction) -> str:
    return f"goto {i.operands[0].lstrip('$')};"


def _barrier(i: Instruction) -> str:
    if i.operation[1:] != ["sync"] or i.operands != ["0"]:
        raise i.unknown()
    return f"emulation::barrier({i.line}); races::passed_barrier();"


def _shuffle(i: Instruction) -> str:
    if i.operation[1] != "sync" or i.type != "b32":
        raise i.unknown()
    register, _, inside = i.operands[0].partition("|")
    value, step, limits, mask = (_value(operand, "b32") for operand in i.operands[1:])
    call = f"shuffle('{i.operation[2][0]}', {value}, {step}, {limits}, {mask}, inside, {i.line})"
    code = f"bool inside; uint32_t got = {call}; {_set(register, 'got')}"
    return code + (_set(inside, "inside") if inside else "")


def _return(_: Instruction) -> str:
    return "goto return_;"


_TRANSLATE: dict[str, Callable[[Instruction], str]] = {
    **dict.fromkeys(("add", "sub", "mul"), _binary),
    "mad": _multiply_add,
    "fma": _fused_multiply_add,
    # What `ptx` makes of a product and a sum: c + a b, c - a b and a b - c.
    **dict.fromkeys(("add_product", "product_add"), lambda i: _fused(i, "", "")),
    "sub_product": lambda i: _fused(i, "-", ""),
    "product_sub": lambda i: _fused(i, "", "-"),
    **dict.fromkeys(("div", "rem"), _divide),
    "sqrt": _root,
    "rcp": _reciprocal,
    "neg": _negate,
    **dict.fromkeys(("min", "max"), _extreme),
    **dict.fromkeys(LOGICAL, _bits),
    "not": _not,
    **dict.fromkeys(("shl", "shr"), _shift),
    "bfi": _insert_bits,
    "setp": _compare,
    "selp": _select,
    "mov": _move,
    "cvt": _convert,
    "cvta": _to_global,
    "ld": _load,
    "st": _store,
    "bra": _branch,
    **dict.fromkeys(("bar", "barrier"), _barrier),
    "shfl": _shuffle,
    **dict.fromkeys(("ret", "exit"), _return),
}
