import pytest

from device_runtime.processors import CPU, parse_list, read_abi, read_clusters, read_cores
from device_runtime.system_files import SystemFiles

ARM = "CPU implementer\t: 0x41\nCPU part\t: {}\n"


def clusters(texts: dict[str, str]) -> list[tuple[str, int, float | None]]:
    found = read_clusters(SystemFiles(texts))
    return [(one.core, one.num_cores, one.max_mhz.value if one.max_mhz else None) for one in found]


def clock(core: int, khz: int, related: str | None = None, siblings: str | None = None) -> dict[str, str]:
    folder = f"{CPU}/cpu{core}"
    files = {f"{folder}/cpufreq/cpuinfo_max_freq": f"{khz}\n"}
    files |= {f"{folder}/cpufreq/related_cpus": related} if related else {}
    return files | ({f"{folder}/topology/core_siblings_list": siblings} if siblings else {})


def cpuinfo(parts: dict[int, str]) -> dict[str, str]:
    return {"/proc/cpuinfo": "\n".join(f"processor\t: {n}\n{ARM.format(part)}" for n, part in parts.items())}


def test_cores_that_sleep_have_the_frequency_and_kind_of_those_they_share_a_clock_with():
    texts = {f"{CPU}/possible": "0-7", **cpuinfo({0: "0xd03", 4: "0xd08"})}
    texts |= clock(0, 1_400_000, "0 1 2 3") | clock(4, 1_900_000, "4 5 6 7")
    assert clusters(texts) == [("Cortex-A53", 4, 1400.0), ("Cortex-A72", 4, 1900.0)]


def test_a_core_without_a_shared_clock_has_that_of_its_cluster_where_the_cluster_has_one():
    texts = {f"{CPU}/possible": "0-3"} | clock(0, 2_649_600, "0", siblings="0-3")
    assert clusters(texts) == [("unknown", 4, 2649.6)]
    assert clusters(texts | clock(1, 1_000_000, "1")) == [
        ("unknown", 2, None),
        ("unknown", 1, 1000.0),
        ("unknown", 1, 2649.6),
    ]


def test_a_cluster_that_slept_as_a_whole_has_no_frequency_instead_of_another_clusters():
    texts = {f"{CPU}/possible": "0-5", **cpuinfo({0: "0xd03", 4: "0xd07"})}
    texts |= clock(0, 1_440_000, "0 1 2 3", siblings="0-3")
    assert clusters(texts) == [("Cortex-A57", 1, None), ("unknown", 1, None), ("Cortex-A53", 4, 1440.0)]


def test_a_clock_belongs_to_the_cores_in_its_list_whatever_folder_it_was_read_in():
    # Core 0 fell asleep while it was read (a real dump of ten cores did).
    texts = {f"{CPU}/possible": "0,4-7"} | clock(0, 2_002_000, "4 5 6 7") | clock(4, 2_002_000, "4 5 6 7")
    assert clusters(texts) == [("unknown", 1, None), ("unknown", 4, 2002.0)]


@pytest.mark.parametrize("end", ["\n", ""])
def test_one_kind_told_for_all_cores_is_a_name_only_where_all_cores_are_alike(end):
    # Old kernels print it after all processors, as a block of its own or at the end of the last one.
    texts = {"/proc/cpuinfo": "processor : 0\nprocessor : 1\n" + end + ARM.format("0xd03")}
    assert clusters(texts | clock(0, 1_500_000) | clock(1, 1_500_000)) == [("Cortex-A53", 2, 1500.0)]
    assert clusters(texts | clock(0, 1_500_000) | clock(1, 2_100_000)) == [
        ("unknown (one core is a Cortex-A53)", 1, 1500.0),
        ("unknown (one core is a Cortex-A53)", 1, 2100.0),
    ]


def test_a_cores_own_register_tells_its_kind():
    texts = {f"{CPU}/possible": "0-1"}
    for core, value in enumerate(("0x00000000410fd034", "0x00000000410fd091")):
        texts[f"{CPU}/cpu{core}/regs/identification/midr_el1"] = value + "\n"
    assert clusters(texts) == [("Cortex-A53", 1, None), ("Cortex-A73", 1, None)]


def test_an_unknown_core_keeps_its_numbers():
    assert clusters(cpuinfo({0: "0xfff"})) == [("implementer 0x41 part 0xfff", 1, None)]


def test_a_desktop_core_is_called_as_its_model():
    text = "processor : 0\nmodel name : Some CPU @ 2GHz\nflags : fpu lm\n"
    assert clusters({"/proc/cpuinfo": text}) == [("Some CPU @ 2GHz", 1, None)]


def test_cores_are_those_possible_and_those_listed():
    assert read_cores(SystemFiles({f"{CPU}/possible": "0-2", **cpuinfo({5: "0xd03"})})) == (0, 1, 2, 5)
    assert read_cores(SystemFiles({})) == ()


def test_places_for_cores_are_no_cores_but_a_phones_cores_may_be_absent_while_they_sleep():
    texts = {f"{CPU}/possible": "0-7", f"{CPU}/present": "0-1"}
    assert read_cores(SystemFiles(texts)) == (0, 1)
    assert read_cores(SystemFiles(texts, {"ro.product.cpu.abi": "arm64-v8a"})) == tuple(range(8))


@pytest.mark.parametrize(
    ("text", "numbers"),
    [("0-3,7\n", {0, 1, 2, 3, 7}), ("4 5\n", {4, 5}), ("", set()), ("none", set())],
)
def test_a_kernels_list_is_ranges_or_numbers(text, numbers):
    assert parse_list(text) == numbers


def test_a_list_too_long_for_cores_is_cut():
    assert len(parse_list("0-99999999")) < 5000


@pytest.mark.parametrize(
    ("properties", "text", "abi"),
    [
        ({"ro.product.cpu.abi": "armeabi-v7a"}, "processor : 0\nCPU architecture: 8\n", "armeabi-v7a"),
        ({}, "processor : 0\nCPU architecture: 8\n", "arm64-v8a"),
        ({}, "Processor : ARMv7 Processor rev 3 (v7l)\nprocessor : 0\n\nCPU architecture: 7\n", "armeabi-v7a"),
        ({}, "processor : 0\nflags : fpu lm sse\n", "x86_64"),
        ({}, "processor : 0\nflags : fpu sse\n", "x86"),
        ({}, "processor : 0\nisa : rv64\n", None),
        ({}, "", None),
    ],
)
def test_the_abi_is_androids_word_else_what_the_processor_is(properties, text, abi):
    assert read_abi(SystemFiles({"/proc/cpuinfo": text}, properties)) == abi
