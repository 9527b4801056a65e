"""Write a profile as a page: what is known of a device, from where, and how far to trust it."""

from pathlib import Path

from pipeline.report.page import environment
from pipeline.report.profile_facts import agreements_of, count_provenance, examples_of, facts_of, pairs_of, sources_of
from pipeline.report.profile_plots import draw_examples, draw_pairs, pictures_of
from profiles.records import record_id
from profiles.schema import DeviceProfile

_TEMPLATE = "profile.html.j2"


def write_profile_page(profile: DeviceProfile, output: Path) -> int:
    """Write the page; an older one is replaced. Returns its size in bytes."""
    page = render_profile(profile).encode()
    output.parent.mkdir(parents=True, exist_ok=True)
    partial = output.with_name(output.name + ".partial")
    partial.write_bytes(page)
    partial.replace(output)
    return len(page)


def render_profile(profile: DeviceProfile) -> str:
    """The page: HTML with all styles and pictures inside, the same text for the same profile."""
    facts, pairs, examples = facts_of(profile), pairs_of(profile), examples_of(profile)
    return (
        environment()
        .get_template(_TEMPLATE)
        .render(
            profile=profile,
            profile_id=record_id(profile),
            facts=facts,
            sources=sources_of(facts),
            known={name: count for name, count in count_provenance(facts).items() if count},
            num_timed=sum(time.repetitions > 0 for time in profile.kernels),
            pairs=pairs,
            pairs_plot=draw_pairs(pairs),
            agreements=agreements_of(pairs),
            examples=examples,
            examples_plot=draw_examples(examples),
            pictures=pictures_of(profile),
        )
    )
