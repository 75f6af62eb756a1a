"""`lift`: machine code becomes P-code, one instruction at a time, each lifted once.

    lifter = Lifter(image)
    instruction = lifter.at(address)     # Instruction(address, length, ops, kind, target, access) or None
    instruction.kind                     # "", branch, jump, call, indirect jump, indirect call, return, trap
    instruction.access                   # Access(direction, width, port, data, string, repeated) for in/out/ins/outs
    lifter.text(address)                 # "mov eax,0x3f0"
    lifter.language.registers["RAX"]     # Varnode(REGISTER, 0, 8); register_name(varnode) for the way back

An `Op` is (code, output, inputs) of plain tuples; `Code` numbers are Ghidra's. An operand in space RAM is the contents
of memory at that address (as a branch's target, a code address). Nothing here knows symbols: `flow` rewrites thunks.
"""

from sekisho.lift.lifter import Access, Instruction, Language, Lifter, language
from sekisho.lift.pcode import CONST, RAM, REGISTER, UNIQUE, Code, Op, Varnode

__all__ = [
    "CONST",
    "RAM",
    "REGISTER",
    "UNIQUE",
    "Access",
    "Code",
    "Instruction",
    "Language",
    "Lifter",
    "Op",
    "Varnode",
    "language",
]
