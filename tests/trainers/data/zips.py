"""Zips, honest and hostile."""

from __future__ import annotations

import io
import random
import stat
import zipfile


def make_zip(*files: tuple[str, bytes], links: tuple[str, ...] = ()) -> bytes:
    """A zip of these files; each of `links` is a symbolic link to /etc/passwd."""
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in files:
            archive.writestr(zipfile.ZipInfo(name), content, zipfile.ZIP_DEFLATED)
        for name in links:
            info = zipfile.ZipInfo(name)
            info.external_attr = (stat.S_IFLNK | 0o777) << 16
            archive.writestr(info, b"/etc/passwd")
    return out.getvalue()


def _attacks() -> list[tuple[str, bytes]]:
    places = (
        "../{}", "../../../../tmp/{}", "/tmp/{}", "//tmp/{}", "..\\..\\{}", "C:\\{}", "a/../../{}",
        "./{}", "a//{}", "\0{}", "a\0/../{}", "~/{}", ".ssh/{}", "{}/", "con/{}", " /{}",
        "%2e%2e/{}",
    )  # fmt: skip
    names = ("x.png", "x.txt", "x.html", "x.svg", "x.png.exe", ".x.png")
    found = [
        (f"{place.format(name)!r}", make_zip((place.format(name), b"x"), ("good.png", b"y")))
        for place in places
        for name in names
    ]
    for number in range(20):
        target = random.Random(number).choice(["a.png", "../a.png", "a", ".studio"])
        found.append(
            (
                f"link {number}",
                make_zip((f"{target}/b.png", b"x"), links=(target, f"l{number}.png")),
            )
        )
    whole = make_zip(("a.png", b"\0" * 5_000), ("b.txt", b"b"), ("c.png", bytes(range(256)) * 20))
    for number in range(80):
        source = random.Random(number)
        broken = bytearray(whole)
        for _ in range(source.randint(1, 6)):
            broken[source.randrange(len(broken))] = source.randrange(256)
        cut = source.randrange(len(broken)) if number % 4 == 0 else len(broken)
        found.append((f"damaged {number}", bytes(broken[:cut])))
    return found


ATTACKS = _attacks()
