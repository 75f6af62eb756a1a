"""What a protocol takes for granted beyond the analysis: named, shown in the policy, and each can be left out."""

from sekisho.protocol.model import Note

BASE_AT_RANGE = Note("base-at-range", "a base of ports that is not known is where one of the device's ranges begins")
INTERRUPT_LINE = Note("interrupt-line", "all edges of the device's line are seen, and a handler runs after one of them")
ONE_INSTANCE = Note("one-instance", "of an array of devices one element is in use")
SMALL_RESULTS = Note(
    "small-results", "a result of the kernel is a number, an error or an address: its lower half tells the upper"
)
WHOLE_UPDATES = Note(
    "whole-updates", "a variable that is read, changed and written back is not changed by another run in between"
)

ASSUMPTIONS = {note.name: note for note in (BASE_AT_RANGE, INTERRUPT_LINE, ONE_INSTANCE, SMALL_RESULTS, WHOLE_UPDATES)}
