"""The records and the summary of a scored benchmark."""

from sqlr1.evaluate.benchmark import score
from sqlr1.evaluate.formats import BenchmarkQuestion
from sqlr1.sandbox import Executor


def test_questions_need_not_be_all_of_their_file(tmp_path):
    """The index of a question is not its place in the list."""
    questions = [BenchmarkQuestion(5, "gone", "q", "", "SELECT 1", "easy")]
    with Executor(workers=1) as executor:
        scores = score(executor, "spider", questions, tmp_path, {5: "SELECT 1"})
    assert (scores.unscored, scores.missing_databases) == ({"missing_database": [5]}, ["gone"])
