"""Tokens to text, one at a time, whatever the tokens are."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from motet.engine.incremental_decoder import IncrementalDecoder
from motet.engine.tokenizer import Tokenizer
from tokenizers import Tokenizer as BackendTokenizer
from tokenizers import decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from tests.support.tiny_models import VOCAB_SIZE
from tests.support.tiny_tokenizer import tiny_tokenizer

END_OF_TURN = 2
TEXT = "Several voices: die Stimmen, les voix, 声音, 🎶🎵!"


def _wrap(tokenizer: PreTrainedTokenizerFast) -> Tokenizer:
    return Tokenizer(tokenizer, eos_ids=frozenset({END_OF_TURN}), vocab_size=VOCAB_SIZE)


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return _wrap(tiny_tokenizer())


def _decode_all(decoder: IncrementalDecoder, ids: list[int]) -> str:
    return "".join(decoder.push(token) for token in ids) + decoder.flush()


def _byte_fallback() -> Tokenizer:
    """Words with a marked space before them, bytes for all else, as sentencepiece models have."""
    words = ["▁voice", "▁sings", "s", "."]
    vocabulary = {
        token: number
        for number, token in enumerate(["<unk>", *(f"<0x{b:02X}>" for b in range(256)), *words])
    }
    backend = BackendTokenizer(
        models.BPE(vocabulary, [], unk_token="<unk>", byte_fallback=True, fuse_unk=True)
    )
    backend.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="first", split=False)
    backend.decoder = decoders.Sequence(
        [
            decoders.Replace("▁", " "),
            decoders.ByteFallback(),
            decoders.Fuse(),
            decoders.Strip(" ", 1, 0),
        ]
    )
    return _wrap(PreTrainedTokenizerFast(tokenizer_object=backend))


VOICE, SINGS = 257, 258


def test_characters_are_given_out_whole(tokenizer: Tokenizer) -> None:
    decoder = tokenizer.decoder()
    pieces = [decoder.push(token) for token in tokenizer.encode(TEXT)]

    assert "".join(pieces) == TEXT
    assert not any("�" in piece for piece in pieces)
    assert "🎶" in pieces
    assert decoder.flush() == ""


@settings(deadline=None)
@given(st.text())
def test_any_text_comes_back(text: str) -> None:
    tokenizer = _wrap(tiny_tokenizer())
    ids = tokenizer.encode(text)

    expected = tiny_tokenizer().backend_tokenizer.decode(ids)
    assert _decode_all(tokenizer.decoder(), ids) == expected


@settings(deadline=None)
@given(st.text())
def test_any_text_comes_back_through_byte_tokens(text: str) -> None:
    tokenizer = _byte_fallback()
    ids = [1 + byte for byte in text.encode()]

    assert _decode_all(tokenizer.decoder([VOICE]), ids) == text


ANY_IDS = st.lists(
    st.integers(0, VOCAB_SIZE + 20) | st.integers(-(2**70), 2**70) | st.sampled_from([131, 229, 2])
)


@settings(deadline=None)
@given(ANY_IDS)
def test_no_sequence_of_tokens_is_too_strange(ids: list[int]) -> None:
    tokenizer = _wrap(tiny_tokenizer())
    decodable = [token for token in ids if 0 <= token < 2**32]

    expected = tiny_tokenizer().backend_tokenizer.decode(decodable)
    assert _decode_all(tokenizer.decoder(), ids) == expected


@settings(deadline=None)
@given(ANY_IDS)
def test_no_sequence_of_byte_tokens_is_too_strange(ids: list[int]) -> None:
    decoder = _byte_fallback().decoder()
    for token in ids:
        assert isinstance(decoder.push(token), str)
    assert isinstance(decoder.flush(), str)
    assert decoder.flush() == ""


@pytest.mark.parametrize("byte", [0x80, 0xE5, 0xFF])
def test_endless_bytes_of_no_character_are_given_out_too(tokenizer: Tokenizer, byte: int) -> None:
    token = next(i for i in range(VOCAB_SIZE) if tokenizer.token_text(i) == "�")
    for case, repeated in ((tokenizer, token), (_byte_fallback(), 1 + byte)):
        decoder = case.decoder()
        text = "".join(decoder.push(repeated) for _ in range(1000))
        assert set(text) == {"�"}
        assert 900 <= len(text) <= 1000
        assert len(decoder._window) <= 2 * 64


def test_an_unfinished_character_is_given_out_at_the_end(tokenizer: Tokenizer) -> None:
    first, *_ = tokenizer.encode("声")
    decoder = tokenizer.decoder()

    assert decoder.push(first) == ""
    assert decoder.flush() == "�"
    assert decoder.flush() == ""


def test_special_tokens_have_no_text(tokenizer: Tokenizer) -> None:
    ids = tokenizer.encode("one<|im_end|> voice<|endoftext|>")

    assert _decode_all(tokenizer.decoder(), ids) == "one voice"


def test_a_text_that_goes_on_after_a_prompt_begins_with_its_space() -> None:
    tokenizer = _byte_fallback()

    assert _decode_all(tokenizer.decoder(), [VOICE, SINGS]) == "voice sings"
    assert _decode_all(tokenizer.decoder([VOICE]), [SINGS, SINGS]) == " sings sings"


def test_a_token_is_shown_as_in_the_middle_of_a_text(tokenizer: Tokenizer) -> None:
    assert _byte_fallback().token_text(SINGS) == " sings"
    assert tokenizer.token_text(END_OF_TURN) == "<|im_end|>"
    assert tokenizer.token_text(tokenizer.encode("声")[0]) == "�"
    for outside in (-1, VOCAB_SIZE - 1, VOCAB_SIZE, 2**70):
        assert tokenizer.token_text(outside) == ""
