"""The event file survives torn lines and is read in pieces."""

from __future__ import annotations

from trainers.events import EventLog, read_events


def test_reading_from_an_offset_gives_only_what_is_new(tmp_path):
    path = tmp_path / "events.jsonl"
    log = EventLog(path)
    log.write("note", text="one")
    first, offset = read_events(path)
    assert [e.body["text"] for e in first] == ["one"]
    assert read_events(path, offset) == ([], offset)
    log.write("note", text="zwei ü\u2028")
    new, end = read_events(path, offset)
    assert [(e.seq, e.body["text"]) for e in new] == [(1, "zwei ü\u2028")]
    assert end == path.stat().st_size


def test_a_torn_line_is_waited_for_and_then_cut_off_by_the_next_writer(tmp_path):
    path = tmp_path / "events.jsonl"
    log = EventLog(path)
    log.write("note", text="whole")
    log.close()
    with path.open("ab") as file:
        file.write(b'{"seq": 1, "at": 1.0, "kind": "st')
    events, offset = read_events(path)
    assert len(events) == 1
    again = EventLog(path)
    again.write("note", text="next")
    assert [e.seq for e in read_events(path)[0]] == [0, 1]
    assert read_events(path, offset)[0][0].body["text"] == "next"


def test_a_missing_file_has_no_events(tmp_path):
    assert read_events(tmp_path / "none.jsonl") == ([], 0)


def test_damaged_lines_are_passed_over(tmp_path):
    path = tmp_path / "events.jsonl"
    good = b'{"seq": 3, "at": 1.0, "kind": "note", "body": {}}\n'
    path.write_bytes(b"\x00\xff\n[1]\n{}\n" + good)
    assert [e.seq for e in read_events(path)[0]] == [3]
