"""Uploads to the Hugging Face hub, which are made where they are asked for alone."""

import pathlib
import re
from collections.abc import Callable

from mt_diffusion.errors import UserError
from mt_diffusion.files import writing


def sender(name: str) -> Callable[[pathlib.Path], None]:
    """What uploads a folder to USER/NAME.

    Raises UserError for another form of name, and where the package or a token is
    missing; nothing is sent yet.
    """
    if not re.fullmatch(r"[\w.-]+/[\w.-]+", name):
        raise UserError(f"--push={name} is no place on the hub; write USER/NAME.")
    try:
        import huggingface_hub
    except ImportError as error:
        raise UserError(
            f"--push={name} needs the package huggingface_hub, which is not here: "
            "`pip install huggingface_hub`, or leave --push out and upload the folder "
            "by other means."
        ) from error
    if not huggingface_hub.get_token():
        raise UserError(
            f"--push={name} needs a token, and there is none: `hf auth login`, or set "
            "HF_TOKEN to one that may write."
        )

    def send(folder: pathlib.Path) -> None:
        try:
            api = huggingface_hub.HfApi()
            api.create_repo(name, exist_ok=True)
            api.upload_folder(repo_id=name, folder_path=str(folder))
        except Exception as error:  # of its HTTP library, which changes with versions
            raise UserError(
                f"{folder} is written, but was not uploaded to {name} "
                f"({writing.reason(error)}). `hf upload {name} {folder}` tries again."
            ) from error
        print(f"uploaded {folder} to {name}")

    return send
