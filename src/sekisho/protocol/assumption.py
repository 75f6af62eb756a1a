"""What a protocol takes for granted beyond the analysis: named, shown in the policy, and each can be left out."""

from sekisho.protocol.counters import FARTHEST
from sekisho.protocol.model import Note

BASE_AT_RANGE = Note("base-at-range", "a base of ports that is not known is where one of the device's ranges begins")
CLOCK_RUNS_ON = Note(
    "clock-runs-on",
    "the kernel's clock never goes back, and no other run sets a time anew between its being read and being compared",
)
INDICES_IN_ARRAYS = Note(
    "indices-in-arrays",
    "a number that the driver has used as an index of one of its arrays, or will in any case, is below its length, and "
    "so is any that it finds behind the same pointers",
)
INTERRUPT_LINE = Note("interrupt-line", "all edges of the device's line are seen, and a handler runs after one of them")
NO_SIGNALS = Note("no-signals", "no signal breaks off a program's waiting in the driver")
NO_WARNINGS = Note("no-warnings", "what the driver itself checks with WARN() is never so")
ONE_INSTANCE = Note("one-instance", "of an array of devices one element is in use")
READY_IN_TIME = Note(
    "ready-in-time",
    f"a loop that waits for the device does not give up, if it is meant to after more than {FARTHEST} rounds",
)
REGISTRATION_SUCCEEDS = Note(
    "registration-succeeds", "the kernel takes the devices and operations that the driver registers"
)
RESOURCES_GRANTED = Note("resources-granted", "the driver gets the interrupt and DMA channel that it asks for")
SMALL_RESULTS = Note(
    "small-results", "a result of the kernel is a number, an error or an address: its lower half tells the upper"
)
TASKS_REGISTERED = Note(
    "tasks-registered", "the driver's operations are called only after init has registered a device or the driver"
)
WHOLE_LISTS = Note(
    "whole-lists",
    "only the driver's own code puts elements into its lists and takes them out, and the kernel's checks of them pass",
)
WHOLE_SEGMENTS = Note(
    "whole-segments", "what a run does to variables between two requests, or places where it may wait, it does at once"
)
WHOLE_UPDATES = Note(
    "whole-updates", "a variable that is read, changed and written back is not changed by another run in between"
)

ASSUMPTIONS = {
    note.name: note
    for note in (
        BASE_AT_RANGE,
        CLOCK_RUNS_ON,
        INDICES_IN_ARRAYS,
        INTERRUPT_LINE,
        NO_SIGNALS,
        NO_WARNINGS,
        ONE_INSTANCE,
        READY_IN_TIME,
        REGISTRATION_SUCCEEDS,
        RESOURCES_GRANTED,
        SMALL_RESULTS,
        TASKS_REGISTERED,
        WHOLE_LISTS,
        WHOLE_SEGMENTS,
        WHOLE_UPDATES,
    )
}
