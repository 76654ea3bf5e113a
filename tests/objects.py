"""gs:// without Google: a backend of etils.epath that keeps objects in a local folder, and can do what an object store can.

No appending, no renaming, no locks; an object is there when its writer closes it, never before. A process started with
OBJECTS=FOLDER and tests/ on its PYTHONPATH installs it by `import objects`.
"""

import io
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

from etils.epath import backend, gpath


class Objects(backend._OsPathBackend):
    """Objects gs://B/K as files FOLDER/B/K; folders exist as far as objects do."""

    def __init__(self, folder: Path):
        self.folder = folder

    def at(self, path: Any) -> str:
        return str(self.folder / os.fspath(path).removeprefix("gs://"))

    def open(self, path: Any, mode: str) -> Any:
        if mode not in ("rb", "wb"):
            raise OSError(95, f"mode {mode!r} is not for objects")
        return open(self.at(path), "rb") if mode == "rb" else _Upload(self.at(path))

    def exists(self, path: Any) -> bool:
        return super().exists(self.at(path))

    def isdir(self, path: Any) -> bool:
        return any(files for _, _, files in os.walk(self.at(path)))

    def listdir(self, path: Any) -> list[str]:
        return super().listdir(self.at(path))

    def glob(self, path: Any) -> list[str]:
        return ["gs://" + str(Path(found).relative_to(self.folder)) for found in super().glob(self.at(path))]

    def makedirs(self, path: Any, **_: Any) -> None:
        pass

    def mkdir(self, path: Any, **_: Any) -> None:
        pass

    def remove(self, path: Any) -> None:
        super().remove(self.at(path))

    def rmtree(self, path: Any) -> None:
        super().rmtree(self.at(path))

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
