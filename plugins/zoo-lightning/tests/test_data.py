"""What can be trained on, and what is said of the rest."""

from __future__ import annotations

import pytest
from PIL import Image
from zoo_lightning import read_data

from zoo_core.errors import UsageError


def test_a_folder_of_class_folders_is_split_class_by_class_and_reproducibly(digits):
    data = read_data(digits, val=0.25)
    assert data.class_names == ("0", "1", "2")
    assert data.counts() == {"0": 6, "1": 6, "2": 6}
    assert len(data.val) == 6
    assert data == read_data(digits, val=0.25)


def test_a_split_of_the_datas_own_is_kept(digits, tmp_path):
    (tmp_path / "own").mkdir()
    (tmp_path / "digits").rename(tmp_path / "own" / "train")
    (tmp_path / "own" / "val" / "0").mkdir(parents=True)
    Image.new("L", (8, 8)).save(tmp_path / "own" / "val" / "0" / "a.png")
    data = read_data(tmp_path / "own")
    assert len(data.train) == 24
    assert [sample.name for sample in data.val] == ["val/0/a.png"]


def test_a_corrupt_file_and_an_empty_folder_are_left_out_and_named(digits):
    (digits / "1" / "broken.png").write_bytes((digits / "1" / "000.png").read_bytes()[:60])
    (digits / "empty").mkdir()
    data = read_data(digits)
    assert len(data.class_names) == 3
    assert "empty has no images" in data.notes[0]
    assert "broken.png cannot be read" in data.notes[1]


def test_a_csv_with_several_labels_is_multi_label(digits):
    table = digits / "labels.csv"
    table.write_text(
        "path,label\n0/000.png,round;zero\n1/000.png,one\n1/001.png,\n2/000.png,one;round\n0/001.png,zero\n"
    )
    data = read_data(table)
    assert data.multi_label
    assert data.class_names == ("one", "round", "zero")
    assert any(sample.labels == () for sample in (*data.train, *data.val))


def test_a_csv_says_the_split(digits):
    table = digits / "labels.csv"
    table.write_text("file,class,split\n0/000.png,a,train\n1/000.png,b,train\n2/000.png,a,val\n")
    assert [sample.name for sample in read_data(table).val] == ["2/000.png"]


@pytest.mark.parametrize(
    ("text", "message"),
    [("a,b\n1,2\n", "does not say which image"), ("path,label\n0/000.png,a\n", "images of 1 classes")],
)
def test_a_csv_that_cannot_be_used_is_refused_in_words(digits, text, message):
    (digits / "labels.csv").write_text(text)
    with pytest.raises(UsageError, match=message):
        read_data(digits / "labels.csv")


def test_a_class_without_a_readable_image_is_refused_with_the_cause(digits):
    for file in (digits / "2").iterdir():
        file.write_bytes(b"no image")
    with pytest.raises(UsageError, match=r"no image to train on is left of 2[\s\S]*cannot be read"):
        read_data(digits)
