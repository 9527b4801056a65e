import gzip
import json

import pytest

from device_runtime.system_files import DumpError, SystemFiles, read_dump, read_root

TEXTS = {"/proc/cpuinfo": "processor : 0\n\nHardware : X: Y\n", "/sys/devices/system/cpu/possible": "0-3\n"}
PROPERTIES = {"ro.product.cpu.abi": "arm64-v8a"}


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("dump.json", json.dumps({"files": TEXTS, "props": PROPERTIES})),
        ("dump.json.gz", json.dumps({"files": TEXTS, "props": PROPERTIES})),
        ("dump.json", json.dumps(TEXTS | {"/system/build.prop": "#ro.x=1\nro.product.cpu.abi=arm64-v8a\n"})),
        (
            "dump.txt",
            """/proc/cpuinfo:processor : 0
/proc/cpuinfo:
/proc/cpuinfo:Hardware : X: Y
/sys/devices/system/cpu/possible:0-3
[ro.product.cpu.abi]: [arm64-v8a]
""",
        ),
    ],
)
def test_dumps_of_every_form_say_the_same(tmp_path, name, text):
    path = tmp_path / name
    path.write_bytes(gzip.compress(text.encode()) if name.endswith(".gz") else text.encode())
    found = read_dump(path)
    assert {key: found.texts[key] for key in TEXTS} == TEXTS
    assert found.properties == PROPERTIES


@pytest.mark.parametrize("text", ["", "hello\n", "{", '{"phone": {"files": {}}}', '{"files": 3}'])
def test_another_file_is_no_dump_and_the_error_tells_what_is(tmp_path, text):
    path = tmp_path / "other.txt"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(DumpError, match=r"other\.txt must (be|hold)"):
        read_dump(path)


def test_a_folder_gives_what_is_asked_of_it_and_skips_what_may_not_be_read(tmp_path):
    (tmp_path / "proc").mkdir()
    (tmp_path / "proc/cpuinfo").write_text("processor : 0\n", encoding="utf-8")
    (tmp_path / "proc/meminfo").mkdir()  # reading it is an OSError, as of a core that sleeps
    (tmp_path / "proc/secrets").write_text("none of our business", encoding="utf-8")
    assert read_root(tmp_path) == SystemFiles({"/proc/cpuinfo": "processor : 0\n"})


@pytest.mark.parametrize(("text", "number"), [("42\n", 42.0), ("", None), ("<unsupported>\n", None), ("1 2", None)])
def test_a_number_is_a_whole_file_of_digits_or_none(text, number):
    assert SystemFiles({"/x": text}).number("/x") == number
    assert SystemFiles({}).number("/x") is None
