//! Plots as SVG, for a light and a dark page: bars from zero, and lines over a logarithmic axis.

use std::fmt::Write as _;
use std::fs;

use crate::Bench;
use crate::report::{Rounds, number};

const WIDTH: f64 = 720.0;

/// Of the names beside bars, and of the numbers beside lines.
const LEFT: f64 = 220.0;
const RIGHT: f64 = 70.0;
const TOP: f64 = 44.0;
const BAR: f64 = 26.0;

const STYLE: &str = "<style>
  text { font: 13px system-ui, sans-serif; fill: #24292f }
  .title { font-weight: 600; font-size: 15px }
  .small { font-size: 12px }
  .axis { stroke: #6e7781; stroke-width: 1; fill: none }
  .grid { stroke: #d0d7de; stroke-width: 1 }
  .spread { stroke: #24292f; stroke-width: 1.5; fill: none }
  .f0 { fill: #0969da } .f1 { fill: #bc4c00 } .f2 { fill: #1a7f37 }
  .s0 { stroke: #0969da } .s1 { stroke: #bc4c00 } .s2 { stroke: #1a7f37 }
  .line { stroke-width: 2.5; fill: none }
  @media (prefers-color-scheme: dark) {
    text { fill: #e6edf3 }
    .axis { stroke: #8d96a0 } .grid { stroke: #30363d } .spread { stroke: #e6edf3 }
    .f0 { fill: #4493f8 } .f1 { fill: #f0883e } .f2 { fill: #3fb950 }
    .s0 { stroke: #4493f8 } .s1 { stroke: #f0883e } .s2 { stroke: #3fb950 }
  }
</style>
";

/// A bar with its spread.
pub(crate) struct Bar {
    name: String,
    value: Rounds,
}

impl Bar {
    pub(crate) fn new(name: &str, value: Rounds) -> Self {
        Self {
            name: name.to_owned(),
            value,
        }
    }
}

/// A line through points, from left to right.
pub(crate) struct Line<'a> {
    pub(crate) name: &'a str,
    pub(crate) points: Vec<(f64, f64)>,
}

/// Draws bars, if plots are wanted.
pub(crate) fn bars(bench: &mut Bench, file: &str, title: &str, unit: &str, bars: &[Bar]) {
    let most = bars.iter().map(|bar| bar.value.most).fold(0.0, f64::max);
    let (step, top) = scale(most);
    let bottom = TOP + BAR * 1.4 * crate::cycles::size(bars.len());
    let x = |value: f64| LEFT + value / top * (WIDTH - LEFT - RIGHT);
    let mut svg = start(title, bottom + 46.0);
    let mut tick = 0.0;
    while tick <= top * 1.001 {
        let at = x(tick);
        let _ = writeln!(
            svg,
            "<path class=\"grid\" d=\"M{at:.1} {TOP}V{bottom:.1}\"/>"
        );
        text(
            &mut svg,
            (at, bottom + 16.0),
            "middle",
            "small",
            &short(tick),
        );
        tick += step;
    }
    for (at, bar) in bars.iter().enumerate() {
        let y = TOP + BAR * 1.4 * crate::cycles::size(at) + BAR * 0.2;
        let middle = y + BAR / 2.0;
        let (from, width) = (x(0.0), x(bar.value.median) - x(0.0));
        let _ = writeln!(
            svg,
            "<rect class=\"f0\" x=\"{from:.1}\" y=\"{y:.1}\" width=\"{width:.1}\" height=\"{BAR}\"/>\n\
             <path class=\"spread\" d=\"M{:.1} {middle:.1}H{:.1}\"/>",
            x(bar.value.least),
            x(bar.value.most)
        );
        text(
            &mut svg,
            (LEFT - 8.0, middle + 4.0),
            "end",
            "small",
            &bar.name,
        );
        let end = x(bar.value.most.max(bar.value.median)) + 6.0;
        text(
            &mut svg,
            (end, middle + 4.0),
            "start",
            "small",
            &number(bar.value.median),
        );
    }
    let _ = writeln!(
        svg,
        "<path class=\"axis\" d=\"M{LEFT} {TOP}V{bottom:.1}H{:.1}\"/>",
        WIDTH - RIGHT
    );
    text(
        &mut svg,
        (f64::midpoint(LEFT, WIDTH - RIGHT), bottom + 36.0),
        "middle",
        "small",
        unit,
    );
    write(bench, file, svg);
}

/// Draws lines over a logarithmic axis, if plots are wanted.
pub(crate) fn lines(
    bench: &mut Bench,
    file: &str,
    title: &str,
    (below, beside): (&str, &str),
    lines: &[Line],
) {
    const START: f64 = 60.0;
    const BOTTOM: f64 = 320.0;
    let points = || lines.iter().flat_map(|line| &line.points);
    let most = points().map(|point| point.1).fold(0.0, f64::max);
    let (first, last) = points().fold((f64::MAX, 0.0_f64), |(least, most), point| {
        (least.min(point.0), most.max(point.0))
    });
    let (step, top) = scale(most);
    let end = WIDTH - 140.0;
    let x = |value: f64| START + (value / first).ln() / (last / first).ln() * (end - START);
    let y = |value: f64| BOTTOM - value / top * (BOTTOM - TOP - 20.0);
    let mut svg = start(title, BOTTOM + 46.0);
    text(&mut svg, (16.0, TOP + 6.0), "start", "small", beside);
    let mut tick = 0.0;
    while tick <= top * 1.001 {
        let at = y(tick);
        let _ = writeln!(
            svg,
            "<path class=\"grid\" d=\"M{START} {at:.1}H{end:.1}\"/>"
        );
        text(
            &mut svg,
            (START - 8.0, at + 4.0),
            "end",
            "small",
            &short(tick),
        );
        tick += step;
    }
    for (value, _) in lines.first().map_or(&[][..], |line| &line.points[..]) {
        text(
            &mut svg,
            (x(*value), BOTTOM + 16.0),
            "middle",
            "small",
            &short(*value),
        );
    }
    for (at, line) in lines.iter().enumerate() {
        let mut path = String::new();
        for (at, (value, height)) in line.points.iter().enumerate() {
            let _ = write!(
                path,
                "{}{:.1} {:.1}",
                if at == 0 { 'M' } else { 'L' },
                x(*value),
                y(*height)
            );
        }
        let _ = writeln!(svg, "<path class=\"line s{at}\" d=\"{path}\"/>");
        for (value, height) in &line.points {
            let (x, y) = (x(*value), y(*height));
            let _ = writeln!(
                svg,
                "<circle class=\"f{at}\" cx=\"{x:.1}\" cy=\"{y:.1}\" r=\"3.5\"/>"
            );
        }
        let label = TOP + 40.0 + 22.0 * crate::cycles::size(at);
        let _ = writeln!(
            svg,
            "<path class=\"line s{at}\" d=\"M{:.1} {:.1}h20\"/>",
            end + 12.0,
            label - 4.0
        );
        text(&mut svg, (end + 38.0, label), "start", "small", line.name);
    }
    let _ = writeln!(
        svg,
        "<path class=\"axis\" d=\"M{START} {}V{BOTTOM}H{end:.1}\"/>",
        y(top)
    );
    text(
        &mut svg,
        (f64::midpoint(START, end), BOTTOM + 36.0),
        "middle",
        "small",
        below,
    );
    write(bench, file, svg);
}

fn start(title: &str, height: f64) -> String {
    let mut svg = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {height:.0}\" width=\"{WIDTH}\" \
         height=\"{height:.0}\" role=\"img\">\n<title>{title}</title>\n{STYLE}"
    );
    text(&mut svg, (16.0, 26.0), "start", "title", title);
    svg
}

fn text(svg: &mut String, (x, y): (f64, f64), anchor: &str, class: &str, text: &str) {
    let _ = writeln!(
        svg,
        "<text class=\"{class}\" x=\"{x:.1}\" y=\"{y:.1}\" text-anchor=\"{anchor}\">{text}</text>"
    );
}

fn write(bench: &mut Bench, file: &str, svg: String) {
    let Some(directory) = &bench.plots else {
        return;
    };
    let path = directory.join(format!("{file}.svg"));
    let written = fs::create_dir_all(directory).and_then(|()| fs::write(&path, svg + "</svg>\n"));
    if let Err(error) = written {
        bench
            .report
            .note(format!("{} cannot be written: {error}", path.display()));
    }
}

/// A round step, and the round number above `most`.
fn scale(most: f64) -> (f64, f64) {
    let rough = most.max(1e-9) / 5.0;
    let power = 10_f64.powf(rough.log10().floor());
    let step = [1.0, 2.0, 2.5, 5.0, 10.0]
        .into_iter()
        .map(|round| round * power)
        .find(|step| *step >= rough);
    let step = step.unwrap_or(rough);
    (step, (most / step).ceil() * step)
}

fn short(value: f64) -> String {
    if value >= 1e6 {
        format!("{} M", value / 1e6)
    } else if value >= 1e3 {
        format!("{} k", value / 1e3)
    } else {
        format!("{}", (value * 100.0).round() / 100.0)
    }
}
