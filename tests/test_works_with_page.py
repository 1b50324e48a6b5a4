"""docs/WORKS_WITH.md is what its tests would write, as far as that is known without running them."""

from support.works_with import PAGE, described, page, pins


def test_the_page_has_each_test_as_a_sentence_and_the_versions_that_are_pinned():
    assert PAGE.read_text() == page(pins())


def test_each_file_of_tests_needs_the_extra_group():
    for path, tools, _, names in described():
        assert "pytest.mark.extra" in path.read_text()
        assert names
        assert set(tools) <= set(pins())
