"""Products with weights by the kernel that won a measurement."""

import json
import time

import pytest
import torch

from ivideogpt_hf.decoding import products

SHAPE = (512, 520)  # large enough that kernels are timed


@pytest.fixture(autouse=True)
def folder(monkeypatch, tmp_path):
    """What a process on a new machine begins with: an empty cache on disk, and none in memory."""
    monkeypatch.setattr(products, "cache_folder", lambda: tmp_path)
    monkeypatch.setattr(products, "_chosen", {})
    monkeypatch.delenv(products.KERNELS_VARIABLE, raising=False)
    products._is_measured.cache_clear()
    yield tmp_path
    products._is_measured.cache_clear()


def refuse(*_args):
    raise AssertionError("nothing is to be measured here")


def files(folder):
    return sorted(folder.rglob("*.json"))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("name", products.KERNELS)
def test_all_kernels_compute_the_same(name, dtype):
    if name in ("onednn", "packed") and not torch.backends.mkldnn.is_available():
        pytest.skip("this torch has no oneDNN")
    if name in ("onednn", "packed") and dtype != torch.float32 and not products.has_fast_products(dtype):
        pytest.skip("this processor has no instructions for it, and the kernel is never taken")
    x, weight = torch.randn(3, 520), torch.randn(SHAPE).to(dtype)
    computed = products.KERNELS[name](x, weight)
    assert computed.dtype == torch.float32
    # half precision has eight bits, of x as well
    torch.testing.assert_close(computed, x @ weight.float().t(), rtol=0, atol=1e-4 if dtype == torch.float32 else 0.5)


@pytest.mark.parametrize("num_rows", [3, 40])
def test_the_fastest_kernel_wins(monkeypatch, num_rows):
    def slow(x, weight):
        time.sleep(0.02)
        return products._rows(x, weight)

    monkeypatch.setattr(products, "KERNELS", {"columns": slow, "onednn": slow, "rows": products._rows})
    assert products.measure(num_rows, torch.randn(SHAPE)) == "rows"


def test_a_kernel_that_is_missing_here_does_not_take_part(monkeypatch):
    def missing(_x, _weight):
        raise AttributeError("no such operator")

    kernels = {"rows": missing, "onednn": missing, "columns": products._columns}
    monkeypatch.setattr(products, "KERNELS", kernels)
    assert products.measure(3, torch.randn(SHAPE)) == "columns"


def test_another_process_takes_what_was_measured(folder, monkeypatch):
    weight = torch.randn(SHAPE)
    first = products.fastest_kernel(3, weight)
    assert [json.loads(file.read_text())["kernel"] for file in files(folder)] == [first]
    monkeypatch.setattr(products, "_chosen", {})
    monkeypatch.setattr(products, "measure", refuse)
    assert products.fastest_kernel(3, weight) == first


@pytest.mark.parametrize("other", ["rows", "columns"])
def test_of_two_processes_that_measure_at_once_the_first_one_decides(folder, monkeypatch, other):
    """The other one writes while this one measures."""

    def measure(num_rows, weight):
        monkeypatch.setattr(products, "measure", lambda *_args: other)
        products._find(num_rows, weight)
        return "onednn"

    monkeypatch.setattr(products, "measure", measure)
    assert products.fastest_kernel(3, torch.randn(SHAPE)) == other
    assert len(files(folder)) == 1


@pytest.mark.parametrize("content", ["{", "[]", '{"kernel": 1}', '{"kernel": "magic"}', '{"kernel": "converted"}'])
def test_a_file_that_names_no_kernel_leaves_the_usual_one(folder, content):
    weight = torch.randn(SHAPE)
    products.fastest_kernel(3, weight)
    (file,) = files(folder)
    file.write_text(content)
    products._chosen.clear()
    assert products.fastest_kernel(3, weight) == "columns"


def test_nothing_needs_the_disk(folder, monkeypatch):
    monkeypatch.setattr(products, "cache_folder", lambda: folder / "file")
    (folder / "file").touch()
    monkeypatch.setattr(products, "measure", lambda *_args: "rows")
    assert products.fastest_kernel(3, torch.randn(SHAPE)) == "rows"


def test_small_weights_are_not_measured(monkeypatch):
    monkeypatch.setattr(products, "measure", refuse)
    assert products.fastest_kernel(3, torch.randn(64, 64)) == "columns"


def test_small_weights_are_measured_with_many_rows(folder):
    products.fastest_kernel(32, torch.randn(256, 256))
    (file,) = files(folder)
    assert json.loads(file.read_text())["product"].startswith("32 rows, 256 x 256")


def test_products_of_many_rows_are_no_columns(folder, monkeypatch):
    """torch's attention to columns in float32 goes without its fast kernel."""
    monkeypatch.setattr(products, "_columns", refuse)
    monkeypatch.setitem(products.KERNELS, "columns", refuse)
    for shape in ((8, 8), SHAPE):
        assert products.project(torch.randn(600, shape[1]), torch.randn(shape)).stride(-1) == 1


def test_half_precision_is_not_measured_without_instructions_for_it(monkeypatch):
    monkeypatch.setattr(products, "measure", refuse)
    monkeypatch.setattr(products, "has_fast_products", lambda dtype: False)
    weight = torch.randn(SHAPE).bfloat16()
    assert [products.fastest_kernel(num_rows, weight) for num_rows in (3, 12)] == ["rows", "converted"]


def test_many_rows_share_a_measurement(folder):
    for num_rows in (65, 100, 128, 129, 500, 5000):
        products.fastest_kernel(num_rows, torch.randn(SHAPE))
    measured = sorted(json.loads(file.read_text())["product"].split(" rows")[0] for file in files(folder))
    assert measured == ["128", "512"]


def test_measuring_heeds_no_default_of_the_users(folder):
    with torch.device("meta"):
        assert products.measure(3, torch.randn(SHAPE, device="cpu")) in products.MEASURED


def test_the_usual_kernels_can_be_asked_for(monkeypatch):
    monkeypatch.setenv("IVIDEOGPT_KERNELS", "usual")
    monkeypatch.setattr(products, "measure", refuse)
    assert products.fastest_kernel(3, torch.randn(SHAPE)) == "columns"


def test_an_unknown_choice_is_refused(monkeypatch):
    monkeypatch.setenv("IVIDEOGPT_KERNELS", "fastest")
    with pytest.raises(ValueError, match="IVIDEOGPT_KERNELS must be one of measured, usual, got fastest"):
        products.fastest_kernel(3, torch.randn(SHAPE))
