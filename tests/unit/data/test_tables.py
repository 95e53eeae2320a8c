import pytest

from mrkd.data.tables import read_table, read_text
from mrkd.errors import ConfigError

COLUMNS = ("path", "group", "part")
ROWS = [{"path": "a.png", "group": "1", "part": "train"}, {"path": "ä", "group": "", "part": "val"}]
TEXT = "path,group,part\na.png,1,train\nä,,val\n"


def write(folder, data):
    path = folder / "split.csv"
    path.write_bytes(data.encode() if isinstance(data, str) else data)
    return str(path)


def rows(folder, data, *accepted):
    return [dict(row.values) for row in read_table(write(folder, data), *(accepted or (COLUMNS,)))]


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
@pytest.mark.parametrize("separator", [",", ";", "\t", " , ", ", "])
@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
def test_a_table_is_read_as_an_editor_or_a_spreadsheet_saves_it(tmp_path, encoding, separator, end):
    text = TEXT.replace(",", separator).replace("\n", end)
    assert rows(tmp_path, text.encode(encoding)) == ROWS


@pytest.mark.parametrize(
    "text",
    [
        f"sep=,\n{TEXT}",
        f"\n\n{TEXT}\n,,\n",
        TEXT.replace("path,group", "Path,GROUP"),
        '"path","group","part"\n"a.png","1","train"\n"ä","","val"\n',
        "part,more,path,group\ntrain,x,a.png,1\nval,,ä\n",
        "path,group,part,,\na.png,1,train,,\nä,,val,,\n",
    ],
)
def test_marks_of_excel_empty_lines_other_cases_and_further_columns_are_understood(tmp_path, text):
    assert rows(tmp_path, text) == ROWS


def test_a_value_in_quotes_may_hold_the_separator_and_the_second_set_of_columns_does_too(tmp_path):
    found = rows(tmp_path, 'path;tile;part\n"a;b.png";1;val\n', COLUMNS, ("path", "tile", "part"))
    assert found == [{"path": "a;b.png", "tile": "1", "part": "val"}]


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (TEXT.encode("latin-1"), r"line 3 is not UTF-8: it holds the byte 0xe4 .*Latin-1 or Wind"),
        (TEXT.encode("utf-16-le"), r"line 1 holds the byte 0x00, .* UTF-16 without a mark"),
        (TEXT.encode("utf-32"), r"is not UTF-8: it begins with the byte 0xff of UTF-32"),
        (TEXT.encode("utf-16") + b"\0", r"is not UTF-16, as its first bytes say: byte 0x00 at"),
        (f"{TEXT}b\0.png,1,val\n", r"line 4 holds the byte 0x00"),
        (f"{TEXT}{'b' * 140_000},1,val\n", r"line 4 is not CSV \(field larger than field limit"),
        (f'{TEXT}"b.png,1,val\n', r"line 4 is not CSV \(unexpected end of data"),
        (f"{TEXT}b,c.png,1,val\n", r"line 4 has 4 fields, and its first line names 3: put a"),
        ("path,path,group,part\n", r"line 1 names the column 'path' twice"),
        ("path,part\n", r"lacks the column 'group': its first line has the columns \['path', 'pa"),
        ("", r"lacks the column 'path'.* found nothing"),
        ("\n\n", r"lacks the column 'path'.* found nothing"),
    ],
)
def test_a_file_that_is_not_such_a_table_is_refused_with_file_and_line(tmp_path, data, words):
    with pytest.raises(ConfigError, match=rf"^'(file://)?{tmp_path}/split.csv' {words}"):
        rows(tmp_path, data)


def test_a_line_is_counted_from_the_files_first(tmp_path):
    found = list(read_table(write(tmp_path, f"sep=,\n\n{TEXT}"), COLUMNS))
    assert [row.line for row in found] == [4, 5]
    assert found[0].where.endswith("split.csv' line 4")


def test_a_file_that_is_not_there_is_named(tmp_path):
    with pytest.raises(ConfigError, match=r"none.csv' does not exist: correct the path"):
        read_text(str(tmp_path / "none.csv"))
