# Sourced by the scripts beside it. Sets ROOT and PY (the Python of .venv), and changes to ROOT.
# Makes .venv if there is none and installs pfw with its tools into it when pyproject.toml has changed.

ROOT=$(cd -- "$(dirname -- "${BASH_SOURCE[0]}")/.." && pwd -P)
PY=$ROOT/.venv/bin/python
STAMP=$ROOT/.venv/pfw-installed

# Another environment that happens to be active must not leak into this one.
unset VIRTUAL_ENV PYTHONPATH PYTHONHOME PYTHONSTARTUP PIP_TARGET PIP_PREFIX PIP_USER PIP_REQUIRE_VIRTUALENV

die() {
    printf '%s: %s\n' "$(basename -- "$0")" "$1" >&2
    exit 2
}

is_new_enough() {
    "$1" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null
}

# Prints the first Python on PATH that is 3.11 or newer, looking past stale ones.
find_python() {
    local candidate
    while IFS= read -r candidate; do
        if is_new_enough "$candidate"; then
            printf '%s\n' "$candidate"
            return
        fi
    done < <(type -aP python3 python3.14 python3.13 python3.12 python3.11 python)
    return 1
}

# What the environment was installed for: this folder, this Python, these requirements.
wanted_stamp() {
    printf '%s\n' "$ROOT" "$("$PY" -V)" "$(cksum <"$ROOT/pyproject.toml")"
}

make_venv() {
    local python
    python=$(find_python) || die "needs Python 3.11 or newer, and found none on PATH (python3 is: $(python3 -V 2>&1 || true))"
    "$python" -c 'import venv, ensurepip' 2>/dev/null ||
        die "$python has no venv module; on Debian or Ubuntu: apt-get install python3-venv"
    printf 'Making .venv with %s ...\n' "$("$python" -V)" >&2
    "$python" -m venv --clear "$ROOT/.venv" || die "could not make $ROOT/.venv"
}

install() {
    printf 'Installing pfw into .venv ...\n' >&2
    "$PY" -m pip install --quiet --disable-pip-version-check --editable "$ROOT[dev,docs,examples]" ||
        die "installing failed: see pip's message above"
    wanted_stamp >"$STAMP"
}

# A moved copy of the folder has scripts and an editable install that point to the old place: made anew.
is_moved() {
    [[ -f $STAMP && $(head -n 1 "$STAMP") != "$ROOT" ]]
}

ensure_venv() {
    if ! is_new_enough "$PY" || is_moved; then
        make_venv
    fi
    if [[ ! -f $STAMP || $(<"$STAMP") != "$(wanted_stamp)" ]]; then
        install
    fi
}

# Two scripts started together take turns; the lock is on the folder itself and ends with this block.
{
    if command -v flock >/dev/null; then
        flock 9
    fi
    ensure_venv
} 9<"$ROOT"
cd -- "$ROOT"
