"""Files of questions: what is read, in which order it comes, and what is said of a broken one."""

import collections
import json

import numpy as np
import pytest

from r1jax.data import sources
from r1jax.data.sources import hold_out, item_at, read_questions
from r1jax.errors import UserError


def write(path, records):
    path.write_text("".join(json.dumps(record) + "\n" for record in records))
    return str(path)


@pytest.fixture
def numbered(tmp_path):
    def make(count, **more):
        records = [{"question": f"q{i}", "answer": str(i), **more} for i in range(count)]
        return read_questions(write(tmp_path / f"{count}.jsonl", records))

    return make


def test_a_record_becomes_an_item_with_all_its_fields(tmp_path):
    messages = [{"role": "system", "content": "short"}, {"role": "user", "content": "why?"}]
    path = write(
        tmp_path / "a.jsonl",
        [
            {"question": "1+1?", "answer": "2", "id": 7, "level": "easy"},
            {"question": "sort", "task": "code", "tests": {"inputs": ["1"]}},
            {"messages": messages, "answer": 4},
        ],
    )
    first, second, third = read_questions(path).items
    assert first == {"question": "1+1?", "answer": "2", "id": 7, "level": "easy", "task": "math"}
    assert second == {"question": "sort", "task": "code", "tests": {"inputs": ["1"]}}
    assert third == {"question": "why?", "messages": messages, "answer": "4", "task": "math"}


@pytest.mark.parametrize("count", [1, 2, 7])
def test_an_epoch_has_every_question_once_and_epochs_differ(numbered, count):
    questions = numbered(count)
    stream = [
        item_at(questions, seed=3, split="train", index=i)["question"] for i in range(count * 20)
    ]
    epochs = [tuple(stream[i : i + count]) for i in range(0, len(stream), count)]
    everything = sorted(item["question"] for item in questions.items)
    assert all(sorted(epoch) == everything for epoch in epochs)
    if count == 7:
        assert len(set(epochs)) > 15


def test_a_place_of_the_stream_is_the_same_in_any_order_and_for_one_seed_only(numbered):
    questions = numbered(50)

    def at(index, seed=0):
        return item_at(questions, seed=seed, split="train", index=index)["question"]

    forwards = [at(i) for i in range(300)]
    sources._order.cache_clear()
    places = np.random.default_rng(0).permutation(300)
    assert [at(int(i)) for i in places] == [forwards[i] for i in places]
    assert [at(i, seed=1) for i in range(50)] != forwards[:50]


def test_held_out_questions_stay_in_order(numbered):
    questions = numbered(5)
    got = [item_at(questions, seed=0, split="eval", index=i)["question"] for i in range(7)]
    assert got == ["q0", "q1", "q2", "q3", "q4", "q0", "q1"]


def test_no_question_is_on_both_sides_whatever_the_order(tmp_path):
    records = [{"question": f"q{i % 30}", "answer": "1", "n": i} for i in range(60)]
    there = read_questions(write(tmp_path / "a.jsonl", records))
    back = read_questions(write(tmp_path / "b.jsonl", records[::-1]))
    train, held = hold_out(there, 0.1)
    assert len(held) == 6  # three questions, each twice
    assert len(train) == 54
    assert not {i["question"] for i in train.items} & {i["question"] for i in held.items}
    assert {i["question"] for i in hold_out(back, 0.1)[1].items} == {
        i["question"] for i in held.items
    }
    counts = collections.Counter(item["n"] for item in (*train.items, *held.items))
    assert set(counts.values()) == {1}


def test_nothing_left_to_train_on_is_said(numbered):
    with pytest.raises(UserError, match="nothing is left to train on"):
        hold_out(numbered(1), 0.5)


BROKEN = {
    b'{"question": "a", "answer": "1"}\n{half\n': [":2", "is not JSON"],
    b'{"question": "a", "answer": "1"}\n\n[1]\n': [":3", "not a JSON object but list"],
    b'{"prompt": "a", "answer": "1"}\n': [":1", 'no "question"', "prompt, answer"],
    b'{"question": "a"}\n': [":1", 'no "answer"'],
    b'{"question": "a", "answer": ["1"]}\n': [":1", '"answer" is of type list'],
    b'{"question": "a", "answer": true}\n': [":1", '"answer" is of type bool'],
    b'{"question": 3, "answer": "1"}\n': [":1", '"question" is of type int'],
    b'{"question": "  ", "answer": "1"}\n': [":1", 'no "question"'],
    b'{"question": "\xff", "answer": "1"}\n': [":1", "not UTF-8"],
    b'{"messages": [{"role": "user"}], "answer": "1"}\n': [":1", '"messages" must be'],
    b'{"messages": [], "answer": "1"}\n': [":1", '"messages" must be'],
    b'{"question": "a", "answer": "1", "task": 1}\n': [":1", '"task" is of type int'],
    b"[" * 100_000 + b"\n": [":1", "is not JSON"],
    b"\n \n": ["holds no questions"],
    b"": ["holds no questions"],
}


@pytest.mark.parametrize("content", BROKEN, ids=range(len(BROKEN)))
def test_a_broken_line_is_named_with_its_place(tmp_path, content):
    path = tmp_path / "bad.jsonl"
    path.write_bytes(content)
    with pytest.raises(UserError) as caught:
        read_questions(str(path))
    message = str(caught.value)
    assert message.startswith(str(path))
    assert "\n" not in message
    assert all(words in message for words in BROKEN[content]), message


def test_what_is_no_source_says_what_could_be(tmp_path):
    with pytest.raises(UserError, match="no such file of questions"):
        read_questions(str(tmp_path / "nowhere.jsonl"))
    (tmp_path / "a.csv").write_text("question,answer\n")
    with pytest.raises(UserError, match=r"not one of \.jsonl, \.parquet"):
        read_questions(str(tmp_path / "a.csv"))


RECORDS = [{"question": f"q{i}", "answer": str(i), "tags": ["a", "b"]} for i in range(5)]
ITEMS = tuple({**record, "task": "math"} for record in RECORDS)


def test_parquet(tmp_path):
    pyarrow = pytest.importorskip("pyarrow")
    parquet = pytest.importorskip("pyarrow.parquet")
    parquet.write_table(pyarrow.Table.from_pylist(RECORDS), tmp_path / "a.parquet")
    assert read_questions(str(tmp_path / "a.parquet")).items == ITEMS
    (tmp_path / "b.parquet").write_bytes(b"PAR1 not really")
    with pytest.raises(UserError, match=r"b\.parquet: cannot be read"):
        read_questions(str(tmp_path / "b.parquet"))


def test_array_records_of_json(tmp_path):
    module = pytest.importorskip("array_record.python.array_record_module")
    writer = module.ArrayRecordWriter(str(tmp_path / "a.arrayrecord"), "group_size:1")
    for record in RECORDS:
        writer.write(json.dumps(record).encode())
    writer.close()
    assert read_questions(str(tmp_path / "a.arrayrecord")).items == ITEMS


def test_a_folder_of_the_datasets_library(tmp_path):
    datasets = pytest.importorskip("datasets")
    table = datasets.Dataset.from_list(RECORDS)
    table.save_to_disk(str(tmp_path / "one"))
    datasets.DatasetDict({"test": table}).save_to_disk(str(tmp_path / "many"))
    assert read_questions(str(tmp_path / "one")).items == ITEMS
    assert read_questions(f"{tmp_path / 'many'}:test").items == ITEMS
    with pytest.raises(UserError, match="train"):
        read_questions(str(tmp_path / "many"))


def test_a_folder_of_tfds(tmp_path):
    pytest.importorskip("array_record")
    tfds = pytest.importorskip("tensorflow_datasets")
    features = tfds.features.FeaturesDict(
        {"question": tfds.features.Text(), "answer": tfds.features.Text(), "level": np.int64}
    )
    pytest.importorskip("tensorflow", reason="writing a TFDS data set needs it, reading does not")
    records = [{"question": f"q{i}", "answer": str(i), "level": i} for i in range(5)]
    tfds.dataset_builders.store_as_tfds_dataset(
        name="few",
        version="1.0.0",
        data_dir=tmp_path,
        features=features,
        split_datasets={"train": list(enumerate(records))},
        config="plain",
        file_format="array_record",
    )
    (folder,) = {path.parent for path in tmp_path.rglob("features.json")}
    got = read_questions(str(folder)).items
    assert sorted(got, key=lambda item: item["level"]) == [
        {**record, "task": "math"} for record in records
    ]
