"""Write the report of a run: everything is worked out here, the templates only lay it out."""

import hashlib
from dataclasses import dataclass
from math import sqrt
from pathlib import Path

from jinja2 import Environment, PackageLoader, StrictUndefined

from pipeline.limits import PlatformNeeds
from pipeline.privacy_spent import epsilon_text
from pipeline.report import formats
from pipeline.report.candidates import candidates_of, settings_of
from pipeline.report.cells import cells_of
from pipeline.report.cost_plots import draw_course, draw_savings, draw_stages, draw_trials
from pipeline.report.costs import (
    BYTES_IN_WORDS,
    costs_of,
    course_of,
    seconds_in_words,
    thrown_away,
    thrown_away_in_words,
)
from pipeline.report.curves import curves_of, draw_final, draw_search, has_course
from pipeline.report.fronts import draw_front, fronts_of
from pipeline.report.networks import network_in_words, operation_of, picture_of
from pipeline.report.platforms import beside_its_limit, platforms_of
from pipeline.report.savings import savings_of
from pipeline.report.shipped import ShippedBundle, find_bundle
from pipeline.report.spending import draw_spending, released_in_words, splits_of
from pipeline.report.supernets import supernet_of
from pipeline.report.tuning import tuning_of
from pipeline.run_result import Z_95, FinishedRun, TrialResult, read_finished_run, read_result

REPORT = "report.html"
_TEMPLATE = "report.html.j2"


class ReportFileError(ValueError):
    """The report cannot be written where it was asked for."""


@dataclass(frozen=True)
class ReportRequest:
    """What `handheld report` was asked to do.

    Attributes:
        output: None for `report.html` in the run's folder.
        bundle: Folder of what was shipped; None for `bundle` in the run's folder, if it is there.
    """

    run: Path
    output: Path | None = None
    bundle: Path | None = None


@dataclass(frozen=True)
class WrittenReport:
    """What `handheld report` made.

    Attributes:
        has_bundle: Whether the page tells what was shipped.
        platforms: Whether each platform's model meets its limits.
    """

    file: str
    sha256: str
    size_bytes: int
    has_bundle: bool
    platforms: tuple[PlatformNeeds, ...]


def write_report(request: ReportRequest) -> WrittenReport:
    """Write the report of a finished run; an older one is replaced.

    Raises:
        NoResultError: The run is not finished.
        RecordError, ArtifactError, VectorError, BundleError: A file of run or bundle was altered.
        OtherBundleError: The bundle is not this run's.
        ReportFileError: The output is a folder.
    """
    output = request.run / REPORT if request.output is None else request.output
    if output.is_dir():
        raise ReportFileError(f"{output} is a folder; name a file, for example {output / REPORT}")
    run = read_finished_run(request.run, read_result(request.run).main_platform)
    bundle = find_bundle(request.run, request.bundle, run.result)
    page = render_report(run, bundle).encode()
    output.parent.mkdir(parents=True, exist_ok=True)
    partial = output.with_name(output.name + ".partial")
    partial.write_bytes(page)
    partial.replace(output)
    needs = tuple(row.needs for row in platforms_of(run.result))
    return WrittenReport(str(output), hashlib.sha256(page).hexdigest(), len(page), bundle is not None, needs)


def render_report(run: FinishedRun, bundle: ShippedBundle | None = None) -> str:
    """The page: HTML with all styles and pictures inside, the same text for the same run."""
    result, fronts, costs = run.result, fronts_of(run.result), costs_of(run.result)
    curves, platforms, savings = curves_of(result), platforms_of(result), savings_of(result)
    tuning, supernet, course = tuning_of(result), supernet_of(result), course_of(result)
    # Where trials train shared weights a round each, cost against accuracy tells more.
    is_drawn = has_course(curves) or not (tuning or supernet)
    winners = tuple(model.trial for model in result.models)
    search_curves = draw_search(curves, winners) if is_drawn else None
    return (
        environment()
        .get_template(_TEMPLATE)
        .render(
            run=run,
            result=result,
            manifest=run.artifact.manifest,
            winner=result.winning,
            winners=winners,
            winner_in_words=network_in_words(result.winning.candidate.architecture),
            platforms=platforms,
            chance=_chance(result.winning),
            fronts=[(front, draw_front(front, f"front{i}")) for i, front in enumerate(fronts)],
            search_curves=search_curves,
            curves=curves,
            final_curve=draw_final(curves),
            tuning=tuning,
            supernet=supernet,
            costs=costs,
            bytes_in_words=BYTES_IN_WORDS,
            seconds_in_words=seconds_in_words(result),
            savings=savings,
            stage_costs=draw_stages(costs),
            savings_plot=draw_savings(savings),
            trial_costs=draw_trials(costs),
            course=course,
            course_plot=draw_course(course),
            thrown_away=thrown_away(result),
            thrown_away_in_words=thrown_away_in_words(result),
            splits=splits_of(result.privacy) if result.privacy else (),
            spending=draw_spending(result, curves),
            picture=picture_of(result.winning.candidate.architecture),
            cells=cells_of(result),
            settings=settings_of(result),
            candidates=candidates_of(result, fronts),
            bundle=bundle,
        )
    )


def environment() -> Environment:
    """What all pages are laid out with."""
    environment = Environment(
        loader=PackageLoader("pipeline.report"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters.update(
        percent=formats.percent,
        figure=formats.figure_told,
        epsilon=epsilon_text,
        bytes=formats.size,
        duration=formats.duration,
        shape=formats.shape,
        span=formats.span,
        need=beside_its_limit,
        operation=operation_of,
        released=released_in_words,
        mhz=formats.span_of_clocks,
        told=formats.told,
    )
    return environment


def _chance(trial: TrialResult) -> float:
    """Half the 95% interval of a score for the sampling of its examples alone; noise comes on top."""
    inside = min(1.0, max(0.0, trial.accuracy))
    return Z_95 * sqrt(inside * (1 - inside) / max(1, trial.num_examples))
