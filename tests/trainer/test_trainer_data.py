"""Preparing text: what is read, how it is divided, what is refused, and what survives a kill."""

import json
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tokenizers import Tokenizer
from tokenizers.pre_tokenizers import ByteLevel
from tokenizers.trainers import BpeTrainer
from worker_process import write_texts

from trainer.data import DataError, Dataset, manifest_of, prepare
from trainer.data.readers import merged_rows, read_text

SIZES: dict[str, Any] = {"vocab_size": 300, "val_bytes": 3000, "test_bytes": 3000}


def documents(data_dir: Path, split: str) -> list[str]:
    """The split's documents, read back from its tokens."""
    dataset = Dataset.open(data_dir)
    tokenizer = Tokenizer.from_file(str(data_dir / "tokenizer.json"))
    tokens = getattr(dataset, split)
    ends = np.flatnonzero(tokens == dataset.manifest.endoftext)
    starts = [0, *(ends[:-1] + 1)]
    return [tokenizer.decode(tokens[start:end].tolist()) for start, end in zip(starts, ends, strict=True)]


def all_documents(data_dir: Path) -> list[str]:
    return [text for split in ("train", "val", "test") for text in documents(data_dir, split)]


def write_jsonl(path: Path, texts: list[str]) -> Path:
    path.write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
    return path


def some_texts(count: int = 400) -> list[str]:
    return [f"Text {i} — naïve, ünïcode, 日本語.\n" + f"word{i} " * (i % 30) for i in range(count)]


def test_no_byte_is_lost_and_no_document_stands_in_two_splits(tmp_path: Path) -> None:
    texts = some_texts()
    data_dir = prepare(str(write_jsonl(tmp_path / "a.jsonl", texts)), tmp_path, **SIZES)
    assert sorted(all_documents(data_dir)) == sorted(texts)


def test_equal_documents_stand_once(tmp_path: Path) -> None:
    texts = some_texts()
    data_dir = prepare(str(write_jsonl(tmp_path / "a.jsonl", texts + texts[::2])), tmp_path, **SIZES)
    assert sorted(all_documents(data_dir)) == sorted(texts)
    assert manifest_of(data_dir).duplicates == len(texts[::2])


def test_the_manifest_accounts_for_the_text(data_dir: Path) -> None:
    manifest = manifest_of(data_dir)
    for name, split in manifest.splits.items():
        texts = documents(data_dir, name)
        assert split.documents == len(texts)
        assert split.bytes == sum(len(text.encode()) for text in texts)
        assert split.tokens * np.dtype(manifest.dtype).itemsize == (data_dir / f"{name}.bin").stat().st_size
    assert manifest.vocab_size == 512
    assert 10_000 <= manifest.splits["val"].bytes < 20_000
    assert 10_000 <= manifest.splits["test"].bytes < 20_000
    assert sorted(path.name for path in data_dir.iterdir()) == sorted(
        ["manifest.json", "test.bin", "tokenizer.json", "train.bin", "val.bin"]
    )


def test_val_and_test_do_not_depend_on_the_seed(texts: Path, tmp_path: Path) -> None:
    first, second = (prepare(str(texts), tmp_path, **SIZES, seed=seed) for seed in (0, 1))
    assert first != second
    for split in ("val", "test"):
        assert documents(first, split) == documents(second, split)
    assert documents(first, "train") != documents(second, "train")


def test_the_tokenizer_learns_from_the_train_split_alone(texts: Path, tmp_path: Path) -> None:
    data_dir = prepare(str(texts), tmp_path, **(SIZES | {"vocab_size": 600}))
    saved = (data_dir / "tokenizer.json").read_text()

    def merges_learned_from(text: list[str]) -> list[list[str]]:
        tokenizer = Tokenizer.from_str(saved)
        alphabet = ByteLevel.alphabet()
        learning = BpeTrainer(vocab_size=600, special_tokens=["<|endoftext|>"], initial_alphabet=alphabet)
        tokenizer.train_from_iterator(text, learning)
        return json.loads(tokenizer.to_str())["model"]["merges"]

    assert json.loads(saved)["model"]["merges"] == merges_learned_from(documents(data_dir, "train"))
    assert json.loads(saved)["model"]["merges"] != merges_learned_from(all_documents(data_dir))


def test_the_standard_library_is_a_source(tmp_path: Path) -> None:
    data_dir = prepare("stdlib", tmp_path, **SIZES, max_bytes=300_000)
    manifest = manifest_of(data_dir)
    total_bytes = sum(split.bytes for split in manifest.splits.values())
    assert data_dir.name.startswith("stdlib-")
    assert 300_000 <= total_bytes < 1_500_000
    assert any("def " in text for text in documents(data_dir, "train"))


def test_a_folder_gives_every_kind_of_text_and_leaves_the_rest(tmp_path: Path) -> None:
    parquet = pytest.importorskip("pyarrow.parquet")
    pyarrow = pytest.importorskip("pyarrow")
    folder = tmp_path / "mixed"
    (folder / "deep" / ".git").mkdir(parents=True)
    texts = some_texts()
    (folder / "one.txt").write_text(texts[0])
    (folder / "deep" / "two.md").write_text(texts[1])
    write_jsonl(folder / "three.jsonl", texts[2:200])
    parquet.write_table(pyarrow.table({"text": texts[200:], "id": list(range(200))}), folder / "deep" / "four.parquet")
    (folder / "empty.txt").touch()
    (folder / "picture.png").write_bytes(b"\x89PNG\xff")
    (folder / "deep" / ".git" / "hidden.txt").write_text("secret")
    assert sorted(all_documents(prepare(str(folder), tmp_path, **SIZES))) == sorted(texts)


def test_a_long_text_is_cut_at_blank_lines_without_losing_a_byte(tmp_path: Path) -> None:
    paragraphs = [f"Paragraph {i}. " + "word " * (i % 90) + "\r\n" for i in range(600)]
    path = tmp_path / "long.txt"
    path.write_bytes("\r\n".join(paragraphs).encode())
    pieces = list(read_text(path))
    assert "".join(pieces).encode() == path.read_bytes()
    assert all(4096 <= len(piece.encode()) <= 8192 and piece.endswith("\r\n\r\n") for piece in pieces[:-1])


@pytest.mark.parametrize("text", ["x" * 50_000, "é" * 50_000, "short line\n" * 5000])
def test_a_text_without_blank_lines_is_cut_too(tmp_path: Path, text: str) -> None:
    path = tmp_path / "endless.txt"
    path.write_text(text)
    pieces = list(read_text(path))
    assert "".join(pieces) == text
    assert max(len(piece.encode()) for piece in pieces) <= 8192


def test_short_rows_that_follow_each_other_become_one_document() -> None:
    rows = [" = Title = \n", "", *[f"A paragraph, number {i}.\n" for i in range(300)], "no newline"]
    merged = list(merged_rows(iter(rows)))
    assert all(2048 <= len(text) < 2100 for text in merged[:-1])
    assert "".join(merged) == " = Title = \n\n" + "".join(rows[2:]) + "\n"


def test_a_dataset_by_name_is_a_source(tmp_path: Path) -> None:
    pytest.importorskip("datasets")
    (tmp_path / "named").mkdir()
    write_jsonl(tmp_path / "named" / "train.jsonl", some_texts())
    data_dir = prepare(f"hf:{tmp_path / 'named'}", tmp_path / "out", **SIZES)
    assert manifest_of(data_dir).splits["train"].documents > 3


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("absent.txt", None, "no such file or folder"),
        ("empty.txt", b"", "the file is empty"),
        ("blank.txt", b"\n \n", "no text in it, only blanks"),
        ("latin.txt", b"x" * 5000 + b"\n caf\xe9 \n", "not UTF-8 at byte 5,005 (0xe9)"),
        ("cut.txt", b"ok \xe6\x97", "not UTF-8 at byte 3 (0xe6)"),
        ("page.html", b"<p>text</p>", "unknown extension '.html'; text comes in .txt, .md, .jsonl, .parquet"),
        ("small.txt", b"word \n\n" * 200, "1,400 bytes of text found, 12,000 needed"),
        ("whole.jsonl", json.dumps({"text": "w " * 20_000}).encode(), "too small for val: 0 bytes found"),
        (
            "keys.jsonl",
            b'{"text": "a"}\n\n{"body": "b"}\n',
            'keys.jsonl:3: not a JSON object with the text under "text"',
        ),
        ("number.jsonl", b'{"text": 5}\n', "number.jsonl:1: not a JSON object"),
        ("broken.jsonl", b'{"text": "a"}\n{"text": "b\n', "broken.jsonl:2: not a JSON object"),
        ("list.jsonl", b"[1]\n", "list.jsonl:1: not a JSON object"),
    ],
)
def test_text_that_cannot_be_used_is_named(tmp_path: Path, name: str, content: bytes | None, message: str) -> None:
    path = tmp_path / name
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(DataError) as caught:
        prepare(str(path), tmp_path / "out", **SIZES)
    assert message in str(caught.value)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)
    assert not list((tmp_path / "out").glob("*.partial"))


def test_a_folder_without_text_says_what_it_has(tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "data.csv").write_text("a,b")
    with pytest.raises(DataError, match=r"folder: no text files in the folder; .* here are \.csv"):
        prepare(str(tmp_path / "folder"), tmp_path, **SIZES)


def test_a_bad_file_in_a_folder_is_named(tmp_path: Path) -> None:
    folder = write_texts(tmp_path / "folder")
    (folder / "bad.txt").write_bytes(b"\xff\xfe")
    with pytest.raises(DataError, match=r"folder/bad\.txt: not UTF-8 at byte 0"):
        prepare(str(folder), tmp_path, **SIZES)


def test_parquet_errors_name_the_file(tmp_path: Path) -> None:
    pyarrow, parquet = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    parquet.write_table(pyarrow.table({"body": ["a"]}), tmp_path / "columns.parquet")
    parquet.write_table(pyarrow.table({"text": [1]}), tmp_path / "numbers.parquet")
    (tmp_path / "junk.parquet").write_bytes(b"junk")
    for name, message in (
        ("columns", 'no column "text", only body'),
        ("numbers", "holds int"),
        ("junk", "not readable"),
    ):
        with pytest.raises(DataError, match=rf"{name}\.parquet: .*{message}"):
            prepare(str(tmp_path / f"{name}.parquet"), tmp_path, **SIZES)


@pytest.mark.parametrize(("package", "source"), [("pyarrow", "a.parquet"), ("datasets", "hf:some/name:config")])
def test_a_missing_package_says_what_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, package: str, source: str
) -> None:
    (tmp_path / "a.parquet").write_bytes(b"PAR1")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(DataError, match=rf"{source}: .*pip install 'autoresearch\[data\]'"):
        prepare(source, tmp_path, **SIZES)


@pytest.mark.parametrize("setting", [{"vocab_size": 256}, {"val_bytes": 0}, {"test_bytes": -1}, {"max_bytes": 0}])
def test_settings_that_mean_nothing_are_refused(texts: Path, tmp_path: Path, setting: dict[str, int]) -> None:
    with pytest.raises(DataError, match=f"{next(iter(setting))} is "):
        prepare(str(texts), tmp_path, **(SIZES | setting))


def test_a_finished_folder_is_found_at_once(texts: Path, tmp_path: Path) -> None:
    first = prepare(str(texts), tmp_path, **SIZES)
    stages: list[str] = []
    again = prepare(str(texts), tmp_path, **SIZES, progress=lambda stage, done, total: stages.append(stage))
    assert (again, stages) == (first, [])


def test_changed_text_and_changed_settings_give_another_folder(tmp_path: Path) -> None:
    folder = write_texts(tmp_path / "texts")
    found = {prepare(str(folder), tmp_path, **SIZES)}
    found.add(prepare(str(folder), tmp_path, **(SIZES | {"vocab_size": 301})))
    with (folder / "argparse.txt").open("a") as file:
        file.write("\nOne line more.\n")
    found.add(prepare(str(folder), tmp_path, **SIZES))
    assert len(found) == 3


def test_progress_reaches_the_end_of_every_stage(texts: Path, tmp_path: Path) -> None:
    latest: dict[str, tuple[int, int]] = {}
    prepare(str(texts), tmp_path, **SIZES, progress=lambda stage, done, total: latest.update({stage: (done, total)}))
    assert list(latest) == ["read", "tokenizer", "encode"]
    assert all(done == total > 0 for done, total in latest.values())


@pytest.mark.parametrize(
    ("stage", "left"),
    [("read", {"read", "tokenizer", "encode"}), ("tokenizer", {"tokenizer", "encode"}), ("encode", {"encode"})],
)
def test_a_killed_preparation_goes_on_where_it_was(texts: Path, tmp_path: Path, stage: str, left: set[str]) -> None:
    program = (
        "import os, signal, sys\n"
        "from pathlib import Path\n"
        "from trainer.data import prepare\n"
        "def die(stage, done, total):\n"
        f"    if stage == {stage!r}: os.kill(os.getpid(), signal.SIGKILL)\n"
        f"prepare({str(texts)!r}, Path({str(tmp_path)!r}), **{SIZES!r}, progress=die)\n"
    )
    killed = subprocess.run([sys.executable, "-c", program])
    assert killed.returncode == -signal.SIGKILL
    assert not list(tmp_path.glob("*/manifest.json"))

    stages: set[str] = set()
    resumed = prepare(str(texts), tmp_path, **SIZES, progress=lambda stage, done, total: stages.add(stage))
    assert stages == left
    assert not list(tmp_path.glob("*.partial"))
    clean = prepare(str(texts), tmp_path / "clean", **SIZES)
    for name in ("train.bin", "val.bin", "test.bin", "tokenizer.json"):
        assert (resumed / name).read_bytes() == (clean / name).read_bytes()
    assert manifest_of(resumed).sha256 == manifest_of(clean).sha256


def test_two_preparations_at_once_do_the_work_once(texts: Path, tmp_path: Path) -> None:
    program = (
        "from pathlib import Path\n"
        "from trainer.data import prepare\n"
        "stages = set()\n"
        "note = lambda stage, done, total: stages.add(stage)\n"
        f"found = prepare({str(texts)!r}, Path({str(tmp_path)!r}), **{SIZES!r}, progress=note)\n"
        "print(found, len(stages))\n"
    )
    both = [subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True) for _ in range(2)]
    answers = [process.communicate()[0].split() for process in both]
    assert answers[0][0] == answers[1][0]
    assert sorted(answer[1] for answer in answers) == ["0", "3"]


def test_a_damaged_folder_is_noticed(texts: Path, tmp_path: Path) -> None:
    data_dir = prepare(str(texts), tmp_path, **SIZES)
    with (data_dir / "val.bin").open("ab") as file:
        file.write(b"xx")
    with pytest.raises(DataError, match=r"val\.bin: .* bytes, the manifest says .*prepare again"):
        Dataset.open(data_dir)
    (data_dir / "manifest.json").write_text("{}")
    with pytest.raises(DataError, match=r"manifest\.json: not a manifest"):
        Dataset.open(data_dir)
    with pytest.raises(DataError, match="prepare the data first"):
        manifest_of(tmp_path)


def test_a_window_starts_at_the_same_place_whatever_the_shape(dataset: Dataset) -> None:
    def starts(batch_size: int, seq_len: int) -> list[int]:
        batches = dataset.windows(3, batch_size, seq_len)
        rows = np.concatenate([next(batches) for _ in range(24 // batch_size)])
        assert rows.shape == (24, seq_len + 1)
        views = np.lib.stride_tricks.sliding_window_view(dataset.train, 33)
        return [int(np.flatnonzero((views == row[:33]).all(1))[0]) for row in rows]

    reference = starts(4, 32)
    assert starts(8, 32) == reference
    assert all(abs(a - b) <= 200 for a, b in zip(starts(3, 200), reference, strict=True))
    assert len(set(reference)) == 24
