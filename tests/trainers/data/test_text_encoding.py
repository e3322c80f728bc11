"""Encodings of caption files: certain where a mark or UTF-8 says it, else a good guess."""

from __future__ import annotations

import pytest

from trainers.data.text_encoding import decode

WESTERN = "Zoë’s café, a naïve décor"
JAPANESE = "赤い帽子をかぶった女の子、笑顔"
CHINESE = "一个戴着红帽子的女孩,微笑"
KOREAN = "빨간 모자를 쓴 소녀, 미소"
RUSSIAN = "девушка в красной шляпе, улыбка"


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-32"])
@pytest.mark.parametrize("text", ["a dog", WESTERN, JAPANESE, CHINESE, KOREAN, RUSSIAN])
def test_unicode_is_certain(encoding, text):
    found = decode(text.encode(encoding))
    assert (found.text, found.is_certain) == (text, True)


@pytest.mark.parametrize(
    ("encoding", "text"),
    [
        ("cp1252", WESTERN), ("cp1252", "café"), ("latin-1", "Ä"), ("cp932", JAPANESE),
        ("euc_jp", JAPANESE), ("gb18030", CHINESE), ("big5", "戴著紅色帽子的女孩"),
        ("cp949", KOREAN), ("cp1251", RUSSIAN), ("cp1250", "dívka s červeným kloboukem, žluť"),
        ("cp1253", "κορίτσι με κόκκινο καπέλο"), ("utf-16-le", "a dog"), ("utf-16-be", "a dog"),
    ],
)  # fmt: skip
def test_other_encodings_are_guessed_and_said_to_be(encoding, text):
    found = decode(text.encode(encoding))
    assert (found.text, found.is_certain) == (text, False)


@pytest.mark.parametrize(
    "content", [b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR", b"\xff\xfe\x00\xd8", b"a\0b"]
)
def test_what_is_no_text(content):
    assert decode(content) is None
