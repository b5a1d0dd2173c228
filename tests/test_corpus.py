"""The seeds of the fuzzing, and the inputs with which it showed a defect, are read or refused in one line."""

import pytest

from tests.soak.readers import READERS, seeds


@pytest.mark.parametrize("reader", READERS)
def test_every_input_of_the_corpus_is_read_or_refused(reader, tmp_path):
    contents = seeds(reader)
    assert contents
    for content in contents:
        READERS[reader](content, tmp_path)
