"""`flow`: P-code becomes functions, basic blocks, a call graph, and the targets of indirect jumps.

    module = recover(load("floppy.ko"))
    module.functions                     # address -> Function, sorted; .cold parts belong to their function
    function.blocks                      # address -> Block; function.predecessors the other way round
    block.instructions                   # Instruction with .ops (P-code); thunks replaced by what they stand for
    block.edges, block.exit, block.call  # Edge(kind, target); how it is left; Call(target | operand, extern, tail)
    function.calls, function.returns     # calls and tail calls; blocks that return
    module.sites                         # (function, instruction) of every in/out/ins/outs
    module.entries                       # Entry(address, name, kind, places): init, exit, exported, address taken
    module.callers                       # function -> addresses of its direct callers
    module.jump_tables, module.unresolved   # resolved indirect jumps; addresses of those that are not
    module.image, module.lifter
    decided(module, {"rw_interrupt+0x2be": False})   # the same without the ways that this jump then cannot go

A block ends at every call. `call __x86_indirect_thunk_rax` is CALLIND rax, `jmp __x86_return_thunk` a return, `call
__fentry__` nothing; `ud2` of a WARN goes on. Repeated string instructions and conditional moves branch only inside
their own P-code. Calls of kernel functions have `extern` set to the name.
"""

from sekisho.flow.decided import decided
from sekisho.flow.model import Block, Call, Edge, Entry, Function, JumpTable, Module
from sekisho.flow.recovery import recover

__all__ = ["Block", "Call", "Edge", "Entry", "Function", "JumpTable", "Module", "decided", "recover"]
