from __future__ import annotations

import gzip
import hashlib
import json
from collections import Counter
from dataclasses import replace

import pytest
import torch

import lossrag.tasks.files.fetch
import lossrag.tasks.files.sources
import lossrag.tasks.text.domains
import lossrag.tasks.text.sentiment
from lossrag import DataError, OptionError
from lossrag.tasks import SPLITS, SUITES, SentimentConfig, encoder_files, load_suite
from lossrag.tasks.files.fetch import cache_folder
from lossrag.tasks.suite import Suite
from lossrag.tasks.table.new_rows import read_rows
from lossrag.tasks.text.domains import DOMAIN_GROUPS
from lossrag.tasks.text.sentiment import DOMAINS, PARTS, PRODUCTS, read_reviews, repeats

SIZES = {"train": 20, "dev": 6, "test": 8}
# What data/README.md of the corpus says, domain by domain: test reviews that also stand in train or dev.
REPEATED = dict(zip(DOMAINS, (7, 12, 14, 9, 6, 72, 30, 9, 8, 99, 14, 169, 62, 28, 0, 0), strict=True))
TRAIN = {"electronics": 1398, "camera_photo": 1397, "magazines": 1370, "software": 1315, "baby": 1300}


def made_up() -> list[dict[str, object]]:
    """SIZES reviews of every domain, no two alike, but for those of the first two domains that are set below."""
    rows = []
    for domain in DOMAINS:
        for times, (part, size) in enumerate(SIZES.items(), start=1):
            for i in range(size):
                text = f"the {domain} car {f'w{i} ' * times}{'good' if i % 2 else 'bad'} .\x85 end"
                rows.append({"id": f"{domain}/{part}/{i}", "domain": domain, "split": part, "label": i % 2})
                rows[-1]["text"] = text
    text = {row["id"]: row for row in rows}
    text["books/dev/1"]["text"] = text["books/train/1"]["text"].replace(" ", "  ").upper()  # the same words
    text["books/test/0"]["text"] = text["books/train/2"]["text"]
    text["books/test/3"]["text"] = text["books/dev/5"]["text"]
    text["books/test/5"]["text"] = text["books/dev/1"]["text"]
    text["dvd/test/0"]["text"] = text["books/train/0"]["text"]  # another task's
    text["dvd/train/3"]["text"] = text["dvd/train/1"]["text"]
    text["dvd/train/4"]["text"] = ""
    return rows


@pytest.fixture
def reviews(world, monkeypatch) -> list[dict[str, object]]:
    """A corpus of SIZES in the data root, its sum pinned."""
    rows = made_up()
    path = world.root / "sentiment/fdu-mtl.jsonl.gz"
    path.parent.mkdir()
    with gzip.open(path, "wt", encoding="utf-8", newline="\n") as stream:
        stream.writelines(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
    pinned = replace(lossrag.tasks.files.sources.SENTIMENT, sha256=hashlib.sha256(path.read_bytes()).hexdigest())
    monkeypatch.setattr(lossrag.tasks.files.sources, "SENTIMENT", pinned)
    for module in (lossrag.tasks.text.sentiment, lossrag.tasks.text.domains):
        monkeypatch.setattr(module, "SENTIMENT", pinned)
    return rows


def load(world, **options) -> Suite:
    return load_suite("sentiment", **{"root": str(world.root), "rho": 0.3, "min_df": 1, "oov_min_df": 1, **options})


def sizes(suite) -> dict[str, list[int]]:
    return {split: [len(each) for each in suite.splits[split]] for split in SPLITS}


def texts(suite, split, task) -> list[tuple[int, ...]]:
    inputs = suite.splits[split][task].inputs
    return [tuple(inputs.ids[a:b].tolist()) for a, b in zip(inputs.offsets, inputs.offsets[1:], strict=False)]


def test_the_fourteen_tasks_of_the_paper(world, reviews):
    suite = load(world)
    assert suite.task_names == PRODUCTS
    assert len(PRODUCTS) == 14
    assert all(task.kind == "classification" and task.labels == ("negative", "positive") for task in suite.tasks)
    assert not suite.shared_input
    assert sizes(suite)["validation"] == [6] * 14
    assert sizes(suite)["test"] == [8] * 14
    assert [a + b for a, b in zip(sizes(suite)["support"], sizes(suite)["query"], strict=True)] == [20] * 14
    assert sum(sizes(suite)["query"]) in (84, 85), "one review stands twice"
    assert suite.vectors.shape[1] == 50
    assert "GloVe 6B 50-d" in suite.edition
    assert "FDU-MTL, published (3 of 112 test and 1 of 84 dev reviews also stand" in suite.edition
    assert "kept), 14 product domains" in suite.edition


def test_all_sixteen(world, reviews):
    suite = load(world, domains="all")
    assert suite.task_names == (*PRODUCTS, "imdb", "MR")
    assert "16 domains" in suite.edition


def test_targets_are_the_labels_in_the_order_of_the_file(world, reviews):
    assert load(world).splits["test"][3].targets.tolist() == [0, 1] * 4


def test_words_are_what_white_space_parts(world, reviews):
    suite = load(world, vectors="random", dim=3)
    # the books car w2 w2 w2 bad . end: U+0085 before the last word is white space, too
    assert suite.splits["test"][0].inputs.lengths.tolist()[2] == 9


def test_deduplicated_leaves_out_the_copies_of_earlier_parts(world, reviews):
    suite = load(world, edition="deduplicated")
    assert sizes(suite)["test"] == [5, *[8] * 13], "a copy of another task's review stays"
    assert sizes(suite)["validation"] == [5, *[6] * 13]
    assert "3 of 112 test and 1 of 84 dev reviews also stand" in suite.edition
    assert "left out" in suite.edition
    published = load(world)
    assert sizes(published)["support"] == sizes(suite)["support"]
    for task in range(14):
        train = {*texts(suite, "support", task), *texts(suite, "query", task)}
        held = set(texts(suite, "validation", task))
        assert not held & train
        assert not set(texts(suite, "test", task)) & (train | held)


def test_copies_in_train_stay_together_and_an_empty_review_is_kept(world, reviews):
    for seed in range(8):
        suite = load(world, seed=seed)
        dvd = PRODUCTS.index("dvd")
        support, query = texts(suite, "support", dvd), texts(suite, "query", dvd)
        assert not set(support) & set(query)
        assert () in {*support, *query}
        empty = suite.splits["support"][dvd].inputs.gather(torch.arange(len(support)))
        assert empty.shape[1] >= 8


def test_same_suite_again_from_the_cache_without_any_data(world, reviews, monkeypatch):
    first = load(world)
    monkeypatch.setattr(lossrag.tasks.text.sentiment, "_build", lambda config: pytest.fail("built again"))
    again = load(world, root=None)
    assert again.edition == first.edition
    assert all(texts(first, split, task) == texts(again, split, task) for split in SPLITS for task in range(14))


@pytest.mark.parametrize("cached", [False, True])
def test_other_texts_become_the_inputs_of_the_suite(world, reviews, cached):
    """Those of the test split, read as rows of another table, have the same words and classes."""
    suite = load(world)
    suite = load(world, root=None) if cached else suite
    chosen = [row for row in reviews if row["domain"] == "books" and row["split"] == "test"]
    labels = ("negative", "positive")
    rows = [{"text": row["text"], "task": "books", "label": labels[row["label"]]} for row in chosen]
    read = read_rows(rows, suite.preprocessing)
    assert torch.equal(read.tokens()[0].ids, suite.splits["test"][0].inputs.ids)
    books, electronics, *_ = suite.preprocessing.targets
    assert torch.equal(read.targets(books), suite.splits["test"][0].targets)
    assert read.about(books).all()
    assert not read.about(electronics).any()


def test_limit_keeps_the_classes(world, reviews):
    suite = load(world, limit=4)
    assert sizes(suite)["test"] == [4] * 14
    assert Counter(suite.splits["validation"][0].targets.tolist()) == {0: 2, 1: 2}


def test_without_the_corpus_the_error_says_where_it_was_looked_for(world):
    with pytest.raises(DataError) as caught:
        load(world)
    message = str(caught.value)
    assert f"Found no sentiment/fdu-mtl.jsonl.gz. Looked for it in: the folder {world.root}; the cache" in message
    assert "(a) set LOSSRAG_DATA (or the data root) to a folder that holds sentiment/fdu-mtl.jsonl.gz;" in message
    assert f"(b) put fdu-mtl.jsonl.gz into {cache_folder() / 'downloads'} by hand." in message
    assert "(c) the reviews themselves: 32 files" in message
    assert "connect to the internet" not in message, "no address has this file"
    with pytest.raises(DataError, match=r"LOSSRAG_DATA and the data root are not set"):
        load(world, root=None, vectors="random")


def test_the_cache_folder_is_looked_into(world, reviews):
    source = world.root / "sentiment/fdu-mtl.jsonl.gz"
    (cache_folder() / "downloads").mkdir(parents=True)
    source.rename(cache_folder() / "downloads" / source.name)
    assert sizes(load(world))["test"] == [8] * 14


def test_damaged_corpus_of_the_user_is_an_error_even_when_cached(world, reviews):
    load(world)
    (world.root / "sentiment/fdu-mtl.jsonl.gz").write_bytes(b"")
    with pytest.raises(DataError, match=r"fdu-mtl\.jsonl\.gz is damaged"):
        load(world)


@pytest.mark.parametrize("line", ['{"split": "train"}', "no json", "[]", '{"split": "valid", "text": "", "label": 1}'])
def test_another_file(tmp_path, line):
    path = tmp_path / "file.gz"
    path.write_bytes(gzip.compress(line.encode()))
    with pytest.raises(DataError, match="as sentiment reviews"):
        read_reviews(path)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"domains": "product"}, "domains='product' is unknown: did you mean 'products'"),
        ({"edition": "dedup"}, "edition='dedup' is unknown"),
        ({"rho": 0.0}, "rho must be in"),
        ({"max_tokens": 0}, "max_tokens must be 1 or more, got 0"),
        ({"dim": 7}, "not dim=7"),
    ],
)
def test_settings_that_cannot_work(options, message):
    with pytest.raises(OptionError, match=f"^SentimentConfig: .*{message}"):
        SentimentConfig(**options)


@pytest.mark.data
def test_real_counts_are_those_of_the_data_readme(real_data):
    reviews = read_reviews(
        lossrag.tasks.files.fetch.resolve(lossrag.tasks.files.sources.sentiment_sources(), real_data)[0]
    )
    assert {part: len(reviews[part]) for part in PARTS} == {"train": 22_180, "dev": 3_200, "test": 6_400}
    count = {part: Counter(review.domain for review in reviews[part]) for part in PARTS}
    assert count["train"] == {domain: TRAIN.get(domain, 1400) for domain in DOMAINS}
    assert count["dev"] == dict.fromkeys(DOMAINS, 200)
    assert count["test"] == dict.fromkeys(DOMAINS, 400)
    again = repeats(reviews)
    repeated = Counter(r.domain for r, copy in zip(reviews["test"], again["test"], strict=True) if copy)
    assert {domain: repeated[domain] for domain in DOMAINS} == REPEATED
    assert sum(again["test"]) == sum(REPEATED.values()) == 539
    assert sum(again["dev"]) == 257
    positive = Counter(review.domain for review in reviews["test"] if review.label)
    assert (positive["books"], positive["magazines"], positive["MR"]) == (202, 217, 208)


@pytest.mark.data
def test_real_suite(real_data):
    suite = load_suite("sentiment", root=real_data, edition="deduplicated")
    assert sizes(suite)["test"] == [400 - REPEATED[domain] for domain in PRODUCTS]
    assert {split: sum(counts) for split, counts in sizes(suite).items()} == {
        "support": 17_434,
        "query": 1_946,
        "validation": 2_800 - 257,
        "test": 5_600 - 539,
    }
    assert suite.vectors.shape == (27_880, 50)
    assert "539 of 5,600 test and 257 of 2,800 dev reviews" in suite.edition


def test_reviews_as_word_pieces(world, reviews, tiny_bert):
    config = SentimentConfig(root=str(world.root), rho=0.3, max_tokens=8, min_df=1)
    suite = SUITES["sentiment"].in_pieces(config, encoder_files(str(tiny_bert)))
    assert sizes(suite) == sizes(load(world))
    first = texts(suite, "test", 2)[0]  # [CLS] the [UNK] car ...
    assert first[:4] == (3, 6, 2, 7)
    assert len(first) == 8


def test_domains_are_told_apart(world, reviews):
    """The published parts, a review once, where it stands first: in books/train a copy of its own, and so on."""
    assert sorted(name for group in DOMAIN_GROUPS.values() for name in group) == sorted(DOMAINS)
    suite = load_suite("domains", root=str(world.root), rho=0.3, min_df=1, oov_min_df=1)
    assert (suite.name, suite.task_names) == ("sentiment", tuple(DOMAIN_GROUPS))
    assert all(task.outputs == 4 and task.labels == DOMAIN_GROUPS[task.name] for task in suite.tasks)
    counts = {
        split: [torch.bincount(own.targets, minlength=4).tolist() for own in suite.splits[split]] for split in SPLITS
    }
    # of books: one dev and three test reviews stand earlier; of dvd: one twice in train, one test review in books/train
    assert counts["validation"] == [[5, 6, 6, 6], *[[6] * 4] * 3]
    assert counts["test"] == [[5, 7, 8, 8], *[[8] * 4] * 3]
    trained = [
        [a + b for a, b in zip(*pair, strict=True)] for pair in zip(counts["support"], counts["query"], strict=True)
    ]
    assert trained == [[20, 19, 20, 20], *[[20] * 4] * 3]
    assert "4 tasks of 4 domains" in suite.edition
    assert load_suite("domains", root=str(world.root), rho=0.3, min_df=1, oov_min_df=1, limit=8).splits["test"][
        2
    ].targets.shape == (8,)


def test_domains_in_word_pieces(world, reviews, tiny_bert):
    entry = SUITES["domains"]
    suite = entry.in_pieces(entry.config(root=str(world.root), rho=0.3, max_tokens=16), encoder_files(str(tiny_bert)))
    assert suite.encoder is not None
    assert len(suite.splits["test"][0]) == 28
