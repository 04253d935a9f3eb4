#!/usr/bin/env bash
# Installs what the tests need and this machine lacks, then runs all of them: with every feature, with
# the default features, with none; then the scoreboard in short, on Linux. For Debian (and its kin) and macOS,
# as root or as a user with sudo. Running it again is safe. `tests/run.sh --install` stops before the tests.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

say() { printf '\n== %s\n' "$*"; }
die() { printf 'tests/run.sh: %s\n' "$*" >&2; exit 1; }
have() { command -v "$1" >/dev/null 2>&1; }

as_root() {
    if [ "$(id -u)" -eq 0 ]; then "$@"
    elif have sudo; then sudo "$@"
    else die "need root for: $*"
    fi
}

apt_install() {
    have apt-get || die "no apt-get here; install by hand, then run this again: $*"
    say "installing $*"
    as_root apt-get update -qq
    as_root env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "$@" >/dev/null
}

# ---- what the tests need: one function each, which does nothing if it is there -------------------

need_linker() {
    if [ "$(uname -s)" = Darwin ]; then
        xcode-select -p >/dev/null 2>&1 || die "no linker; run: xcode-select --install"
    elif ! have cc; then
        apt_install gcc libc6-dev
    fi
}

rust_is_new_enough() {
    # The crate asks for less, but all of its features do not: redb is the one that needs this.
    local wanted=1.90 found
    have cargo && found=$(rustc --version 2>/dev/null | cut -d ' ' -f 2) || return 1
    [ "$(printf '%s\n%s\n' "$wanted" "$found" | sort -V | head -n 1)" = "$wanted" ]
}

need_rust() {
    PATH="${CARGO_HOME:-$HOME/.cargo}/bin:$PATH"
    if rust_is_new_enough; then return; fi
    say "installing Rust"
    if have rustup; then
        rustup toolchain install stable --profile minimal
        export RUSTUP_TOOLCHAIN=stable
    else
        have curl || apt_install curl ca-certificates
        curl --proto '=https' --tlsv1.2 -sSf https://sh.rustup.rs | sh -s -- -y --profile minimal
    fi
    rust_is_new_enough || die "still no Rust that is new enough: $(rustc --version)"
}

brew_install() {
    have brew || die "no Homebrew here (https://brew.sh); install by hand, then run this again: $*"
    say "installing $*"
    brew install --quiet "$@"
}

# The tests start servers of their own; one that a package starts is neither needed nor touched.

need_redis() {
    if have redis-server || have valkey-server; then return; fi
    if [ "$(uname -s)" = Darwin ]; then brew_install redis; else apt_install redis-server; fi
}

# Debian keeps the server's programs off the path, Homebrew those of a numbered version.
postgres_is_there() {
    [ "$(uname -s)" != Darwin ] || ! have brew ||
        PATH="$PATH:$(brew --prefix)/opt/postgresql@17/bin"
    have initdb || ls /usr/lib/postgresql/*/bin/initdb >/dev/null 2>&1
}

need_postgres() {
    if ! postgres_is_there; then
        if [ "$(uname -s)" = Darwin ]; then brew_install postgresql@17; else apt_install postgresql; fi
        postgres_is_there || die "still no initdb: install PostgreSQL's server by hand"
    fi
    # It does not run as root, so the tests run it as the user that its package makes.
    [ "$(id -u)" -ne 0 ] || have setpriv || apt_install util-linux
}

# The status page is tried in a real browser; its DevTools protocol is all that is needed of it.
chromium_is_there() {
    [ -n "${BUTTRESS_CHROMIUM:-}" ] || have chromium || have chromium-browser || have google-chrome-stable ||
        have google-chrome || [ -x "/Applications/Chromium.app/Contents/MacOS/Chromium" ] ||
        [ -x "/Applications/Google Chrome.app/Contents/MacOS/Google Chrome" ]
}

need_chromium() {
    if chromium_is_there; then return; fi
    if [ "$(uname -s)" = Darwin ]; then
        die "no Chromium; run: brew install --cask google-chrome (or name one in BUTTRESS_CHROMIUM)"
    fi
    # Some font must be there, or there is nothing to read.
    apt_install chromium fonts-dejavu-core
}

sha256() {
    if have sha256sum; then sha256sum "$1"; else shasum -a 256 "$1"; fi | cut -d ' ' -f 1
}

# What checks that everybody can use the page. Its licence is the MPL, so it is fetched, not kept here.
need_axe() {
    local version=4.14.1 wanted=29348999450cdf2849a8e70b7912fc2da85a849da39c0d0d5394f51d4a9ed95c folder file
    folder="${CARGO_TARGET_DIR:-target}/test-tools"
    file="$folder/axe-core-$version.min.js"
    if [ -f "$file" ] && [ "$(sha256 "$file")" = "$wanted" ]; then return; fi
    say "fetching axe-core $version"
    mkdir -p "$folder"
    if have npm; then
        (cd "$folder" && npm pack --silent "axe-core@$version" >/dev/null)
    else
        have curl || apt_install curl ca-certificates
        curl --proto '=https' --tlsv1.2 -sSf -o "$folder/axe-core-$version.tgz" \
            "https://registry.npmjs.org/axe-core/-/axe-core-$version.tgz"
    fi
    tar -xzOf "$folder/axe-core-$version.tgz" package/axe.min.js >"$file.new"
    [ "$(sha256 "$file.new")" = "$wanted" ] || die "axe-core $version is not what it was: $file.new"
    mv "$file.new" "$file"
}

need_linker
need_rust
need_redis
need_postgres
need_chromium
need_axe
export PATH
[ "${1:-}" != --install ] || exit 0

# ---- the tests ---------------------------------------------------------------------------------

log=$(mktemp)
trap 'rm -f "$log"' EXIT

tests() {
    say "cargo test $*"
    cargo test "$@" 2>&1 | tee -a "$log"
}

# The short version of the scoreboard. It simulates on Linux only, and is no part of the package.
scoreboard() {
    local folder=benches/efficacy
    if [ "$(uname -s)" != Linux ] || [ ! -f "$folder/Cargo.toml" ]; then return; fi
    say "scoreboard"
    cargo build --release --manifest-path "$folder/Cargo.toml" --target-dir "$folder/target"
    # It takes less than a minute of both cores; what hangs ends. In the foreground, so that Ctrl-C ends it, too.
    local status=0
    timeout --foreground -k 10 600 "$folder/target/release/buttress-efficacy" --smoke 2>&1 | tee -a "$log" || status=$?
    case $status in
        0) ;;
        124 | 137) die "the scoreboard hung: it was ended after 600 s" ;;
        *) die "the scoreboard failed with $status: its lines with FAILED say why" ;;
    esac
}

tests --all-features
tests
tests --no-default-features
scoreboard

say "all tests passed"
# The scoreboard's checks are no tests: they have a sum of their own. The tests' is the last line.
awk '/^test result:/ { passed += $4; failed += $6 }
     /^efficacy: / { held += $2 - $4; left += $4; board = 1 }
     END { if (board) printf "scoreboard: %d checks passed, %d failed\n", held, left
           printf "tests: %d passed, %d failed\n", passed, failed }' "$log"
