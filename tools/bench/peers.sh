#!/usr/bin/env bash
# Builds the two engines that Hotset is measured against, from their PyPI source packages, into a cache folder:
#   llama.cpp    (package llama-cpp-python, folder vendor/llama.cpp)
#   ik_llama.cpp (package ik-llama-cpp-python, folder vendor/ik_llama.cpp)
# Usage: peers.sh [llama|ik|all]     prints the folders with llama-bench, llama-quantize, llama-perplexity, llama-completion ...
# Needs: python3 with venv (apt: python3-venv), g++, cmake, ninja (apt: ninja-build). First build: 10-15 minutes for llama.cpp, 25-40 for ik on two cores.
# ik_llama.cpp is built without its attention over caches of q4_0, q4_1 and iq4_nl: caches are f16 here, and each head size compiles them all.
# Nothing built here is part of Hotset; it is only run beside it.
set -euo pipefail
what=${1:-llama}
llama_version=0.3.36
ik_version=0.1.5
root=${HOTSET_PEERS:-$HOME/.cache/hotset-peers}
jobs=${JOBS:-$(nproc)}
cpu=$(grep -m1 ^flags /proc/cpuinfo | md5sum | cut -c1-8)  # built for this processor: another one needs its own build
export CCACHE_NAMESPACE="peers-$cpu"  # both use ccache where it is installed, and to it -march=native is the same everywhere
mkdir -p "$root"

fetch() { # package version
  local dir="$root/src/${1//-/_}-$2"
  [ -d "$dir" ] && return
  [ -x "$root/venv/bin/pip" ] || python3 -m venv "$root/venv"
  "$root/venv/bin/pip" install -q scikit-build-core
  mkdir -p "$root/src"
  "$root/venv/bin/pip" download -q --no-deps --no-build-isolation --no-binary "$1" -d "$root/src" "$1==$2"
  tar xzf "$root/src/${1//-/_}-$2.tar.gz" -C "$root/src"
}

build() { # name source targets...
  local name=$1-$cpu src=$2; shift 2
  [ -f "$root/$name.done" ] || {
    cmake -S "$src" -B "$root/$name" -G Ninja -DCMAKE_BUILD_TYPE=Release -DGGML_NATIVE=ON -DLLAMA_CURL=OFF -DLLAMA_BUILD_TESTS=OFF \
      -DLLAMA_BUILD_SERVER=OFF -DLLAMA_BUILD_UI=OFF -DLLAMA_BUILD_WEBUI=OFF -DGGML_IQK_FA_ALL_QUANTS=OFF > "$root/$name.cmake.log" 2>&1
    cmake --build "$root/$name" -j "$jobs" --target "$@" > "$root/$name.build.log" 2>&1
    touch "$root/$name.done"
  }
  echo "$name: $root/$name/bin"
}

if [ "$what" = llama ] || [ "$what" = all ]; then
  fetch llama-cpp-python $llama_version
  # g++ 12 takes the tile intrinsic to read 8 of the 64 bytes of its operand and drops the others' stores: AMX dies of a wrong shape.
  amx="$root/src/llama_cpp_python-$llama_version/vendor/llama.cpp/ggml/src/ggml-cpu/amx/mmq.cpp"
  if ! grep -q 'asm volatile("" : : "m"(tc));' "$amx"; then
    sed -i 's/^\( *\)_tile_loadconfig(&tc);/\1asm volatile("" : : "m"(tc));\n&/' "$amx"
    rm -f "$root"/llama.cpp-*.done
  fi
  build llama.cpp "$root/src/llama_cpp_python-$llama_version/vendor/llama.cpp" llama-bench llama-quantize llama-perplexity llama-completion
  echo "converter: $root/src/llama_cpp_python-$llama_version/vendor/llama.cpp/convert_hf_to_gguf.py"
fi
if [ "$what" = ik ] || [ "$what" = all ]; then
  fetch ik-llama-cpp-python $ik_version
  ik="$root/src/ik_llama_cpp_python-$ik_version/vendor/ik_llama.cpp"
  if [ ! -f "$ik/common/cmake/build-info-gen-cpp.cmake" ]; then  # the package leaves this script out
    mkdir -p "$ik/common/cmake"
    echo 'file(WRITE common/build-info.cpp "int LLAMA_BUILD_NUMBER = 0;\nchar const *LLAMA_COMMIT = \"package\";\nchar const *LLAMA_COMPILER = \"\";\nchar const *LLAMA_BUILD_TARGET = \"\";\n")' \
      > "$ik/common/cmake/build-info-gen-cpp.cmake"
  fi
  build ik_llama.cpp "$ik" llama-bench llama-sweep-bench llama-perplexity
fi
