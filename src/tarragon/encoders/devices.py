"""What a caller may say of devices: one, a list of them, or all there are."""

from __future__ import annotations

from importlib.util import find_spec

from tarragon.errors import DeviceUnavailable, InvalidInput

ALL = "all"
"""Every CUDA device of this machine."""


def listed_devices(device: str | None) -> tuple[str | None, ...]:
    """The devices that a setting names, in its order: ``cuda``, ``cuda:0,cuda:1``, ``all``; None stays alone.

    One may be named twice, and then holds two models. Whether they are there is for the model's library to say.

    Raises:
        DeviceUnavailable: ``all``, and there is no CUDA device.
        InvalidInput: A name in the list is empty; or ``all`` stands beside others, or torch is not there to count them.
    """
    if device is None:
        return (None,)
    names = [name.strip() for name in device.split(",")]
    if not all(names) or (ALL in names and len(names) > 1):
        raise InvalidInput(f"device={device!r} is not a device, a list such as cuda:0,cuda:1, or all", device=device)
    return tuple(_all_of_them()) if names == [ALL] else tuple(names)


def first_device(device: str | None) -> str | None:
    """Where a model runs that is loaded once: the first of several devices."""
    return listed_devices(device)[0]


def _all_of_them() -> list[str]:
    if find_spec("torch") is None:
        raise InvalidInput("device='all' is counted by torch, which is not installed; list them: cuda:0,cuda:1")
    import torch

    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if not count:
        raise DeviceUnavailable(
            "device='all' means every CUDA device, and there is none here. Leave out the device to take the best there "
            "is; for CUDA, install a CUDA build of torch and check nvidia-smi",
            device=ALL,
        )
    return [f"cuda:{number}" for number in range(count)]
