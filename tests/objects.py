"""gs:// without Google: a backend of etils.epath that keeps objects in a local folder, and can do what an object store can.

No appending, no renaming, no locks; an object is there when its writer closes it, never before. A process started with
OBJECTS=FOLDER and tests/ on its PYTHONPATH installs it by `import objects`.
"""

import glob
import io
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

from etils.epath import backend, gpath, stat_utils


class Objects(backend.Backend):
    """Objects gs://B/K as files FOLDER/B/K; folders exist as far as objects do."""

    def __init__(self, folder: Path):
        self.folder = folder

    def at(self, path: Any) -> Path:
        return self.folder / os.fspath(path).removeprefix("gs://")

    def open(self, path: Any, mode: str) -> Any:
        if mode not in ("rb", "wb"):
            raise OSError(95, f"mode {mode!r} is not for objects")
        return self.at(path).open("rb") if mode == "rb" else _Upload(str(self.at(path)))

    def exists(self, path: Any) -> bool:
        return self.at(path).exists()

    def isdir(self, path: Any) -> bool:
        return any(files for _, _, files in os.walk(self.at(path)))

    def listdir(self, path: Any) -> list[str]:
        return os.listdir(self.at(path))

    def glob(self, path: Any) -> list[str]:
        return ["gs://" + str(Path(found).relative_to(self.folder)) for found in glob.glob(str(self.at(path)))]

    def walk(self, top: Any, **_: Any) -> Any:
        return os.walk(self.at(top))

    def makedirs(self, path: Any, **_: Any) -> None:
        pass

    def mkdir(self, path: Any, **_: Any) -> None:
        pass

    def remove(self, path: Any) -> None:
        self.at(path).unlink()

    def rmtree(self, path: Any) -> None:
        shutil.rmtree(self.at(path))

    def copy(self, path: Any, dst: Any, overwrite: bool) -> None:
        if self.exists(dst) and not overwrite:
            raise FileExistsError(dst)
        shutil.copyfile(self.at(path), self.at(dst))

    def stat(self, path: Any) -> stat_utils.StatResult:
        found = self.at(path).stat()
        return stat_utils.StatResult(
            is_directory=self.isdir(path), length=found.st_size, mtime=int(found.st_mtime), owner=None, group=None,
            mode=found.st_mode,
        )  # fmt: skip

    def replace(self, path: Any, dst: Any) -> None:
        raise OSError(95, "objects cannot be renamed")

    rename = replace


class _Upload(io.BytesIO):
    def __init__(self, path: str):
        super().__init__()
        self.path = path

    def close(self) -> None:
        if not self.closed:
            os.makedirs(os.path.dirname(self.path), exist_ok=True)
            part = f"{self.path}.{os.getpid()}.upload"
            with open(part, "wb") as file:
                file.write(self.getvalue())
            os.replace(part, self.path)
        super().close()


def install(folder: Path, setattr: Callable[[Any, str, Any], None] = setattr) -> Objects:
    """Makes gs:// mean this folder, for all of epath in this process."""
    found = Objects(folder)
    setattr(gpath, "_is_tf_installed", lambda: False)  # with it, epath would take TensorFlow's own backend
    setattr(gpath, "_PREFIX_TO_BACKEND", {**gpath._PREFIX_TO_BACKEND, "gs": found})
    return found


if "OBJECTS" in os.environ:
    install(Path(os.environ["OBJECTS"]))
