"""Several policies for one VM become one: all their devices, all their protocols, the strictest settings."""

from collections.abc import Sequence

from sekisho.policy import Device, Policy, PolicyError

_STRICTNESS = ("drop", "pause", "kill")


def unite(policies: Sequence[Policy]) -> Policy:
    """One policy that holds all of `policies`. Raises `PolicyError` if two of them describe one device differently."""
    if len(policies) == 1:
        return policies[0]
    devices: dict[str, Device] = {}
    for device in (device for policy in policies for device in policy.devices):
        if devices.setdefault(device.name, device) != device:
            raise PolicyError(f"two policies describe the device {device.name!r} differently")
    return Policy(
        version=policies[0].version,
        on_denial=max((policy.on_denial for policy in policies), key=_STRICTNESS.index),
        match="ip" if any(policy.match == "ip" for policy in policies) else "sequence",
        firmware="allow" if all(policy.firmware == "allow" for policy in policies) else "deny",
        budget=max(policy.budget for policy in policies),
        devices=tuple(devices.values()),
        protocols=tuple(protocol for policy in policies for protocol in policy.protocols),
    )
