"""Every unusable file of a messy dataset is an error in one pass, and no good one is."""

from __future__ import annotations

from pathlib import Path

import pytest

from lora_diffusion.errors import InputError
from tests.trainers.data import corpus as made
from trainers.data import decode
from trainers.data.buckets import BucketRules
from trainers.data.doctor import diagnose
from trainers.data.problems import refuse_errors
from trainers.spec import DataSpec

RULES = BucketRules.around(48, 8)


@pytest.fixture(scope="session")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> made.Corpus:
    return made.make(tmp_path_factory.mktemp("corpus"))


@pytest.fixture(scope="session")
def report(corpus: made.Corpus, tmp_path_factory: pytest.TempPathFactory):
    data = DataSpec(folder=str(corpus.root), trigger="sks")
    return diagnose(data, rules=RULES, index_folder=tmp_path_factory.mktemp("index"))


def test_the_corpus_is_as_large_as_it_says(corpus):
    assert len(corpus.good) == 1_000
    assert len(corpus.unusable) + len(corpus.odd) >= 300
    assert len({*corpus.unusable.values(), *corpus.odd.values()}) >= 40


def test_every_unusable_file_is_an_error_and_no_good_one(corpus, report):
    errors = {problem.file for problem in report.problems if problem.severity == "error"}
    missed = {corpus.unusable[name] for name in corpus.unusable.keys() - errors}
    assert not missed
    assert errors == corpus.unusable.keys()
    told = {problem.file for problem in report.problems if problem.severity == "warning"}
    assert not told & set(corpus.good)


def test_what_the_doctor_passes_decodes_and_what_it_refuses_does_not(corpus, report):
    refused = set()
    for picture in report.pictures:
        try:
            decoded = decode.load_rgb(picture.path)
        except InputError:
            refused.add(picture.name)
        else:
            assert (decoded.height, decoded.width) == picture.size_px or not picture.size_px
    errors = {problem.file for problem in report.problems if problem.severity == "error"}
    assert refused <= errors


def test_the_refusal_names_causes_and_counts_the_rest(report):
    with pytest.raises(InputError) as caught:
        refuse_errors(report.problems)
    lines = str(caught.value).splitlines()
    assert len(lines) == 21
    assert lines[-1].endswith("more.")
    assert all(Path(line.partition(":")[0]).suffix for line in lines[:-1])


def test_odd_files_are_told_as_what_they_are(corpus, report):
    kinds = {}
    for problem in report.problems:
        if problem.file in corpus.odd:
            kinds.setdefault(corpus.odd[problem.file], set()).add(problem.kind)
    assert kinds == {
        "animated gif": {"animation"},
        "animated webp": {"animation"},
        "pages": {"animation"},
        "wrong ending": {"wrong-ending"},
    }
