#!/bin/sh
# Installs elan, a pinned Lean 4, the REPL and the kernel checker that match it, where flywheel looks for them. Needs the network, git and curl.
# LEAN_VERSION names another release; LEAN_WITH_COMPARATOR=1 builds comparator and lean4export too (Lean 4.28 or newer; landrun is not built).
set -eu

version=${LEAN_VERSION:-v4.20.0}
cache=$HOME/.cache/flywheel/lean
PATH=${ELAN_HOME:-$HOME/.elan}/bin:$PATH
export PATH

command -v elan >/dev/null || curl -sSf https://elan.lean-lang.org/elan-init.sh | sh -s -- -y --no-modify-path --default-toolchain none
elan toolchain install "leanprover/lean4:$version"
[ -n "$(elan show 2>/dev/null | grep default || true)" ] || elan default "leanprover/lean4:$version"

build() {
    folder=$cache/$1
    [ -d "$folder" ] || git clone -q "https://github.com/$2" "$folder"
    git -C "$folder" fetch -q --tags
    git -C "$folder" checkout -q "$version" || { echo "$2 has no tag $version: name another LEAN_VERSION" >&2; exit 1; }
    (cd "$folder" && lake build)
}
mkdir -p "$cache"
build repl leanprover-community/repl
# Since v4.28 the checker comes with the toolchain.
[ -x "$(elan run "leanprover/lean4:$version" lean --print-prefix)/bin/leanchecker" ] || build lean4checker leanprover/lean4checker
if [ "${LEAN_WITH_COMPARATOR:-0}" = 1 ]; then
    build comparator leanprover/comparator
    build lean4export leanprover/lean4export
    command -v landrun >/dev/null || echo "comparator needs landrun on PATH too: see https://github.com/Zouuup/landrun" >&2
fi

echo "Lean $version, its REPL and its kernel checker are ready ($cache)."
