"""What a measurement was made on: hardware, system, and the versions of what took part. Nothing is imported for it."""

from __future__ import annotations

import os
import platform
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

PACKAGES = (
    *("tarragon", "qdrant-edge-py", "qdrant-client", "numpy", "ir-measures", "torch", "sentence-transformers"),
    *("transformers", "tokenizers", "fastembed", "onnxruntime"),
)


def machine() -> dict[str, str]:
    """Names and values for people, in the order in which they are read. Neither the host's name nor a user's."""
    here = {
        "processor": _processor(),
        "cores": str(os.cpu_count() or "unknown"),
        "system": platform.platform(),
        "Python": platform.python_version(),
    }
    return here | {name: found for name in PACKAGES if (found := _version(name))}


def _processor() -> str:
    info = Path("/proc/cpuinfo")
    lines = info.read_text(encoding="utf-8", errors="replace").splitlines() if info.is_file() else []
    models = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return models[0] if models else platform.processor() or platform.machine() or "unknown"


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return ""
