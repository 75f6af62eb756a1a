"""The error family's wording."""

import pytest

from sekisho.errors import SekishoError


@pytest.mark.parametrize(
    ("source", "offset", "text"),
    [
        (None, None, "truncated"),
        ("floppy.ko", None, "floppy.ko: truncated"),
        ("floppy.ko", 0x1807, "floppy.ko at 0x1807: truncated"),
        (None, 16, "at 0x10: truncated"),
    ],
)
def test_an_error_names_the_file_and_the_offset_where_they_are_known(
    source: str | None, offset: int | None, text: str
) -> None:
    assert str(SekishoError("truncated", source=source, offset=offset)) == text
