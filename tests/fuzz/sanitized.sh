#!/usr/bin/env bash
# Cases under AddressSanitizer and UndefinedBehaviorSanitizer, as many as the arguments say:
#     tests/fuzz/sanitized.sh --cases 1e7 --processes 2 --log fuzz.log
# The extension is built in build/sanitized, of what git knows as it stands; minutes the first time.
set -euo pipefail
cd "$(dirname "$0")/../.."
mkdir -p build/sanitized
git ls-files -z | xargs -0 cp -pu --parents -t build/sanitized
cd build/sanitized
LOGITLESS_SANITIZE=address,undefined LOGITLESS_DEBUG=1 python setup.py -q build_ext --inplace
cd tests
export PYTHONPATH=../src LD_PRELOAD
LD_PRELOAD=$(gcc -print-file-name=libasan.so)
# Memory that is too much to have is a MemoryError here, too.
export ASAN_OPTIONS=detect_leaks=0:allocator_may_return_null=1:malloc_context_size=5
export UBSAN_OPTIONS=halt_on_error=1:print_stacktrace=1
exec python -m fuzz "$@"
