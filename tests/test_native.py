"""Compilation of `ops.native`: no warnings for any width of vector; flags of the environment; what a user gets to see."""

import os
import platform
import subprocess
import sys
from pathlib import Path

import pytest

from cnn_jax.ops import native

ROOT = Path(__file__).resolve().parents[1]
X86 = platform.machine() in ("x86_64", "AMD64")
TARGETS = {
    "SSE2, 4 lanes": ["-march=x86-64"],
    "AVX2, 8 lanes": ["-march=x86-64", "-mavx2", "-mfma"],
    "AVX-512, 16 lanes": ["-march=x86-64", "-mavx512f", "-mavx512bw", "-mavx512vl", "-mfma"],
}


@pytest.mark.parametrize("target", TARGETS if X86 else {"the machine's own": []})
def test_sources_compile_without_a_warning(target, tmp_path):
    compiler, headers = native._compiler(), native._headers()
    if compiler is None or headers is None:
        pytest.skip("no C compiler, or no headers of XLA")
    flags = [*native.WARNINGS, "-Werror", *TARGETS.get(target, [])]
    done = subprocess.run(
        native._command(compiler, flags, headers, tmp_path / "conv.so"), capture_output=True, text=True, timeout=300
    )
    assert (done.returncode, done.stderr) == (0, "")


def told(cache, **environment):
    """What a process of its own finds, and all that it prints."""
    code = "from cnn_jax.ops import native; print(*native.library())"
    environment = {**os.environ, "CNN_JAX_CACHE": str(cache), **environment}
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, env=environment, capture_output=True, text=True, timeout=300)
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout.strip()


@pytest.fixture
def only_with_a_compiler():
    if native.library().path is None:
        pytest.skip(native.library().reason)


@pytest.mark.usefixtures("only_with_a_compiler")
def test_flags_of_the_environment_make_another_file(tmp_path):
    flags = "-O1 -DUNUSED='1 + 1'"
    path = told(tmp_path, CNN_JAX_CFLAGS=flags)
    assert key(path) != key(str(native.library().path))
    assert told(tmp_path, CNN_JAX_CFLAGS=flags) == path
    assert [str(path) for path in tmp_path.glob("native/*.so")] == [path]


def key(path):
    return Path(path).name.split("-")[1]


@pytest.mark.usefixtures("only_with_a_compiler")
def test_warnings_are_not_printed_and_errors_are_told(tmp_path):
    """-DINLINE makes a warning, since the sources define INLINE as well."""
    assert told(tmp_path, CNN_JAX_CFLAGS="-O1 -DINLINE").endswith(".so")
    assert "error" in told(tmp_path, CNN_JAX_CFLAGS="-DINLINE -no-such-flag")
    assert told(tmp_path, CNN_JAX_CFLAGS="'") == "None CNN_JAX_CFLAGS: No closing quotation"
