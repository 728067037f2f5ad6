"""PIE-Bench and ImageNet-R-TI2I as they are published: entries, areas, and one refusal for each way to be damaged."""

from __future__ import annotations

import numpy as np
import pytest
from benchmark_files import PROMPTS, SIDE, read_table, save_pie_bench, save_ti2i, write_table
from PIL import Image

from taba_core.errors import UsageError
from taba_core.images.benchmarks import open_benchmark, table_of
from taba_core.images.collection import open_images, open_images_at
from taba_core.models.prompts import load_prompts


@pytest.fixture
def pie(tmp_path):
    return save_pie_bench(tmp_path / "PIE-Bench_v1")


def test_entries_stand_in_the_order_of_the_table_without_brackets(pie):
    benchmark = open_benchmark(pie)
    assert benchmark.title == "PIE-Bench" and benchmark.table == pie / "mapping_file.json"
    assert [case.source for case in benchmark.cases] == [source for source, _ in PROMPTS]
    assert [case.target for case in benchmark.cases][:3] == [
        "a blue boat",
        "the white horse",
        "a red cat on the boat",
    ]
    assert [case.kind for case in benchmark.cases] == ["0", "1", "0", "1", "0"]
    images = open_images(pie)
    assert images.captions == tuple(source for source, _ in PROMPTS)
    assert images.files == tuple(case.file for case in benchmark.cases)
    assert open_images_at(pie).fingerprint() == images.fingerprint()
    assert load_prompts(pie / "mapping_file.json").prompts == tuple(case.target for case in benchmark.cases)


def test_an_area_is_its_runs_over_rows_and_the_border(pie):
    first, everything, square = (case.mask() for case in open_benchmark(pie).cases[:3])
    border = np.zeros((SIDE, SIDE), bool)
    border[[0, -1]] = border[:, [0, -1]] = True
    expected = border.copy()
    expected[1] = True
    assert np.array_equal(first, expected) and everything.all()
    inner = border.copy()
    inner[4:10, 4:10] = True
    assert np.array_equal(square, inner)


def test_a_run_beyond_the_last_pixel_ends_there(pie):
    table = read_table(pie)
    table["000000000000"]["mask"] = [SIDE * SIDE - 20, 1000]
    write_table(pie, table)
    mask = open_benchmark(pie).cases[0].mask().ravel()
    assert mask[-20:].all() and not mask[SIDE + 1 : 2 * SIDE - 1].any()


def test_the_fingerprint_is_of_prompts_and_areas(pie):
    before = open_benchmark(pie).fingerprint
    table = read_table(pie)
    table["000000000000"]["mask"] = [0, 3]
    write_table(pie, table)
    assert open_benchmark(pie).fingerprint != before


def test_every_target_of_an_image_is_an_edit(tmp_path):
    folder = save_ti2i(tmp_path / "imnetr")
    benchmark = open_benchmark(folder)
    assert benchmark.title == "ImageNet-R-TI2I" and "1 entries name no image" in benchmark.skipped
    assert [case.target for case in benchmark.cases] == [
        "a photo of a cat", "an origami cat", "a photo of a castle", "an origami castle",
    ]  # fmt: skip
    assert [case.source for case in benchmark.cases] == ["", "", "the castle", "the castle"]
    assert benchmark.cases[0].file == folder / "Real" / "Cat" / "one.jpg"
    assert benchmark.cases[0].mask().all() and benchmark.cases[0].mask().shape == (20, 24)
    images = open_images(folder)
    assert len(images.files) == 4 and images.skipped == benchmark.skipped
    assert np.array_equal(*images.squares(0, 2, 8))


def refusal(place):
    with pytest.raises(UsageError) as error:
        open_benchmark(place)
    return str(error.value)


def test_a_folder_without_a_table(tmp_path, pie):
    assert "holds neither mapping_file.json (PIE-Bench) nor imnetr-ti2i.yaml" in refusal(tmp_path)
    assert table_of(tmp_path) is None and table_of(pie) == pie / "mapping_file.json"
    assert open_benchmark(pie).cases


def test_an_entry_whose_image_is_not_there(pie):
    file = open_benchmark(pie).cases[3].file
    kept = file.read_bytes()
    file.unlink()
    table = read_table(pie)
    write_table(pie, table)
    assert "entry '000000000003': its image" in (message := refusal(pie)) and str(file) in message
    del table["000000000003"]
    write_table(pie, table)
    assert len(open_benchmark(pie).cases) == 4
    file.write_bytes(kept)


def test_an_image_without_an_entry(pie):
    table = read_table(pie)
    entry = table.pop("000000000003")
    write_table(pie, table)
    assert "1 image has no entry, the first is" in refusal(pie)
    table["again"] = entry
    write_table(pie, table)
    assert len(open_benchmark(pie).cases) == 5
    extra = pie / "annotation_images" / "extra.png"
    Image.new("RGB", (4, 4)).save(extra)
    table["one more"] = entry
    write_table(pie, table)
    assert "extra.png" in refusal(pie)


def test_a_mask_of_another_size(pie):
    case = open_benchmark(pie).cases[2]
    kept = case.file.read_bytes()
    Image.new("RGB", (8, 8)).save(case.file)
    with pytest.raises(UsageError, match="the mask of '000000000002' is of another size than its image"):
        case.mask()
    case.file.write_bytes(kept)
    assert case.mask().shape == (SIDE, SIDE)


def test_damaged_tables(pie):
    table = read_table(pie)
    for damage, said in (
        (lambda entry: entry.pop("editing_prompt"), "'editing_prompt' is missing or no text"),
        (lambda entry: entry.update(editing_prompt="[ ]"), "its target is empty"),
        (lambda entry: entry.update(mask="none"), "'mask' is no list of whole numbers"),
    ):
        damaged = {name: dict(entry) for name, entry in table.items()}
        damage(damaged["000000000001"])
        write_table(pie, damaged)
        assert said in (message := refusal(pie)) and "entry '000000000001'" in message
    (pie / "mapping_file.json").write_text("{")
    assert "cannot be read (JSONDecodeError)" in refusal(pie)
    (pie / "mapping_file.json").write_text("[]")
    assert "holds no entries by name" in refusal(pie)
    (pie / "mapping_file.json").unlink()
    (pie / "imnetr-ti2i.yaml").write_text("a: b")
    assert "holds no list of entries" in refusal(pie)
    (pie / "imnetr-ti2i.yaml").write_text("- {target_prompts: [a]}")
    assert "holds no entry with an image and a target" in refusal(pie)
