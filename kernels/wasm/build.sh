#!/usr/bin/env bash
# Builds pkg/{simd128,relaxed}, pkg/{simd128,relaxed}-threads and pkg/relaxed-memory64, which has threads, from c/*.c: wasm-pack's layout, without
# Rust.
#   build.sh           rebuild
#   build.sh --check   rebuild elsewhere and compare with what is committed
# Needs emcc 3.1.6, clang-19 and lld-19 (Debian: emscripten clang-19 lld-19 llvm-19) and the workspace's Node 24 and binaryen.
# Emscripten's own clang 14 does not know the final relaxed SIMD opcodes, hence clang 19; its binaryen neither, hence npm's.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
root=$(cd "$here/../.." && pwd)
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

check=0
out="$here/pkg"
if [ "${1:-}" = "--check" ]; then
  check=1
  out="$work/pkg"
fi

if [ -x "$root/node_modules/node/bin/node" ]; then PATH="$root/node_modules/node/bin:$PATH"; fi

for tool in emcc clang-19 wasm-ld-19 llvm-objcopy-19 node; do
  if ! command -v "$tool" > /dev/null; then
    echo "build.sh: $tool is not installed; try: apt-get install --no-install-recommends emscripten clang-19 lld-19 llvm-19" >&2
    exit 1
  fi
done

binaryen="$root/node_modules/binaryen"
if [ ! -d "$binaryen" ]; then
  echo "build.sh: $binaryen is missing; install the workspace first" >&2
  exit 1
fi

cat > "$work/emscripten.config" << CONFIG
EMSCRIPTEN_ROOT = '/usr/share/emscripten'
LLVM_ROOT = '/usr/bin'
LLVM_ADD_VERSION = '19'
CLANG_ADD_VERSION = '19'
BINARYEN_ROOT = '$binaryen'
NODE_JS = '$(command -v node)'
FROZEN_CACHE = True
CONFIG
export EM_CONFIG="$work/emscripten.config"
export EMCC_READ_METADATA=python NODE_PATH=/usr/share/nodejs
export PATH="$binaryen/bin:$PATH"

# No floating-point contraction or reassociation: both builds must compute the same bits.
compile=(-std=c17 -ffreestanding -fno-builtin -ffp-contract=off -fno-math-errno
  -mbulk-memory -msign-ext -mnontrapping-fptoint -msimd128
  -Wall -Wextra -Werror "-ffile-prefix-map=$here=.")
# -O1: a stronger wasm-opt would order the kernels by their expression trees again (see generate/kernels.ts).
# The host owns memory: data and a 64 KiB stack lie in the first pages, everything from __heap_base on is TypeScript's.
link=(-O1 -Wno-version-check --no-entry -sSTANDALONE_WASM -sWASM_BIGINT -sIMPORTED_MEMORY -sALLOW_MEMORY_GROWTH
  -sMAXIMUM_MEMORY=4294967296 -sTOTAL_STACK=65536 -sINITIAL_MEMORY=262144 -sFILESYSTEM=0
  -Wl,--export=__heap_base)
# emcc links shared memory only with its own runtime. Each thread is an instance, and is given a stack by the host.
link_shared=(--no-entry --import-memory --shared-memory --initial-memory=262144 -z stack-size=65536
  --gc-sections --strip-debug --export=__heap_base --export=__stack_pointer)

build() { # variant, extra compile flags
  local variant=$1
  shift
  local objects=() pointer=i32 compiler=(emcc -Wno-version-check)
  # Emscripten has no libraries for 64-bit memory; nothing here needs any.
  if [ "$variant" = relaxed-memory64 ]; then pointer=i64 compiler=(clang-19 --target=wasm64); fi
  mkdir -p "$work/$variant" "$out/$variant"
  node "$here/generate/kernels.ts" "${variant%%-*}" "$pointer" "$work/$variant"
  objects+=("$work/$variant/kernels.o")
  # The assembler takes vector accesses by 64-bit addresses for mistakes.
  "${compiler[@]}" -Wa,--no-type-check -msimd128 "$@" -c "$work/$variant/kernels.s" -o "$work/$variant/kernels.o"
  for source in "$here"/c/*.c "$work/$variant/kernel-table.c"; do
    case $variant/$(basename "$source") in
      *-*/*) ;;
      */threads.c) continue ;;
    esac
    local object="$work/$variant/$(basename "$source" .c).o"
    objects+=("$object")
    local effort=-O3
    case $(basename "$source" .c) in
      # Nothing in them takes long: what they weigh counts more.
      embed | linear-dense | ops | run | selftest | shift) effort=-Os ;;
    esac
    "${compiler[@]}" "${compile[@]}" "$effort" "-I$here/c" "$@" -c "$source" -o "$object"
  done
  local module="$work/$variant/lowbit_kernels_bg.wasm"
  case $variant in
    *-memory64) wasm-ld-19 -mwasm64 "${link_shared[@]}" --max-memory=17179869184 "${objects[@]}" -o "$module" ;;
    *-threads) wasm-ld-19 "${link_shared[@]}" --max-memory=4294967296 "${objects[@]}" -o "$module" ;;
    *) emcc "${link[@]}" "$@" "${objects[@]}" -o "$module" ;;
  esac
  llvm-objcopy-19 --remove-section=name --remove-section=producers "$module"
  install -m 644 "$module" "$out/$variant/"
  node "$here/generate/glue.ts" "$out/$variant" "$variant"
}

build simd128 -msimd128
build relaxed -mrelaxed-simd
build simd128-threads -msimd128 -matomics
build relaxed-threads -mrelaxed-simd -matomics
build relaxed-memory64 -mrelaxed-simd -matomics

if [ "$check" = 1 ]; then
  diff -r "$here/pkg" "$out" > "$work/diff" || {
    cat "$work/diff" >&2
    echo "build.sh: pkg/ is not what the sources build to; run kernels/wasm/build.sh and commit the result" >&2
    exit 1
  }
  echo "pkg/ is what the sources build to"
else
  wc -c "$out"/*/*.wasm
fi
