"""Images: layout, views, the file, the host cache."""

from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from motet_adapters.dora import dora_gain
from motet_adapters.families import PartSpec, SitePlan
from motet_adapters.host_cache import HostCache
from motet_adapters.image import ALIGNMENT, Image, Layout
from motet_adapters.image_file import ImageDamaged, read_image, write_image

from tests.support.images import random_image

FINGERPRINT = "f" * 64


@settings(max_examples=100, deadline=None)
@given(
    shapes=st.lists(
        st.dictionaries(
            st.sampled_from(["a", "bt", "gain", "core_columns"]),
            st.lists(st.integers(0, 20), min_size=1, max_size=3),
        ),
        max_size=6,
    ),
    dtype=st.sampled_from([torch.float32, torch.bfloat16, torch.float16]),
)
def test_tensors_of_a_layout_are_aligned_and_do_not_overlap(
    shapes: list[dict[str, list[int]]], dtype: torch.dtype
) -> None:
    sites = [
        SitePlan(
            f"module{index}",
            {},
            {
                name: PartSpec(tuple(shape), torch.int32 if name == "core_columns" else None)
                for name, shape in parts.items()
            },
            lambda _read: {},
        )
        for index, parts in enumerate(shapes)
    ]
    layout = Layout.of(sites, dtype)
    image = Image("d", dtype, torch.zeros(layout.num_bytes, dtype=torch.uint8), layout.entries)
    views = image.views(image.buffer)
    count = 0
    for site in sites:
        assert views[site.path].tensors.keys() == site.parts.keys()
        for name, view in views[site.path].tensors.items():
            assert view.shape == site.parts[name].shape
            assert view.dtype == (torch.int32 if name == "core_columns" else dtype)
            assert not view.any()
            if view.numel():
                assert (view.data_ptr() - image.buffer.data_ptr()) % ALIGNMENT == 0
            view.fill_(1)  # seen as "not view.any()" failing if any other view overlaps
            count += view.nbytes
    assert image.num_bytes % ALIGNMENT == 0
    assert count <= image.num_bytes < count + ALIGNMENT * 4 * len(sites) + 1


def test_parts_of_a_shared_basis_are_not_in_the_buffer(tmp_path: Path) -> None:
    basis = ("b" * 64, "layers.0.q_proj.a")
    site = SitePlan(
        "layers.0.q_proj", {}, {"gain": PartSpec((8,))}, lambda _read: {}, bases={"a": basis}
    )
    layout = Layout.of([site], torch.float32)
    buffer = torch.zeros(layout.num_bytes, dtype=torch.uint8)
    image = Image("d", torch.float32, buffer, layout.entries)
    assert image.num_bytes == ALIGNMENT
    assert image.bases == {basis[0]}
    with pytest.raises(KeyError):
        image.views(image.buffer)
    shared = torch.ones(2, 8)
    write_image(tmp_path / "image", image, FINGERPRINT)
    again = read(tmp_path / "image", image)
    assert again.entries == image.entries
    views = again.views(again.buffer, {basis: shared}.__getitem__)
    assert views["layers.0.q_proj"].tensors["a"] is shared


def test_a_file_of_the_older_format_is_not_used(tmp_path: Path) -> None:
    path = tmp_path / "image"
    write_image(path, random_image("a"), FINGERPRINT)
    path.write_bytes(b"MOTETIM1" + path.read_bytes()[8:])
    with pytest.raises(ImageDamaged, match="not an image"):
        read(path, random_image("a"))


def test_views_want_a_flat_byte_buffer() -> None:
    image = random_image("a")
    with pytest.raises(ValueError, match="uint8"):
        image.views(image.buffer.view(torch.float32))


def read(path: Path, image: Image) -> Image:
    return read_image(
        path,
        digest=image.digest,
        fingerprint=FINGERPRINT,
        dtype=image.dtype,
        pin_memory=False,
    )


def test_a_file_brings_the_image_back(tmp_path: Path) -> None:
    image = random_image("a", gain=True)
    write_image(tmp_path / "image", image, FINGERPRINT)
    again = read(tmp_path / "image", image)
    assert again.entries == image.entries
    assert torch.equal(again.buffer, image.buffer)


def test_a_file_for_something_else_is_not_used(tmp_path: Path) -> None:
    image = random_image("a")
    write_image(tmp_path / "image", image, "0" * 64)
    with pytest.raises(ImageDamaged, match="another base"):
        read(tmp_path / "image", image)
    write_image(tmp_path / "image", random_image("b"), FINGERPRINT)
    with pytest.raises(ImageDamaged, match="another base"):
        read(tmp_path / "image", image)
    other = Image(image.digest, torch.float16, image.buffer, image.entries)
    write_image(tmp_path / "image", other, FINGERPRINT)
    with pytest.raises(ImageDamaged, match="another base"):
        read(tmp_path / "image", image)


def test_every_flipped_bit_of_a_file_is_noticed(tmp_path: Path) -> None:
    image = random_image("a", rank=1, features=4)
    path = tmp_path / "image"
    write_image(path, image, FINGERPRINT)
    whole = path.read_bytes()
    for position in range(len(whole)):
        path.write_bytes(whole[:position] + bytes([whole[position] ^ 1]) + whole[position + 1 :])
        try:
            again = read(path, image)
        except ImageDamaged:
            continue
        # Only the few zeros between header and buffer are not covered, because nobody reads them.
        assert whole[position] == 0
        assert torch.equal(again.buffer, image.buffer)


def test_the_host_cache_keeps_to_its_budget() -> None:
    images = [random_image(name) for name in range(4)]
    size = images[0].num_bytes
    cache = HostCache(2 * size)
    for image in images[:2]:
        cache.put(image)
    assert cache.get(images[0].digest) is images[0]
    cache.put(images[2])
    assert cache.get(images[1].digest) is None
    assert cache.get(images[0].digest) is images[0]
    cache.put(images[0])
    assert cache.num_bytes == 2 * size
    cache.put(random_image("large", rank=16))
    assert cache.num_bytes == 2 * size
    cache.discard(images[0].digest)
    cache.discard("none")
    assert cache.num_bytes == size


@settings(max_examples=50, deadline=None)
@given(
    shape=st.tuples(st.integers(1, 40), st.integers(1, 40), st.integers(1, 8)),
    seed=st.integers(0, 1000),
    scale=st.sampled_from([0.0, 1e-3, 1.0, 30.0]),
)
def test_the_factored_norm_is_the_norm(
    shape: tuple[int, int, int], seed: int, scale: float
) -> None:
    out_features, in_features, rank = shape
    random = torch.Generator().manual_seed(seed)
    weight = torch.randn(out_features, in_features, generator=random)
    a = torch.randn(rank, in_features, generator=random)
    b = torch.randn(out_features, rank, generator=random) * scale
    magnitude = torch.randn(out_features, generator=random)
    direct = (weight.double() + b.double() @ a.double()).norm(dim=1)
    # Where W and B A nearly cancel, both the norm and its meaning are lost in float32.
    keep = direct > 1e-2 * weight.norm(dim=1)
    gain = dora_gain(weight, a, b, magnitude)
    assert gain.dtype == torch.float32
    expected = magnitude.double() / direct
    assert torch.allclose(gain.double()[keep], expected[keep], rtol=1e-3 if scale > 1 else 1e-4)
