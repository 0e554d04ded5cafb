"""Build of the compiled core: one table says which files get which instruction-set flags.

Environment: LOGITLESS_SANITIZE=address,undefined builds with sanitizers, LOGITLESS_DEBUG=1 with
debug information and no optimisation, LOGITLESS_WERROR=1 asks for more warnings and turns all of
them, those of Cython too, into errors.
"""

import os
import platform
import shutil
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from sysconfig import get_platform

import numpy
from Cython.Build import cythonize
from Cython.Compiler import Options
from setuptools import Extension, setup
from setuptools.command.build_ext import build_ext
from setuptools.command.build_py import build_py
from setuptools.errors import CompileError, PlatformError

SANITIZE = os.environ.get("LOGITLESS_SANITIZE")
DEBUG = os.environ.get("LOGITLESS_DEBUG") == "1"
WERROR = os.environ.get("LOGITLESS_WERROR") == "1"

# instruction set: (machines, flags of gcc and clang, flags of MSVC, a probe with its intrinsics)
ISAS = {
    "avx512": (
        ("x86_64", "amd64"),
        ["-mavx2", "-mfma", "-mf16c", "-mavx512f", "-mavx512dq"],
        ["/arch:AVX512"],
        "#include <immintrin.h>\n"
        "int main(void) { __m512 a = _mm512_set1_ps(1.0f);\n"
        "  a = _mm512_scalef_ps(_mm512_fmadd_ps(a, a, a), a);\n"
        "  return (int)_mm256_cvtss_f32(_mm512_extractf32x8_ps(a, 1)); }\n",
    ),
    "avx2": (
        ("x86_64", "amd64"),
        ["-mavx2", "-mfma", "-mf16c"],
        ["/arch:AVX2"],
        "#include <immintrin.h>\n"
        "int main(void) { __m256 a = _mm256_cvtph_ps(_mm_set1_epi16(1));\n"
        "  a = _mm256_fmadd_ps(a, a, a);\n"
        "  return _mm256_movemask_epi8(_mm256_slli_epi32(_mm256_cvtps_epi32(a), 1)); }\n",
    ),
    "neon": (
        ("aarch64", "arm64"),
        [],
        [],
        "#include <arm_neon.h>\n"
        "int main(void) { float32x4_t a = vdupq_n_f32(1.0f);\n"
        "  return (int)vgetq_lane_f32(vrndnq_f32(vfmaq_f32(a, a, a)), 0); }\n",
    ),
    "scalar": ((), [], [], "int main(void) { return 0; }\n"),
}
# The same for the screens of bytes; each belongs to an instruction set above.
SCREENS = {
    "amx": (
        ("x86_64", "amd64"),
        [*ISAS["avx512"][1], "-mavx512bw", "-mavx512vnni", "-mamx-tile", "-mamx-int8",
         "-mamx-bf16"],
        [],
        'int main(void) { __asm__ volatile("tdpbsud %tmm2, %tmm1, %tmm0");\n'
        '  __asm__ volatile("tdpbf16ps %tmm2, %tmm1, %tmm0"); return 0; }\n',
    ),
    "vnni": (
        ("x86_64", "amd64"),
        [*ISAS["avx512"][1], "-mavx512bw", "-mavx512vnni"],
        ["/arch:AVX512"],
        "#include <immintrin.h>\n"
        "int main(void) { __m512i a = _mm512_set1_epi32(1);\n"
        "  return _mm512_reduce_add_epi32(_mm512_dpbusd_epi32(a, a, a)); }\n",
    ),
    "avx2": ISAS["avx2"],
    "neon": ISAS["neon"],
    "scalar": ISAS["scalar"],
}
# And for products of bfloat16.
BF16S = {
    "amx": SCREENS["amx"],
    "dot": (
        ("x86_64", "amd64"),
        [*ISAS["avx512"][1], "-mavx512bw", "-mavx512bf16"],
        ["/arch:AVX512"],
        "#include <immintrin.h>\n"
        "int main(void) { __m512bh a = (__m512bh)_mm512_set1_epi32(1);\n"
        "  return (int)_mm512_reduce_add_ps(_mm512_dpbf16_ps(_mm512_set1_ps(1), a, a)); }\n",
    ),
    "avx512": ISAS["avx512"],
    "avx2": ISAS["avx2"],
    "bfmlal": (
        ("aarch64", "arm64"),
        ["-march=armv8.2-a+bf16"],
        [],
        "#include <arm_neon.h>\n"
        "int main(void) { bfloat16x8_t a = vreinterpretq_bf16_u32(vdupq_n_u32(1));\n"
        "  return (int)vgetq_lane_f32(vbfmlalbq_f32(vdupq_n_f32(1), a, a), 0); }\n",
    ),
    "neon": ISAS["neon"],
    "scalar": ISAS["scalar"],
}
UNIX_FLAGS = ["-std=gnu11", "-ffp-contract=off", "-fno-math-errno", "-Wall", "-Wextra"]
STRICT_FLAGS = ["-Wconversion", "-Wdouble-promotion", "-Wshadow", "-Wstrict-prototypes",
                "-Wpedantic", "-Werror"]
# Of plain C where there are vectors, too: what these are held against, and all that processors of
# before 2013 have. It takes half the time of a build otherwise, and a third of the bytes.
SMALL, SMALL_MSVC = ["-Os"], ["/O1"]
MSVC_FLAGS = ["/std:c11", "/O2", "/fp:precise", "/W3"]
# What a machine may lack: (a program that needs it, what to say).
TOOLS = [
    (
        "#include <math.h>\nint main(void) { return 0; }\n",
        "the C compiler {command!r} does not compile a program that includes <math.h> with the "
        "flags of this build, see its message above: where the headers of the C library are "
        "missing, install them, with `apt install build-essential` on Debian and Ubuntu",
    ),
    (
        "#include <Python.h>\nint main(void) { return 0; }\n",
        "the headers of this Python (Python.h) are missing: install them, with "
        "`apt install python3-dev` on Debian and Ubuntu, `dnf install python3-devel` on Fedora",
    ),
]


class CopyPackage(build_py):
    """Copy the package to where nothing of an earlier checkout is left to get into the wheel."""

    def run(self):
        """Empty the folder first."""
        if not self.editable_mode:
            shutil.rmtree(Path(self.build_lib, "logitless"), ignore_errors=True)
        super().run()


class BuildKernels(build_ext):
    """Compile every kernel file twice (float32, float64) with its flags, then the extension."""

    def build_extension(self, ext):
        """Build the kernels of this machine's instruction sets and link them in."""
        msvc = self.compiler.compiler_type == "msvc"
        common = MSVC_FLAGS if msvc else [*UNIX_FLAGS, *self.unix_switches()]
        self.check_tools(common)
        mac = sys.platform == "darwin"  # where compilers are told what to compile for
        machine = (self.plat_name.rpartition("-")[2] if mac else platform.machine()).lower()

        def usable(table):
            vectors = False
            for name, (machines, unix, windows, probe) in table.items():
                flags = [*common, *(windows if msvc else unix)]
                if (not machines or machine in machines) and self.compiles(probe, flags):
                    if name == "scalar" and vectors and not DEBUG:
                        flags += SMALL_MSVC if msvc else SMALL
                    vectors = True
                    yield name, flags

        def compiled(job):
            source, folder, macros, flags = job
            return self.compiler.compile(
                [source],
                output_dir=str(Path(self.build_temp, folder)),
                macros=macros,
                extra_postargs=flags,
                depends=ext.depends,
            )

        jobs, have = [], []
        for isa, flags in usable(ISAS):
            for bits in (32, 64):
                macros = [("LL_REAL", str(bits))]
                jobs.append((f"csrc/isa/{isa}.c", f"{isa}{bits}", macros, flags))
            have.append(isa)
        for screen, flags in usable(SCREENS):
            jobs.append((f"csrc/isa/screen_{screen}.c", f"screen_{screen}", [], flags))
            have.append(f"screen_{screen}")
        for product, flags in usable(BF16S):
            jobs.append((f"csrc/isa/bf16_{product}.c", f"bf16_{product}", [], flags))
            have.append(f"bf16_{product}")
        print("instruction sets:", ", ".join(have))
        macros = [(f"LL_HAVE_{name.upper()}", "1") for name in have]
        jobs.append(("csrc/dispatch.c", "", macros, common))
        with ThreadPoolExecutor(os.cpu_count()) as threads:
            for objects in threads.map(compiled, jobs):
                ext.extra_objects += objects
        if WERROR and not msvc:
            ext.extra_compile_args.append("-Werror")
        if SANITIZE and not msvc:
            ext.extra_compile_args.append(f"-fsanitize={SANITIZE}")
            ext.extra_link_args.append(f"-fsanitize={SANITIZE}")
        elif not DEBUG and sys.platform.startswith("linux"):
            ext.extra_link_args.append("-s")  # names of functions, two fifths of the file
        super().build_extension(ext)

    @staticmethod
    def unix_switches():
        """Flags that the environment asks for."""
        switches = ["-O0", "-g"] if DEBUG else ["-O3", "-g0"]
        if SANITIZE:
            switches += [f"-fsanitize={SANITIZE}", "-fno-omit-frame-pointer", "-g"]
        if WERROR and not DEBUG:  # where intrinsics are macros, and warn
            switches += STRICT_FLAGS
        return switches

    def check_tools(self, flags):
        """Say in one sentence what the build cannot do without. MSVC says so itself."""
        command = getattr(self.compiler, "compiler_so", ["cl"])[0]
        if self.compiler.compiler_type == "unix" and not shutil.which(command):
            raise PlatformError(
                f"logitless is built by a C compiler, and {command!r} is not found: install one, "
                "with `apt install build-essential` on Debian and Ubuntu, `dnf install gcc` on "
                "Fedora, `xcode-select --install` on macOS, or name yours in CC"
            )
        for source, message in TOOLS:
            if not self.compiles(source, flags):
                raise PlatformError(message.format(command=command))

    def compiles(self, source, flags):
        """Whether the compiler takes this program with these flags."""
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder, "probe.c")
            path.write_text(source)
            try:
                self.compiler.compile([str(path)], output_dir=folder, extra_postargs=flags)
            except CompileError:
                return False
        return True


COMPILED = "src/logitless/_engines/compiled"

core = Extension(
    "logitless._engines.compiled._core",
    [f"{COMPILED}/_core.pyx"],
    include_dirs=["csrc", numpy.get_include()],
    define_macros=[("NPY_NO_DEPRECATED_API", "NPY_1_7_API_VERSION")],
    # All that the sources lead to: what a source distribution must carry, too.
    depends=[*map(str, sorted(Path(COMPILED).glob("_*.p[yx]*"))),
             *map(str, sorted(Path("csrc").rglob("*.[ch]")))],
)

Options.warning_errors = WERROR

if sys.platform == "darwin" and "ARCHFLAGS" not in os.environ:
    # Pythons for two architectures would have each file compiled for both: for this one alone.
    os.environ["ARCHFLAGS"] = f"-arch {platform.machine()}"
    os.environ.setdefault("_PYTHON_HOST_PLATFORM",
                          f"{get_platform().rpartition('-')[0]}-{platform.machine()}")

setup(
    ext_modules=cythonize(
        [core],
        build_dir="build/cython",
        compiler_directives={
            "language_level": "3",
            "boundscheck": False,
            "wraparound": False,
            "freethreading_compatible": True,
        },
    ),
    cmdclass={"build_ext": BuildKernels, "build_py": CopyPackage},
)
