"""Tags to the text encoder's token ids, with the tokenizer of the checkpoint's `umt5-base` folder."""

from pathlib import Path

from transformers import AutoTokenizer

from acestep_rpc.errors import InvalidRequest
from encoder_svc.weights import TEXT_FOLDER, CheckpointError

MAX_PROMPT_TOKENS = 256
MAX_PROMPT_CHARACTERS = 1 << 14
"""Sixty-four a token: longer tags are refused before work is spent on them."""


class TextTokenizer:
    """The tokenizer of one checkpoint.

    Args:
        checkpoint: Folder in the official layout; nothing is fetched.
        vocab_size: Rows of the text encoder's embedding.
    Raises:
        CheckpointError: The files are unreadable, do not end a prompt with one end token, or have ids without an embedding.
    """

    def __init__(self, checkpoint: Path, vocab_size: int) -> None:
        folder = checkpoint / TEXT_FOLDER
        try:
            self._tokenizer = AutoTokenizer.from_pretrained(str(folder), local_files_only=True)
        except (OSError, ValueError, KeyError, ImportError) as error:
            raise CheckpointError(f"the tokenizer of {folder} cannot be read: {error}") from error
        if self.encode("") != [self._tokenizer.eos_token_id]:
            raise CheckpointError(f"the tokenizer of {folder} does not turn an empty prompt into the end token alone")
        if len(self._tokenizer) > vocab_size:
            raise CheckpointError(f"the tokenizer of {folder} has {len(self._tokenizer)} ids, the text encoder {vocab_size}")

    def encode(self, tags: str, field: str = "prompt.tags") -> list[int]:
        """Token ids of one prompt, end token included, without padding.

        Args:
            tags: Text.
            field: Whose text it is, for the error.
        Raises:
            InvalidRequest: Too many tokens or characters.
        """
        if len(tags) > MAX_PROMPT_CHARACTERS:
            raise InvalidRequest(field, f"{len(tags)} characters", f"at most {MAX_PROMPT_CHARACTERS} characters")
        ids: list[int] = self._tokenizer(tags, truncation=False, verbose=False)["input_ids"]
        if len(ids) > MAX_PROMPT_TOKENS:
            raise InvalidRequest(field, f"{len(ids)} tokens", f"at most {MAX_PROMPT_TOKENS} tokens, end token included")
        return ids

    def encode_beginning(self, tags: str) -> list[int]:
        """Token ids of as much of a prompt as fits into `MAX_PROMPT_TOKENS`, end token included: what training does with long captions."""
        ids: list[int] = self._tokenizer(tags, truncation=True, max_length=MAX_PROMPT_TOKENS)["input_ids"]
        return ids
