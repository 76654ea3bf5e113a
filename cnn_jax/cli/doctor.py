"""`doctor`: versions, devices, compiler, caches and data sets of this machine, and a command that fixes each problem."""

import collections
import contextlib
import dataclasses
import glob
import importlib.metadata
import importlib.util
import io
import json
import os
import platform
import shutil
import subprocess
import sys
import tempfile
import textwrap
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from absl import flags as absl_flags

from cnn_jax import cache_folder
from cnn_jax.cli import flags
from cnn_jax.cli.help import WIDTH
from cnn_jax.console import Console
from cnn_jax.errors import UsageError
from cnn_jax.execution import cores
from cnn_jax.execution.backends import local
from cnn_jax.ops import native
from cnn_jax.program import PROGRAM

USAGE = """python launch.py doctor [--json]

Print versions, devices, compiler, caches and data sets of this machine, and the problems found, each with a command that
fixes it. The exit status is 1 if there are any.
"""
PACKAGES = ("jax", "jaxlib", "flax", "optax", "numpy", "scipy", "absl-py", "scikit-learn", "tensorflow-datasets")
FREE_BYTES = 1 << 30  # free bytes on the disk of the cache: compiled programs and images take hundreds of megabytes
DEVICE_SECONDS = 120  # limit for JAX to list its devices
_NAME = 10  # columns
_ELSEWHERE = "export CNN_JAX_CACHE=DIR, a folder of yours"


@dataclasses.dataclass(frozen=True)
class Fault:
    """A problem, and the command that fixes it."""

    problem: str
    remedy: str


@dataclasses.dataclass(frozen=True)
class Finding:
    """Result of one check: lines to print, and its faults."""

    name: str
    lines: tuple[str, ...]
    faults: tuple[Fault, ...] = ()


def doctor(words: Sequence[str]) -> int:
    """Print versions, devices, caches and data of this machine, and its faults."""
    values = absl_flags.FlagValues()
    absl_flags.DEFINE_boolean("json", False, "print JSON", flag_values=values)
    if rest := flags.parse(values, ["doctor", *words], USAGE):
        raise UsageError(f"{rest[0]!r}: doctor takes no arguments")
    findings = []
    console = Console()
    for examine in EXAMINATIONS:
        finding = examine()
        findings.append(finding)
        if not values.json:
            _print(finding, console)
    faults = [fault for finding in findings for fault in finding.faults]
    if values.json:
        print(json.dumps({"well": not faults, "findings": [dataclasses.asdict(f) for f in findings]}, indent=1))
    else:
        console.print("all is well" if not faults else f"{len(faults)} fault{'s' * (len(faults) > 1)}")
    return 1 if faults else 0


def _print(finding: Finding, console: Console) -> None:
    """A finding in at most 80 columns, except for commands, which are not wrapped so that they can be copied."""
    width = min(WIDTH, console.width)
    name, indent = f"{finding.name:<{_NAME}} ", " " * (_NAME + 1)
    for line in finding.lines:
        console.print(_wrapped(line, width, name, indent + "  "), soft_wrap=True)
        name = indent
    for fault in finding.faults:
        console.print(_wrapped(fault.problem, width, name + "! ", indent + "  "), style="red", soft_wrap=True)
        console.print(f"{indent}  fix: {fault.remedy}", soft_wrap=True)
        name = indent


def _wrapped(text: str, width: int, first: str, rest: str) -> str:
    return textwrap.fill(text, width, initial_indent=first, subsequent_indent=rest, break_on_hyphens=False)


# --------------------------------------------------------------------------------------------------------------- software


def _python() -> Finding:
    lines = (
        f"{platform.python_version()}, {sys.executable}",
        f"{platform.system()} {platform.release()}, {platform.machine()}",
    )
    return Finding("python", lines)


def _packages() -> Finding:
    import cnn_jax

    found = {name: _version(name) for name in PACKAGES}
    line = ", ".join(f"{name} {version}" for name, version in found.items() if version)
    faults = [Fault(f"{name} is not installed", f"pip install {name}") for name, version in found.items() if not version]
    for requirement in _requirements():
        name, _, least = requirement.partition(">=")
        version = _version(name)
        if version and _numbers(version) < _numbers(least):
            faults.append(Fault(f"{name} {version} is older than {least}", f"pip install -U '{requirement}'"))
    if found["tensorflow-datasets"]:
        for module, package in (("tensorflow_datasets", "tensorflow-datasets"), ("importlib_resources", "importlib_resources")):
            if importlib.util.find_spec(module) is None:
                faults.append(Fault(f"{module} cannot be imported", f"pip install --force-reinstall {package}"))
    return Finding("packages", (f"cnn_jax {cnn_jax.__version__}", line), tuple(faults))


def _version(name: str) -> str | None:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None


def _requirements() -> list[str]:
    """Requirements NAME>=VERSION: from requirements.txt in a clone, otherwise from the installed package."""
    file = Path(__file__).resolve().parents[2] / "requirements.txt"
    if file.is_file():
        lines = file.read_text(encoding="utf-8").splitlines()
    else:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            lines = [line for line in importlib.metadata.requires("cnn_jax") or () if "extra ==" not in line]
    lines = [line.partition("#")[0].partition(";")[0].strip() for line in lines]
    return [line for line in lines if ">=" in line]


def _numbers(version: str) -> tuple[int, ...]:
    """'0.11.2' -> (0, 11, 2); a suffix as in '1.0rc1' ends it."""
    numbers = []
    for part in version.split("."):
        if not part.isdecimal():
            break
        numbers.append(int(part))
    return tuple(numbers)


# ---------------------------------------------------------------------------------------------------------------- devices

# In a separate process: a device may be exclusive to one process, and this one must not import JAX.
_PROBE = """
import json, sys
import flax.linen, jax, optax
devices = [[d.platform, d.device_kind, (d.memory_stats() or {}).get("bytes_limit")] for d in jax.local_devices()]
print("\\n" + json.dumps(devices))
"""


def _devices() -> Finding:
    asked = os.environ.get("JAX_PLATFORMS", "")
    try:
        done = subprocess.run(
            [sys.executable, "-P", "-c", _PROBE], capture_output=True, text=True, timeout=DEVICE_SECONDS,
            env=os.environ | {"TF_CPP_MIN_LOG_LEVEL": "2", "XLA_PYTHON_CLIENT_PREALLOCATE": "false"},
        )  # fmt: skip
    except subprocess.TimeoutExpired:
        problem = f"JAX did not list its devices in {DEVICE_SECONDS} s: another process may hold them"
        return Finding("devices", (), (Fault(problem, _on_cpu()),))
    if done.returncode:
        return Finding("devices", (), (_failed(done.stderr, asked),))
    found = json.loads(done.stdout.strip().splitlines()[-1])
    lines = [f"{kind if kind == platform else f'{platform}: {kind}'}{_memory_of(limit)}" for platform, kind, limit in found]
    if asked:
        lines.append(f"JAX_PLATFORMS={asked}")
    faults = []
    if not asked and all(platform == "cpu" for platform, _, _ in found):
        faults = _unused()
    return Finding("devices", tuple(lines), tuple(faults))


def _memory_of(limit: int | None) -> str:
    return f", {_bytes(limit)} for JAX" if limit else ""


def _failed(error: str, asked: str) -> Fault:
    last = next((line.strip() for line in reversed(error.splitlines()) if line.strip()), "no message")
    if "ImportError" in last or "ModuleNotFoundError" in last or "AttributeError" in last:
        return Fault(f"JAX and its libraries cannot be imported together: {last}", "pip install -U jax jaxlib flax optax")
    return Fault(
        f"JAX has no device{f' for JAX_PLATFORMS={asked}' if asked else ''}: {last}",
        "unset JAX_PLATFORMS" if asked else _on_cpu(),
    )


def _on_cpu() -> str:
    return f"JAX_PLATFORMS=cpu {PROGRAM}"


def _unused() -> list[Fault]:
    """Accelerators that the machine has but JAX does not use."""
    version = _version("jax")
    if gpus := _gpus():
        what = f"{len(gpus)} GPU{'s' * (len(gpus) > 1)} ({gpus[0]}) and JAX uses the CPU"
        return [Fault(f"the machine has {what}", f"pip install -U 'jax[cuda12]=={version}'")]
    if glob.glob("/dev/accel*") or glob.glob("/dev/vfio/[0-9]*"):
        return [Fault("the machine has a TPU and JAX uses the CPU", f"pip install -U 'jax[tpu]=={version}'")]
    return []


def _gpus() -> list[str]:
    """Names of NVIDIA GPUs from nvidia-smi, 'GPU 0: NAME (UUID: ...)'; without it, their device files."""
    with contextlib.suppress(OSError, subprocess.SubprocessError):
        done = subprocess.run(["nvidia-smi", "-L"], capture_output=True, text=True, timeout=20)
        if done.returncode == 0:
            listed = [line.partition(": ")[2].partition(" (UUID")[0] for line in done.stdout.splitlines()]
            return [name for name in listed if name]
    return glob.glob("/dev/nvidia[0-9]*")


def _memory() -> Finding:
    found = {}
    with contextlib.suppress(OSError), open("/proc/meminfo") as file:
        for line in file:
            name, _, size = line.partition(":")
            found[name] = 1024 * int(size.split()[0])
    if not found:
        return Finding("memory", ("unknown",))
    total, free = found["MemTotal"], found.get("MemAvailable", 0)
    faults = []
    if free < FREE_BYTES:
        faults.append(Fault(f"{_bytes(free)} of memory are left: a worker takes up to 1 GB", f"{PROGRAM} --workers=1"))
    return Finding("memory", (f"{_bytes(total)}, {_bytes(free)} available",), tuple(faults))


def _cores() -> Finding:
    allowed, quota = cores.allowed(), _quota()
    count = len(allowed) or os.cpu_count() or 1
    pinned = "workers are pinned, one to a core" if allowed else "workers cannot be pinned on this system"
    line = f"{count} of {os.cpu_count()}; {pinned}; load {os.getloadavg()[0]:.1f}"
    if quota is None or quota > count - 0.01:
        return Finding("cores", (line,))
    problem = f"this container may use the time of {quota:g} cores: a worker on each of {count} is slowed down"
    return Finding("cores", (line,), (Fault(problem, f"{PROGRAM} --workers={max(1, int(quota))}"),))


def _quota() -> float | None:
    """CPU quota of this container in cores, from cgroup v2's cpu.max; None: unlimited."""
    with contextlib.suppress(OSError, ValueError):
        quota, period = Path("/sys/fs/cgroup/cpu.max").read_text().split()
        return int(quota) / int(period)
    return None


def _compiler() -> Finding:
    if os.environ.get("CNN_JAX_NATIVE") == "0":
        return Finding("compiler", ("CNN_JAX_NATIVE=0: convolutions by XLA, at half the speed or less on CPU",))
    with contextlib.redirect_stderr(io.StringIO()):  # an unused cache is reported separately
        library = native.library()
    if library.path:
        half = "by AMX, three to five times as fast as float32" if native.has_half() else "converted to float32: no AMX"
        return Finding("compiler", (f"convolution in C: {library.path}", f"bfloat16: {half}"))
    if local.accelerator():
        return Finding("compiler", (f"no convolution in C ({library.reason}); an accelerator needs none",))
    remedies = {"no C compiler": "apt-get install gcc", "FFI headers": "pip install -U jaxlib", " failed: ": "export CC=gcc"}
    found = (remedy for words, remedy in remedies.items() if words in library.reason)
    remedy = next(found, _ELSEWHERE)  # the compiled file could not be written
    problem = f"no convolution in C: {library.reason.partition(': install')[0]}; XLA's takes twice as long or more"
    return Finding("compiler", (), (Fault(problem, remedy),))


# ---------------------------------------------------------------------------------------------------------------- folders


def _caches() -> Finding:
    root = cache_folder.cache_root().absolute()
    lines, faults = [str(root)], []
    if reason := cache_folder.distrust(Path(os.path.realpath(root))):
        ours = reason.startswith(os.path.realpath(root)) and "writable" in reason
        faults.append(Fault(f"the cache is not used: {reason}", f"chmod -R go-w {root}" if ours else _ELSEWHERE))
    elif not _writable(root):
        faults.append(Fault("the cache cannot be written", _ELSEWHERE))
    sizes: collections.Counter[str] = collections.Counter()
    for kind, folder in _kinds(root):
        sizes[kind] += _size(folder)
    lines.append(", ".join(f"{kind} {_bytes(size)}" for kind, size in sorted(sizes.items())) or "empty")
    above = next((folder for folder in (root, *root.parents) if folder.exists()), Path("/"))
    free = shutil.disk_usage(above).free
    lines.append(f"{_bytes(free)} free on its disk")
    if free < FREE_BYTES:
        faults.append(Fault(f"{_bytes(free)} are left on the disk of the cache", "export CNN_JAX_CACHE=DIR, on another disk"))
    if chosen := os.environ.get("JAX_COMPILATION_CACHE_DIR"):
        lines.append(f"JAX_COMPILATION_CACHE_DIR={chosen}")
    return Finding("caches", tuple(lines), tuple(faults))


def _kinds(root: Path) -> Iterator[tuple[str, Path]]:
    """Folders of the cache, each with what it holds."""
    with contextlib.suppress(OSError):
        for folder in sorted(root.iterdir()):
            if folder.is_dir():
                yield {"native": "compiled C", "xla": "compiled programs"}.get(folder.name, "images"), folder


def _size(folder: Path) -> int:
    total = 0
    for home, _, names in os.walk(folder):
        for name in names:
            with contextlib.suppress(OSError):
                total += os.lstat(os.path.join(home, name)).st_size
    return total


def _writable(folder: Path) -> bool:
    """Whether a file can be created in a folder; for a missing folder, in its nearest existing parent."""
    above = next((each for each in (folder, *folder.parents) if os.path.lexists(each)), Path("/"))
    try:
        with tempfile.TemporaryFile(dir=above):
            return True
    except OSError:
        return False


def _data() -> Finding:
    named = os.environ.get("TFDS_DATA_DIR")
    folder = Path(named or "~/tensorflow_datasets").expanduser()
    source = "TFDS_DATA_DIR" if named else "TFDS_DATA_DIR is not set"
    lines = [f"{folder} ({source})"]
    if named and not folder.is_dir():
        return Finding("data", tuple(lines), (Fault("TFDS_DATA_DIR is not a folder", f"mkdir -p {folder}"),))
    prepared = sorted({file.parent.relative_to(folder).parent.as_posix() for file in _descriptions(folder)})
    lines.append(f"prepared: {', '.join(prepared) or 'none'}")
    if importlib.util.find_spec("tensorflow") is None:
        lines.append("another set takes TensorFlow once to prepare (pip install tensorflow)")
    return Finding("data", tuple(lines))


def _descriptions(folder: Path) -> list[Path]:
    """dataset_info.json of the sets in a folder of TFDS: NAME/VERSION or NAME/CONFIG/VERSION."""
    return [*folder.glob("*/*/dataset_info.json"), *folder.glob("*/*/*/dataset_info.json")]


def _results() -> Finding:
    folder = Path.cwd()
    lines = (f"{folder / 'runs'} by default",)
    if _writable(folder / "runs"):
        return Finding("results", lines)
    return Finding("results", lines, (Fault("the folder cannot be written", f"{PROGRAM} --out=DIR, a folder of yours"),))


def _bytes(size: float) -> str:
    """'512 B', '3.2 MB', '7.9 GB'."""
    for unit in ("B", "kB", "MB", "GB"):
        if size < 1000 or unit == "GB":
            break
        size /= 1000
    return f"{size:.0f} {unit}" if unit == "B" or size >= 100 else f"{size:.1f} {unit}"


EXAMINATIONS: tuple[Callable[[], Finding], ...] = (
    _python, _packages, _devices, _memory, _cores, _compiler, _caches, _data, _results,
)  # fmt: skip
