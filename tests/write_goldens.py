"""Write the golden hashes anew, of the package and of the kernels alone.

That makes another version of the arithmetic contract, which ``CHANGELOG.md`` then has to name.
"""

from __future__ import annotations

import json
import pathlib
import shutil
import tempfile

from support import battery, c_programs

GOLDEN = pathlib.Path(__file__).parent / "golden"

if __name__ == "__main__":
    (GOLDEN / "battery.json").write_text(json.dumps(battery.golden(), indent=0) + "\n")
    compiler = next(filter(shutil.which, ("gcc", "clang", "cc")))
    with tempfile.TemporaryDirectory() as folder:
        hashes, *_ = c_programs.build(compiler, c_programs.here(), pathlib.Path(folder), "-O3")
        lines = c_programs.run(hashes)["scalar"]
    (GOLDEN / "hashes.txt").write_text("\n".join(lines) + "\n")
