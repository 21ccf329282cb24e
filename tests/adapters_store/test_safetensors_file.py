"""Headers from strangers, and the tensors behind good ones."""

import json
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from motet_adapters import AdapterRefused, Limits
from motet_adapters.safetensors_file import SafetensorsFile
from safetensors.torch import load, save

F32 = {"dtype": "F32", "shape": [2, 2], "data_offsets": [0, 16]}


def written(path: Path, header: object, data: bytes = bytes(16), length: int | None = None) -> Path:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    count = len(text) if length is None else length
    path.write_bytes(count.to_bytes(8, "little") + text + data)
    return path


def test_tensors_come_back_as_saved(tmp_path: Path) -> None:
    tensors = {
        "a": torch.randn(3, 5),
        "b": torch.randn(7, 3).to(torch.bfloat16),
        "c": torch.randn(7).to(torch.float16),
    }
    path = tmp_path / "file"
    path.write_bytes(save(tensors, {"format": "pt"}))
    file = SafetensorsFile.open(path, Limits())
    assert set(file.tensors) == set(tensors)
    for name, tensor in tensors.items():
        assert torch.equal(file.read(name), tensor)
        assert file.read(name).dtype == tensor.dtype


@pytest.mark.parametrize(
    "header",
    [
        b"",
        b"{",
        b"[]",
        b'{"a": ' + json.dumps(F32).encode() + b', "a": ' + json.dumps(F32).encode() + b"}",
        {"a": []},
        {"a": {"dtype": "F32", "shape": [2, 2]}},
        {"a": {**F32, "extra": 1}},
        {"a": {**F32, "dtype": 3}},
        {"a": {**F32, "dtype": "F64"}},
        {"a": {**F32, "dtype": "I8", "shape": [16]}},
        {"a": {**F32, "dtype": "f32"}},
        {"a": {**F32, "shape": [4.0]}},
        {"a": {**F32, "shape": [True, 4]}},
        {"a": {**F32, "shape": [-2, -2]}},
        {"a": {**F32, "shape": [2, 3]}},
        {"a": {**F32, "shape": [2**40, 2**40]}},
        {"a": {**F32, "shape": []}},
        {"a": {**F32, "shape": [1, 1, 1, 2, 2]}},
        {"a": {**F32, "shape": [1] * 200}},
        {"a": {"dtype": "F32", "shape": [0, 2**40], "data_offsets": [0, 0]}},
        {"a": {**F32, "data_offsets": [0]}},
        {"a": {**F32, "data_offsets": [16, 0]}},
        {"a": {**F32, "data_offsets": [-16, 0]}},
        {"a": {**F32, "data_offsets": [1, 17]}},
        {"a": {**F32, "data_offsets": [16, 32]}},
        {"a": F32, "b": F32},
        {"a": {**F32, "shape": [2, 1], "data_offsets": [0, 8]}},
        {
            "a": {**F32, "shape": [2, 1], "data_offsets": [0, 8]},
            "b": {**F32, "shape": [1], "data_offsets": [12, 16]},
        },
        b'{"a": {"dtype": "F32", "shape": [NaN], "data_offsets": [0, 16]}}',
        {"__metadata__": {"a": "b"}},
        {f"tensor{index}": F32 for index in range(20_000)},
    ],
)
def test_bad_headers_are_refused(tmp_path: Path, header: object) -> None:
    with pytest.raises(AdapterRefused) as caught:
        SafetensorsFile.open(written(tmp_path / "file", header), Limits())
    assert len(caught.value.message) < 500


@pytest.mark.parametrize("length", [0, 7, 2**20 + 1, 2**31, 2**63, 2**64 - 1])
def test_a_header_length_that_lies_is_refused(tmp_path: Path, length: int) -> None:
    with pytest.raises(AdapterRefused):
        SafetensorsFile.open(written(tmp_path / "file", {"a": F32}, length=length), Limits())


@pytest.mark.parametrize(
    ("beginning", "named"),
    [
        (b"PK\x03\x04\x14\x00\x00\x00\x08\x08", "zip"),
        (b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j", "pickle"),
        (b"\x1f\x8b\x08\x08\xaa\xbb\xcc\xdd", "gzip"),
        (b"version https://git-lfs.github.com/spec/v1\n", "git lfs pull"),
        (b"<!DOCTYPE html><html>", "web page"),
        (b'{"peft_type": "LORA"}', "JSON"),
        (b"GGUF\x03\x00\x00\x00\x01", "GGUF"),
        (b"", "whole safetensors"),
        (b"\x00" * 7, "whole safetensors"),
        (bytes(range(256)), "whole safetensors"),
    ],
)
def test_other_formats_are_named_with_the_fix(tmp_path: Path, beginning: bytes, named: str) -> None:
    path = tmp_path / "file"
    path.write_bytes(beginning)
    with pytest.raises(AdapterRefused, match=named) as caught:
        SafetensorsFile.open(path, Limits())
    assert "save_pretrained" in caught.value.message


@settings(max_examples=400, deadline=None)
@given(position=st.integers(0, 10_000), byte=st.integers(0, 255), cut=st.integers(-3, 3))
def test_whatever_is_accepted_reads_as_in_safetensors(
    tmp_path_factory: pytest.TempPathFactory, position: int, byte: int, cut: int
) -> None:
    data = bytearray(save({"a": torch.arange(4.0), "b": torch.ones(2, 3)}, {"k": "v"}))
    data[position % len(data)] = byte
    data = data + bytes(cut) if cut > 0 else data[: len(data) + cut]
    path = tmp_path_factory.getbasetemp() / "mutated"
    path.write_bytes(data)
    try:
        file = SafetensorsFile.open(path, Limits())
    except AdapterRefused:
        return
    expected = load(bytes(data))
    assert set(file.tensors) == set(expected)
    for name, tensor in expected.items():
        assert torch.equal(file.read(name).view(torch.uint8), tensor.view(torch.uint8))
