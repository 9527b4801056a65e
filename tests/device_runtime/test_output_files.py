from pathlib import Path

import pytest

from device_runtime.output_files import OutputFileError, check_page_output, check_record_output, write_record
from profiles.catalogue import load_profile
from profiles.few import FewTimes
from profiles.records import encode_record
from profiles.schema import DeviceProfile

PROFILE = load_profile("pixel-4")
FEW = FewTimes("me")
PAGE = b"\n<!DOCTYPE html>\n<head><title>pixel-4: Handheld profile</title>"


def test_a_new_file_and_an_older_record_may_be_written(tmp_path):
    path = tmp_path / "made" / "p.json"
    check_record_output(path, DeviceProfile, [tmp_path / "absent.json"])
    assert write_record(path, PROFILE) == path.read_bytes() == encode_record(PROFILE)
    check_record_output(path, DeviceProfile, [tmp_path / "absent.json"])
    write_record(path, load_profile("redmi-8"))
    assert load_profile(path).name == "redmi-8"
    assert [one.name for one in path.parent.iterdir()] == ["p.json"]


@pytest.mark.parametrize("data", [b"", b"text", b"{}", b"\xff", b"[" * 10**5, encode_record(FEW), PAGE])
def test_what_is_no_record_of_the_class_is_not_replaced(data, tmp_path):
    path = tmp_path / "p.json"
    path.write_bytes(data)
    with pytest.raises(OutputFileError, match=r"p\.json exists and holds no DeviceProfile: .*another name with -o"):
        check_record_output(path, DeviceProfile)


def test_folders_and_devices_are_not_replaced(tmp_path):
    for path in (tmp_path, Path("/dev/null")):
        if path.exists():
            with pytest.raises(OutputFileError, match="exists and holds no"):
                check_record_output(path, DeviceProfile)
            with pytest.raises(OutputFileError, match="exists and is no page"):
                check_page_output(path)


def test_a_file_that_is_read_is_not_replaced_by_whatever_name(tmp_path):
    path, link, hard = tmp_path / "p.json", tmp_path / "link.json", tmp_path / "hard.json"
    write_record(path, PROFILE)
    link.symlink_to(path)
    hard.hardlink_to(path)
    for output in (path, link, hard, tmp_path / ".." / tmp_path.name / "p.json"):
        with pytest.raises(OutputFileError, match="is read by this command: give another name with -o"):
            check_record_output(output, DeviceProfile, [tmp_path / "absent.json", path])


def test_a_link_stays_one(tmp_path):
    path, link = tmp_path / "p.json", tmp_path / "link.json"
    write_record(path, FEW)
    link.symlink_to(path)
    write_record(link, PROFILE)
    assert link.is_symlink()
    assert load_profile(path) == PROFILE


def test_pages_of_profiles_alone_are_replaced(tmp_path):
    path = tmp_path / "p.html"
    check_page_output(path)
    path.write_bytes(PAGE)
    check_page_output(path)
    with pytest.raises(OutputFileError, match="another name with --html"):
        check_page_output(path, [path])
    for data in (b"", b"mine", PAGE.replace(b"profile<", b"report<"), b"mine" + PAGE):
        path.write_bytes(data)
        with pytest.raises(OutputFileError, match=r"p\.html exists and is no page of a profile"):
            check_page_output(path)
