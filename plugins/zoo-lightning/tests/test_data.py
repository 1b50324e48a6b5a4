"""What can be trained on, and what is said of the rest."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image
from zoo_lightning import read_data
from zoo_lightning.data import Sample

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
    assert "broken.png was left out: it cannot be read" in data.notes[1]


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
    table.write_text("file,class,split\n0/000.png,a,train\n1/000.png,b,\n2/000.png,a,val\n")
    data = read_data(table)
    assert [sample.name for sample in data.val] == ["2/000.png"]
    assert "rows without a split, which are trained on: 1" in data.notes


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a,b\n1,2\n", "does not say which image"),
        ("path,label\n0/000.png,a\n", "images of 1 class"),
        ("path,label\ndata/0.png,a\ndata/1.png,b\n", "names 2 images, and none of them is there"),
    ],
)
def test_a_csv_that_cannot_be_used_is_refused_in_words(digits, text, message):
    (digits / "labels.csv").write_text(text)
    with pytest.raises(UsageError, match=message):
        read_data(digits / "labels.csv")


@pytest.mark.parametrize("spelling", ["./0/000.png", "0//000.png", "{folder}/0/000.png"])
def test_an_image_of_a_csv_is_one_image_however_its_path_is_written(digits, spelling):
    rows = ["0/000.png,a", "0/001.png,a", "1/000.png,b", "1/001.png,b", spelling.format(folder=digits) + ",a"]
    (digits / "labels.csv").write_text("path,label\n" + "\n".join(rows))
    assert read_data(digits / "labels.csv").notes == ("1 repeated row was left out",)


def test_a_class_may_have_commas_in_its_name(digits):
    rows = [
        '0/000.png, "crane, a bird"',
        '0/001.png, "crane, a bird"',
        '1/000.png, "crane, a machine"',
        "1/001.png,crane",
    ]
    (digits / "labels.csv").write_text("path, label, is_valid\n" + "\n".join(rows))
    data = read_data(digits / "labels.csv")
    assert data.class_names == ("crane", "crane, a bird", "crane, a machine")
    assert "columns that are not used: is_valid" in data.notes


def test_names_of_classes_that_look_alike_are_noted(write_digits, tmp_path):
    write_digits(tmp_path / "digits")
    (tmp_path / "digits" / "0").rename(tmp_path / "digits" / "Cat")
    (tmp_path / "digits" / "1").rename(tmp_path / "digits" / "cat")
    (note,) = read_data(tmp_path / "digits").notes
    assert note == "classes whose names look alike, and that are classes of their own: Cat, cat"


@pytest.mark.parametrize(
    "text", ["path;label\n{rows}", "path\tlabel\n{rows}", "path,label\n{rows}", "\ufeffpath,label\r\n{rows}"]
)
def test_a_csv_of_a_spreadsheet_or_of_windows_is_read(digits, text):
    separator = next(each for each in ",;\t" if each in text)
    rows = [f"{digit}\\00{number}.png{separator}{digit};" for digit in (0, 1) for number in range(3)]
    (digits / "labels.csv").write_text(text.format(rows="\n".join(rows)), encoding="utf-8")
    data = read_data(digits / "labels.csv")
    assert (data.class_names, data.multi_label, data.notes) == (("0", "1"), False, ())
    assert sum(data.counts().values()) == 4


def test_copies_of_an_image_in_two_classes_or_in_both_splits_are_named(write_digits, tmp_path):
    for side in ("train", "val"):
        write_digits(tmp_path / "data" / side, 2, each=2, start=2 * (side == "val"))
    image = (tmp_path / "data" / "train" / "0" / "000.png").read_bytes()
    for copy in ("train/1/copy.png", "val/0/copy.png"):
        (tmp_path / "data" / copy).write_bytes(image)
    assert read_data(tmp_path / "data").notes == (
        "images that are copies of one with another label: 1 (train/1/copy.png)",
        "validation images that are trained on too, so that the score is too high: 1 (val/0/copy.png)",
    )
    assert read_data(tmp_path / "data", check=False).notes == ()


def test_images_without_a_label_are_named_where_others_have_several(digits):
    table = digits / "labels.csv"
    table.write_text("path,label\n0/000.png,a;b\n0/001.png,\n1/000.png,a\n1/001.png,b\n1/002.png,a;b\n")
    assert "images without a label, which teach that no label applies: 1 (0/001.png)" in read_data(table).notes


def test_labels_are_the_same_in_any_order(digits):
    (digits / "copy.png").write_bytes((digits / "0" / "000.png").read_bytes())
    rows = ["0/000.png,a;b", "copy.png,b;a", "1/000.png,b", "1/001.png,a", "0/000.png,b;a"]
    (digits / "labels.csv").write_text(
        "path,label,split\n" + "\n".join(f"{row},train" for row in rows) + "\n2/000.png,a,val"
    )
    assert read_data(digits / "labels.csv").notes == (
        "1 repeated row was left out",
        "no validation image has the label b: the score does not cover it",
    )


def test_images_of_one_size_that_begin_alike_are_no_copies(tmp_path):
    for name, value in (("dark", 0), ("light", 9)):
        (tmp_path / name).mkdir()
        for number in range(2):
            pixels = np.zeros((200, 200, 3), np.uint8)
            pixels[0, 0] = value + number  # rows of a BMP are upside down: its last bytes
            Image.fromarray(pixels).save(tmp_path / name / f"{number}.bmp")
    assert read_data(tmp_path).notes == ()


def test_no_image_is_read_wholly_that_begins_as_no_other(tmp_path, monkeypatch):
    for name in "ab":
        (tmp_path / name).mkdir()
        for number in range(2):
            Image.new("L", (8, 8), ord(name) + number * 8).save(tmp_path / name / f"{number}.bmp")
    monkeypatch.setattr(Sample, "digest", lambda sample: pytest.fail(f"{sample.name} is read wholly"))
    assert read_data(tmp_path).notes == ()


def test_a_file_that_cannot_be_read_is_no_copy(tmp_path):
    folder = Sample(tmp_path, (), "folder")
    assert (folder.digest(), folder.start()) == ("", "")
    assert Sample(tmp_path / ("x" * 300), (), "long").num_bytes() == 0


@pytest.mark.parametrize("check", [True, False])
def test_a_path_that_is_too_long_is_a_file_that_is_not_there(digits, check):
    rows = [f"{digit}/00{number}.png,{digit}" for digit in (0, 1) for number in range(3)]
    long = "x" * 300
    (digits / "labels.csv").write_text("path,label\n" + "\n".join([*rows, f"a\\{long},1"]))
    notes = read_data(digits / "labels.csv", check=check).notes
    assert [note.startswith(f"a/{long} was left out: it cannot be read") for note in notes] == [True] * check


def test_a_class_may_be_in_brackets(digits):
    (digits / "labels.csv").write_text("path,label\n0/000.png,a\n0/001.png,a\n1/000.png,[unknown]\n1/001.png,[unknown]")
    assert read_data(digits / "labels.csv").class_names == ("[unknown]", "a")


def test_a_link_to_a_folder_inside_a_class_is_named(digits):
    (digits / "0" / "more").symlink_to(digits / "1")
    assert read_data(digits).notes == ("files in 0 that are no images by their names: 1 (more)",)


def test_a_class_that_only_the_validation_split_has_is_refused_with_the_cause(write_digits, tmp_path):
    write_digits(tmp_path / "data" / "train", 2)
    write_digits(tmp_path / "data" / "val", 3)
    with pytest.raises(UsageError, match=r"left of 2[\s\S]*every image of it is in the validation split"):
        read_data(tmp_path / "data")


def test_a_link_to_a_missing_file_is_named(digits):
    (digits / "0" / "gone.png").symlink_to(digits / "nowhere.png")
    assert "0/gone.png was left out: it cannot be read" in read_data(digits).notes[0]


def test_a_class_without_an_image_to_validate_with_is_named(write_digits, tmp_path):
    write_digits(tmp_path / "data" / "train", 3)
    write_digits(tmp_path / "data" / "val", 2)
    assert "no validation image has the label 2:" in read_data(tmp_path / "data").notes[0]


def test_a_class_without_a_readable_image_is_refused_with_the_cause(digits):
    for file in (digits / "2").iterdir():
        file.write_bytes(b"no image")
    with pytest.raises(UsageError, match=r"no image to train on is left of 2[\s\S]*cannot be read"):
        read_data(digits)


def test_a_test_split_is_left_out_where_there_is_another_to_validate_with(write_digits, tmp_path):
    for name, each in (("Train", 4), ("test", 2)):
        write_digits(tmp_path / "data" / name, each=each)
    assert len(read_data(tmp_path / "data").val) == 6
    write_digits(tmp_path / "data" / "val", each=1, start=4)
    data = read_data(tmp_path / "data")
    assert len(data.val) == 3
    assert data.notes == ("the split test was left out: it is for testing",)


def test_a_train_folder_alone_is_split(write_digits, tmp_path):
    write_digits(tmp_path / "data" / "train")
    data = read_data(tmp_path / "data", val=0.25)
    assert (data.class_names, len(data.val)) == (("0", "1", "2"), 6)


def test_hidden_copies_are_no_images_and_what_is_ignored_is_named(digits):
    (digits / "0" / ".ipynb_checkpoints").mkdir()
    for copy in ("0/.ipynb_checkpoints/000-checkpoint.png", "loose.png"):
        (digits / copy).write_bytes((digits / "0" / "000.png").read_bytes())
    (digits / "0" / "phone.heic").write_bytes(b"")
    (digits / "1" / "more").mkdir()
    (digits / "1" / "000.png").rename(digits / "1" / "more" / "000.png")
    data = read_data(digits)
    assert len(data.train) + len(data.val) == 24
    assert "folders in 1 whose images are of the class 1 too: 1" in data.notes
    assert "no images by their names: 1 (phone.heic)" in data.notes[0]
    assert "images beside the class folders" in data.notes[2]


def test_images_of_16_bits_keep_them_as_in_predict(tmp_path):
    for name, value in (("dim", 1000), ("bright", 40000)):
        (tmp_path / name).mkdir()
        for number in range(2):
            Image.fromarray(np.full((8, 8), value, dtype=np.uint16)).save(tmp_path / name / f"{number}.png")
    data = read_data(tmp_path)
    assert sorted(round(float(sample.image().max()) * 65535) for sample in data.train) == [1000, 40000]


def test_one_image_a_class_leaves_nothing_to_validate_with(write_digits, tmp_path):
    with pytest.raises(UsageError, match="no image to validate with"):
        read_data(write_digits(tmp_path / "digits", each=1))


def test_sets_of_labels_that_occur_once_are_split_too(digits):
    rows = ["0/000.png,a;b", "0/001.png,b;c", "1/000.png,c;a", "1/001.png,a", "1/002.png,a;b;c"]
    (digits / "labels.csv").write_text("path,label\n" + "\n".join(rows))
    data = read_data(digits / "labels.csv")
    assert (len(data.train), len(data.val)) == (4, 1)
    assert min(data.counts().values()) > 0


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("path,label\n0/000.png,caf\u00e9\n".encode("latin-1"), "save it as CSV in UTF-8"),
        (b"path,label,split\n0/000.png,a,holdout\n", "has a split 'holdout'"),
        (b"path,label\n0/000.png,a\n0/000.png,b\n", "write all labels of an image in one row"),
        (b"path,label\n0/000.png,a,b\n", "more fields than the first line has names"),
        (b"path,label,class\n0/000.png,a,b\n", "the columns label and class, and any of them could be meant"),
        (b"path,label\n0/000.png,a\n1/000.png,b\n2/000.png,a|b\n", "write ; between several labels"),
        (b"path,label\n0/000.png,\"['a', 'b']\"\n", "as in a;b"),
        (b"path,label\n0/000.png,a|b\n1/000.png,b|c\n2/000.png,c|a\n", "write ; between several labels"),
        (b"path,label\n0/000.png,0 1\n1/000.png,1 2\n2/000.png,2 0\n", "as in 0;1"),
        (b"path,label\n0/000.png,[0 1]\n1/000.png,[]\n", "which is a list of labels"),
    ],
)
def test_a_csv_that_could_be_misread_is_refused(digits, text, message):
    (digits / "labels.csv").write_bytes(text)
    with pytest.raises(UsageError, match=message):
        read_data(digits / "labels.csv")


def test_rows_without_a_path_and_rows_that_come_twice_are_left_out_and_named(digits):
    rows = ["a", "b,1/000.png", "a,0/000.png", "a,0/001.png", "b,1/001.png", "b,1/001.png"]
    (digits / "labels.csv").write_text("label,path\n" + "\n".join(rows))
    data = read_data(digits / "labels.csv")
    assert len(data.train) + len(data.val) == 4
    assert data.notes == ("line 2 has no path, and was left out", "1 repeated row was left out")


def _dataset(digits, **columns):
    """A dataset of six images, each column by its name: its kind and its values."""
    import datasets

    files = [str(digits / str(number % 2) / f"00{number}.png") for number in range(6)]
    columns = {"image": (datasets.Image(), files), **columns}
    features = datasets.Features({name: kind for name, (kind, _) in columns.items()})
    return datasets.Dataset.from_dict({name: values for name, (_, values) in columns.items()}, features=features)


@pytest.mark.extra
def test_a_dataset_of_hugging_face_keeps_the_order_of_its_classes(digits, tmp_path):
    import datasets

    kind = datasets.ClassLabel(names=["zero", "one", "never"])
    split = _dataset(digits, label=(kind, [0, 1, 0, 1, 0, None]), mask=(datasets.Image(), [None] * 6))
    datasets.DatasetDict(train=split, unused=split).save_to_disk(str(tmp_path / "two"))
    with pytest.raises(UsageError, match="has a split 'unused'"):
        read_data(tmp_path / "two")
    split.save_to_disk(str(tmp_path / "set"))
    data = read_data(tmp_path / "set")
    assert data.class_names == ("zero", "one")
    assert data.notes == (
        "row 5 has no image or no label, and was left out",
        "classes without an image, which were left out: never",
    )
    for sample in (*data.train, *data.val):
        assert sample.labels == (int(sample.name.removeprefix("row ")) % 2,)
        assert sample.image().size == (32, 32)


@pytest.mark.extra
def test_lists_of_classes_are_several_labels(digits, tmp_path):
    import datasets

    several = datasets.List(datasets.ClassLabel(names=["round", "odd"]))
    _dataset(digits, labels=(several, [[0], [1], [0, 1], [], [0], [1]])).save_to_disk(str(tmp_path / "set"))
    data = read_data(tmp_path / "set")
    assert (data.multi_label, data.class_names) == (True, ("round", "odd"))
    by_name = {sample.name: sample.labels for sample in (*data.train, *data.val)}
    assert [by_name[f"row {number}"] for number in range(6)] == [(0,), (1,), (0, 1), (), (0,), (1,)]


@pytest.mark.extra
def test_of_several_columns_of_classes_none_is_guessed(digits, tmp_path):
    import datasets

    kind = datasets.ClassLabel(names=["a", "b"])
    split = _dataset(digits, coarse=(kind, [0, 0, 0, 1, 1, 1]), fine=(kind, [0, 1, 0, 1, 0, 1]), third=(kind, [0] * 6))
    split.save_to_disk(str(tmp_path / "set"))
    with pytest.raises(UsageError, match=r"keep one: dataset.remove_columns\(\['fine', 'third'\]\) removes"):
        read_data(tmp_path / "set")
    split.remove_columns(["fine", "third"]).save_to_disk(str(tmp_path / "one"))
    assert len(read_data(tmp_path / "one").train) == 4
    words = _dataset(digits, label=(datasets.Value("string"), list("ababab")))
    words.save_to_disk(str(tmp_path / "words"))
    with pytest.raises(UsageError, match="class_encode_column"):
        read_data(tmp_path / "words")
    words.class_encode_column("label").save_to_disk(str(tmp_path / "classes"))
    assert read_data(tmp_path / "classes").class_names == ("a", "b")
    (tmp_path / "classes" / "state.json").unlink()
    with pytest.raises(UsageError, match="cannot be read as a dataset"):
        read_data(tmp_path / "classes")


@pytest.mark.parametrize(
    ("name", "message"), [("/dev/null", "is not data that can be read"), ("x" * 300, "cannot be read")]
)
def test_a_path_that_is_no_file_or_folder_is_refused_by_its_name(name, message):
    with pytest.raises(UsageError, match=f"^{name[:200]} {message}"):
        read_data(name)


def test_class_folders_that_are_one_folder_further_in_are_named(digits, tmp_path):
    (tmp_path / "data").mkdir()
    digits.rename(tmp_path / "data" / "digits")
    with pytest.raises(UsageError, match=r"images of 1 class\n[\s\S]*give .*data/digits$") as caught:
        read_data(tmp_path / "data")
    assert read_data(str(caught.value).rpartition("give ")[2]).class_names == ("0", "1", "2")
