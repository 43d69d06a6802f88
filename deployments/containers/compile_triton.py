"""Compile what Triton would compile when it is first used on a GPU, on a machine without one.

    python deployments/containers/compile_triton.py      into TRITON_CACHE_DIR

Triton's link to the CUDA driver is one C file, and kernels are launched through it; everything
else it compiles by itself. Its place in the cache follows from its text and the machine's kind, so
what is compiled where a compiler is stands ready where there is none. The driver's library comes
with the GPU: the linker gets an empty one of its name here.
"""

import subprocess
import sys
import tempfile
from pathlib import Path

from triton.backends.nvidia import driver
from triton.runtime.build import compile_module_from_src


def main() -> int:
    """Compile it. Returns the exit code."""
    source = (Path(driver.__file__).parent / "driver.c").read_text(encoding="utf-8")
    with tempfile.TemporaryDirectory() as folder:
        empty = Path(folder, "libcuda.so.1")
        subprocess.run(
            ["gcc", "-shared", "-Wl,-soname,libcuda.so.1", "-x", "c", "/dev/null", "-o", empty],
            check=True,
        )
        try:
            compile_module_from_src(
                src=source,
                name="cuda_utils",
                library_dirs=[driver.libdevice_dir, folder],
                include_dirs=driver.include_dirs,
                libraries=driver.libraries,
                # Some linkers forget a library that nothing was taken from.
                ccflags=["-Wl,--no-as-needed", "-l:libcuda.so.1"],
            )
        except ImportError as error:
            # Compiled and stored; it can't be loaded here for want of the driver alone.
            if "libcuda.so.1" not in str(error):
                raise
    return 0


if __name__ == "__main__":
    sys.exit(main())
