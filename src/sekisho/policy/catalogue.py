"""Which addresses and interrupt lines QEMU's devices own, so that `sekisho build --device NAME` need not be told.

Each line names its source in QEMU 7.2; the addresses are those the device model itself decodes, at its default place.
"""

from collections.abc import Iterable

from sekisho.policy.address import parse_ranges
from sekisho.policy.model import Device, PolicyError
from sekisho.protocol.model import Protocol

# hw/dma/i8257.c, i8257_realize with the arguments of i8257_dma_init: controller 0 at 0x00 (page registers 0x80), 1 at
# 0xc0 (page registers 0x88). Shared by every ISA device that uses DMA, hence followed and never guarded.
_ISA_DMA = ("0x00-0x0f", "0x80-0x8f", "0xc0-0xdf")

_DEVICES = (
    # hw/block/fdc-isa.c, fdc_portio_list: offsets 1-5 and 7 of iobase 0x3f0 (6 belongs to IDE); irq 6, dma 2.
    Device("isa-fdc", ("0x3f1-0x3f5", "0x3f7"), _ISA_DMA, lines=(6,)),
    # hw/ide/piix.c, port_info: both channels, each with its control port; bus master registers are a PCI BAR.
    Device("piix-ide", ("0x170-0x177", "0x1f0-0x1f7", "0x376", "0x3f6"), lines=(14, 15)),
    Device("isa-ide", ("0x1f0-0x1f7", "0x3f6"), lines=(14,)),  # hw/ide/isa.c: iobase, iobase2, irq
    # hw/input/pckbd.c, i8042_realizefn, data and cmd regions: 0x60 and 0x64; irq 1 keyboard, 12 mouse.
    Device("i8042", ("0x60", "0x64"), lines=(1, 12)),
    Device("isa-serial", ("0x3f8-0x3ff",), lines=(4,)),  # hw/char/serial-isa.c: isa_serial_io[0], isa_serial_irq[0]
    Device("isa-serial-2", ("0x2f8-0x2ff",), lines=(3,)),  # the same tables, index 1
    Device("isa-parallel", ("0x378-0x37f", "0x778-0x77a"), lines=(7,)),  # hw/char/parallel.c: ISA portio list, ECP
    Device("mc146818rtc", ("0x70-0x71",), lines=(8,)),  # hw/rtc/mc146818rtc.c: RTC_ISA_BASE, 2 ports; RTC_ISA_IRQ
    Device("ne2k_isa", ("0x300-0x31f",), lines=(9,)),  # hw/net/ne2000-isa.c: iobase 0x300, 0x20 ports, irq 9
    # hw/audio/sb16.c, sb16_ioport_list: offsets 0x4-0x5 mixer, 0x6, 0xa, 0xc-0xf; irq 5, dma 1 and 5.
    Device("sb16", ("0x224-0x226", "0x22a", "0x22c-0x22f"), _ISA_DMA, lines=(5,)),
    Device("vga", ("0x3b4-0x3b5", "0x3ba", "0x3c0-0x3cf", "0x3d4-0x3d5", "0x3da")),  # hw/display/vga.c: vga_portio_list
    Device("pc-pci-host", ("0xcf8-0xcff",)),  # hw/pci-host/i440fx.c: conf_mem 0xcf8, data_mem 0xcfc, 4 ports each
)

CATALOGUE: dict[str, Device] = {device.name: device for device in _DEVICES}


def device(name: str) -> Device:
    """The device of that name; `PolicyError` with the known names otherwise."""
    if name not in CATALOGUE:
        raise PolicyError(f"no device {name!r} in the catalogue; known are {', '.join(sorted(CATALOGUE))}")
    return CATALOGUE[name]


def devices_of(protocols: Iterable[Protocol]) -> tuple[Device, ...]:
    """For each protocol the device of which it touches most addresses; `PolicyError` when there is none."""
    found: dict[str, Device] = {}
    for protocol in protocols:
        touched = {text for node in protocol.nodes if node.site is not None for text in node.addresses}
        ranges = parse_ranges(touched, "pio")

        def overlap(candidate: Device, ranges: list[tuple[int, int]] = ranges) -> int:
            return sum(
                max(0, min(last, end) - max(first, start) + 1)
                for start, end in parse_ranges(candidate.guarded, candidate.space)
                for first, last in ranges
            )

        best = max(_DEVICES, key=overlap)
        if not overlap(best):
            raise PolicyError(f"{protocol.name} touches no address of a known device; name one with --device")
        found[best.name] = best
    return tuple(found[name] for name in sorted(found))
