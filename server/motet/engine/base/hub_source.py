"""A base model named by its id on a model hub."""

from pathlib import Path

from huggingface_hub import snapshot_download
from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError
from torch import Tensor

from motet.engine.base.directory_source import DirectorySource
from motet.engine.base.progress import Progress
from motet.engine.base.source import LoadedCheckpoint
from motet.engine.base.weight_files import shard_names
from motet.errors import UnsupportedModel

# No pattern admits a Python file or a pickle.
_SMALL_FILES = ("*.json", "*.jinja", "*.txt", "*.model", "*.tiktoken")
_INDEX = "model.safetensors.index.json"


class HubSource:
    """A hub id such as "Qwen/Qwen3-0.6B", resolved and cached by huggingface_hub."""

    def __init__(self, repo_id: str) -> None:
        self._repo_id = repo_id
        self._directory: DirectorySource | None = None
        self.name = repo_id
        self.description = f"hub checkpoint {repo_id}"

    def identity(self) -> str:
        return self._fetched().identity()

    def load(self, scratch: Path, progress: Progress) -> LoadedCheckpoint:
        return self._fetched().load(scratch, progress)

    def tensor(self, name: str) -> Tensor | None:
        return self._fetched().tensor(name)

    def _fetched(self) -> DirectorySource:
        if self._directory is None:
            snapshot = self._snapshot(_SMALL_FILES)
            self.description = f"hub checkpoint {self._repo_id} at revision {snapshot.name}"
            index = snapshot / _INDEX
            weights = shard_names(index) if index.is_file() else ["model.safetensors"]
            self._directory = DirectorySource(self._snapshot(tuple(weights)), name=self._repo_id)
        return self._directory

    def _snapshot(self, patterns: tuple[str, ...]) -> Path:
        try:
            return Path(snapshot_download(self._repo_id, allow_patterns=list(patterns)))
        except HFValidationError:
            raise UnsupportedModel(
                f"{self._repo_id!r} is neither a directory, a .gguf file nor a hub id. "
                "Check the path."
            ) from None
        except LocalEntryNotFoundError:
            raise UnsupportedModel(
                f"{self._repo_id!r} is no directory here, and as a hub id it is neither in the "
                "local hub cache nor can the hub be reached. Copy the checkpoint to this machine "
                "and give its directory, or go online once."
            ) from None
        except HfHubHTTPError as error:
            raise UnsupportedModel(
                f"The hub does not give out {self._repo_id!r} ({error}). Check the id, and log in "
                "with `hf auth login` if it is private or gated."
            ) from None
