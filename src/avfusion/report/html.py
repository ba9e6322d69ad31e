"""The report: one HTML file that needs nothing else, for people who would rather look than read."""

import platform
import re
from collections.abc import Mapping, Sequence
from html import escape
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING

import avfusion
from avfusion.data.annotations import Annotations, read_annotations
from avfusion.data.detections import Detections, read_detections
from avfusion.errors import InputError
from avfusion.files import write_text
from avfusion.report import figures, style
from avfusion.report.comparisons import Comparison, compare, statement
from avfusion.report.outcomes import Judged, judge
from avfusion.report.recall import load_curves, recall_caption, recall_chart
from avfusion.report.results import Result, ResultRow, load_results, protocol_text
from avfusion.report.timeline import pick_videos, timeline

if TYPE_CHECKING:
    from matplotlib.figure import Figure

FIGURES = ("mAP", "audio", "classes", "outcomes", "timeline")
PACKAGES = ("torch", "numpy", "av", "opencv-contrib-python-headless", "resampy", "matplotlib", "snakemake")
TITLES = {
    "mAP": "How well, and how exactly",
    "audio": "What sound brings",
    "classes": "Class by class",
    "outcomes": "What goes wrong",
    "timeline": "A few videos",
    "recall": "What proposals find",
}


def write_report(
    path: str | Path,
    title: str,
    rows: Sequence[ResultRow],
    detections: Mapping[str, str | Path],
    annotations: str | Path,
    subset: str | None,
    note: str = "",
    facts: Mapping[str, object] | None = None,
    recalls: Mapping[str, str | Path] | None = None,
) -> None:
    """Write the report as one self-contained HTML file, atomically; equal inputs give equal bytes.

    Args:
        path: where to.
        title: name of the dataset.
        rows: the experiments, in the order of the table.
        detections: detections of (one seed of) each experiment by its name, for the pictures.
        annotations: of the dataset.
        subset: which was evaluated; None means all.
        note: what a reader must know before believing the figures; printed on top.
        facts: anything else worth knowing (seeds, backbones, flow method), printed at the end.
        recalls: recall of proposals by the name of their source, for a further picture.

    Raises:
        InputError: an input is missing or damaged, or the evaluations cannot stand in one table.
    """
    results, truth, found = _load(rows, detections, annotations, subset)
    judged = {name: judge(value, truth) for name, value in found.items()}
    pictures = {name: style.to_svg(_draw(name, results, truth, judged)) for name in FIGURES}
    sections = _comparison_table(compare(results, found, truth)) + _sections(results, pictures, truth)
    if recalls:
        curves = load_curves(recalls)
        sections += _section("recall", recall_caption(curves), style.to_svg(recall_chart(curves)))
    write_text(path, _page(title, results, sections, note, facts or {}))


def write_figures(
    paths: Mapping[str, str | Path],
    rows: Sequence[ResultRow],
    detections: Mapping[str, str | Path],
    annotations: str | Path,
    subset: str | None,
) -> None:
    """Write single pictures of the report as SVG files, for `snakemake --report`.

    Args:
        paths: where to, by name of the picture (any of `FIGURES`).
        rows: as for `write_report`, and so are the others.
    """
    results, truth, found = _load(rows, detections, annotations, subset)
    judged = {name: judge(value, truth) for name, value in found.items()}
    for name, path in paths.items():
        write_text(path, style.to_svg(_draw(name, results, truth, judged)))


def _load(
    rows: Sequence[ResultRow],
    detections: Mapping[str, str | Path],
    annotations: str | Path,
    subset: str | None,
) -> tuple[list[Result], Annotations, dict[str, Detections]]:
    results = load_results(rows)
    truth = read_annotations(annotations)
    truth = truth if subset is None else truth.subset(subset)
    if missing := [row.experiment for row in rows if row.experiment not in detections]:
        raise InputError("report", f"no detections of {', '.join(missing)}", "detections")
    found = {row.experiment: read_detections(detections[row.experiment]) for row in rows}
    return results, truth, found


def _draw(name: str, results: Sequence[Result], truth: Annotations, judged: Mapping[str, Judged]) -> "Figure":
    if name == "mAP":
        return figures.map_chart(results)
    if name == "audio":
        return figures.audio_chart(results)
    if name == "classes":
        return figures.class_map(results)
    if name == "outcomes":
        return figures.outcome_chart(judged)
    if name == "timeline":
        return timeline(truth, judged, pick_videos(truth))
    raise ValueError(f"there is no picture '{name}'; there are {', '.join(FIGURES)}")


def _page(
    title: str,
    results: Sequence[Result],
    sections: str,
    note: str,
    facts: Mapping[str, object],
) -> str:
    warning = f'<p class="note">{escape(note)}</p>\n' if note else ""
    return (
        f'<!doctype html>\n<html lang="en">\n<head><meta charset="utf-8">'
        f'<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>AVFusion: {escape(title)}</title>\n<style>{_CSS}</style></head>\n<body>\n"
        f"<h1>{escape(title)}</h1>\n{warning}<p class=lead>{_headline(results)}</p>\n"
        f"<section>{_table(results)}\n"
        f"<p class=small>{_fine_print(results)}</p></section>\n"
        f"{sections}{_class_table(results)}"
        f"{_colophon(results, facts)}</body>\n</html>\n"
    )


def _sections(results: Sequence[Result], pictures: Mapping[str, str], truth: Annotations) -> str:
    captions = _captions(results, truth)
    return "".join(_section(name, captions[name], svg) for name, svg in pictures.items())


def _section(name: str, caption: str, svg: str) -> str:
    return f"<section><h2>{TITLES[name]}</h2><p>{caption}</p>{_inline(svg, name)}</section>\n"


def _inline(svg: str, name: str) -> str:
    """The SVG as an element of a page that holds others: without prologue, its ids kept apart from theirs."""
    element = re.sub(r"<metadata>.*?</metadata>\s*", "", svg[svg.index("<svg") :], flags=re.DOTALL)
    used = set(re.findall(r"""(?:url\(#|href="#)([^)"]+)""", element))
    element = re.sub(r' id="([^"]+)"', lambda m: f' id="{name}-{m[1]}"' if m[1] in used else "", element)
    element = re.sub(r"""(url\(#|href="#)""", rf"\g<1>{name}-", element)
    return element.replace("<svg", f'<svg role="img" aria-label="{escape(TITLES[name])}"', 1)


def _headline(results: Sequence[Result]) -> str:
    """The finding in one sentence."""
    level = results[0].level(figures.CLASS_TIOU)
    tiou = f"mAP@{results[0].tiou[level]:g}"
    best = max(results, key=lambda result: result.percent[level])
    text = f"<b>{escape(best.row.experiment)}</b> does best: {best.percent[level]:.1f} {tiou}"
    single = max(
        (result for result in results if not result.fused),
        key=lambda result: result.percent[level],
        default=best,
    )
    if single is best:
        return f"{text}."
    gain = best.percent[level] - single.percent[level]
    return (
        f"{text}, {gain:.1f} points above the best single stream "
        f"({escape(single.row.experiment)}, {single.percent[level]:.1f})."
    )


def _captions(results: Sequence[Result], truth: Annotations) -> dict[str, str]:
    level = results[0].tiou[results[0].level(figures.CLASS_TIOU)]
    surest = (
        f"the {truth.instances()} detections with the highest scores (as many as there are actions to find)"
    )
    reference = any(value is not None for result in results for value in result.row.reference or ())
    published = " Black lines: published figures." if reference else ""
    spread = " Whiskers: standard deviation over seeds." if any(len(r.mean_ap) > 1 for r in results) else ""
    return {
        "mAP": "Mean average precision. Farther right, a detection must fit more exactly to count. "
        f"Hatched bars: experiments that fuse several streams.{published}{spread}",
        "audio": f"Average precision of each class at tIoU {level:g}, with sound against without.",
        "classes": f"Average precision (%) of each class at tIoU {level:g}.",
        "outcomes": f"Of each experiment, {surest}. <i>Found</i>: right class, tIoU of at least 0.5. "
        "<i>Wrong boundaries</i>: right class, tIoU from 0.1 to 0.5. "
        "<i>Wrong class</i>: tIoU of at least 0.5 with another action.",
        "timeline": f"What happens, and what each experiment says happens: of {surest}, those here. "
        "Filled: found. Outlined: not right.",
    }


def _table(results: Sequence[Result]) -> str:
    values = [[*result.percent, result.average] for result in results]
    best = [max(column) for column in zip(*values, strict=True)]
    noted = _common_note(results) is None
    referenced = any(result.row.reference for result in results)
    head = "".join(f"<th>{name}</th>" for name in ("experiment", "detector", "streams", "fusion"))
    head += "".join(
        f"<th class=n>{name}</th>" for name in (*(f"@{t:g}" for t in results[0].tiou), "average", "videos")
    )
    head += "<th>published</th>" * referenced + "<th>note</th>" * noted
    lines = [f"<tr>{head}</tr>"]
    for result, numbers in zip(results, values, strict=True):
        row, protocol = result.row, result.protocol
        spreads = [None] * len(numbers) if result.spread is None else [*result.spread, result.average_spread]
        cells = [
            f"<td class=w>{escape(cell)}</td>"
            for cell in (row.experiment, row.detector, "+".join(row.streams), row.fusion or "–")
        ]
        for value, top, spread in zip(numbers, best, spreads, strict=True):
            text = f"{value:.2f}" + ("" if spread is None else f"<small>± {spread:.2f}</small>")
            cells.append(f"<td class=n>{f'<b>{text}</b>' if value == top else text}</td>")
        cells.append(f"<td class=n>{protocol['videos_with_detections']}/{protocol['videos']}</td>")
        if referenced:
            known = " ".join("–" if value is None else f"{value:.2f}" for value in row.reference or ())
            cells.append(f"<td>{known}</td>")
        if noted:
            cells.append(f"<td>{escape(row.note)}</td>")
        lines.append(f"<tr{' class=fused' if result.fused else ''}>{''.join(cells)}</tr>")
    return (
        f"<h2>Results</h2>\n<p>mAP in percent at each tIoU; best in bold, fusions of streams shaded. "
        f"<i>Videos</i>: with detections, of those in the subset.</p>\n<table>{''.join(lines)}</table>"
    )


def _fine_print(results: Sequence[Result]) -> str:
    note = _common_note(results)
    return escape(f"Measured on {protocol_text(results)}." + (f" All rows: {note}." if note else ""))


def _common_note(results: Sequence[Result]) -> str | None:
    """The note of all rows if it is one and the same; None if there is something to tell apart."""
    notes = {result.row.note for result in results}
    return notes.pop() if len(notes) == 1 else None


def _class_table(results: Sequence[Result]) -> str:
    level = results[0].level(figures.CLASS_TIOU)
    head = "".join(f"<th class=n>{escape(result.row.experiment)}</th>" for result in results)
    lines = [
        f"<tr><td>{escape(label)}</td>"
        + "".join(f"<td class=n>{100 * result.class_ap[i, level]:.2f}</td>" for result in results)
        + "</tr>"
        for i, label in enumerate(results[0].labels)
    ]
    return (
        f"<details><summary>Average precision of every class at tIoU {results[0].tiou[level]:g}, "
        f"in figures</summary>"
        f"<table><tr><th>class</th>{head}</tr>{''.join(lines)}</table></details>\n"
    )


def _comparison_table(comparisons: Sequence[Comparison]) -> str:
    """Which fusion helped; nothing if no two experiments can tell."""
    if not comparisons:
        return ""
    head = "".join(f"<th>{name}</th>" for name in ("experiment", "against"))
    head += "".join(f"<th class=n>{name}</th>" for name in ("difference", "95% of draws", "seeds"))
    lines = [f"<tr>{head}<th>verdict</th></tr>"]
    for c in comparisons:
        spread = "" if c.spread is None else f"<small>± {c.spread:.2f}</small>"
        names = (escape(result.row.experiment) for result in (c.one, c.other))
        lines.append(
            f"<tr>{''.join(f'<td class=w>{name}</td>' for name in names)}"
            f"<td class=n>{c.mean:+.2f}{spread}</td>"
            f"<td class=n>{100 * c.videos.low:+.2f} to {100 * c.videos.high:+.2f}</td>"
            f"<td class=n>{len(c.seeds)}</td><td>{c.verdict}</td></tr>"
        )
    return (
        f"<section><h2>Which fusion helped</h2>\n<p>{escape(statement(comparisons))}</p>\n"
        "<p class=small>Difference of the average mAP in points, over the seeds that both ran with. "
        "95% of draws: paired bootstrap over the test videos, first seed. Better or worse: the interval "
        "leaves out 0, and the mean exceeds the spread over seeds.</p>\n"
        f"<table>{''.join(lines)}</table></section>\n"
    )


def _colophon(results: Sequence[Result], facts: Mapping[str, object]) -> str:
    seeds = ", ".join(f"{r.row.experiment}: {len(r.mean_ap)}" for r in results if len(r.mean_ap) > 1)
    rows = {
        **facts,
        **({"seeds per experiment": seeds} if seeds else {}),
        "made with": ", ".join(
            [f"AVFusion {avfusion.__version__}", f"Python {platform.python_version()}", *_versions()]
        ),
    }
    lines = "".join(f"<dt>{escape(key)}</dt><dd>{escape(_spelt(value))}</dd>" for key, value in rows.items())
    return f"<section class=small><h2>How this was made</h2><dl>{lines}</dl></section>\n"


def _spelt(value: object) -> str:
    return ", ".join(map(str, value)) if isinstance(value, list | tuple) else str(value)


def _versions() -> list[str]:
    found = []
    for package in PACKAGES:
        try:
            found.append(f"{package} {version(package)}")
        except PackageNotFoundError:
            continue
    return found


_CSS = """
:root { color-scheme: light; }
body { max-width: 1120px; margin: 2rem auto 4rem; padding: 0 1rem; color: #1f2933; background: #fff;
  font: 16px/1.5 system-ui, -apple-system, "Segoe UI", "DejaVu Sans", sans-serif; }
h1 { margin: 0 0 .5rem; }
h2 { margin: 2.5rem 0 .25rem; font-size: 1.25rem; }
p { max-width: 60rem; margin: .25rem 0 .75rem; }
svg { display: block; width: 100%; height: auto; }
table { border-collapse: collapse; font-size: .9rem; }
th { text-align: left; font-weight: 600; border-bottom: 2px solid #1f2933; }
td { border-bottom: 1px solid #dde2e7; }
th, td { padding: .3rem .6rem; vertical-align: top; }
.n { text-align: right; font-variant-numeric: tabular-nums; white-space: nowrap; }
.n small { display: block; }
.w { white-space: nowrap; }
.fused { background: #f1f5f9; }
.note { background: #fff6db; border-left: 4px solid #e69f00; padding: .6rem .9rem; }
.lead { font-size: 1.1rem; }
.small dl, p.small, small { font-size: .85rem; color: #52606d; }
summary { cursor: pointer; margin: 1.5rem 0 .5rem; }
dl { display: grid; grid-template-columns: max-content 1fr; gap: .15rem 1rem; }
dt { font-weight: 600; }
dd { margin: 0; }
@media (max-width: 1100px) { section, details { overflow-x: auto; } }
"""
