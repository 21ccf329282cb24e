"""The base model's tokenizer and chat template."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Self

import jinja2
from transformers import PreTrainedTokenizerFast

from motet.engine.base.end_tokens import read_end_tokens
from motet.engine.base.safe_config import build_config, read_raw_config
from motet.engine.base.tokenizer_files import load_tokenizer
from motet.engine.incremental_decoder import IncrementalDecoder
from motet.errors import RequestRefused

_ANCHOR_TEXT = "a"


class Tokenizer:
    """Text to tokens and back. May be used from several threads at once."""

    def __init__(
        self, tokenizer: PreTrainedTokenizerFast, *, eos_ids: frozenset[int], vocab_size: int
    ) -> None:
        """vocab_size: how many tokens the model has embeddings for, which may be more or fewer
        than the tokenizer knows."""
        self._tokenizer = tokenizer
        self._backend = tokenizer.backend_tokenizer
        # A checkpoint's file may ask for either. Turned off once and for all, because switching
        # them per call, as transformers does, fails while another thread is encoding.
        self._backend.no_truncation()
        self._backend.no_padding()
        self._anchor = self._backend.encode(_ANCHOR_TEXT, add_special_tokens=False).ids[-1:]
        self.eos_ids = eos_ids
        self.vocab_size = vocab_size

    @classmethod
    def load(cls, directory: Path) -> Self:
        """The tokenizer of an opened base. Raises UnsupportedModel when it cannot be loaded."""
        tokenizer = load_tokenizer(directory)
        config = build_config(read_raw_config(directory)).get_text_config()
        eos_ids = set(read_end_tokens(directory))
        if tokenizer.eos_token_id is not None:
            eos_ids.add(tokenizer.eos_token_id)
        return cls(tokenizer, eos_ids=frozenset(eos_ids), vocab_size=config.vocab_size)

    @property
    def has_chat_template(self) -> bool:
        template = self._tokenizer.chat_template
        return "default" in template if isinstance(template, dict) else template is not None

    def encode(self, text: str, *, add_special_tokens: bool = True) -> list[int]:
        """The tokens of a text that is the whole prompt, so whoever wrote it may write control
        tokens into it. add_special_tokens: begin as the model was trained to (a BOS token).

        Raises RequestRefused for text that is not Unicode.
        """
        _refuse_surrogates(text)
        ids: list[int] = self._backend.encode(text, add_special_tokens=add_special_tokens).ids
        return self._known(ids)

    def apply_chat(self, messages: Sequence[Mapping[str, Any]]) -> list[int]:
        """The tokens of a conversation in the base's own chat template, ready to be answered.

        messages: plain data with "role" and "content", as the template expects them.

        The template runs in transformers' sandbox and sees only `messages`. Control tokens in the
        output are those the template wrote: text of a message that looks like one ("<|im_end|>")
        is encoded as ordinary text, so a message cannot close itself and speak as another role.
        That holds for the tokenizer's special tokens and for every added token that appears in
        the template. It does not hold for a control token that the template pieces together from
        a role: check roles before they get here.

        Raises RequestRefused when the base has no template, when the template refuses the messages
        or when a text cannot be encoded.
        """
        if not self.has_chat_template:
            raise RequestRefused(
                "The base model has no chat template. Use /v1/completions and write the whole "
                "prompt yourself.",
                "no_chat_template",
                "messages",
            )
        _refuse_surrogates(json.dumps(messages, ensure_ascii=False))
        try:
            ids: list[int] = self._tokenizer.apply_chat_template(
                [dict(message) for message in messages],
                add_generation_prompt=True,
                tokenize=True,
                return_dict=False,
                sanitize_control_tokens=True,
            )
        except (jinja2.TemplateError, ValueError, TypeError) as error:
            raise RequestRefused(
                f"The base model's chat template does not take these messages: {error}",
                "bad_messages",
                "messages",
            ) from error
        return self._known(ids)

    def token_text(self, token_id: int) -> str:
        """What one token looks like in the middle of a text, special tokens by their name; "" for
        an id outside the vocabulary. Part of a character is shown as U+FFFD."""
        if not 0 <= token_id < self.vocab_size:
            return ""
        # On its own, a token may lose the space it begins with, so it is read after another.
        anchor = self._backend.decode(self._anchor, skip_special_tokens=False)
        text: str = self._backend.decode([*self._anchor, token_id], skip_special_tokens=False)
        if not text.startswith(anchor):
            text, anchor = self._backend.decode([token_id], skip_special_tokens=False), ""
        return text[len(anchor) :]

    def decoder(self, context: Sequence[int] = ()) -> IncrementalDecoder:
        """A decoder for one answer. context: the prompt's last tokens (see IncrementalDecoder)."""
        return IncrementalDecoder(self._backend, context)

    def _known(self, ids: list[int]) -> list[int]:
        if ids and max(ids) >= self.vocab_size:
            raise RequestRefused(
                "The text holds a token the model has no embedding for: "
                f"{self._backend.id_to_token(max(ids))!r}. Leave it out.",
                "unknown_token",
            )
        return ids


def _refuse_surrogates(text: str) -> None:
    """JSON can spell half of a surrogate pair, which is no character and has no bytes."""
    try:
        text.encode("utf-8")
    except UnicodeEncodeError as error:
        raise RequestRefused(
            f"The text holds half of a surrogate pair at position {error.start}, which is no "
            "Unicode character. Send whole characters.",
            "bad_text",
        ) from None
