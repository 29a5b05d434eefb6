"""PTX translated to C++, instruction by instruction, for the execution model of `execution.h`.

The source that g++ compiles is what was written; PTX is what NVIDIA's compiler made of it: loops unrolled,
products and sums fused, indices rearranged. Each access to memory goes through the race checker of `races.h`.
An instruction that is not known here is an error, never a guess.

The assembler, which makes the chip's own code from PTX, may fuse a product and a sum that name no rounding.
It is not run here; it is taken to fuse all that it may.
"""

from __future__ import annotations

import re

from tests.cuda.ptx_instructions import Instruction, statement

__all__ = ["translate"]

# Kinds of registers in C++.
REGISTER = {
    "pred": "bool",
    "b16": "uint16_t",
    "b32": "uint32_t",
    "b64": "uint64_t",
    "f32": "float",
    "f64": "double",
}
PARAMETER = {"u64": "void*", "u32": "int", "f32": "float", "f64": "double"}

ENTRY = re.compile(r"\.entry (\w+)\((.*?)\)(.*?)\n\{\n(.*?)\n\}", re.DOTALL)
SHARED = re.compile(r"^\s*\.shared \.align (\d+) \.[bsuf](\d+) ([\w$]+)(?:\[(\d+)\])?;", re.MULTILINE)
REGISTERS = re.compile(r"\.reg \.(\w+)\s+%(\w+)<(\d+)>;")
LABEL = re.compile(r"\$(\w+):$")
INSTRUCTION = re.compile(r"(?:@(!?)%(\w+)\s+)?([a-z][\w.:]*)\s*(.*);$")
SUM = re.compile(r"(add|sub)\.(f32|f64)\s+(%\w+), (%\w+), (%\w+);")
PRODUCT = re.compile(r"mul\.f(?:32|64)\s+(%\w+), (.+);")
OPERAND = re.compile(r"\{[^}]*\}|\[[^\]]*\]|[^,\s]+")


def translate(ptx: str) -> str:
    """C++ for `emulation.compile_source`: the same kernels, their pointers without a type."""
    # A GPU's compiler is not asked where a comment stands, but messages name lines of the PTX.
    ptx = re.sub(r"//[^\n]*", "", ptx)
    parts = ['#include "races.h"', *map(_shared_array, SHARED.finditer(ptx))]
    parts += [_kernel(ptx, entry) for entry in ENTRY.finditer(ptx)]
    return "\n".join(parts)


def _shared_array(match: re.Match[str]) -> str:
    alignment, bits, name, count = match.groups()
    size = int(bits) // 8 * int(count or 1)
    return f"__shared__ char {name}[{size}] __attribute__((aligned({alignment})));"


def _kernel(ptx: str, entry: re.Match[str]) -> str:
    name, parameters, _, body = entry.groups()
    signature = []
    for parameter in filter(None, (part.strip() for part in parameters.split(","))):
        words = parameter.split()
        signature.append(f"{PARAMETER[words[1].lstrip('.')]} {words[-1]}")
    # The next line that g++ sees has the number of the next line of PTX.
    line = ptx.count("\n", 0, entry.start(4)) + 1
    lines = [f'extern "C" __global__ void {name}({", ".join(signature)}) {{', f'#line {line} "kernel.ptx"']
    lines += [_line(text, line + n) for n, text in enumerate(_fused(body))]
    return "\n".join([*lines, "return_: return;", "}"])


def _fused(body: str) -> list[str]:
    """Lines of a kernel's body in which sums take in the products that they add up."""
    lines = []
    products: dict[str, str] = {}
    for text in map(str.strip, body.split("\n")):
        line = text
        if found := SUM.fullmatch(text):
            name, kind, to, a, b = found.groups()
            if b in products:
                line = f"{name}_product.{kind} {to}, {products[b]}, {a};"
            elif a in products:
                line = f"product_{name}.{kind} {to}, {products[a]}, {b};"
        elif found := PRODUCT.fullmatch(text):
            products[found[1]] = found[2]
        elif LABEL.fullmatch(text):
            # Whoever jumps here may come with other products.
            products.clear()
        lines.append(line)
    return lines


def _line(text: str, line: int) -> str:
    """A line of a kernel's body as one line of C++."""
    if not text or text in "{}" or text.startswith((".pragma", ".shared")):
        return ""
    if found := REGISTERS.fullmatch(text):
        kind, prefix, count = found.groups()
        return f"{REGISTER[kind]} " + ", ".join(f"{prefix}{n} = 0" for n in range(int(count))) + ";"
    if found := LABEL.fullmatch(text):
        return f"{found[1]}:;"
    found = INSTRUCTION.fullmatch(text)
    if found is None:
        raise NotImplementedError(f"PTX, line {line}: {text}")
    negated, guard, operation, operands = found.groups()
    code = statement(Instruction(operation.split("."), OPERAND.findall(operands), line))
    return f"if ({negated}{guard}) {{ {code} }}" if guard else f"{{ {code} }}"
