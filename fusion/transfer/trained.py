"""What a training on a target leaves: a LoRA, perhaps a representation, and how it came about. One safetensors file, named by its hash."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from functools import cached_property
from pathlib import Path

from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor, nn

from fusion.transfer.representation import Representation, about_of
from fusion.transfer.training import Course
from models import bounded, room

KEY = "trained"  # of the metadata in the file
LORA, CODE = "lora.", "representation."
MAX_BYTES = 4 * 2**30


class TrainedError(ValueError):
    """A trained file cannot be used; the message names the cause and the cure."""


@dataclass(frozen=True, eq=False)
class Trained:
    """`tensors`: the LoRA's, by the network's parameter names; `rank`, `seed`: of the LoRA; `member`: name of the model it belongs to.

    `representation`: what stands between prompt and network, None where prompts are read as they are. `images`: how many were trained on,
    and how many held out; `course`: steps, held-out losses, seconds; `notes`: plain JSON (where the representation comes from).
    """

    method: str
    member: str
    rank: int
    tensors: Mapping[str, Tensor]
    course: Course
    images: tuple[int, int]
    representation: Representation | None = None
    notes: Mapping[str, object] = field(default_factory=dict)

    def fill(self, parameters: Mapping[str, nn.Parameter]) -> None:
        """Copy the LoRA into a network that was made trainable. Raises TrainedError where it does not fit."""
        shapes = {name: tuple(t.shape) for name, t in self.tensors.items()}
        if {name: tuple(p.shape) for name, p in parameters.items()} != shapes:
            raise TrainedError(f"what was trained does not fit {self.member} as it is here: use that model, or train again")
        for name, p in parameters.items():
            p.data.copy_(self.tensors[name])

    # ---------------------------------------------------------------- files

    @cached_property
    def content(self) -> bytes:
        """The file: tensors and, as JSON in its metadata, everything else."""
        state = {LORA + name: tensor.detach().cpu().contiguous() for name, tensor in self.tensors.items()}
        told = {"method": self.method, "member": self.member, "rank": self.rank, "course": asdict(self.course), "images": self.images,
                "notes": dict(self.notes)}  # fmt: skip
        if self.representation is not None:
            state |= {CODE + name: t.detach().cpu().contiguous() for name, t in self.representation.state_dict().items()}
            told["representation"] = asdict(self.representation.about)
        return save(state, metadata={KEY: json.dumps(told)})

    @cached_property
    def sha256(self) -> str:
        return hashlib.sha256(self.content).hexdigest()

    @property
    def file(self) -> str:
        """Name of the file that a recipe refers to."""
        return f"{self.method}-{self.sha256[:12]}.safetensors"

    def save_in(self, folder: str | Path) -> Path:
        """Write it under its own name, unless it is there."""
        path = Path(folder) / self.file
        if not path.is_file() or path.stat().st_size != len(self.content):
            with room.writing(path, len(self.content)):
                path.write_bytes(self.content)
        return path

    @staticmethod
    def load(path: str | Path, sha256: str | None = None) -> Trained:
        """Read and check. Raises TrainedError for a missing, changed or foreign file."""
        path = Path(path)
        if not path.is_file():
            raise TrainedError(f"{path.name} is missing: put the file that was saved beside the recipe or its images there again, "
                               "or train once more")  # fmt: skip
        if path.stat().st_size > MAX_BYTES:
            raise TrainedError(f"{path.name} is larger than {MAX_BYTES // 2**30} GB and was not made here: choose another file")
        if sha256 is not None and hashlib.sha256(path.read_bytes()).hexdigest() != sha256:
            raise TrainedError(f"{path.name} is not the file of this recipe (its hash differs): use the one saved with the recipe")
        try:
            with safe_open(str(path), framework="pt") as file:
                told = bounded.parse((file.metadata() or {})[KEY])
                state = {name: file.get_tensor(name) for name in file.keys()}
            course = told["course"]
            course = Course(**{**course, "curve": tuple((int(step), float(loss)) for step, loss in course["curve"])})
            about, code = told.get("representation"), None
            if about is not None:
                code = Representation.of_tensors(about_of(json.dumps(about), path.name), {
                    name.removeprefix(CODE): t for name, t in state.items() if name.startswith(CODE)})  # fmt: skip
            lora = {name.removeprefix(LORA): t for name, t in state.items() if name.startswith(LORA)}
            return Trained(str(told["method"]), str(told["member"]), int(told["rank"]), lora, course, tuple(told["images"]),
                           code, told["notes"])  # fmt: skip
        except (SafetensorError, KeyError, TypeError, ValueError, RuntimeError) as error:
            raise TrainedError(f"{path.name} holds nothing that was trained here ({type(error).__name__}): choose the file saved with "
                               "the recipe") from None  # fmt: skip
