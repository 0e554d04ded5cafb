"""Write the golden hashes anew, of the package and of the kernels alone.

That makes another version of the arithmetic contract, which ``CHANGELOG.md`` then has to name.
"""

from __future__ import annotations

import json
import pathlib
import shutil
import subprocess
import tempfile

from support import battery, c_programs

GOLDEN = pathlib.Path(__file__).parent / "golden"

if __name__ == "__main__":
    (GOLDEN / "battery.json").write_text(json.dumps(battery.golden(), indent=0) + "\n")
    compiler = next(filter(shutil.which, ("gcc", "clang", "cc")))
    with tempfile.TemporaryDirectory() as folder:
        programs = c_programs.build(compiler, c_programs.here(), pathlib.Path(folder), "-O3")
        by_name = {pathlib.Path(program).name: program for program in programs}
        lines = c_programs.run(by_name["hashes"])["scalar"]
        for name in ("bf16", "edges", "narrow", "screens"):
            done = subprocess.run(by_name[name], check=True, capture_output=True, text=True)
            (GOLDEN / f"{name}.txt").write_text(done.stdout.split()[-1] + "\n")
    (GOLDEN / "hashes.txt").write_text("\n".join(lines) + "\n")
